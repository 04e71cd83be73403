"""A checkpoint's own record: its vocabulary and its files' digests."""

import os
import shutil

import pytest

from t5patches.checkpoints import finding, integrity
from t5patches.errors import UserError


@pytest.fixture
def sealed(tmp_path):
    """A checkpoint of two files."""
    path = tmp_path / "checkpoint_2"
    (path / "state").mkdir(parents=True)
    (path / "state" / "array").write_bytes(b"0123456789" * 100)
    (path / "_CHECKPOINT_METADATA").write_text("{}")
    integrity.seal(path, "bytes:259")
    return path


def flip(path):
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)


def test_links_and_copies_take_the_seal_along(sealed):
    integrity.check(sealed)
    for name, how in (("linked", os.link), ("copied", shutil.copy)):
        copy = sealed.parent / name / "checkpoint_2"
        shutil.copytree(sealed, copy, copy_function=how)
        integrity.check(copy)
        integrity.check_vocabulary(copy, "bytes:259")
        with pytest.raises(UserError, match="vocabulary bytes:259, not with other"):
            integrity.check_vocabulary(copy, "other")


def test_another_under_its_name(sealed):
    other = sealed.rename(sealed.parent / "checkpoint_3")
    with pytest.raises(UserError, match="checkpoint_3 is another: .* as checkpoint_2"):
        integrity.check(other)


def test_it_is_sealed_once(sealed):
    flip(sealed / "state" / "array")
    integrity.seal(sealed, "bytes:259")
    with pytest.raises(UserError):
        integrity.check(sealed)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
)
def test_what_changed_since_is_named(sealed, damage):
    damage(sealed / "state" / "array")
    message = f"cannot be read: state/array .*{finding.there_is(sealed.parent)}$"
    with pytest.raises(UserError, match=message):
        integrity.check(sealed)


def test_the_record_itself(sealed):
    (sealed / integrity.RECORD).write_text('{"vocabulary": 3}')
    with pytest.raises(
        UserError, match=r"t5patches\.json: 'vocabulary' is 3, expected"
    ):
        integrity.check(sealed)
    (sealed / integrity.RECORD).unlink()  # As of an older version.
    flip(sealed / "state" / "array")
    integrity.check(sealed)
    integrity.check_vocabulary(sealed, "any")
