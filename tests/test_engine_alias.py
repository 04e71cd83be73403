"""`t5x` resolves to one engine, and to one set of module objects."""

import os
import subprocess
import sys
import textwrap

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run_python(code, *, path=(), cwd=None, **env):
    """Runs `code` in a fresh interpreter that sees the checkout and `path`."""
    env = {
        **{k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        "PYTHONPATH": os.pathsep.join([*map(str, path), ROOT]),
        "JAX_PLATFORMS": "cpu",
        **env,
    }
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_module_object_whatever_the_name():
    result = run_python("""
        import logging, sys
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
    """)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("engine: t5x_embedded") == 1
    said = "the embedded engine does not have it; T5X does"
    assert result.stdout.count(said) == 2


def test_the_dummy_package_of_pypi_is_not_taken_for_t5x(tmp_path):
    dummy = tmp_path / "t5x"
    dummy.mkdir()
    (dummy / "__init__.py").write_text("")
    result = run_python(
        "import t5patches, t5x; print(t5x.__name__, t5patches._engine.name())",
        path=[tmp_path],
    )
    assert result.stdout.split() == ["t5x_embedded", "t5x_embedded"], result.stderr


def test_an_installed_t5x_is_left_alone(tmp_path):
    package = tmp_path / "t5x"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "models.py").write_text("WHOSE = 'theirs'")
    result = run_python(
        """
        import t5patches
        from t5x import models
        print(models.WHOSE, t5patches._engine.name())
        """,
        path=[tmp_path],
    )
    assert result.stdout.split() == ["theirs", "t5x"], result.stderr


def test_tasks_of_a_checkout_are_found_from_anywhere(tmp_path):
    result = run_python(
        "import importlib.util, t5patches\n"
        "print(importlib.util.find_spec('t5patches.tasks').origin)",
        cwd=tmp_path,
    )
    assert result.stdout.strip() == os.path.join(ROOT, "tasks", "__init__.py")
