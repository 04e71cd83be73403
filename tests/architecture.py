"""The rooms of docs/architecture.md, and what the code's imports say of them."""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]

# From the top floor to the ground: a room imports only from the rooms below it.
ROOMS: dict[str, tuple[str, ...]] = {
    "cli": ("t5patches.cli", "t5patches.__main__"),
    "quickstart": ("t5patches.quickstart",),
    "patch": ("t5patches.patch", "t5patches.notebook"),
    "sweep": ("t5patches.sweep",),
    "report": ("t5patches.report",),
    "evaluate": ("t5patches.evaluate",),
    "run": ("t5patches.run",),
    "annotate": ("t5patches.annotate",),
    "tasks": ("t5patches.tasks",),
    "trainer": ("t5patches.trainer", "t5patches.frozen", "t5patches.watch"),
    "models": (
        "t5patches.models",
        "t5patches.feature_converters",
        "t5patches.feature_converters_utils",
    ),
    "convert": ("t5patches.convert",),
    "checkpoints": ("t5patches.checkpoints",),
    "interchange": ("t5patches.interchange",),
    "network": ("t5patches.network", "t5patches.layers", "t5patches.decoder_only"),
    "losses": ("t5patches.losses", "t5patches.upstream_values"),
    "base": (
        "t5patches",
        "t5patches.errors",
        "t5patches.progress",
        "t5patches._engine",
    ),
}
FLOORS = {room: floor for floor, room in enumerate(ROOMS)}  # 0 is the top.
FOLDERS = {"t5patches": "t5patches", "t5patches.tasks": "tasks"}


class Import(NamedTuple):
    """An import of one module of this project by another."""

    source: str
    target: str
    place: str  # file:line


def modules() -> dict[str, pathlib.Path]:
    """Returns the file of every module of the product by its dotted name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join([package, *parts]).removesuffix(".__init__")
            found[name] = path
    return found


def imports() -> Iterator[Import]:
    """Yields the imports of the project's modules by each other, lazy ones too."""
    known = modules()
    for source, path in known.items():
        is_package = path.name == "__init__.py"
        for node in ast.walk(ast.parse(path.read_text(), path.name)):
            place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            for target in _targets(node, source, is_package, known):
                if target != source:
                    yield Import(source, target, place)


def _targets(
    node: ast.AST, source: str, is_package: bool, known: dict[str, pathlib.Path]
) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom):
        module = node.module or ""
        if node.level:
            parts = source.split(".")
            base = parts[: len(parts) - node.level + is_package]
            module = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            name = f"{module}.{alias.name}"
            if name in known or module in known:
                yield name if name in known else module


def room_of(module: str) -> str:
    """Returns the room of a module.

    Raises:
      KeyError: no room has it.
    """
    for room, names in ROOMS.items():
        # The package's own face is no prefix: it would take in everything.
        inside = (n for n in names if n != "t5patches" and module.startswith(f"{n}."))
        if module in names or any(inside):
            return room
    raise KeyError(f"{module}: no room in tests/architecture.py has it")


def arrows() -> set[tuple[str, str]]:
    """Returns which room imports which, what follows from others left out."""
    direct: dict[str, set[str]] = {room: set() for room in ROOMS}
    for source, target, _ in imports():
        if room_of(target) not in (room_of(source), "base"):
            direct[room_of(source)].add(room_of(target))

    def reach(room: str) -> set[str]:
        return direct[room].union(*(reach(below) for below in direct[room]))

    return {
        (room, below)
        for room in direct
        for below in direct[room]
        if not any(below in reach(other) for other in direct[room] - {below})
    }
