"""The rooms of this project, read off the code's imports, and their picture.

`python docs/architecture.py` draws docs/architecture.png. `tests/test_architecture.py`
holds the code to what is said here.
"""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]

# From the top to the ground floor: a room imports only from the floors below its own.
FLOORS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"cli": ("t5patches.cli", "t5patches.__main__")},
    {"quickstart": ("t5patches.quickstart",)},
    {"report": ("t5patches.report",), "evaluate": ("t5patches.evaluate",)},
    {"run": ("t5patches.run",)},
    {"annotate": ("t5patches.annotate",)},
    {"tasks": ("t5patches.tasks",)},
    {
        "trainer": (
            "t5patches.trainer",
            "t5patches.frozen",
            "t5patches.watch",
            "t5patches.train_step",
        )
    },
    {
        "models": (
            "t5patches.models",
            "t5patches.feature_converters",
            "t5patches.feature_converters_utils",
        )
    },
    {"checkpoints": ("t5patches.checkpoints",)},
    {"interchange": ("t5patches.interchange",)},
    {
        "losses": ("t5patches.losses", "t5patches.upstream_values"),
        "network": (
            "t5patches.network",
            "t5patches.layers",
            "t5patches.decoder_only",
        ),
    },
    {
        "base": (
            "t5patches",
            "t5patches.errors",
            "t5patches.progress",
            "t5patches._engine",
        )
    },
)
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


def room_of(module: str) -> tuple[int, str]:
    """Returns the floor (0 is the top) and the room of a module.

    Raises:
      KeyError: no room has it.
    """
    best: tuple[int, int, str] | None = None
    for floor, rooms in enumerate(FLOORS):
        for room, names in rooms.items():
            for name in names:
                # The package's own face is no prefix: it would take in everything.
                inside = name != "t5patches" and module.startswith(f"{name}.")
                if (module == name or inside) and (not best or len(name) > best[0]):
                    best = (len(name), floor, room)
    if best is None:
        raise KeyError(f"{module}: no room in docs/architecture.py has it")
    return best[1:]


def arrows() -> set[tuple[str, str]]:
    """Returns which room imports which, what follows from others left out."""
    direct: dict[str, set[str]] = {room: set() for f in FLOORS for room in f}
    for source, target, _ in imports():
        first, second = room_of(source)[1], room_of(target)[1]
        if first != second and second != "base":
            direct[first].add(second)

    def reach(room: str) -> set[str]:
        return direct[room].union(*(reach(below) for below in direct[room]))

    return {
        (room, below)
        for room in direct
        for below in direct[room]
        if not any(below in reach(other) for other in direct[room] - {below})
    }


def draw(path: pathlib.Path) -> None:
    """Writes the picture of the rooms."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import patches, pyplot

    holds = {
        room: ", ".join(
            sorted(
                {
                    name.removeprefix(f"{prefix}.").partition(".")[0]
                    for name in modules()
                    for prefix in prefixes
                    if name.startswith(f"{prefix}.") and prefix != "t5patches"
                }
                or {prefix.rpartition(".")[2] for prefix in prefixes}
            )
        )
        for rooms in FLOORS
        for room, prefixes in rooms.items()
    }
    figure, axes = pyplot.subplots(figsize=(10, 11))
    boxes = {}
    for floor, rooms in enumerate(FLOORS):
        width = 9.0 / len(rooms)
        for column, (room, _) in enumerate(rooms.items()):
            left, y = column * width, -floor
            boxes[room] = (left + width / 2, y)
            axes.add_patch(
                patches.FancyBboxPatch(
                    (left + 0.15, y - 0.28),
                    width - 0.3,
                    0.56,
                    boxstyle="round,pad=0.02",
                    facecolor="#eef3fa" if room != "base" else "#f4f4f4",
                    edgecolor="#44546a",
                )
            )
            axes.text(left + 0.3, y + 0.1, room, weight="bold", va="center", size=11)
            text = holds[room]
            limit = int(width * 13)
            shown = text if len(text) <= limit else text[:limit].rpartition(",")[0]
            shown += "" if shown == text else ", …"
            axes.text(left + 0.3, y - 0.14, shown, va="center", size=8, color="#444")
    for number, (upper, lower) in enumerate(sorted(arrows())):
        (x, y), (x2, y2) = boxes[upper], boxes[lower]
        far = y - y2 > 1.5
        shift = (number % 7 - 3) * 0.25
        axes.annotate(
            "",
            xy=(x2 + shift, y2 + 0.3),
            xytext=(x + shift, y - 0.3),
            arrowprops={
                "arrowstyle": "-|>",
                "color": "#2f6db5" if not far else "#9db8d9",
                "connectionstyle": f"arc3,rad={0.25 if far else 0}",
            },
        )
    axes.set(xlim=(-0.2, 9.2), ylim=(-len(FLOORS) + 0.4, 0.6))
    axes.axis("off")
    figure.savefig(path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)


if __name__ == "__main__":
    draw(ROOT / "docs" / "architecture.png")
