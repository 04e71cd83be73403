"""The runs of T5X's scripts that a patch is made of: gin files and macros."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from t5patches.run import scripts
from t5patches.sweep.plan import Command

ROWS = "runs/unwanted_rows.gin"
_LONGEST, _MULTIPLE = 512, 64  # Of inputs, in pieces; lengths that they are padded to.
_CHOICES = 5  # Checkpoints that the best is chosen from.


def vocabulary(model: str) -> Any:
    """Returns the vocabulary that a model's gin file makes."""
    needed = {"MIXTURE_OR_TASK_NAME": "none", "TASK_FEATURE_LENGTHS": {}}
    needed |= {"CHECKPOINT_PATH": "none", "INFER_OUTPUT_DIR": "none"}
    bindings = [f"{name} = {value!r}" for name, value in needed.items()]
    files = [model, "runs/generate.gin"]
    with scripts.configuration("infer", files, bindings) as config:
        return config.arguments()["model"].output_vocabulary


def padded_length(longest: int) -> int:
    """Returns the length, in pieces, that inputs are padded or cut to.

    Args:
      longest: pieces of the longest input, EOS included.
    """
    return min(-(-longest // _MULTIPLE) * _MULTIPLE, _LONGEST)


def generate(model: str, files: Mapping[str, str], **macros: Any) -> Command:
    """Returns a generation.

    Args:
      model: its gin file.
      files: split -> JSON lines with `inputs`.
      **macros: CHECKPOINT_PATH, INFER_OUTPUT_DIR, SPLIT and others.
    """
    given = {"FILES": dict(files), "TARGETS_KEY": None, **macros}
    return Command([model, "runs/generate.gin", "tasks/text.gin"], given)


def update(
    model: str,
    method: str,
    whole: bool,
    files: Mapping[str, Sequence[str]],
    validation: int,
    steps: int,
    batch_size: int,
    seed: int,
    alpha: float | None,
    learning_rate: float | None,
    **macros: Any,
) -> Command:
    """Returns an update.

    Args:
      model: its gin file.
      method: one of `losses.METHODS`.
      whole: whether all that is unwanted is known: then only the output layer's rows of
        these tokens are trained.
      files: split -> annotated files.
      validation: how many examples the validation split has.
      steps: of the update.
      batch_size: examples in a batch.
      seed: of the order of the data.
      alpha: None for the method's.
      learning_rate: None for the method's.
      **macros: INITIAL_CHECKPOINT_PATH, MODEL_DIR and others.
    """
    period = max(1, steps // _CHOICES)
    own = {"ALPHA": alpha, "LEARNING_RATE": learning_rate}
    given = {
        "FILES": {split: [*some] for split, some in files.items()},
        "TRAIN_STEPS_RELATIVE": steps,
        "EVAL_PERIOD": period,
        "SAVE_PERIOD": period,
        "KEEP_CHECKPOINTS": 1,
        "EVAL_STEPS": max(1, min(20, validation // batch_size)),
        "BATCH_SIZE": batch_size,
        "RANDOM_SEED": seed,
        "DATA_SEED": seed,
        # As where the defaults were chosen; its random numbers cost time besides.
        "DROPOUT_RATE": 0.0,
        **{name: value for name, value in own.items() if value is not None},
        **macros,
    }
    rows: Iterable[str] = [ROWS] if whole else []
    update_files = [f"methods/{method}.gin", "runs/update.gin", *rows]
    return Command([model, *update_files, "tasks/annotated.gin"], given)
