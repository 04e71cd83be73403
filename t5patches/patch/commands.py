"""The runs of T5X's scripts that a patch is made of: gin files and macros."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from t5patches.run import scripts
from t5patches.sweep.plan import Command

_GENERATE = "runs/generate.gin"
_ROWS = "runs/unwanted_rows.gin"
_LONGEST, _MULTIPLE = 512, 64  # Of inputs, in pieces; lengths that they are padded to.
_CHOICES = 5  # Checkpoints that the best is chosen from.


def vocabulary(gin_file: str) -> Any:
    """Returns the vocabulary that a model's gin file makes."""
    needed = {"MIXTURE_OR_TASK_NAME": "none", "TASK_FEATURE_LENGTHS": {}}
    needed |= {"CHECKPOINT_PATH": "none", "INFER_OUTPUT_DIR": "none"}
    bindings = [f"{name} = {value!r}" for name, value in needed.items()]
    with scripts.configuration("infer", [gin_file, _GENERATE], bindings) as config:
        return config.arguments()["model"].output_vocabulary


def longest(vocabulary: Any, texts: Iterable[str]) -> int:
    """Returns the pieces of the longest of some inputs, EOS included."""
    return max(len(vocabulary.encode(text)) + 1 for text in texts)


def padded(longest: int) -> int:
    """Returns the length that inputs are padded or cut to: there are few of them."""
    return min(-(-longest // _MULTIPLE) * _MULTIPLE, _LONGEST)


def model(
    gin_file: str, inputs: int, targets: int, batch_size: int, partitions: int = 1
) -> Command:
    """Returns what all runs of a model share.

    Args:
      gin_file: the model's.
      inputs: pieces of the longest input.
      targets: of outputs, at most.
      batch_size: examples in a batch.
      partitions: devices that share each parameter.
    """
    lengths = {"inputs": padded(inputs), "targets": targets}
    given = {"TASK_FEATURE_LENGTHS": lengths, "BATCH_SIZE": batch_size}
    return Command([gin_file], {**given, "NUM_PARTITIONS": partitions})


def generate(model: Command, files: Mapping[str, str]) -> Command:
    """Returns generations for `inputs` of JSON lines, by split."""
    names = (_GENERATE, "tasks/text.gin")
    return model.plus(names, FILES=dict(files), TARGETS_KEY=None)


def update(
    model: Command,
    method: str | None,
    whole: bool,
    files: Mapping[str, Sequence[str]],
    validation: int,
    steps: int,
    seed: int,
) -> Command:
    """Returns an update.

    Args:
      model: what its runs share.
      method: one of `losses.METHODS`; None to leave it to a sweep.
      whole: whether all that is unwanted is known: then only the output layer's rows of
        these tokens are trained.
      files: annotated ones by split.
      validation: examples of the validation split.
      steps: of the update.
      seed: of the order of the data.
    """
    period = max(1, steps // _CHOICES)
    batches = validation // model.macros["BATCH_SIZE"]
    first = [f"methods/{method}.gin"] if method else []
    names = (*first, "runs/update.gin", *([_ROWS] if whole else []))
    return model.plus(
        (*names, "tasks/annotated.gin"),
        FILES={split: [*some] for split, some in files.items()},
        TRAIN_STEPS_RELATIVE=steps,
        EVAL_PERIOD=period,
        SAVE_PERIOD=period,
        KEEP_CHECKPOINTS=1,
        EVAL_STEPS=max(1, min(20, batches)),
        RANDOM_SEED=seed,
        DATA_SEED=seed,
        # As where the defaults were chosen; its random numbers cost time besides.
        DROPOUT_RATE=0.0,
    )


def settings(alpha: float | None, learning_rate: float | None) -> dict[str, float]:
    """Returns the macros of what is not left to the method."""
    given = {"ALPHA": alpha, "LEARNING_RATE": learning_rate}
    return {name: value for name, value in given.items() if value is not None}
