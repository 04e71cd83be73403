"""The parameters of a T5X checkpoint, read in parts and written one at a time."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import core, traverse_util
from orbax.checkpoint import type_handlers

from t5patches import _engine, network
from t5patches.checkpoints import contents, finding

_PARAMS = "target/"
# As T5X's `examples/scalable_t5` has it: all layers in one array, on the second axis.
_STACKED = re.compile(r"(encoder|decoder)/\1/(.+)")
_AXIS = 1
_AT_ONCE = 64 * 2**20  # Bytes that are read, or written, together.
_T = TypeVar("_T")


class Parameters:
    """The parameters of a checkpoint, without its optimizer's state.

    Layers that are stacked (scanned) appear one by one.

    Attributes:
      arrays: shape and type by '/'-separated names.
    """

    def __init__(self, path: os.PathLike | str):
        self._path = finding.absolute(path)
        self._places: dict[str, tuple[str, int | None]] = {}
        self.arrays: dict[str, jax.ShapeDtypeStruct] = {}
        self._legacy = _legacy(path) if finding.is_legacy(self._path) else {}
        for full, array in (self._legacy or contents.arrays(path) or {}).items():
            if not full.startswith(_PARAMS):
                continue
            name, shape = full.removeprefix(_PARAMS), tuple(array.shape)
            dtype = np.dtype(getattr(array.dtype, "numpy_dtype", array.dtype))
            if found := _STACKED.fullmatch(name):
                rest = shape[:_AXIS] + shape[_AXIS + 1 :]
                for i in range(shape[_AXIS]):
                    layer = f"{found[1]}/layers_{i}/{found[2]}"
                    self._places[layer] = full, i
                    self.arrays[layer] = jax.ShapeDtypeStruct(rest, dtype)
            else:
                self._places[name] = full, None
                self.arrays[name] = jax.ShapeDtypeStruct(shape, dtype)

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Yields some parameters with their names; of the others nothing is read."""
        for some in _batches(names, lambda name: _nbytes(self.arrays[name])):
            yield from self._read(some).items()

    def _read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        places = {name: self._places[name] for name in names}
        wanted = {full: ocp.RestoreArgs(np.ndarray) for full, _ in places.values()}
        if self._legacy:
            found = {full: _array(self._legacy[full]) for full in wanted}
        else:
            restored = ocp.PyTreeCheckpointHandler().restore(
                self._path / "state",
                args=ocp.args.PyTreeRestore(
                    item=_nested(dict.fromkeys(wanted, 0)),
                    restore_args=_nested(wanted),
                    partial_restore=True,
                ),
            )
            found: Any = traverse_util.flatten_dict(restored, sep="/")
        return {
            name: found[full] if i is None else found[full].take(i, _AXIS)
            for name, (full, i) in places.items()
        }


def _nbytes(array: Any) -> int:
    return math.prod(array.shape) * np.dtype(array.dtype).itemsize


def _batches(items: Iterable[_T], nbytes: Callable[[_T], int]) -> Iterator[list[_T]]:
    """Yields items in parts of `_AT_ONCE` bytes, or of one item that has more."""
    some, size = [], 0
    for item in items:
        if some and size + nbytes(item) > _AT_ONCE:
            yield some
            some, size = [], 0
        some, size = [*some, item], size + nbytes(item)
    if some:
        yield some


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def _legacy(path: os.PathLike | str) -> Mapping[str, Any]:
    """Returns the arrays of T5X's older format by name, as the engine opens them."""
    if _engine.name() == "t5x":
        from t5x import checkpoints

        tree = checkpoints.load_t5x_checkpoint(os.fspath(path), lazy_parameters=True)
        return traverse_util.flatten_dict(tree, sep="/")
    from t5x import legacy

    return legacy.open_arrays(path)


def _array(stored: Any) -> np.ndarray:
    """Reads one of `_legacy`: T5X has a method for it."""
    return np.asarray(stored.get() if hasattr(stored, "get") else stored[()])


class Unread:
    """An array that is made when it is written.

    Attributes:
      shape: its shape.
      dtype: its type.
      read: makes it.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype, read: Callable[[], np.ndarray]
    ):
        self.shape, self.dtype, self.read = shape, dtype, read
        self.ndim, self.size = len(shape), math.prod(shape)
        self.nbytes = self.size * dtype.itemsize


class _UnreadHandler(type_handlers.NumpyHandler):
    """Writes some arrays before it makes the next ones."""

    async def serialize(self, values, infos, args=None):
        args = args or [type_handlers.SaveArgs()] * len(values)
        for some in _batches(range(len(values)), lambda i: values[i].nbytes):
            every = (values, infos, args)
            await self._write(*([part[i] for i in some] for part in every))
        return []

    async def _write(self, values, infos, args):
        arrays = [value.read() for value in values]
        for future in await super().serialize(arrays, infos, args):
            future.result()


def write(
    folder: os.PathLike | str, config: network.T5Config, params: Mapping[str, Unread]
) -> None:
    """Writes `checkpoint_0` in T5X's layout, ready to be trained further.

    Adafactor's state is there, too, as it is before the first step: T5X restores no
    training run without one.

    Args:
      folder: where.
      config: the model's.
      params: by '/'-separated names.
    """
    shapes: Any = traverse_util.flatten_dict(
        _train_state(config), keep_empty_nodes=True, sep="/"
    )
    state = {}
    for name, like in shapes.items():
        if name.startswith(_PARAMS):
            state[name] = params[name.removeprefix(_PARAMS)]
        elif hasattr(like, "shape"):
            state[name] = np.zeros(like.shape, like.dtype)
        else:
            state[name] = like
    registry = type_handlers.create_type_handler_registry(
        (np.ndarray, type_handlers.NumpyHandler()),
        (jax.Array, type_handlers.ArrayHandler()),
        (Unread, _UnreadHandler(deepcopy_host_arrays=False)),
    )
    handler = ocp.PyTreeCheckpointHandler(
        use_ocdbt=True, type_handler_registry=registry
    )
    options = ocp.CheckpointManagerOptions(
        step_prefix="checkpoint", enable_async_checkpointing=False
    )
    with ocp.CheckpointManager(
        finding.absolute(folder), options=options, item_handlers={"state": handler}
    ) as manager:
        item = ocp.args.PyTreeSave(_nested(state))
        manager.save(0, args=ocp.args.Composite(state=item), force=True)


@functools.cache
def _train_state(config: network.T5Config) -> dict[str, Any]:
    """Returns the shapes of a train state: parameters, step, Adafactor's moments."""
    from t5x import adafactor, train_state

    tokens = [np.ones((1, 2), np.int32)] * 3
    rules = adafactor.standard_logical_factor_rules()
    optimizer = adafactor.Adafactor(
        decay_rate=0.8, step_offset=0, logical_factor_rules=rules
    )

    def create(rng):
        module = network.Transformer(config)
        variables = module.init(rng, *tokens, enable_dropout=False)
        variables = core.freeze(variables)
        return train_state.FlaxOptimTrainState.create(optimizer, variables)

    return jax.eval_shape(create, jax.random.PRNGKey(0)).state_dict()
