"""The scripts, on whichever engine is there: runs, replays and mistakes."""

import json
import logging
import logging.handlers
import pathlib
import re
import sys

import gin
import pytest
import tensorflow as tf

from t5patches import _engine, progress
from t5patches.errors import UserError
from t5patches.run import gin_errors, scripts
from tests import engine_toy, run_toy

ROOT = pathlib.Path(__file__).parents[1]
GIN = ROOT / "testdata" / "engine"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model folder with the checkpoints 0 and 3."""
    folder = tmp_path_factory.mktemp("run")
    scripts.run("train", train_arguments(folder))
    return folder


def train_arguments(folder, *more):
    return [f"--gin_file={GIN}/train.gin", f"--gin.MODEL_DIR='{folder}'", *more]


def infer_arguments(checkpoint, folder, *more):
    return [
        f"--gin_file={GIN}/infer.gin",
        f"--gin.CHECKPOINT_PATH='{checkpoint}'",
        f"--gin.INFER_OUTPUT_DIR='{folder}'",
        *more,
    ]


def fails(script, arguments, *messages):
    """Runs a script that must fail with all of these messages."""
    with pytest.raises(UserError) as caught:
        scripts.run(script, arguments)
    for message in messages:
        assert message in str(caught.value)
    assert "In call to configurable" not in str(caught.value)


# ---- What works ----


def test_a_run_leaves_gin_and_main_as_they_were(run):
    assert (run / "checkpoint_3").is_dir()
    assert not hasattr(sys.modules["__main__"], "train")
    assert gin.config_str().strip() == ""
    assert gin.config._LOCATION_PREFIXES == [""]


@pytest.fixture(scope="module")
def inference(run, tmp_path_factory):
    """One inference, in a folder of a user's, with all that may be said to it.

    Its paths are relative, `--checkpoint` chooses, a module of the working folder
    registers the task (as with `python -m`), and a macro has no reader. Yields the
    folder, the log's lines and what the progress bar counted.
    """
    folder = tmp_path_factory.mktemp("inference")
    (folder / "model").symlink_to(run)
    (folder / "my_tasks.py").write_text(
        "from tests import engine_toy\nengine_toy.register()\n"
    )
    counted, lines = [], logging.handlers.BufferingHandler(10**6)

    class Watched(progress.Bar):
        def add(self, count=1):
            super().add(count)
            counted.append((self._what, count))

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(progress, "Bar", Watched)
        module = "--gin.utils.DatasetConfig.module='my_tasks'"
        more = ("--checkpoint=3", module, "--gin.TOP_K=3")
        logging.getLogger().addHandler(lines)
        try:
            arguments = infer_arguments("model", "out", *more)
            scripts.run("infer", arguments, description="predicting")
        finally:
            logging.getLogger().removeHandler(lines)
        yield folder, [line.getMessage() for line in lines.buffer], counted


def test_an_inference(inference):
    folder, log, counted = inference
    (path,) = (folder / "out").glob("*-predict.jsonl-00000-of-00001")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.name.startswith(engine_toy.TASK)
    assert len(rows) == 20 and all("prediction" in row for row in rows)
    assert {what for what, _ in counted} == {"predicting"}
    assert sum(count for _, count in counted) == 20
    assert any("--gin.TOP_K changes nothing" in line for line in log)


def test_the_written_configuration_replays_with_the_same_name(run, inference):
    text = (run / "config.gin").read_text()
    assert "t5x_embedded" not in text
    assert "train_script.train.total_steps = %TRAIN_STEPS" in text
    changes = {
        "MODEL_DIR": (f"'{run}'", "'more'"),
        "TRAIN_STEPS": ("3", "4"),
        "INITIAL_CHECKPOINT_PATH": ("None", "'model/checkpoint_3'"),
    }
    bindings = [f"--gin.{name}={new}" for name, (_, new) in changes.items()]
    scripts.run("train", [f"--gin_file={run}/config.gin", *bindings])
    folder = inference[0] / "more"
    assert (folder / "checkpoint_4").is_dir()
    replayed = (folder / "config.gin").read_text()
    # Gin breaks lines that long paths make too long.
    replayed, text = (s.replace("\\\n    ", "") for s in (replayed, text))
    for name, (old, new) in changes.items():
        replayed = replayed.replace(f"{name} = {new}\n", f"{name} = {old}\n")
    assert replayed == text


def test_the_checkpoint_of_a_folder_can_be_chosen(run, tmp_path):
    scripts.run(
        "eval",
        [
            f"--gin_file={GIN}/eval.gin",
            f"--gin.CHECKPOINT_PATH='{run}'",
            f"--gin.EVAL_OUTPUT_DIR='{tmp_path}'",
            "--checkpoint=latest",
        ],
    )
    record = (tmp_path / f"eval.{engine_toy.TASK}.ckpt").read_text()
    assert record == f"{run}/checkpoint_3"


def test_gin_files_of_ours_are_found():
    assert (pathlib.Path(scripts.gin_root()) / "runs" / "finetune.gin").is_file()
    fails("train", ["--gin_file=runs/finetune.gin"], "is not set")


@pytest.mark.parametrize("script", sorted(scripts.SCRIPTS))
def test_help_lists_the_flags_of_t5x(script):
    text = scripts.flag_help(script)
    for flag in ("gin_file", "gin_search_paths", "tfds_data_dir", "multiprocess_gpu"):
        assert flag in text
    assert ("shard_id" in text) == (script in ("infer", "cache"))


# ---- What the user gets wrong ----


# What is typed after a right command, and below it what its message has.
MISTAKES = """
train --nope
  nope
