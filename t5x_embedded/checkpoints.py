"""Checkpoints in T5X's layout, written and read with orbax.

A checkpoint is `<model_dir>/checkpoint_<step>/`; its item `state` is the train state's
`state_dict()`: `target` (parameters), `state/step`, `state/param_states`. T5X writes
the same, so either engine restores what the other saved. The state of the data
iterator is not part of it. T5X's older format is read, too (`legacy`).

orbax writes under a temporary name and renames, or, where a rename is not atomic
(gs://), leaves a commit marker. A folder without either is never listed and never
restored, so a process may be killed at any moment.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from flax import traverse_util

from t5x_embedded import _absent, legacy

_PREFIX = "checkpoint"
_STATE = "state"

_flat = functools.partial(traverse_util.flatten_dict, sep="/")
_nested = functools.partial(traverse_util.unflatten_dict, sep="/")

__getattr__ = _absent.module_getattr(__name__)


def get_local_data(x):
    """The part of an array that is on this process's first device."""
    if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer):
        return x.addressable_data(0)
    return x


# ---- Finding checkpoints ----


def get_checkpoint_dir(checkpoints_dir: epath.PathLike, step: int) -> str:
    """`<checkpoints_dir>/checkpoint_<step>`."""
    return str(epath.Path(checkpoints_dir) / f"{_PREFIX}_{step}")


def is_complete(path: epath.PathLike) -> bool:
    """Whether `path` is the folder of a checkpoint that was written to its end."""
    path = epath.Path(path)
    if legacy.is_legacy(path):
        return True
    if not path.is_dir() or not ocp.utils.is_checkpoint_finalized(path):
        return False
    state = path / _STATE
    return any(f.exists() for f in (state / "_METADATA", state / "checkpoint"))


def all_steps(checkpoints_dir: epath.PathLike) -> list[int]:
    """Steps of the complete checkpoints in a folder, in ascending order."""
    folder = epath.Path(checkpoints_dir)
    if not folder.is_dir():
        return []
    names = (re.fullmatch(rf"{_PREFIX}_(\d+)", p.name) for p in folder.iterdir())
    steps = sorted(int(found.group(1)) for found in names if found)
    return [s for s in steps if is_complete(get_checkpoint_dir(folder, s))]


def find_checkpoint(path: epath.PathLike) -> str:
    """The checkpoint that `path` (a model folder or a checkpoint's own) means.

    Raises:
        ValueError: there is no complete checkpoint there.
    """
    if is_complete(path):
        return str(path)
    if steps := all_steps(path):
        return get_checkpoint_dir(path, steps[-1])
    raise ValueError(f"Path is not a valid checkpoint: {path}")


# ---- Reading ----


def stored_arrays(path: epath.PathLike) -> dict[str, jax.ShapeDtypeStruct]:
    """A checkpoint's arrays by '/'-separated names ('target/…'); reads none."""
    if legacy.is_legacy(path):
        return {
            name: jax.ShapeDtypeStruct(
                x.shape, getattr(x.dtype, "numpy_dtype", x.dtype)
            )
            for name, x in legacy.open_arrays(path).items()
        }
    made = epath.Path(path) / "_CHECKPOINT_METADATA"  # When it was, among others.
    if not made.exists():
        return _stored_arrays.__wrapped__(str(path), b"")
    return dict(_stored_arrays(str(path), made.read_bytes()))


@functools.lru_cache(maxsize=4)
def _stored_arrays(path: str, made: bytes) -> dict[str, jax.ShapeDtypeStruct]:
    """`stored_arrays` of a checkpoint, which is read once: it takes orbax long."""
    tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(path) / _STATE).tree
    return {
        name: jax.ShapeDtypeStruct(tuple(meta.shape), meta.dtype)
        for name, meta in _flat(dict(tree)).items()
        if getattr(meta, "shape", None) is not None
    }


def _read(path, names: Mapping[str, ocp.RestoreArgs]) -> dict[str, Any]:
    """Reads the named arrays of a checkpoint, each as its arguments say."""
    if legacy.is_legacy(path):
        return legacy.read(path, names)

    handler = ocp.PyTreeCheckpointHandler()
    restored = handler.restore(
        epath.Path(path) / _STATE,
        args=ocp.args.PyTreeRestore(
            item=_nested(dict.fromkeys(names, 0)),
            restore_args=_nested(dict(names)),
            partial_restore=True,
        ),
    )
    return _flat(restored)


