"""What a script is told: macros and gin files, looked at before anything is loaded."""

import os
import pathlib

import jax
import pytest
from small_vocabulary import small_vocabulary

from t5patches.errors import UserError
from t5patches.run import gin_files, macros, preflight, scripts
from tests import run_toy

MODEL = "models/t5_1_1_tiny.gin"
FILES = "FILES={'train': 'a.jsonl', 'validation': 'b.jsonl', 'test': 'c.jsonl'}"
LENGTHS = "TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 8}"
VOCABULARY = f"VOCABULARY_PATH='{small_vocabulary().sentencepiece_model_file}'"
SHARED = (FILES, LENGTHS, VOCABULARY)
UPDATE = "methods/tnff.gin runs/update.gin tasks/annotated.gin"
TRAIN = "MODEL_DIR='out' TRAIN_STEPS_RELATIVE=4"
INFER = "CHECKPOINT_PATH='m/checkpoint_1' INFER_OUTPUT_DIR='out'"
# Script, gin files, macros.
COMMANDS = {
    "update": ("train", UPDATE, f"{TRAIN} INITIAL_CHECKPOINT_PATH='m/checkpoint_1'"),
    "finetune": (
        "train",
        "runs/finetune.gin tasks/text.gin",
        f"{TRAIN} INITIAL_CHECKPOINT_PATH=None",
    ),
    "generate": ("infer", "runs/generate.gin tasks/text.gin", INFER),
    "beams": ("infer", "runs/generate_beam.gin tasks/text.gin", INFER),
    "infer": ("infer", "runs/infer.gin tasks/text.gin", INFER),
    "eval": (
        "eval",
        "runs/eval.gin tasks/text.gin",
        "CHECKPOINT_PATH='m/checkpoint_1' EVAL_OUTPUT_DIR='out'",
    ),
}


class Begun(Exception):
    """The script has nothing to say against what it was given."""


@pytest.fixture
def look(tmp_path, monkeypatch):
    """Gives a command more than what is right, in a folder of a user's."""
    monkeypatch.chdir(tmp_path)

    def begin():
        raise Begun

    def command(name, *more):
        script, files, values = COMMANDS[name]
        argv = [f"--gin_file={file}" for file in (MODEL, *files.split())]
        argv += [f"--gin.{value}" for value in (*SHARED, *values.split())]
        scripts.run(script, [*argv, *more], prepare=begin)

    return command


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_right(look, name):
    pathlib.Path("own.gin").write_text("RATE = 0.5\nLEARNING_RATE = %RATE\n")
    with pytest.raises(Begun):
        look(name, "--gin_file=own.gin")


# A command, what is wrong with a macro of it, and the macro that is named.
NUMBERS = ("'x'", "None", "True", "1e999", "[1]")
WRONG = {
    "update": {
        "ALPHA": (*NUMBERS, "-1"),
        "LEARNING_RATE": (*NUMBERS, "-0.001", "0"),
        "DROPOUT_RATE": (*NUMBERS, "2", "-0.5", "1.0"),
        "Z_LOSS": (*NUMBERS, "-1"),
        "LABEL_SMOOTHING": (*NUMBERS, "-1", "1.5", "0.1"),
        "LOSS_NORMALIZING_FACTOR": ("'x'", "0", "-1"),
        "KEEP_CHECKPOINTS": ("0", "-1", "'all'", "1.5"),
        "BATCH_SIZE": (*NUMBERS, "0", "-4", "2.5"),
        "NUM_MICROBATCHES": ("'x'", "0", "-1", "3"),
        "NUM_PARTITIONS": (*NUMBERS, "0"),
        "TRAIN_STEPS_RELATIVE": (*NUMBERS, "0", "-5", "1e3"),
        "TRAIN_STEPS": ("'x'", "0"),
        "SAVE_PERIOD": (*NUMBERS, "0", "-1", "700"),
        "EVAL_PERIOD": (*NUMBERS, "0", "-1", "700"),
        "EVAL_STEPS": (*NUMBERS, "0"),
        "RANDOM_SEED": ("'x'", "1.5", "-1"),
        "DATA_SEED": ("'x'", "None", "-1"),
        "TASK_FEATURE_LENGTHS": (
            *("None", "24", "{'inputs': 8}", "{'targets': 8}", "{}"),
            *("{'inputs': 8, 'targets': 0}", "{'inputs': 8, 'targets': 'x'}"),
        ),
        "MODEL_DIR": ("''", "None", "3", "'a[1]'", "'a*'", "'a?'"),
        "INITIAL_CHECKPOINT_PATH": ("None", "''", "3", "%ALPHA"),
        "METHOD": ("None", "'tnff'", "{}"),
        "METHOD.alpha": ("{'name': 'tnff', 'alpha': -1}",),
        "MODEL": ("None", "'x'"),
        "FROZEN_DTYPE": ("'int8'", "3"),
        "ACTIVATION_DTYPE": ("'x'", "None"),
        "FILES": ("None", "'a'", "{}", "{'train': ''}", "{'train': 3}"),
        "TASK_NAME": ("3", "'a b'"),
        "USE_CACHED_TASKS": ("'x'", "1.5"),
        "VOCABULARY_PATH": ("''", "3", "'none.model'", repr(__file__)),
        "VOCABULARY_SIZE": (*NUMBERS, "0", "100"),
        **dict.fromkeys(("EMB_DIM", "NUM_LAYERS", "MLP_DIM"), ("0", "'x'")),
    },
    "finetune": {"TARGETS_KEY": ("''", "None"), "LABEL_SMOOTHING": ("-0.1", "1.0")},
    "generate": {
        "TEMPERATURE": (*NUMBERS, "-1"),
        "TOP_K": (*NUMBERS, "-1", "1.5"),
        "TOP_P": (*NUMBERS, "-0.1", "2"),
        "SHARD_ID": (*NUMBERS, "-1", "1"),
        "NUM_SHARDS": (*NUMBERS, "0"),
        "CHUNK_BATCHES": (*NUMBERS, "0"),
        "SPLIT": ("''", "None"),
        "FORBID": ("''", "3"),
        "WORD_END": ("'x'", "None"),
        "CHECKPOINT_PATH": ("''", "None", "[]"),
        "INFER_OUTPUT_DIR": ("''", "None", "'a*'"),
    },
    "beams": {"NUM_DECODES": (*NUMBERS, "0"), "BREVITY": (*NUMBERS, "-1")},
    "infer": {"OUTPUT_IDS": ("'x'",)},
    "eval": {
        "CHECKPOINT_PATH": ("''", "None"),
        "EVAL_OUTPUT_DIR": ("''", "None"),
        "MIXTURE_OR_TASK_NAME": ("''", "None", "3"),
    },
}


