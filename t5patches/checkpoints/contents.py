"""What a checkpoint holds: whether it is whole, which one it is, its arrays' shapes."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from typing import Any

from etils import epath

from t5patches import _engine
from t5patches.checkpoints import finding, integrity
from t5patches.errors import UserError
from t5patches.interchange import claims

TEMPORARY = ".orbax-checkpoint-tmp"
_PARAMS = "target/"  # The parameters' place among a checkpoint's arrays.


def check_whole(path: epath.PathLike) -> None:
    """Raises a UserError unless `path` is a complete checkpoint, as it was written."""
    path = epath.Path(path)
    legacy = finding.is_legacy(path)
    if epath.Path(f"{path}.index").exists() or legacy and _engine.name() == "t5x":
        return  # TensorFlow's, or an older format of T5X's: T5X knows more of them.
    others = finding.there_is(path.parent)
    if path.is_dir():
        if not finding.STEP.fullmatch(path.name) and TEMPORARY not in path.name:
            raise UserError(
                f"{path} is not the folder of a checkpoint (checkpoint_<step>)"
                f"{finding.there_is(path)}"
            )
    elif not any(path.parent.glob(f"{path.name}{TEMPORARY}*")):
        raise UserError(f"there is no checkpoint {path}{others}")
    state = path / "state"
    parts = [state / "_METADATA", state / "manifest.ocdbt"]
    whole = legacy or (state / "checkpoint").exists() or all(p.exists() for p in parts)
    if not whole or TEMPORARY in path.name or not finding.is_committed(path):
        raise UserError(
            f"checkpoint {path} was not written to its end, or lost files since{others}"
        )
    integrity.check(path)


def identity(path: epath.PathLike) -> str:
    """Returns what tells a checkpoint from another, wherever its folder is moved.

    Orbax writes when it was made; of other formats the path has to do.
    """
    record = epath.Path(path) / "_CHECKPOINT_METADATA"
    if not record.is_file():
        return os.fspath(path)
    return f"checkpoint_{finding.step_of(path)}:{claims.file_digest(record)}"


def content(path: epath.PathLike) -> str:
    """Returns what tells a checkpoint's contents from another's, wherever it lies."""
    digests = integrity.digests(path)
    if not digests:
        return identity(path)
    return f"checkpoint_{finding.step_of(path)}:{claims.fingerprint(digests)}"


def shapes(path: epath.PathLike) -> dict[str, tuple[int, ...]] | None:
    """Returns the shapes of a checkpoint's parameters by '/'-separated names, or None.

    Raises:
      UserError: see `arrays`.
    """
    found = arrays(path)
    return found and {
        name.removeprefix(_PARAMS): tuple(array.shape)
        for name, array in found.items()
        if name.startswith(_PARAMS)
    }


def arrays(path: epath.PathLike) -> dict[str, Any] | None:
    """Returns shape and dtype of a checkpoint's arrays by '/'-separated names.

    None of a format that only T5X knows.

    Raises:
      UserError: its description cannot be read.
    """
    import orbax.checkpoint as ocp
    from flax import traverse_util

    path = finding.absolute(path)
    state = path / "state"
    embedded, legacy = _engine.name() != "t5x", finding.is_legacy(path)
    if not state.is_dir() and not (legacy and embedded):
        return None
    try:
        if embedded:
            from t5x import checkpoints

            return checkpoints.stored_arrays(path)
        tree = ocp.PyTreeCheckpointHandler().metadata(state).tree
    except Exception as error:  # Orbax raises whatever its parsers raise.
        if legacy:
            raise UserError(str(error)) from error
        raise _unreadable(os.fspath(path), error) from error
    flat = traverse_util.flatten_dict(dict(tree), sep="/")
    return {n: x for n, x in flat.items() if getattr(x, "shape", None) is not None}


def read_error(error: Exception) -> UserError | None:
    """Returns which checkpoint Orbax could not read, and why; None of other errors."""
    path = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        orbax = frame.f_globals.get("__name__", "").startswith("orbax.checkpoint")
        if orbax and frame.f_code.co_name == "restore":
            path = frame.f_locals.get("directory", path)
    if path is None or isinstance(error, OSError):
        return None
    return _unreadable(os.fspath(path).removesuffix("/state"), error)


def _unreadable(path: str, error: BaseException) -> UserError:
    while cause := error.__cause__:
        error = cause
    lines = str(error).partition(" [tensorstore_spec")[0].splitlines()
    return UserError(
        f"checkpoint {path} cannot be read: {(lines or [type(error).__name__])[0]}; "
        "put it back from a copy, or remove it and take another"
    )


def check_architecture(path: epath.PathLike, params: Mapping[str, Any]) -> None:
    """Raises a UserError unless a checkpoint's parameters fit a model's.

    Args:
      path: the folder of a complete checkpoint.
      params: the model's parameters, or their `jax.ShapeDtypeStruct`s.
    """
    import flax.core
    from flax import traverse_util

    stored = shapes(path)
    if stored is None:
        return
    arrays = traverse_util.flatten_dict(flax.core.unfreeze(params), sep="/")
    wanted = {name: tuple(array.shape) for name, array in arrays.items()}
    for name in dict.fromkeys([*wanted, *stored]):
        mine, theirs = wanted.get(name), stored.get(name)
        if mine != theirs:
            raise UserError(
                f"checkpoint {path} is of another architecture: {name} is "
                f"{theirs or 'missing'} there and {mine or 'missing'} in the model"
            )
