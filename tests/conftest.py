"""Which tests are collected, and what all of them share."""

import ast
import gc
import importlib.util
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Compiled programs are shared by the workers, the processes that tests start, and the
# next run: compiling is what most of the time went on.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Nobody reads where in the code an operation of theirs stands.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# Small programs that run once: machine code that is not optimised takes a third of the
# time to make.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_opt_preset=FAST_COMPILE",
)

# A tenth of the time went on looking for garbage among what the imports have made.
gc.disable()

import pytest  # noqa: E402  (the environment comes first)
from absl import logging  # noqa: E402

from t5patches import _engine  # noqa: E402

# Folder of tests -> what they need, which a fresh machine does not have.
LEFT_OUT = {}
if _engine.name() != "t5x":
    LEFT_OUT["t5x_parity"] = "T5X is not installed"
if importlib.util.find_spec("apache_beam") is None:
    LEFT_OUT["beam"] = "apache-beam is not installed (the extra 'beam')"
collect_ignore = list(LEFT_OUT)


@pytest.fixture(autouse=True)
def own_log():
    """Takes back what a command of a test has said of the log's verbosity."""
    yield
    logging.set_verbosity(logging.WARNING)


# Files with whole runs, the longest first: begun last, one would keep a worker busy
# when the other has nothing left.
LONGEST = """test_job test_sweep test_docs test_generation_runs test_trainer
test_two_processes test_readme test_feature_converters test_watched_runs test_network
test_models test_runs test_folders test_decoder_only_runs
""".split()


def pytest_collection_modifyitems(items):
    """Puts the files with whole runs first."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONGEST)))


def pytest_collection_finish():
    """Looks for garbage again, but not among what was imported, and less often."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One more than there are cores, for whole runs wait for the disk now and then."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Gives a worker whole files; the quickstart's, which share a run, go as one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "quickstart" if "/quickstart/" in file else file

    return Scheduling(config, log)


def pytest_terminal_summary(terminalreporter):
    """Says how many tests were left out, and why."""
    for folder, reason in LEFT_OUT.items():
        tests = [
            node
            for path in (ROOT / "tests" / folder).glob("test_*.py")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
        terminalreporter.write_line(
            f"left out: {len(tests)} test functions of tests/{folder}: {reason}"
        )
