"""The grid of the comparison of methods: its points, the choice, the front.

Every method of the family gets the same points: alpha over almost two decades. The
baselines have no alpha; they get three learning rates. Whole sets are learned by a few
parameters, at a larger rate.

A method's point is chosen on the validation inputs: the one nearest to the ideal, at
which nothing unwanted is left and every clean output is as it was (`distance`). The
test inputs have no say in it.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from t5patches.quickstart import job

# (alpha, learning rate)
FAMILY = ((0.25, 0.001), (1.0, 0.001), (4.0, 0.001), (16.0, 0.001))
BASELINES = ((None, 0.0003), (None, 0.001), (None, 0.003))
WHOLE_SETS = ((0.25, 0.04), (1.0, 0.04), (4.0, 0.04), (1.0, 0.01))

RULE = (
    "Chosen on the validation inputs: the point with the least √(r² + c²), r being the "
    "unwanted outputs after the update as a share of those before it, c the share of "
    "the clean outputs that did not stay word for word."
)


@dataclasses.dataclass(frozen=True)
class Point:
    """A method with its settings; `alpha` is None where a method has none."""

    method: str
    alpha: float | None
    learning_rate: float

    @property
    def name(self) -> str:
        """The name of its folder and its mark."""
        alpha = "" if self.alpha is None else f"-alpha{self.alpha:g}"
        return f"{self.method}{alpha}-lr{self.learning_rate:g}"

    @property
    def label(self) -> str:
        """What the reader sees."""
        alpha = "" if self.alpha is None else f"alpha {self.alpha:g}, "
        return f"{title(self.method)}, {alpha}learning rate {self.learning_rate:g}"

    def macros(self) -> dict[str, float]:
        """Returns the macros of the gin files that it sets."""
        found = {"LEARNING_RATE": self.learning_rate}
        return found if self.alpha is None else {**found, "ALPHA": self.alpha}


def title(method: str) -> str:
    """Returns a method's name for the reader: the paper's abbreviation, or words."""
    if method == job.WHOLE_SETS:
        return "TNFF on whole sets"
    if method in job.BASELINES:
        return method.replace("_", " ")
    return method.upper()


def points(methods: Iterable[str]) -> list[Point]:
    """Returns the grid of some methods, method by method."""
    grids = {**dict.fromkeys(job.BASELINES, BASELINES), job.WHOLE_SETS: WHOLE_SETS}
    return [
        Point(method, alpha, rate)
        for method in methods
        for alpha, rate in grids.get(method, FAMILY)
    ]


def distance(scores: Mapping[str, Any]) -> float:
    """Returns how far an update is from the ideal, 0 at it.

    Args:
      scores: what `evaluate.compare` returns.

    Returns:
      √(r² + c²), see RULE. Where nothing was unwanted before, r is what is unwanted
      now; where nothing was clean, c is 0.
    """
    before, after = (scores["prevalence"][key] for key in ("before", "after"))
    same = scores["exact_match"]["clean"]
    changed = 0.0 if same is None else 1 - same
    return math.hypot(after / before if before else after, changed)


def choose(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Returns the row with the `validation` scores nearest to the ideal.

    Of equals it is the first.

    Args:
      rows: points of one method, at least one, with their scores by split.
    """
    return min(rows, key=lambda row: distance(row["validation"]))


def beats(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Returns whether scores are as good in both respects as others, and better in one.

    The respects are the share of unwanted outputs and that of clean outputs that stayed
    word for word.
    """
    pairs = [
        (other["prevalence"]["after"], one["prevalence"]["after"]),
        (one["exact_match"]["clean"] or 0.0, other["exact_match"]["clean"] or 0.0),
    ]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def beaten_by(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Returns name -> the names that beat it; those with none are the Pareto front.

    Args:
      scores: name -> what `evaluate.compare` returns.
    """
    return {
        name: [other for other in scores if beats(scores[other], scores[name])]
        for name in scores
    }
