"""Whether an update mended more than it changed, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What to try when more was changed than mended.
ADVICE = (
    "Try alpha 1 (or less), and let training know everything that is unwanted: for "
    "phrases runs/unwanted_rows.gin, for other annotators runs/alternatives.gin; then "
    "a third of the learning rate with three times the steps"
)


def in_words(results: Mapping[str, Any]) -> str:
    """Returns what an update did to clean outputs and to unwanted ones.

    Args:
      results: what `compare` returns.
    """
    kinds = results["outcomes"]
    changed, mended = kinds["changed"] + kinds["broken"], kinds["fixed"]
    found = f"The update changed {_count(changed, 'clean')}"
    if kinds["broken"]:
        found += f", {kinds['broken']:,} of them to unwanted ones,"
    found += f" and mended {_count(mended, 'unwanted')}"
    if changed > mended:
        found += f": it changed more than it mended. {ADVICE}"
    return f"{found}."


def _count(number: int, kind: str) -> str:
    return f"{number:,} {kind} output{'s' * (number != 1)}"