@pytest.mark.parametrize(
    ("name", "macro"), [(name, macro) for name in WRONG for macro in WRONG[name]]
)
def test_wrong_macros(look, name, macro):
    """Typed, and in the gin file that is read last."""
    for value in WRONG[name][macro]:
        bound = f"{macro.partition('.')[0]} = {value}"
        with pytest.raises(UserError, match=macro):
            look(name, f"--gin_bindings={bound}")
        pathlib.Path("own.gin").write_text(f"# Mine.\n{bound}\n")
        if f"{macro}=" in f"{SHARED} {COMMANDS[name]}":
            continue  # What is typed overrides the file.
        with pytest.raises(UserError, match=macro):
            look(name, "--gin_file=own.gin")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ALPAH = 4.0", "own.gin, line 1: ALPAH: no gin .* did you mean ALPHA"),
        ("alpha = 4.0", "did you mean ALPHA"),
        ("SEED = 4", "did you mean DATA_SEED"),
        ("A = %B\nB = [%A]", "own.gin, line 1: macros refer to each other: A → B → A"),
        ("ALPHA = %NOPE", "own.gin, line 1: NOPE is not set"),
        ("train/ALPHA = 4.0", "train/ALPHA: no gin .* did you mean ALPHA"),
        ("ALPHA = 1e10", "ALPHA must be .*, not so large: 1"),
        ("ALPHA = [1,", "own.gin, line"),
        ("ALPHA = = 3", "own.gin, line 1"),
        ("ALPHA = nan", "texts take quotes"),
        ("include 'own.gin'", "line 1: a gin file includes itself: own.gin → own.gin"),
        ("include 'a.gin'", "own.gin → a.gin → own.gin"),
        ("\ninclude 'none.gin'", "own.gin, line 2: there is no gin file 'none.gin'"),
        ("network.T5Config.dropout_rate = 2", "line 1: T5Config.dropout_rate must be"),
        ("utils.SaveCheckpointConfig.keep = 0", "SaveCheckpointConfig.keep must be"),
        ("METHOD = None", "METHOD is not set"),
        ("SAVE_PERIOD = 3\nEVAL_PERIOD = 2", "a multiple"),
        ("BATCH_SIZE = 8\nNUM_MICROBATCHES = 3", "does not divide BATCH_SIZE = 8"),
        ("\udcff", "own.gin is no gin file"),
    ],
)
def test_wrong_gin_files(look, text, message):
    pathlib.Path("own.gin").write_bytes(text.encode(errors="surrogateescape"))
    pathlib.Path("a.gin").write_text("include 'own.gin'")
    with pytest.raises(UserError, match=message):
        look("update", "--gin_file=own.gin")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("LR=3", "--gin.LR: no gin file has this macro"),
        ("ALPHA=", "command line: .*\n  ALPHA ="),
        ("ALPHA=[1", r"command line: ALPHA = \[1"),
    ],
)
def test_wrong_bindings(look, typed, message):
    with pytest.raises(UserError, match=message):
        look("update", f"--gin.{typed}")


