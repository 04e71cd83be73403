"""Two processes over jax.distributed train one model, and stop as one."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from t5patches.checkpoints import contents, finding
from t5patches.interchange.json_files import read_json
from t5patches.run import scripts
from tests import two_processes
from tests.run_toy import ROOT, arrays

SECONDS = 500


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(index, port, folder):
    module = [sys.executable, "-m", "tests.two_processes"]
    command = [*module, *map(str, (index, port, folder))]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    with open(folder / f"log{index}", "w") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folders `run` and `endless` of two processes, of which one got SIGTERM."""
    folder = tmp_path_factory.mktemp("two")
    port = free_port()
    processes = [start(index, port, folder) for index in range(2)]
    try:
        deadline = time.monotonic() + SECONDS
        while not (folder / "endless" / "checkpoint_6").is_dir():
            codes = [process.poll() for process in processes]
            assert codes == [None, None], (folder / "log0").read_text()[-5000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        processes[1].send_signal(signal.SIGTERM)
        codes = [process.wait(SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0], (folder / "log0").read_text()[-5000:]
    return folder


def test_two_processes_train_as_one(folder, tmp_path):
    scripts.run("train", two_processes.arguments(tmp_path))
    run = folder / "run"
    frozen = [read_json(at / "frozen.json")["checkpoint"] for at in (run, tmp_path)]
    assert frozen == ["frozen/checkpoint_0"] * 2
    values = [
        [row["value"] for row in read_json(at / "validation.json")["steps"]]
        for at in (run, tmp_path)
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)
    best = read_json(run / "best.json")
    assert best["value"] == min(values[0])
    assert finding.steps(run / "best") == [best["step"]]
    got, want = (arrays(at / "checkpoint_6") for at in (run, tmp_path))
    for name in [name for name in want if name.startswith("target/")]:
        np.testing.assert_allclose(
            got[name], want[name], rtol=1e-3, atol=1e-4, err_msg=name
        )


def test_sigterm_to_one_stops_both_after_the_same_step(folder):
    first, last = finding.steps(folder / "endless")
    assert first == 6 and last > 6
    for index in range(2):
        log = (folder / f"log{index}").read_text()
        assert f"SIGTERM: stopping after step {last}." in log
    contents.check_whole(folder / "endless" / f"checkpoint_{last}")
