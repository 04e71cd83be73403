"""How far an update is from the exact one, teacher-forced on the original's outputs.

T5X's inference with two sets of parameters: what it restores and hands to the compiled
step is a dictionary of both, sharded alike.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.struct
import jax
from t5x import train_state as train_state_lib
from t5x import utils

from t5patches import frozen, models
from t5patches.interchange import json_files, shards, vocabularies

PyTree = Any
_UPDATED, _ORIGINAL = "updated", "original"


def both(model: models.SelfDistillationModel, original: str) -> Any:
    """Returns a model whose scores are its distances from the original one.

    Its parameters are those that `BothModels` has; `score_batch` returns the number of
    fine tokens, float32 [batch], and all of `SelfDistillationModel.distances`.

    Args:
      model: of both checkpoints.
      original: the original model's checkpoint, or a folder of them (the latest).

    Raises:
      UserError: there is no checkpoint.
    """

    def score(
        params: Mapping[str, PyTree], batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        sums = of_pair.distances(params[_UPDATED], batch, params[_ORIGINAL])
        return sums["fine_tokens"], sums

    of_pair: Any = copy.copy(model)
    of_pair.score_batch = score
    of_pair.original_checkpoint = frozen.resolve(original)
    return of_pair


class _Updated(train_state_lib.InferenceState):
    """What the updated model's checkpoint is restored into, to be joined by the other.

    Attributes:
      original: the original model's parameters.
    """

    original: PyTree = flax.struct.field(pytree_node=False, default=None)

    def restore_state(
        self, state_dict: Mapping[str, Any]
    ) -> train_state_lib.InferenceState:
        """Returns a state whose parameters are both models'."""
        updated = super().restore_state(state_dict)
        return train_state_lib.InferenceState(
            step=updated.step,
            params={_UPDATED: updated.params, _ORIGINAL: self.original},
        )


class BothModels(utils.TrainStateInitializer):
    """T5X's, for a model of `both`: the engine restores the updated one into its shape.

    The original one's parameters are restored when it is made.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        """Takes the arguments of T5X's.

        Raises:
          UserError: the original model's checkpoint is missing, broken, or of another
            architecture or vocabulary.
        """
        super().__init__(*args, **kwargs)
        shapes, axes = self.global_train_state_shape, self.train_state_axes
        model = kwargs["init_fn"].__self__  # As T5X has it.
        original = frozen.find_params(
            shapes,
            kwargs["partitioner"],
            model_dir=None,
            checkpoint=model.original_checkpoint,
            dtype="float32",
            vocabulary=vocabularies.of_model(model),
        )
        self.global_train_state_shape = _Updated(
            step=shapes.step,
            params=shapes.params,
            params_axes=shapes.params_axes,
            original=original,
        )
        pair = {_UPDATED: axes.params, _ORIGINAL: axes.params}
        self.train_state_axes = axes.replace_params(pair)


def write_distances(
    path: str,
    inferences: tuple[Sequence[Any], Mapping[str, Any]],
    task_ds: Any,
    mode: str,
    vocabulary: Any = None,
) -> None:
    """Writes distances, a JSON line for each output (a T5X `write_fn`).

    A line has the output's `id` and the sums of `SelfDistillationModel.distances`.

    Args:
      path: the file to write; it appears when it is whole.
      inferences: in the order of `task_ds`.
      task_ds: the examples of `tasks.annotated_task`, with ids.
      mode: 'score'.
      vocabulary: not needed.
    """
    del mode, vocabulary
    json_files.write_jsonl(path, _rows(inferences[1], task_ds))


def _rows(sums: Mapping[str, Any], task_ds: Any) -> Iterator[shards.Row]:
    for i, example in enumerate(task_ds.as_numpy_iterator()):
        numbers = {name: float(values[i]) for name, values in sums.items()}
        yield {"id": example["id_pretokenized"].decode(), **numbers}