train loose
  'loose'
train --gin.A
  --gin.NAME=VALUE
train --gin_search_paths=nope
  there is no folder 'nope'
train --gin_file=nope.gin
  nope.gin
  {gin_root}
train --gin.nope.thing=3
  'nope'
train --gin.utils.DatasetConfig.nope=3
  command line
  doesn't have a parameter named 'nope'
train --gin.train.total_steps=%MISSING
  MISSING is not set
train --gin.train/utils.DatasetConfig.mixture_or_task_name='toy_cpy'
  no task or mixture is registered as 'toy_cpy'
  'toy_copy'
train --gin.SPLIT='dev'
  no split 'dev'
  'train', 'validation'
train --gin.TRAIN_STEP=1
  --gin.TRAIN_STEP: no gin file has this macro; did you mean TRAIN_STEPS?
infer --gin.utils.DatasetConfig.module='my_taks'
  MIXTURE_OR_TASK_MODULE: my_taks: no such module
train --gin.MODEL_DIR='{run}' --gin.TRAIN_STEPS=2
  is at step 3 and training ends at 2
train --gin.INITIAL_CHECKPOINT_PATH='{run}/../x'
  there is no checkpoint
infer --gin.CHECKPOINT_PATH='{run}/checkpoint_5'
  there is no checkpoint {run}/checkpoint_5
  checkpoint_0, checkpoint_3
infer --gin.CHECKPOINT_PATH='{run}'
  is not the folder of a checkpoint
infer --gin.CHECKPOINT_PATH='{run}' --checkpoint=best
  has no best.json
  checkpoint_0, checkpoint_3
infer --gin.CHECKPOINT_PATH='{run}' --checkpoint=5
  has no checkpoint_5
infer --checkpoint=0
  is one checkpoint already
  {run}
train --checkpoint=best
  name it with --gin.INITIAL_CHECKPOINT_PATH
train --gin.INITIAL_CHECKPOINT_PATH='{run}/checkpoint_3' --gin.TRAIN_STEPS=3
  checkpoint_3 is at step 3 and training ends at 3
train --gin.train/utils.DatasetConfig.use_cached=True
  USE_CACHED_TASKS
train --gin.engine_toy.model.nope=3
  nope
infer --gin.CHECKPOINT_PATH=None
  CHECKPOINT_PATH is not set
infer --shard_id=1
  SHARD_ID must be below NUM_SHARDS = 1, not 1
infer --gin.engine_toy.model.mlp_dim=40
  another architecture
  mlp/wi
  (16, 24)
  (16, 40)
infer --gin.engine_toy.model.num_encoder_layers=2
  encoder/layers_1/
  missing
