"""Runs of gin/runs on either engine: stopped, resumed, broken, and the best of them."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from small_vocabulary import small_vocabulary

from t5patches import cli, watch
from t5patches.checkpoints import contents, finding, integrity
from t5patches.interchange.json_files import read_json
from t5patches.run import scripts
from tests.run_toy import arguments, arrays

DROPOUT = "--gin.DROPOUT_RATE=0.1"


@pytest.fixture(scope="module")
def update(tmp_path_factory):
    """An update of 6 steps, of which only the last checkpoint is kept."""
    folder = tmp_path_factory.mktemp("update")
    keep = "--gin.KEEP_CHECKPOINTS=1"
    scripts.run("train", arguments("update", folder, keep, DROPOUT))
    return folder


def test_the_best_checkpoint_is_on_record_and_kept(update):
    history = read_json(update / "validation.json")
    values = {row["step"]: row["value"] for row in history["steps"]}
    assert sorted(values) == [2, 4, 6]
    best = read_json(update / "best.json")
    assert best == {
        "step": min(values, key=values.get),
        "metric": "toy_annotated/loss_per_nonpadding_target_token",
        "value": min(values.values()),
    }
    assert finding.steps(update) == [6]
    digests = read_json(update / "checkpoint_6" / "t5patches.json")["digests"]
    assert len(digests) > 5
    assert finding.steps(update / "best") == [best["step"]]
    contents.check_whole(finding.choose_checkpoint(update, "best"))


def flip(checkpoint):
    """Changes one bit of the largest file of arrays."""
    files = [path for path in checkpoint.glob("state/**/d/*") if path.is_file()]
    path = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("run", "extra", "message"),
    [
        ("update", "--gin.ALPHA=16.0", "trained with other settings (ALPHA was 1.0, "),
        ("finetune", "--gin.DATA_SEED=0", "trainer_cls was '@t5patches_trainer.Self"),
        (
            "update",
            "--gin.VOCABULARY=@vocabularies.by_pieces()",
            "was trained with the",
        ),
        ("update", "--gin.TRAIN_STEPS_RELATIVE=8", "checkpoint_6 cannot be read: sta"),
    ],
)
def test_a_run_does_not_go_on_from_what_is_another(
    update, tmp_path, capsys, run, extra, message
):
    """Each is refused before anything is trained; the folder stays as it was."""
    folder = tmp_path / "copy"
    shutil.copytree(update, folder)
    path = f"--gin.VOCABULARY_PATH='{small_vocabulary().sentencepiece_model_file}'"
    if message.endswith("sta"):
        flip(folder / "checkpoint_6")
    before = sorted(os.listdir(folder))
    assert cli.main(["train", *arguments(run, folder, extra, path)]) == 2
    assert message in capsys.readouterr().err
    assert sorted(os.listdir(folder)) == before


def test_arrays_that_were_cut_off_are_named(update, tmp_path, capsys):
    """Also in a checkpoint of an older version, without digests."""
    shutil.copytree(update / "checkpoint_6", tmp_path / "checkpoint_6")
    (tmp_path / "checkpoint_6" / "t5patches.json").unlink()
    os.truncate(flip(tmp_path / "checkpoint_6"), 100)
    assert cli.main(["train", *arguments("update", tmp_path, "--gin.ALPHA=2.0")]) == 2
    message = capsys.readouterr().err
    assert f"error: checkpoint {tmp_path}/checkpoint_6 cannot be read: " in message


def test_sigterm_saves_and_the_rerun_ends_as_if_unbroken(update, tmp_path, monkeypatch):
    received = watch.StopSignal.received

    def signalled(self, step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return received(self, step)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(watch.StopSignal, "received", signalled)
    status = "--stopped_status=75"
    assert cli.main(["train", *arguments("update", tmp_path, DROPOUT, status)]) == 75
    assert signal.getsignal(signal.SIGTERM) is before
    assert finding.steps(tmp_path)[-1] == 3
    monkeypatch.undo()
    names = ("frozen.json", "patches.json")
    records = [read_json(tmp_path / name) for name in names]
    scripts.run("train", arguments("update", tmp_path, DROPOUT))
    assert [read_json(tmp_path / name) for name in names] == records
    got, want = (arrays(folder / "checkpoint_6") for folder in (tmp_path, update))
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)
    # The history goes on: step 2 was evaluated before the interruption.
    steps = [row["step"] for row in read_json(tmp_path / "validation.json")["steps"]]
    assert steps[0] == 2 and steps[-1] == 6


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, capsys):
    assert cli.main(["train", *arguments("poisoned", tmp_path)]) == 2
    message = capsys.readouterr().err.split("error: ")[-1]
    assert "the loss is NaN or infinite" in message
    [path] = tmp_path.glob("bad_batch_*.jsonl")
    step = int(path.name.removeprefix("bad_batch_").split("-")[0])
    good = max(finding.steps(tmp_path))
    assert good == (step - 1) // 2 * 2
    assert f"at step {step};" in message
    assert str(path) in message
    assert f"The last good checkpoint: {tmp_path}/checkpoint_{good}." in message
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 4
    for row in rows:
        letter = chr(65 + row["id"])
        assert row["inputs"] == f"row {letter}"
        assert row["targets"] == f"{letter} wor"
        unwanted = -1 if row["id"] % 3 == 0 else 1
        assert row["weights"] == [1, unwanted, 1, 1, 1, 1]
    assert 17 in [row["id"] for row in rows]


def test_fine_tuning_goes_on_from_the_best_of_a_folder(update, tmp_path):
    start = read_json(update / "best.json")["step"]
    chosen = "--gin.INITIAL_CHECKPOINT_PATH=@finding.choose_checkpoint()"
    folder = f"--gin.INITIAL_MODEL_DIR='{update}'"
    two = "--gin.TRAIN_STEPS_RELATIVE=2"
    scripts.run("train", arguments("finetune", tmp_path, chosen, folder, two))
    assert finding.steps(tmp_path) == [start, start + 2]
    assert read_json(tmp_path / "best.json")["step"] == start + 2
    assert not (tmp_path / "frozen.json").exists()
    chosen = arrays(finding.choose_checkpoint(update, "best"))
    copied = arrays(tmp_path / f"checkpoint_{start}")
    np.testing.assert_array_equal(
        copied["target/decoder/logits_dense/kernel"],
        chosen["target/decoder/logits_dense/kernel"],
    )


def test_an_update_of_the_best_of_an_update(update, tmp_path):
    """The chain has both; the frozen model is by option what the first started from."""
    scripts.run(
        "train",
        arguments(
            *("update", tmp_path, "--checkpoint=best", "--gin.ALPHA=2.0"),
            f"--gin.INITIAL_CHECKPOINT_PATH='{update}'",
            "--gin.FROZEN_CHECKPOINT_PATH=@patches.original()",
            "--gin.TRAIN_STEPS_RELATIVE=1",
        ),
    )
    best = finding.choose_checkpoint(update, "best")
    assert f"INITIAL_CHECKPOINT_PATH = '{best}'" in (
        (tmp_path / "config.gin").read_text().replace("\\\n    ", "")
    )
    frozen = read_json(tmp_path / "frozen.json")
    assert frozen["checkpoint"] == f"{update}/frozen/checkpoint_0"
    chain = read_json(tmp_path / "patches.json")
    frozen.pop("step")
    first, second = chain["updates"]
    assert chain["original"] == first["initial"] == first["frozen"] == frozen
    assert second["frozen"] == frozen
    assert second["initial"] == {"checkpoint": best, "identity": contents.content(best)}
    assert (first["method"], first["alpha"], second["alpha"]) == ("tnff", 1.0, 2.0)
    for folder, made in ((update, first), (tmp_path, second)):
        settings = read_json(folder / "settings.json")
        assert made["learning_rate"] == settings["LEARNING_RATE"] == 0.05
        assert made["data"]["training data"] == settings["training data"]
        latest = finding.choose_checkpoint(folder, "latest")
        assert made["run"] == integrity.run_of(latest)
    # In the folder of the copy its place moves with it.
    own = read_json(update / "patches.json")["original"]["checkpoint"]
    assert own == "frozen/checkpoint_0"
