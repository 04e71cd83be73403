"""Stages of a run folder: done once, recorded, and not done again.

    RUN/plan.json           what the run was asked for; other settings are refused
    RUN/stages/STAGE.json   a stage that is done: its seconds and its findings

A stage's record is written last, so a run that was killed goes on with the stage it was
in.
"""

import contextlib
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath

from t5patches.errors import UserError
from t5patches.interchange import json_files

Record = dict[str, Any]


def peak_memory_gb() -> float:
    """The most memory that this process has had."""
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leaves of the libraries' logs the warnings; the stages have a line each."""
    from absl import logging as absl_logging

    logger, before = logging.getLogger("absl"), absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.WARNING)
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)
        logger.setLevel(before)


def claim(folder: str, wanted: Mapping[str, Any]) -> None:
    """Makes a folder this run's, or refuses one that was made with other settings.

    Raises:
      UserError: it holds something else, or a run of other settings.
    """
    plan = epath.Path(folder) / "plan.json"
    if not plan.exists():
        if epath.Path(folder).is_dir() and any(epath.Path(folder).iterdir()):
            raise UserError(
                f"{folder} is not empty and has no {plan.name}: it is no folder of "
                "a quickstart. Give another with --output"
            )
        json_files.write_json(plan, wanted)
        return
    try:
        found = json.loads(plan.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{plan}: not JSON ({error}); remove {folder}") from error
    for name in wanted:
        if found.get(name) != wanted[name]:
            raise UserError(
                f"{folder} was made with other settings: {name} was "
                f"{found.get(name)!r}, now it is {wanted[name]!r}. Give another folder "
                "with --output, or remove this one"
            )


def record_path(folder: str, name: str) -> epath.Path:
    """Where the record of a stage stands."""
    return epath.Path(os.path.join(folder, "stages", f"{name}.json"))


def do(
    folder: str,
    name: str,
    label: str,
    work: Callable[[], Record],
    hint: Callable[[float], str] = lambda seconds: "",
) -> Record:
    """Does a stage, or reads the record of one that is done.

    Args:
      folder: the run folder.
      name: of the record.
      label: said to the user.
      work: does it; returns its findings, for the record.
      hint: seconds that it took -> what to say behind them.

    Returns:
      The record: `seconds`, `cpu_seconds`, `peak_memory_gb` and the findings.
    """
    path = record_path(folder, name)
    if path.exists():
        record = json.loads(path.read_text())
        print(f"{label} done before ({record['seconds']:.0f} s)", flush=True)
        return record
    # On a terminal the stage's progress bars come below the label.
    bars = sys.stderr.isatty()
    print(f"{label} …", end="\n" if bars else " ", flush=True)
    start, cpu = time.monotonic(), time.process_time()
    findings = work()
    record = {
        "seconds": time.monotonic() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_memory_gb": peak_memory_gb(),
        **findings,
    }
    json_files.write_json(path, record)
    seconds = record["seconds"]
    said = f"{label if bars else ''} {seconds:.0f} s{hint(seconds)}"
    print(said.strip(), flush=True)
    return record
