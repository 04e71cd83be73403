"""The experiments of the two use cases: each file is a whole run of its method."""

import pathlib

import gin
import pytest

from t5patches import losses
from t5patches.run import scripts

ROOT = pathlib.Path(scripts.gin_root()) / "experiments"
CASES = ("xsum", "civil_comments")
# All that a command must say besides.
GIVEN = {
    "train": ("MODEL_DIR", "INITIAL_CHECKPOINT_PATH", "FILES"),
    "infer": ("CHECKPOINT_PATH", "INFER_OUTPUT_DIR"),
}
METHODS = (*losses.METHODS, "filtered", "corrective")


def parse(script, name, query):
    """What an experiment's file alone binds to a parameter."""
    return parse_files(script, [f"experiments/{name}"], query)


def parse_files(script, files, query):
    """What gin files, read in this order, bind to a parameter."""
    given = [f"{macro} = 'x'" for macro in GIVEN[script]]
    with scripts.configuration(script, files, given):
        return [gin.query_parameter(parameter) for parameter in query]


def macro(name):
    return f"{name}/macro.value"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_updates(case, method):
    file = f"{case}/update_{method}.gin"
    names = ("MODEL", "MIXTURE_OR_TASK_NAME", "TRAIN_STEPS_RELATIVE", "EVAL_PERIOD")
    model, task, steps, period = parse("train", file, map(macro, names))
    if method in losses.METHODS:
        assert model.selector.endswith(f"EncoderDecoderModel{method.upper()}")
        assert task.selector.endswith("annotated_task")
    else:
        assert model.selector.endswith(".EncoderDecoderModel")
        assert task.selector.endswith(f"{method}_task")
    assert (steps, period) == (100_000, 1000)


@pytest.mark.parametrize(("case", "steps"), [("xsum", 30_000), *[(CASES[1], 40_000)]])
def test_fine_tuning_and_generation(case, steps):
    names = ("TRAIN_STEPS_RELATIVE", "LEARNING_RATE", "BATCH_SIZE", "DROPOUT_RATE")
    found = parse("train", f"{case}/finetune.gin", map(macro, (*names, "Z_LOSS")))
    assert found == [steps, 1e-3, 32, 0.1, 1e-4]
    found = parse(
        *("infer", f"{case}/generate.gin"), map(macro, ("TEMPERATURE", "NUM_SHARDS"))
    )
    assert found == [0.0, 1]


@pytest.mark.parametrize("method", losses.METHODS)
@pytest.mark.parametrize(
    ("kind", "folder", "architecture"),
    [
        ("EncoderDecoder", "", "t5_1_1"),
        ("DecoderOnly", "decoder_only/", "decoder_only"),
    ],
)
def test_methods_of_both_kinds_of_models(method, kind, folder, architecture):
    """The class, and what the paper's settings and the file's own give it."""
    files = [
        f"models/{architecture}_tiny.gin",
        f"methods/{folder}{method}.gin",
        "runs/update.gin",
        "tasks/annotated.gin",
    ]
    files = [*files, "experiments/xsum/_update.gin"]
    cls = f"{kind}Model{method.upper()}"
    bound = [f"models.{cls}.{name}" for name in ("alpha", "z_loss")]
    names = ("MODEL", "ALPHA", "LEARNING_RATE")
    found = parse_files("train", files, [*map(macro, names), *bound])
    assert found[0].selector.endswith(cls)
    assert found[1:3] == [1.0, 1e-4]
    assert all(reference.selector.endswith("macro") for reference in found[3:])


def test_each_case_has_each_method():
    for case in CASES:
        names = {path.name for path in (ROOT / case).glob("update_*.gin")}
        assert names == {f"update_{method}.gin" for method in METHODS}