"""


@pytest.mark.parametrize("mistake", re.findall(r"\S.*\n(?:  .*\n)+", MISTAKES))
def test_mistakes(run, tmp_path, caplog, mistake):
    mistake = mistake.format(run=run, gin_root=scripts.gin_root())
    words, *messages = map(str.strip, mistake.splitlines())
    script, *more = words.split()
    if script == "train":
        fails(script, train_arguments(tmp_path, *more), *messages)
    else:
        arguments = infer_arguments(run / "checkpoint_3", tmp_path, *more)
        fails(script, arguments, *messages)
    assert "Path not found" not in caplog.text


def test_a_validation_split_that_is_not_there(tmp_path):
    typed = "--gin.train_eval/utils.DatasetConfig.split='dev'"
    messages = ("no split 'dev'", "train_eval_dataset_cfg=None")
    fails("train", run_toy.arguments("finetune", tmp_path, typed), *messages)


DYNAMIC = "from __gin__ import dynamic_registration\n"


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("X = 1\nfoo bar =\n", ["bad.gin, line 2", "foo bar"]),
        ("X = [1,\n", ["bad.gin, line"]),
        ("include 'nowhere/file.gin'\n", ["nowhere/file.gin"]),
        ("nothing.here = 1\n", ["bad.gin, line 1", "nothing"]),
        (
            DYNAMIC + "X = @utilz.Foo()\n",
            ["bad.gin, line 2", "'utilz' was not provided by an import"],
        ),
        (
            DYNAMIC + "from t5x import utils\nutils.Nothing.a = 1\n",
            ["bad.gin, line 3", "Nothing"],
        ),
        (DYNAMIC + "import no_such_module\n", ["bad.gin, line 2", "no_such_module"]),
        (
            DYNAMIC + "import __main__ as script\nscript.train.total_steps = 2\n",
            ["train.model", "not set"],
        ),
    ],
)
def test_gin_files_alone(text, messages, tmp_path):
    (tmp_path / "bad.gin").write_text(text)
    fails("train", [f"--gin_file={tmp_path}/bad.gin"], *messages)


def test_what_must_be_given():
    fails("train", [], "no --gin_file")
    fails("train", [f"--gin_file={GIN}/train.gin"], "MODEL_DIR is not set")


def test_remote_paths_that_cannot_be_read():
    error = tf.errors.FailedPreconditionError(None, None, "no host\nmore")
    bindings = {"VOCABULARY_PATH": "'gs://bucket/a'", "SPLIT": "'test'"}
    known = gin_errors.run_error(error, bindings)
    assert str(known) == "no host. Remote paths: VOCABULARY_PATH = 'gs://bucket/a'"
    assert gin_errors.run_error(ValueError("x"), bindings) is None
    shape = tf.errors.InvalidArgumentError(None, None, "shape")
    assert gin_errors.run_error(shape, bindings) is None


def test_a_message_that_passed_through_gin():
    def broken():
        raise UserError("a.jsonl:3: field 'inputs' is missing")

    call = gin.external_configurable(broken, "broken_for_this_test")
    with pytest.raises(UserError, match="In call to configurable"):
        call()
    with pytest.raises(UserError) as error:
        with gin_errors.in_our_words(lambda error: None):
            call()
    assert str(error.value) == "a.jsonl:3: field 'inputs' is missing"


def test_half_written_checkpoints(run, tmp_path):
    def refuses(path):
        message = "was not written to its end"
        fails("infer", infer_arguments(path, tmp_path / "out"), message)

    temporary = tmp_path / "checkpoint_4.orbax-checkpoint-tmp-12"
    temporary.mkdir()
    refuses(temporary)
    refuses(tmp_path / "checkpoint_4")
    empty = tmp_path / "checkpoint_5"
    empty.mkdir()
    refuses(empty)
    if _engine.name() == "t5x_embedded":
        older = tmp_path / "checkpoint_6"
        older.mkdir()
        (older / "checkpoint").touch()
        fails("infer", infer_arguments(older, tmp_path / "out"), "msgpack")
        (older / "checkpoint").unlink()
        older.rmdir()
    # A run whose own last checkpoint lost files must not start afresh.
    fails("train", train_arguments(tmp_path), str(empty))
