"""What a command does to its process when it starts."""

import os
import subprocess
import sys

import pytest

from t5patches.cli import starting

# Pages that a thread is given while it makes and frees buffers, as XLA's do.
BUFFERS = """
import resource, threading
from t5patches.cli import starting
starting.os.cpu_count = lambda: {cores}
starting.importlib.util.find_spec = lambda name: name == {plugin!r} or None
starting._keep_freed_memory()
def work():
    for _ in range(6):
        b"x" * 40_000_000
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def pages(cores=2, plugin="", **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", BUFFERS.format(cores=cores, plugin=plugin)],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="glibc's malloc is meant"
)
def test_freed_memory_is_kept_where_jax_computes_on_few_cores():
    few = pages()
    assert pages(plugin="libtpu", JAX_PLATFORMS="cpu") < 1.5 * few
    untouched = [
        pages(cores=starting._MOST_CORES + 1),
        pages(plugin="jax_plugins", JAX_PLATFORMS=""),
        pages(GLIBC_TUNABLES="glibc.malloc.perturb=0"),
        pages(MALLOC_ARENA_MAX="8"),
    ]
    assert min(untouched) > 3 * few, (few, untouched)
