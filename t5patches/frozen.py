"""The frozen original model of a run: where its parameters come from, on record.

A preempted run must not take its own half-trained weights for the original. The
checkpoint that the frozen parameters come from stands in `frozen.json` in the model
folder; if there was none, the parameters that the run started with are saved under
`frozen/` there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from etils import epath
from t5x import checkpoints, partitioning, utils
from t5x import train_state as train_state_lib

from t5patches.checkpoints import contents, finding, integrity
from t5patches.errors import UserError
from t5patches.interchange import claims, json_files

PyTree = Any
RECORD = "frozen.json"
COPY = "frozen"


def find_params(
    train_state: train_state_lib.TrainState,
    partitioner: partitioning.BasePartitioner,
    model_dir: str | None,
    checkpoint: str | None = None,
    dtype: str | None = None,
    vocabulary: str | None = None,
    wanted: Callable[[PyTree], PyTree] = lambda params: params,
    cache: str | None = None,
) -> PyTree:
    """The frozen parameters of a run, and its record of where they come from.

    Args:
      train_state: the state that the run starts or goes on with; with a checkpoint and
        without a folder its shapes (`jax.ShapeDtypeStruct`s) are enough.
      partitioner: shards the parameters.
      model_dir: the run's folder, or None for no record.
      checkpoint: a checkpoint with the frozen parameters, or a folder of checkpoints,
        of which the latest is taken; None for the recorded one or, in a fresh run, the
        parameters of `train_state`.
      dtype: of the frozen parameters, e.g. 'bfloat16'; None for that of the trainable
        ones.
      vocabulary: the fingerprint of the model's; None for any.
      wanted: those of a tree like `train_state.params` (or `params_axes`) that are.
      cache: a folder of states that must be the checkpoint's (`run.frozen_cache`).

    Returns:
      What is wanted of a tree like `train_state.params`, sharded alike, of other
      buffers.

    Raises:
      UserError: if a resumed run's original model is not known, or is not `checkpoint`;
        if the checkpoint is missing, is not as it was, or is of another architecture or
        vocabulary.
    """

    def restore(path):
        contents.check_whole(path)
        if vocabulary:
            integrity.check_vocabulary(path, vocabulary)
        if cache:
            check_cache(cache, path)
        return _restore(path, train_state, partitioner, dtype, wanted)

    if model_dir is None:
        if checkpoint is None:
            return copy(wanted(train_state.params), dtype)
        return restore(resolve(checkpoint))

    folder = finding.absolute(model_dir)
    resumed = bool(finding.steps(folder))
    record = read_record(folder) if resumed else None
    checkpoint = resolve(checkpoint) if checkpoint else None
    if resumed and record is None and checkpoint is None:
        raise UserError(
            f"{folder} has checkpoints but no {RECORD}: which model they were trained"
            " from is not known, and their own weights must not stand for it. Set"
            " SelfDistillationTrainer.frozen_checkpoint to that model's checkpoint, or"
            " use an empty MODEL_DIR"
        )
    if record:
        checkpoint = _same(folder, record, checkpoint)
    # Every process has read the folder before one of them writes to it.
    utils.sync_global_devices("t5patches:frozen_params")
    if checkpoint:
        params = restore(checkpoint)
    else:
        params = copy(wanted(train_state.params), dtype)
        if not _is_sharded(train_state.params):
            return params
        checkpoint = _save_copy(folder, train_state, partitioner, vocabulary)
    _write_record(folder, checkpoint)
    return params


def copy(params: PyTree, dtype: str | None = None) -> PyTree:
    """A copy with buffers of its own, sharded alike, its numbers cast to `dtype`."""
    dtype = _checked(dtype)

    def one(x):
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return jnp.array(x, dtype if floating and dtype else x.dtype, copy=True)

    return jax.jit(lambda tree: jax.tree.map(one, tree))(params)


def _checked(dtype: str | None) -> jnp.dtype | None:
    if dtype is None:
        return None
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise UserError(
            f"frozen_dtype = {dtype!r}: expected 'bfloat16', 'float32' or None"
        )
    return found


def _is_sharded(params: PyTree) -> bool:
    """Whether these are arrays on devices, as every run's are; others are not saved."""
    return all(isinstance(x, jax.Array) for x in jax.tree.leaves(params))


def resolve(path: str) -> str:
    """The path of one checkpoint: itself, or the latest of a folder of them.

    Raises:
      UserError: it is neither.
    """
    try:
        return finding.one_checkpoint(path)
    except UserError as error:
        raise UserError(f"the original model: {error}") from None


