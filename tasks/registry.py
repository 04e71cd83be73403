"""Registration of tasks whose files, vocabulary and name come from gin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import seqio

from t5patches.errors import UserError

from .sources import Files

# What each of our names was registered with: the same again changes nothing, something
# else replaces it (a process can run several jobs).
_registered: dict[str, tuple[Any, ...]] = {}


def register(name: str, spec: tuple[Any, ...], **task: Any) -> str:
    """Adds a task to SeqIO's registry; returns its name.

    Args:
      name: of the task, of letters, digits, dots and underscores.
      spec: what the task is made from, to know it when it is registered again.
      **task: arguments of `seqio.TaskRegistry.add`.

    Raises:
      UserError: the name is no name, or another's.
    """
    if _registered.get(name) == spec and name in seqio.TaskRegistry.names():
        return name
    if name in seqio.TaskRegistry.names() and name not in _registered:
        raise UserError(f"a task called {name!r} is registered already; choose a name")
    seqio.TaskRegistry.remove(name)
    try:
        seqio.TaskRegistry.add(name, **task)
    except ValueError as error:
        raise UserError(f"task {name!r}: {error}") from error
    _registered[name] = spec
    return name


def registered(name: str, kind: str) -> tuple[Any, ...]:
    """Returns what a task was registered with.

    Raises:
      UserError: no task of this name was registered here with a spec of this kind.
    """
    spec = _registered.get(name)
    if spec is None or spec[0] != kind:
        raise UserError(f"{name}: not a task that tasks.{kind}_task registered")
    return spec


def plain(files: Files) -> dict[str, str | list[str]]:
    """Returns files by split as plain values, which can be compared.

    Raises:
      UserError: `files` is no mapping.
    """
    if not isinstance(files, Mapping) or not files:
        raise UserError(
            f"files must name files by split, as {{'train': 'data/train.jsonl'}}, "
            f"not {files!r}"
        )
    return {
        split: spec if isinstance(spec, str) else [str(part) for part in spec]
        for split, spec in files.items()
    }
