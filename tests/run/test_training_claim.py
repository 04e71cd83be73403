"""What a training run's folder says of its settings, before anything is trained."""

import json
import pathlib
import shutil
import types

import pytest
from small_vocabulary import small_vocabulary
from typed_commands import SMALL, text, write_vocabulary

from t5patches import tasks
from t5patches.checkpoints import integrity
from t5patches.errors import UserError
from t5patches.interchange import claims, json_files
from t5patches.run import scripts, training_claim

UPDATE = """
from __gin__ import dynamic_registration
include 'models/t5_1_1_small.gin'
include 'methods/tnff.gin'
include 'runs/update.gin'
include 'tasks/text.gin'
include 'small.gin'
DROPOUT_RATE = 0.1
VOCABULARY_PATH = 'sentencepiece.model'
FILES = {'train': 'train.jsonl', 'validation': 'validation.jsonl'}
INITIAL_CHECKPOINT_PATH = 'finetuned/checkpoint_2'
"""

# Folder of a checkpoint -> when that was made.
MADE = {"finetuned": 1, "finetuned/best": 1, "moved": 1, "replaced": 2}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The files of an update, some of them twice."""
    folder = tmp_path_factory.mktemp("source")
    write_vocabulary(folder)
    shutil.copy(folder / "sentencepiece.model", folder / "same.model")
    other = small_vocabulary(model_type="bpe").sentencepiece_model_file
    shutil.copy(other, folder / "other.model")
    for name, shift in (("train", 0), ("validation", 1), ("same", 0), ("other", 2)):
        rows = [{"inputs": text(i + shift, 4), "targets": text(i, 3)} for i in range(8)]
        json_files.write_jsonl(folder / f"{name}.jsonl", rows)
    for name, made in MADE.items():
        checkpoint = folder / name / "checkpoint_2"
        checkpoint.mkdir(parents=True)
        (checkpoint / "_CHECKPOINT_METADATA").write_text(json.dumps({"made": made}))
    (folder / "small.gin").write_text(SMALL)
    (folder / "update.gin").write_text(UPDATE)
    return folder


@pytest.fixture
def check(source, tmp_path, monkeypatch):
    """A function of bindings that checks a folder, as `t5patches train` does."""
    monkeypatch.chdir(source)

    def check(*bindings, folder=tmp_path, branch=False):
        bindings = [f"MODEL_DIR = '{folder}'", *bindings]
        config = scripts.configuration("train", ["update.gin"], bindings, ["."])
        with config as parsed:
            arguments = parsed.arguments()
            training_claim.check_place(arguments)
            return training_claim.check(arguments, parsed.bindings, branch)

    return check


def settings(folder):
    return json.loads((folder / "settings.json").read_text())


@pytest.fixture
def trained(check, tmp_path):
    """The folder of a run that has saved its second step."""
    check()()
    (tmp_path / "checkpoint_4").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("ALPHA = 16.0", "ALPHA was 1.0, now 16.0"),
        ("LEARNING_RATE = 1e-5", "LEARNING_RATE was 0.0001, now 1e-05"),
        ("RANDOM_SEED = 1", "RANDOM_SEED was 0, now 1"),
        ("DATA_SEED = 1", "DATA_SEED was 0, now 1"),
        ("BATCH_SIZE = 4", "BATCH_SIZE was 8, now 4"),
        ("Z_LOSS = 0.0", "Z_LOSS was 0.0001, now 0.0"),
        ("DROPOUT_RATE = 0.2", "DROPOUT_RATE was 0.1, now 0.2"),
        ("PACK = True", "PACK was False, now True"),
        ("NUM_MICROBATCHES = 2", "NUM_MICROBATCHES was None, now 2"),
        ("EMB_DIM = 32", "EMB_DIM was 16, now 32"),
        ("FROZEN_DTYPE = 'bfloat16'", "FROZEN_DTYPE was None, now 'bfloat16'"),
        ("METHOD = {'name': 'ul', 'alpha': 1.0}", "METHOD was .*tnff.*, now .*ul"),
        ("TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 8}", "'inputs': 24, .* now"),
        ("adafactor.Adafactor.decay_rate = 0.9", "decay_rate was 0.8, now 0.9"),
        ("VOCABULARY_PATH = 'other.model'", "vocabulary was 'Sent.*, now 'Sent"),
        ("FILES = {'train': 'other.jsonl'}", "training data was {'text': .* now"),
        (
            "FILES = {'train': 'train.jsonl', 'validation': 'other.jsonl'}",
            "settings .validation data was",
        ),
        (
            "INITIAL_CHECKPOINT_PATH = 'replaced/checkpoint_2'",
            "initial checkpoint was 'checkpoint_2:.*, now 'checkpoint_2:",
        ),
    ],
)
def test_other_settings_are_refused(check, trained, binding, message):
    with pytest.raises(UserError, match=message) as error:
        check(binding)
    assert "--branch to go on from checkpoint_4 with these" in str(error.value)


@pytest.mark.parametrize(
    "bindings",
    [
        ["ALPHA = 1"],
        ["TRAIN_STEPS_RELATIVE = 9", "SAVE_PERIOD = 3", "EVAL_PERIOD = 3"],
        ["KEEP_CHECKPOINTS = 2", "NUM_PARTITIONS = 2", "EVAL_STEPS = 5"],
        ["NOBODY_READS_THIS = 2"],
        ["VOCABULARY_PATH = 'same.model'"],
        ["FILES = {'train': 'same.jsonl', 'validation': './validation.jsonl'}"],
        ["INITIAL_CHECKPOINT_PATH = 'moved/checkpoint_2'"],
        ["INITIAL_CHECKPOINT_PATH = 'deleted/checkpoint_2'"],
    ],
)
def test_what_may_change(check, trained, bindings):
    names = ("settings.json", "patches.json")
    before = [json_files.read_json(trained / name) for name in names]
    check(*bindings)()
    assert [json_files.read_json(trained / name) for name in names] == before


def test_microbatches_may_change_without_dropout(check, tmp_path):
    without = "DROPOUT_RATE = 0.0"
    check(without)()
    (tmp_path / "checkpoint_4").mkdir()
    check(without, "NUM_MICROBATCHES = 2")


def test_a_branch_is_on_record(check, trained, source):
    check("ALPHA = 16.0", branch=True)()
    assert settings(trained)["ALPHA"] == 16.0
    chain = json_files.read_json(trained / "patches.json")
    assert chain["original"]["checkpoint"] == str(source / "finetuned/checkpoint_2")
    assert [update["alpha"] for update in chain["updates"]] == [1.0, 16.0]
    assert chain["updates"][1]["initial"]["checkpoint"] == "checkpoint_4"
    files = {name: str(source / f"{name}.jsonl") for name in ("train", "validation")}
    assert chain["updates"][0]["data"]["files"] == files
    old = json.loads((trained / "settings.until_4.json").read_text())
    assert old["ALPHA"] == 1.0
    check("ALPHA = 16.0")
    with pytest.raises(UserError, match=r"ALPHA was 16\.0, now 1\.0"):
        check()


def test_a_checkpoint_of_another_run(check, trained):
    """Also where the record of the settings was edited, or is lost."""
    before = settings(trained)
    integrity.seal(trained / "checkpoint_4", "any", claims.fingerprint(before))
    check()
    json_files.write_json(trained / "settings.json", {**before, "ALPHA": 2.0})
    with pytest.raises(UserError, match="checkpoint_4 is of a run with others"):
        check("ALPHA = 2.0")
    (trained / "settings.json").unlink()
    check()
    with pytest.raises(UserError, match="checkpoint_4 is of a run with others"):
        check("ALPHA = 2.0")
    check("ALPHA = 2.0", branch=True)()
    check("ALPHA = 2.0")


def test_the_contents_of_a_tasks_files_count(tmp_path):
    found = []
    for name, content in (("a", b"1"), ("b", b"1"), ("a", b"2")):
        (tmp_path / name).write_bytes(content)
        files = {"train": str(tmp_path / name)}
        task = tasks.annotated_task("claimed", files, small_vocabulary())
        cfg = types.SimpleNamespace(
            mixture_or_task_name=task, split="train", use_cached=False
        )
        found += dict(training_claim._digests(cfg)).values()
    assert found[0] == found[1] != found[2] and None not in found


def test_who_claims_a_folder(check, tmp_path, caplog):
    # A run that was refused, or has saved nothing, does not.
    check("ALPHA = 3.0")
    assert not list(tmp_path.iterdir())
    check("ALPHA = 3.0")()
    check("ALPHA = 2.0")()
    assert settings(tmp_path)["ALPHA"] == 2.0
    # One of an older version becomes the run's that goes on.
    (tmp_path / "checkpoint_4").mkdir()
    (tmp_path / "settings.json").unlink()
    check("ALPHA = 3.0")()
    assert "has checkpoints, but no settings.json" in caplog.text
    (tmp_path / "settings.json").write_text('{"step": ')
    with pytest.raises(UserError, match=r"settings\.json: not valid JSON"):
        check()


@pytest.mark.parametrize(
    "place", ["", "best", "best/deeper", "checkpoint_2", "checkpoint_2/best"]
)
@pytest.mark.parametrize("link", [False, True])
def test_a_run_does_not_write_among_what_it_starts_from(check, source, place, link):
    folder = source / "finetuned"
    if link:
        folder = source / "link"
        folder.unlink(missing_ok=True)
        folder.symlink_to(source / "finetuned")
    for initial in ("checkpoint_2", "best/checkpoint_2", ""):
        with pytest.raises(UserError, match="the folder of the initial checkpoint"):
            binding = f"INITIAL_CHECKPOINT_PATH = '{source / 'finetuned' / initial}'"
            check(binding, folder=folder / place)
    check(folder=folder / "updated")
    check(folder=pathlib.Path(f"{folder}_updated"))


def test_the_files_of_a_cached_task_may_be_gone(check):
    gone = "FILES = {'train': 'gone.jsonl', 'validation': 'gone.jsonl'}"
    check(gone, "USE_CACHED_TASKS = True")()
    with pytest.raises(UserError, match="gone.jsonl: no such file"):
        check(gone)
