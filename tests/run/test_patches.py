"""The chain of updates in `patches.json`, of folders that look like runs'."""

import shutil
import types

import pytest
import tiny

from t5patches import __version__, models
from t5patches.checkpoints import contents, integrity
from t5patches.errors import UserError
from t5patches.interchange import claims, json_files
from t5patches.run import patches


def settings(alpha):
    return {
        "step": "train",
        "LEARNING_RATE": 0.5,
        "ALPHA": alpha,
        "training data": {"annotated": "1234"},
    }


def save(folder, step, run=None):
    """What looks like a checkpoint, of the folder's name."""
    path = folder / f"checkpoint_{step}"
    path.mkdir(parents=True)
    (path / "arrays").write_text(f"{folder.name} {step}")
    integrity.seal(path, "any", run)
    return str(path)


def update(start, folder, alpha, step):
    """Writes what `train` does of an update by NL; returns its checkpoint."""
    chain = patches.of_checkpoint(start)
    model = tiny.make_model(models.EncoderDecoderModelNL, alpha=alpha)
    folder.mkdir(exist_ok=True)
    files = {"train": "a"}
    patches.write(folder, chain, start, {"model": model}, settings(alpha), files)
    return save(folder, step, claims.fingerprint(settings(alpha)))


@pytest.fixture
def chain(tmp_path):
    """A fine-tuned model, an update of it, an update of that."""
    finetuned = save(tmp_path / "finetuned", 4)
    first = update(finetuned, tmp_path / "first", 1.0, 6)
    second = update(first, tmp_path / "second", 2.0, 8)
    return types.SimpleNamespace(finetuned=finetuned, first=first, second=second)


def named(path):
    return {"checkpoint": path, "identity": contents.content(path)}


def test_two_updates(chain, tmp_path):
    def expected(alpha, initial):
        return {
            "method": "nl",
            "alpha": alpha,
            "learning_rate": 0.5,
            "data": {"files": {"train": "a"}, "training data": {"annotated": "1234"}},
            "initial": named(initial),
            "frozen": None,
            "run": claims.fingerprint(settings(alpha)),
            "t5patches": __version__,
        }

    assert patches.of_checkpoint(chain.second) == {
        "original": named(chain.finetuned),
        "updates": [expected(1.0, chain.finetuned), expected(2.0, chain.first)],
    }
    best = shutil.copytree(chain.first, tmp_path / "first" / "best" / "checkpoint_6")
    assert patches.of_checkpoint(best) == {
        "original": named(chain.finetuned),
        "updates": [expected(1.0, chain.finetuned)],
    }
    assert patches.of_checkpoint(chain.finetuned)["updates"] == []
    for checkpoint in (chain.finetuned, chain.first, chain.second):
        assert patches.original(checkpoint) == chain.finetuned


def test_a_branch_is_a_further_update(chain, tmp_path):
    """Also in a copy of the folder; what lies before the branch has not got it."""
    update(chain.first, tmp_path / "first", 3.0, 7)
    copy = shutil.copytree(tmp_path / "first", tmp_path / "copy")
    for folder in (tmp_path / "first", copy):
        start = str(folder / "checkpoint_6")
        updates = patches.of_checkpoint(folder / "checkpoint_7")["updates"]
        assert [u["alpha"] for u in updates] == [1.0, 3.0]
        assert updates[1]["initial"] == {**named(chain.first), "checkpoint": start}
        before = patches.of_checkpoint(start)["updates"]
        assert before == updates[:1]


def test_another_checkpoint_in_its_place_does_not_go_on_with_the_chain(chain, tmp_path):
    shutil.rmtree(chain.first)
    save(tmp_path / "first", 6, "another run")
    with pytest.raises(
        UserError, match="is of none of the updates that .*patches.json"
    ):
        patches.of_checkpoint(chain.first)
    patches.of_checkpoint(chain.second)  # It says what it was made of.


def test_the_original_is_known_by_its_content(chain, tmp_path):
    gone = tmp_path / "gone"
    shutil.move(tmp_path / "finetuned", gone)
    with pytest.raises(UserError, match="and it is gone now; put it back, or name"):
        patches.original(chain.second)
    save(tmp_path / "finetuned", 5)
    shutil.move(tmp_path / "finetuned" / "checkpoint_5", chain.finetuned)
    with pytest.raises(UserError, match="and another one lies there now"):
        patches.original(chain.second)
    shutil.rmtree(tmp_path / "finetuned")
    shutil.move(gone, tmp_path / "finetuned")
    assert patches.original(chain.second) == chain.finetuned


def test_an_update_without_a_record_has_no_known_original(chain, tmp_path):
    """As T5X's own script leaves it."""
    (tmp_path / "first" / "patches.json").unlink()
    json_files.write_json(tmp_path / "first" / "frozen.json", {})
    third = update(chain.first, tmp_path / "third", 4.0, 9)
    assert [u["alpha"] for u in patches.of_checkpoint(third)["updates"]] == [4.0]
    for checkpoint in (chain.first, third, None):
        with pytest.raises(
            UserError, match="is not on record .*FROZEN_CHECKPOINT_PATH"
        ):
            patches.original(checkpoint)


@pytest.mark.parametrize(
    ("found", "field"),
    [
        ({"original": None, "updates": []}, "original"),
        ({"original": {}, "updates": None}, "updates"),
        ({"original": {}, "updates": ["tnff"]}, "run"),
        ({"original": {}, "updates": [{"alpha": 1.0}]}, "run"),
    ],
)
def test_a_broken_record_is_named(chain, tmp_path, found, field):
    json_files.write_json(tmp_path / "first" / "patches.json", found)
    with pytest.raises(UserError, match=rf"first/patches\.json: '{field}' is"):
        patches.of_checkpoint(chain.first)
