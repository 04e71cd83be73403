"""`t5x` resolves to one engine, and to one set of module objects."""

import os
import subprocess
import sys
import textwrap

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run_python(code, *, path=(), cwd=None):
    """What `code` prints in a fresh interpreter that sees the checkout and `path`."""
    path = os.pathsep.join([*map(str, path), ROOT])
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_module_object_whatever_the_name(tmp_path):
    """Also: tasks of a checkout are found from anywhere."""
    code = """
        import importlib.util, logging, sys
        logging.basicConfig(level=logging.INFO, format='%(name)s %(message)s')
        import t5patches
        assert not {'jax', 'tensorflow', 'seqio', 'gin'} & set(sys.modules)
        assert t5patches._engine.name() == t5patches._engine.name() == 't5x_embedded'
        from t5x import metrics
        import t5x_embedded.metrics
        import t5x.losses, t5x
        import t5x_embedded
        assert t5x is t5x_embedded
        assert metrics is t5x_embedded.metrics is t5x.metrics
        assert t5x.losses is t5x_embedded.losses
        assert t5x.losses.__name__ == 't5x_embedded.losses'
        assert t5x.losses.__spec__.name == 't5x_embedded.losses'
        for statement in ('import t5x.export_lib', 'from t5x import export_lib'):
            try:
                exec(statement)
            except ModuleNotFoundError as error:
                print(error)
        print(importlib.util.find_spec('t5patches.tasks').origin)
    """
    result = run_python(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("engine: t5x_embedded") == 1
    said = "the embedded engine does not have it; T5X does"
    assert result.stdout.count(said) == 2
    *_, tasks = result.stdout.splitlines()
    assert tasks == os.path.join(ROOT, "tasks", "__init__.py")


@pytest.mark.parametrize(
    ("files", "engine"),
    [
        # The dummy package of PyPI is not taken for T5X; an installed T5X is.
        (["__init__.py"], "t5x_embedded"),
        (["__init__.py", "models.py", "losses.py"], "t5x"),
    ],
)
def test_which_package_is_t5x(files, engine, tmp_path):
    package = tmp_path / "t5x"
    package.mkdir()
    for name in files:
        (package / name).touch()
    result = run_python(
        "import t5patches, t5x.losses\n"
        "print(t5patches._engine.name(), t5x.__name__, t5x.losses.__name__)",
        path=[tmp_path],
    )
    said = [engine, engine, f"{engine}.losses"]
    assert result.stdout.split() == said, result.stderr