def load_t5x_checkpoint(path: epath.PathLike) -> dict[str, Any]:
    """Reads a checkpoint into nested dicts of NumPy arrays, without a model.

    Args:
        path: a checkpoint's folder, or the model folder whose latest it is.

    Raises:
        ValueError: no complete checkpoint is there.
    """
    path = find_checkpoint(path)
    args = ocp.RestoreArgs(restore_type=np.ndarray)
    return _nested(_read(path, dict.fromkeys(stored_arrays(path), args)))


def restore_train_state(path: epath.PathLike, train_state, partitioner, dtype=None):
    """Reads a checkpoint into a train state, sharded as the partitioner says.

    What the checkpoint has and the train state does not (an optimizer's state, when
    an inference state is restored) is not read.

    Args:
        path: the folder of a complete checkpoint, or the model folder of the latest.
        train_state: a train state of `jax.ShapeDtypeStruct`s.
        partitioner: gives each array its sharding.
        dtype: cast parameters to this; None keeps what was saved.

    Raises:
        ValueError: there is no complete checkpoint; or an array is missing or has
            another shape; the first one is named.
    """
    path = find_checkpoint(path)
    logging.info("Restoring %s", path)
    stored = stored_arrays(path)
    dtype = jnp.dtype(dtype) if dtype else None
    axes = _flat(partitioner.get_mesh_axes(train_state).state_dict())
    state, to_read = {}, {}
    for name, like in _flat(train_state.state_dict(), keep_empty_nodes=True).items():
        if not hasattr(like, "shape"):  # An empty node, or no state at all.
            state[name] = like
            continue
        if name not in stored:
            raise ValueError(f"checkpoint {path} has no {name}, which the model needs")
        if stored[name].shape != tuple(like.shape):
            raise ValueError(
                f"checkpoint {path}: {name} has shape {stored[name].shape}, the model "
                f"needs {tuple(like.shape)}"
            )
        to_read[name] = ocp.ArrayRestoreArgs(
            sharding=jax.sharding.NamedSharding(
                partitioner.mesh, axes.get(name) or jax.sharding.PartitionSpec()
            ),
            dtype=dtype if name.startswith("target/") else None,
        )
    state |= _read(path, to_read)
    return train_state.restore_state(_nested(state))


# ---- Writing ----


@gin.configurable
class OrbaxCheckpointManagerInterface:
    """Saves and restores the checkpoints of one model folder."""

    def __init__(
        self,
        directory: epath.PathLike,
        train_state,
        partitioner,
        save_dtype=None,
        restore_dtype=None,
        keep: int | None = None,
        period: int | None = 1,
    ):
        """Nothing is written, and no folder made, before the first `save`.

        Args:
            directory: the model folder.
            train_state: a train state of `jax.ShapeDtypeStruct`s.
            partitioner: gives each restored array its sharding.
            save_dtype: cast parameters to this before saving.
            restore_dtype: cast parameters to this after restoring.
            keep: how many checkpoints to keep; None keeps all.
            period: ignored; the train loop decides when to save.
        """
        self.directory = epath.Path(directory)
        self._train_state = train_state
        self._partitioner = partitioner
        self._save_dtype = jnp.dtype(save_dtype) if save_dtype else None
        self._restore_dtype = restore_dtype
        self._keep = keep
        self._writer: ocp.CheckpointManager | None = None

    def all_steps(self) -> list[int]:
        return all_steps(self.directory)

    def wait_until_finished(self) -> None:
        if self._writer is not None:
            self._writer.wait_until_finished()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def save(self, train_state) -> bool:
        """Starts saving; the writing goes on in the background.

        Returns:
            Whether anything is saved (not if the step is there already).
        """
        if self._writer is None:
            self._writer = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    step_prefix=_PREFIX,
                    cleanup_tmp_directories=True,
                    max_to_keep=self._keep,
                ),
                item_handlers={_STATE: ocp.PyTreeCheckpointHandler(use_ocdbt=True)},
            )
        step = int(get_local_data(train_state.step))
        if step in self._writer.all_steps():
            return False
        state = train_state.state_dict()

        save_args = jax.tree.map(lambda _: ocp.SaveArgs(), state)
        cast = ocp.SaveArgs(dtype=self._save_dtype)
        save_args["target"] = jax.tree.map(lambda _: cast, state["target"])
        logging.info("Saving checkpoint_%d in %s", step, self.directory)
        item = ocp.args.PyTreeSave(state, save_args=save_args)
        args = ocp.args.Composite(**{_STATE: item})
        return self._writer.save(step, args=args, force=True)

    def restore(self, path: epath.PathLike | None = None):
        """Restores the train state of a path, or the latest of this folder.

        Raises:
            ValueError: no such complete checkpoint, or it does not fit the model.
        """
        path, like = path or self.directory, self._train_state
        return restore_train_state(path, like, self._partitioner, self._restore_dtype)