def same(checkpoint: str, other: str | None) -> bool:
    """Whether two checkpoints are one, or copies of one, as far as is known."""
    if checkpoint == other or not other:
        return checkpoint == other
    try:
        found = {contents.content(resolve(path)) for path in (checkpoint, other)}
    except UserError:  # One is not there any more.
        return False
    return len(found) == 1


def read_record(folder: epath.Path) -> json_files.Row | None:
    """Returns a model folder's record of its frozen model, or None."""
    path = folder / RECORD
    if not path.exists():
        return None
    remedy = "put it back from a copy, or use an empty MODEL_DIR"
    record = json_files.read_record(
        path, {"checkpoint": str, "step": int, "identity": str}, remedy
    )
    # A copy within the model folder moves with it.
    return {**record, "checkpoint": finding.joined(folder, record["checkpoint"])}


def _same(folder: epath.Path, record: json_files.Row, checkpoint: str | None) -> str:
    """Returns where a resumed run's frozen model lies: a copy of it may be elsewhere.

    Raises:
      UserError: that it is the same one is not certain.
    """
    recorded = record["checkpoint"]
    path = checkpoint or recorded
    if path == recorded and not epath.Path(path).exists():
        return path  # That it is missing is said where it is read.
    if contents.content(path) != record["identity"]:
        found = f"frozen_checkpoint is {path}"
        found = "another one lies there now" if path == recorded else found
        raise UserError(
            f"{folder / RECORD} says that this run's frozen model is {recorded}, but"
            f" {found}: use another MODEL_DIR, or the same checkpoint"
        )
    return path


def check_cache(cache: str, checkpoint: str) -> None:
    """Raises a UserError unless a folder of states was made with a checkpoint."""
    record, remedy = epath.Path(cache) / claims.SETTINGS, "remove the folder"
    if not record.is_file():
        raise UserError(
            f"{cache} has no {claims.SETTINGS}: it is no FROZEN_CACHE, or is not filled"
            "; `t5patches cache` fills it"
        )
    made = json_files.read_record(record, {"checkpoint": str}, remedy)["checkpoint"]
    if made != contents.content(checkpoint):
        raise UserError(
            f"{cache} was made with another model ({made}) than {checkpoint}: give"
            " another FROZEN_CACHE"
        )


def _write_record(folder: epath.Path, checkpoint: str) -> None:
    if jax.process_index() != 0:
        return
    record = {
        "checkpoint": finding.within(checkpoint, folder),
        "step": finding.step_of(checkpoint),
        "identity": contents.content(checkpoint),
    }
    json_files.write_json(folder / RECORD, record)


def _parameters_only(train_state) -> train_state_lib.InferenceState:
    """The train state without its optimizer: what of a checkpoint is frozen."""
    return train_state_lib.InferenceState(
        step=train_state.step,
        params=train_state.params,
        params_axes=train_state.params_axes,
    )


def _manager(folder, state, partitioner, dtype=None):
    return checkpoints.OrbaxCheckpointManagerInterface(
        str(folder), state, partitioner, period=1, restore_dtype=dtype
    )


def _restore(path: str, train_state, partitioner, dtype, wanted) -> PyTree:
    contents.check_architecture(path, train_state.params)
    logging.info("The frozen model is %s.", path)
    state = jax.eval_shape(_parameters_only, train_state)
    state = state.replace(
        params=wanted(state.params),
        params_axes=state.params_axes and wanted(state.params_axes),
    )
    folder = epath.Path(path).parent
    manager = _manager(folder, state, partitioner, _checked(dtype))
    restored = manager.restore(path=path)
    manager.close()
    return restored.params


def _save_copy(folder: epath.Path, train_state, partitioner, vocabulary) -> str:
    """Saves the starting parameters in the model folder; returns the checkpoint."""
    copies = folder / COPY
    checkpoint = copies / f"checkpoint_{int(utils.get_local_data(train_state.step))}"
    if jax.process_index() == 0:
        # A run that was killed before its first checkpoint starts afresh.
        if copies.exists():
            copies.rmtree()
        copies.mkdir(parents=True)
    utils.sync_global_devices("t5patches:frozen_copy")
    manager = _manager(copies, _parameters_only(train_state), partitioner)
    manager.save(_parameters_only(train_state))
    manager.wait_until_finished()
    manager.close()
    if vocabulary and jax.process_index() == 0:
        integrity.seal(checkpoint, vocabulary)
    return str(checkpoint)
