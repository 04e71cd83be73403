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
    """Returns what an update did to clean outputs and to unwanted ones, and how sure.

    Args:
      results: the `Comparison.results`, with `intervals`.
    """
    kinds = results["outcomes"]
    changed, mended = kinds["changed"] + kinds["broken"], kinds["fixed"]
    found = f"The update changed {_count(changed, 'clean')}"
    if kinds["broken"]:
        found += f", {kinds['broken']:,} of them to unwanted ones,"
    found += f" and mended {_count(mended, 'unwanted')}"
    if changed > mended:
        found += f": it changed more than it mended. {ADVICE}"
    return f"{found}. {_how_sure(results)}"


def _how_sure(results: Mapping[str, Any]) -> str:
    """Returns what the intervals of prevalence leave open."""
    intervals, after = results["intervals"], results["prevalence"]["after"]
    low, high = (100 * end for end in intervals["prevalence"]["difference"])
    sure = f"{100 * intervals['confidence']:.0f} %"
    if low <= 0 <= high:
        found = (
            f"That outputs are unwanted less often cannot be told from these "
            f"{results['examples']:,}: the {sure} interval of the difference, "
            f"{low:+.1f} to {high:+.1f} points, includes no effect."
        )
    else:
        found = (
            f"The share of unwanted outputs changed by {low:+.1f} to {high:+.1f} "
            f"points ({sure} interval)."
        )
    if not after:
        most = intervals["prevalence"]["after"][1]
        found += (
            f" None of {results['examples']:,} is unwanted now; a share of up to "
            f"{100 * most:.2f} % would be consistent with that."
        )
    return found


def _count(number: int, kind: str) -> str:
    return f"{number:,} {kind} output{'s' * (number != 1)}"
