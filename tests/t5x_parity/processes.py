"""Runs in processes of their own: of T5X's scripts, and of the embedded engine."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN_ALL = """
import json, sys
from t5patches import _engine
from t5patches.run import scripts
assert _engine.name() == 't5x_embedded'
for script, arguments in json.loads(sys.argv[1]):
    scripts.run(script, arguments)
"""


def python(arguments, **environment):
    path = os.pathsep.join([str(ROOT), *sys.path])
    result = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-5000:]


def embedded(*jobs):
    """Runs (script, arguments) after (script, arguments) on the embedded engine."""
    python(["-c", RUN_ALL, json.dumps(jobs)], T5PATCHES_ENGINE="t5x_embedded")
