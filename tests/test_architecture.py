"""The code is built as docs/architecture.md says: who may import whom."""

import ast
import pathlib
import sys

import architecture
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
IMPORTS = sorted(architecture.imports())


def test_rooms_import_only_from_below():
    wrong = []
    for source, target, place in IMPORTS:
        room, below = architecture.room_of(source), architecture.room_of(target)
        if room != below and architecture.FLOORS[room] >= architecture.FLOORS[below]:
            wrong.append(f"{place}: {room} imports {target}")
    assert not wrong


def test_the_picture_has_the_arrows():
    said = (ROOT / "docs" / "architecture.md").read_text()
    order = lambda arrow: [architecture.FLOORS[room] for room in arrow]
    arrows = sorted(architecture.arrows(), key=order)
    lines = [f"  {room} --> {below}\n" for room, below in arrows]
    assert f"```mermaid\ngraph TD\n{''.join(lines)}```\n" in said


def test_no_circles():
    graph = {}
    for source, target, _ in IMPORTS:
        graph.setdefault(source, set()).add(target)
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for target in sorted(graph.get(module, ())):
            visit(target)
        path.pop()
        done.add(module)

    for module in sorted(graph):
        visit(module)


def names_of_imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def test_only_engine_knows_the_embedded_engine():
    for path in sorted((ROOT / "t5x_embedded").rglob("*.py")):
        tops = {name.partition(".")[0] for name in names_of_imports(path)}
        assert not tops & {"t5patches", "tasks"}, path
    for module, path in architecture.modules().items():
        tops = {name.partition(".")[0] for name in names_of_imports(path)}
        assert "t5x_embedded" not in tops, module


@pytest.mark.parametrize("module", ["losses", "layers", "network", "upstream_values"])
def test_the_core_is_jax_alone(module):
    allowed = {"jax", "flax", "numpy", "t5patches", *sys.stdlib_module_names}
    names = set(names_of_imports(ROOT / "t5patches" / f"{module}.py"))
    assert {name.partition(".")[0] for name in names} <= allowed
    ours = {target for source, target, _ in IMPORTS if source == f"t5patches.{module}"}
    assert ours <= {"t5patches.losses", "t5patches.layers", "t5patches"}
