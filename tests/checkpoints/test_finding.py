"""One checkpoint of a model folder: the best, the latest, or one by its step."""

import pytest

from t5patches.checkpoints import finding
from t5patches.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("checkpoint_10", "checkpoint_30", "best/checkpoint_20"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "best.json").write_text('{"step": 20, "metric": "x", "value": 1.0}')
    return tmp_path


def test_choices(folder):
    def chosen(which):
        return finding.choose_checkpoint(folder, which)

    assert chosen("latest") == str(folder / "checkpoint_30")
    assert chosen("10") == chosen(10) == str(folder / "checkpoint_10")
    # `keep` has deleted it, the folder of the best has not.
    assert chosen("best") == chosen("20") == str(folder / "best" / "checkpoint_20")
    (folder / "checkpoint_20").mkdir()
    assert chosen("best") == str(folder / "checkpoint_20")


def refuses(message, path, which):
    with pytest.raises(UserError, match=message):
        finding.choose_checkpoint(path, which)


def test_what_cannot_be_chosen(folder, tmp_path):
    there = "there is checkpoint_10, checkpoint_30"
    refuses(f"has no checkpoint_25; .*{there}", folder, 25)
    refuses("expected 'best', 'latest' or a step", folder, "newest")
    refuses("one checkpoint already", folder / "checkpoint_10", "best")
    refuses("name the model folder", None, "best")
    refuses("does not exist", folder / "nowhere", "best")
    (folder / "empty").mkdir()
    refuses("has no checkpoints", folder / "empty", "latest")
    (folder / "best.json").write_text('{"step": 15}')
    refuses("has no checkpoint_15", folder, "best")
    (folder / "best.json").write_text("{}")
    refuses(r"best\.json: 'step' is missing, expected a whole number", folder, "best")
    (folder / "best.json").unlink()
    refuses(rf"has no best\.json: .*{there}", folder, "best")


@pytest.mark.parametrize(
    ("path", "folder", "kept"),
    [
        ("/m/frozen/checkpoint_0", "/m", "frozen/checkpoint_0"),
        ("/other/checkpoint_0", "/m", "/other/checkpoint_0"),
        ("gs://bucket/m/frozen/checkpoint_0", "gs://bucket/m", "frozen/checkpoint_0"),
        ("gs://bucket/other", "gs://bucket/m", "gs://bucket/other"),
        ("gs://bucket/other", "/m", "gs://bucket/other"),
    ],
)
def test_places_within_a_folder_move_with_it(path, folder, kept):
    assert finding.within(path, folder) == kept
    assert finding.joined(folder, kept) == path
    moved = finding.joined("/moved", kept)
    assert moved == (path if kept == path else f"/moved/{kept}")


@pytest.mark.parametrize("inner", ["", "best", "checkpoint_3", "best/checkpoint_3"])
def test_the_model_folder_of_a_checkpoint(inner):
    assert str(finding.model_folder(f"/m/{inner}")) == "/m"
