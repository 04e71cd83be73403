"""Which of its points stands for a method.

A method's point is chosen on the validation inputs: the one nearest to the ideal, at
which nothing unwanted is left and every clean output is as it was (`distance`). The
test inputs have no say in it. Points that differ by their seed alone are one: their
numbers are the seeds' means.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from t5patches.report import points

Row = Mapping[str, Any]

RULE = (
    "Chosen on the validation inputs: the point with the least √(r² + c²), r being the "
    "unwanted outputs after the update as a share of those before it, c the share of "
    "the clean outputs that did not stay word for word."
)


def distance(scores: Row) -> float:
    """Returns how far an update is from the ideal, 0 at it.

    Args:
      scores: what `evaluate.evaluate_files` returns.

    Returns:
      √(r² + c²), see RULE. Where nothing was unwanted before, r is what is unwanted
      now; where nothing was clean, c is 0.
    """
    before, after = (scores["prevalence"][key] for key in ("before", "after"))
    same = scores["exact_match"]["clean"]
    changed = 0.0 if same is None else 1 - same
    return math.hypot(after / before if before else after, changed)


def choose(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows, one for each seed, that are nearest to the ideal in the mean.

    Of equals it is the first.

    Args:
      rows: points of one method, at least one, with their `validation` scores.
    """

    def mean(group: Sequence[Row]) -> float:
        return statistics.fmean(distance(row["validation"]) for row in group)

    groups = points.settings({"points": [*rows]})
    return min((group.updates for group in groups), key=mean)
