"""The experiments of the two use cases, and the methods with both kinds of models."""

import copy

import gin
import pytest
from t5x import models as t5x_models

from t5patches import losses, models
from t5patches.errors import UserError
from t5patches.run import scripts

CASES = ("xsum", "civil_comments")
# All that a command must say besides.
GIVEN = {
    "train": ("MODEL_DIR", "INITIAL_CHECKPOINT_PATH", "FILES"),
    "infer": ("CHECKPOINT_PATH", "INFER_OUTPUT_DIR"),
}
BASELINES = ("filtered", "corrective")


def parse(script, files, *query, more=()):
    """What gin files, read in this order, make of parameters, such as '%MODEL'."""
    files = [f"{file}.gin" for file in files]
    given = [f"{macro} = 'x'" for macro in (*GIVEN[script], *more)]
    given.append("UNWANTED_SETS = None")  # It would look at the files.
    with scripts.configuration(script, files, given):
        return [copy.deepcopy(gin.query_parameter(parameter)) for parameter in query]


def check_model(model, family, method):
    """Looks at the class, and at what the paper's settings and the file's own give."""
    assert model._z_loss == 1e-4
    plain = method in BASELINES
    module, name = (t5x_models, "") if plain else (models, method.upper())
    # By name, too: gin makes a subclass where a method of the class was bound before.
    assert isinstance(model, getattr(module, f"{family}Model{name}"))
    assert type(model).__name__ == f"{family}Model{name}"
    if plain:
        return
    assert model.alpha == 1.0 and model.epsilon == losses.EPSILON
    assert getattr(model, "frozen_dropout", True)


@pytest.mark.parametrize("method", [*losses.METHODS, *BASELINES])
def test_methods(method):
    """A file of gin/methods serves experiments, and both kinds of models."""
    kind = ["tasks.annotated_task.kind"] if method in BASELINES else []
    numbers = ("%LEARNING_RATE", "%TRAIN_STEPS_RELATIVE", "%EVAL_PERIOD")
    for case in CASES:
        files = [f"experiments/{case}/update", f"methods/{method}"]
        model, *found = parse("train", files, "%MODEL", *numbers, *kind)
        check_model(model, "EncoderDecoder", method)
        assert found == [1e-4, 100_000, 1000, *[method for _ in kind]]
    for family, size in (
        ("EncoderDecoder", ["models/t5_1_1_tiny"]),
        ("DecoderOnly", ["models/t5_1_1_tiny", "models/decoder_only"]),
    ):
        files = [*size, f"methods/{method}", "runs/update", "tasks/annotated"]
        more = ("TASK_FEATURE_LENGTHS", "TRAIN_STEPS_RELATIVE")
        (model,) = parse("train", files, "%MODEL", more=more)
        check_model(model, family, method)


@pytest.mark.parametrize("case", CASES)
def test_an_update_wants_a_method_after_it(case):
    update = f"experiments/{case}/update"
    for files, macro in (
        ([update], "LEARNING_RATE"),
        (["methods/tnff", update], "MODEL"),
    ):
        with pytest.raises(UserError, match=f"^{macro} is not set"):
            parse("train", files, "%MODEL")


def test_a_method_that_is_none():
    with pytest.raises(ValueError, match="no method 'tnfx'; there are nl, ul, tnff"):
        models.encoder_decoder_model({"name": "tnfx"})


@pytest.mark.parametrize(("case", "steps"), [("xsum", 30_000), (CASES[1], 40_000)])
def test_fine_tuning_and_generation(case, steps):
    names = ("TRAIN_STEPS_RELATIVE", "LEARNING_RATE", "BATCH_SIZE", "DROPOUT_RATE")
    query = [f"%{name}" for name in (*names, "Z_LOSS")]
    found = parse("train", [f"experiments/{case}/finetune"], *query)
    assert found == [steps, 1e-3, 32, 0.1, 1e-4]
    generate = [f"experiments/{case}/generate"]
    assert parse("infer", generate, "%TEMPERATURE", "%NUM_SHARDS") == [0.0, 1]
