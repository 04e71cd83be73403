"""Stages of a long job: done once, timed, marked; a job that was stopped goes on."""

import contextlib
import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from t5patches.errors import UserError
from t5patches.interchange import claims

Record = dict[str, Any]
# What every stage's record has.
_COSTS = ("seconds", "cpu_seconds", "peak_memory_gb")


def do_stage(
    unit: str,
    label: str,
    work: Callable[[], Record],
    hint: Callable[[float], str] = lambda seconds: "",
    source: Mapping[str, Any] | None = None,
) -> Record:
    """Does a stage, or reads the record of one that is done.

    Args:
      unit: a path; the stage's mark is beside it.
      label: said to the user.
      work: does it; returns its findings, for the record.
      hint: seconds that it took -> what to say behind them.
      source: what it is made from, if that may differ from what it was made from.

    Returns:
      The record: `seconds`, `cpu_seconds`, `peak_memory_gb` and the findings.
    """
    record = claims.findings(unit, source)
    if record is not None:
        if not all(isinstance(record.get(key), int | float) for key in _COSTS):
            raise UserError(
                f"{unit}.done.json: does not say {', '.join(_COSTS)}; it is none of "
                "ours: remove it, and the stage is done again"
            )
        print(f"{label} done before ({record['seconds']:.0f} s)", flush=True)
        return record
    # On a terminal the stage's progress bars come below the label.
    bars = sys.stderr.isatty()
    print(f"{label} …", end="\n" if bars else " ", flush=True)
    start, cpu = time.monotonic(), time.process_time()
    findings = work()
    seconds = time.monotonic() - start
    record = {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu,
        "peak_memory_gb": _peak_memory_gb(),
        **findings,
    }
    claims.mark_done(unit, record, source)
    said = f"{label if bars else ''} {seconds:.0f} s{hint(seconds)}"
    print(said.strip(), flush=True)
    return record


def total_costs(records: list[Record]) -> dict[str, float]:
    """Returns what stages took together, for the results."""
    return {
        "seconds": sum(record["seconds"] for record in records),
        "cpu_seconds": sum(record["cpu_seconds"] for record in records),
        "peak_memory_gb": max(record["peak_memory_gb"] for record in records),
    }


def _peak_memory_gb() -> float:
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@contextlib.contextmanager
def quiet(level: str = "warning") -> Iterator[None]:
    """Leaves of the log the warnings, or the errors; the stages have a line each."""
    from absl import logging as absl_logging

    logger = logging.getLogger("absl")
    before, logged = absl_logging.get_verbosity(), logger.level
    absl_logging.set_verbosity(level)
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)
        logger.setLevel(logged)