def test_phrases_that_are_not_to_be_said(look):
    pathlib.Path("rude.txt").write_text("# None yet.\n")
    for typed, message in (
        (["--forbid=no.txt"], "no.txt: no such file"),
        (["--gin.FORBID='rude.txt'"], "rude.txt: no phrases in it"),
        (["--forbid", "rude.txt", "--forbid", "no.txt"], "--forbid is given twice"),
        (["--forbid="], "FORBID must be a path or None, not ''"),
        (["--word-end", "here"], "WORD_END must be 'piece' or 'next', not 'here'"),
    ):
        with pytest.raises(UserError, match=message):
            look("beams", *typed)
    pathlib.Path("rude.txt").write_text("fool\n")
    with pytest.raises(Begun):
        look("generate", "--forbid", "rude.txt", "--word-end=next")


def test_macros_that_nothing_reads(look, caplog):
    """One's own are warned of; ours, in a file that several commands share, are not."""
    pathlib.Path("own.gin").write_text("COLOUR = 'red'\nTEMPERATURE = 1.0\n")
    with pytest.raises(Begun):
        look("update", "--gin_file=own.gin", "--gin.TOP_P=0.5")
    assert "own.gin, line 1: COLOUR changes nothing" in caplog.text
    assert "--gin.TOP_P changes nothing" in caplog.text
    assert "TEMPERATURE" not in caplog.text


def test_a_name_of_ours_means_our_file(look, caplog):
    """Also where our own files include it; a path means what is there."""
    for name in ("runs/update.gin", "runs/_train.gin"):
        pathlib.Path(name).parent.mkdir(exist_ok=True)
        pathlib.Path(name).write_text("SAVE_PERIOD = 0\n")
    with pytest.raises(Begun):
        look("update", "--gin_search_paths=.")
    for name in ("update", "_train"):
        path = f"{scripts.gin_root()}/runs/{name}.gin"
        assert (
            f"{path} is read, not {os.path.abspath(f'runs/{name}.gin')}" in caplog.text
        )
    with pytest.raises(UserError, match="runs/update.gin, line 1: SAVE_PERIOD"):
        look("update", "--gin_file=./runs/update.gin")
    read = [f"{scripts.gin_root()}/experiments/xsum/finetune.gin"]
    with scripts.configuration("train", read, ["MODEL_DIR = 'x'"]) as config:
        assert config.macro("SAVE_PERIOD") == 10_000


def test_the_table_has_the_macros_of_the_gin_files():
    names = set()
    for path in pathlib.Path(scripts.gin_root()).rglob("*.gin"):
        for name, value, *_ in gin_files.read([str(path)], [], scripts.gin_folders()):
            names |= {name} if name.isidentifier() else set()
            names |= {r.macro for r in gin_files.references(value) if r.macro}
    assert names - {"gin.REQUIRED"} == set(macros.MACROS)


@pytest.mark.parametrize("script", scripts.SCRIPTS)
def test_help_has_the_macros(script):
    text = macros.describe(script)
    assert "  BATCH_SIZE: a whole number at least 1; " in text
    for name, of in (
        ("ALPHA", "train cache"),
        ("TOP_P", "infer"),
        ("SPLIT", "infer eval"),
    ):
        assert (f"  {name}: " in text) == (script in of.split())


def test_partitions_that_the_devices_do_not_make():
    preflight.check_devices(1)
    with pytest.raises(UserError, match="NUM_PARTITIONS = 700: the . devices"):
        preflight.check_devices(700)


def test_hosts_of_a_pod_that_were_not_introduced(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(UserError, match="these are 4 processes: give --multiprocess_g"):
        preflight.check_devices(1)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    preflight.check_devices(1)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("MODEL=%PLAIN_MODEL", "marks unwanted tokens.*methods/tnff.gin"),
        ("VOCABULARY_SIZE=100", "VOCABULARY_SIZE = 100 is below the 259 ids"),
        (
            "TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 6, 'mine': 3}",
            "TASK_FEATURE_LENGTHS: toy_annotated has no mine; it has id, inputs",
        ),
        ("MIXTURE_OR_TASK_MODULE='.x'", "MIXTURE_OR_TASK_MODULE: .x: .* TypeError"),
    ],
)
def test_updates_that_would_train_something_else(typed, message, tmp_path):
    with pytest.raises(UserError, match=message):
        scripts.run("train", run_toy.arguments("update", tmp_path, f"--gin.{typed}"))
