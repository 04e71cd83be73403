"""The points of a comparison: their numbers, their seeds, which of them are chosen."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t5patches.report.numbers import Number, interval

Row = Mapping[str, Any]
# Measure -> its column, which of its values is the best, where it is in the scores.
MEASURES: dict[str, tuple[str, Callable[..., Any], Sequence[str]]] = {
    "prevalence": ("unwanted", min, ("prevalence", "after")),
    "exact_match": ("clean the same", max, ("exact_match", "clean")),
    "bleu": ("BLEU", max, ("bleu",)),
    "rougeL": ("ROUGE-L", max, ("rougeL",)),
}
# The same of what `distances` has.
DISTANCES: dict[str, tuple[str, Callable[..., Any], Sequence[str]]] = {
    "kl_original": ("KL at fine tokens", min, ("kl_original",)),
    "total_variation": ("total variation", min, ("total_variation",)),
    "unwanted_probability": (
        "probability of unwanted", min, ("unwanted_probability", "after")
    ),
}  # fmt: skip
CONTROL = "no-op control"


def measured(scores: Mapping[str, Any]) -> dict[str, Number]:
    """Returns the numbers of an evaluation that a comparison shows, by measure."""
    found = {}
    for measures, part in ((MEASURES, scores), (DISTANCES, scores.get("distances"))):
        for measure, (_, _, path) in measures.items():
            value: Any = part
            for name in path:
                value = value and value.get(name)
            subset = path[1] if measure == "exact_match" else "all"
            bounds = interval(part or {}, *path)
            found[measure] = Number(measure, subset, "", value, *bounds)
    return found


@dataclasses.dataclass(frozen=True)
class Setting:
    """A method with its alpha and learning rate: an update, or one for each seed."""

    method: str
    alpha: float | None
    learning_rate: float | None
    updates: list[Row] = dataclasses.field(default_factory=list)

    def numbers(self) -> dict[str, Number]:
        """Returns the numbers on test; of several seeds the mean, least and most."""
        found = [measured(row["test"]) for row in self.updates]
        if len(found) == 1:
            return found[0]
        means = {}
        for measure, first in found[0].items():
            values = [some[measure].value for some in found]
            known = [value for value in values if value is not None]
            reach = (statistics.mean(known), min(known), max(known)) if known else ()
            means[measure] = Number(measure, first.subset, "", *(reach or (None,)))
        return means


def settings(results: Mapping[str, Any], control: bool = False) -> list[Setting]:
    """Returns the settings of the methods, or of the control, in the points' order."""
    found: dict[Any, Setting] = {}
    for row in results["points"]:
        if bool(row.get("control")) == control:
            key = (row["method"], row["alpha"], row["learning_rate"])
            found.setdefault(key, Setting(*key)).updates.append(row)
    return list(found.values())


def is_chosen(results: Mapping[str, Any], setting: Setting) -> bool:
    """Returns whether a setting is its method's choice, by one of its seeds."""
    choice = results["chosen"].get(setting.method)
    return any(row["name"] == choice for row in setting.updates)


def chosen(results: Mapping[str, Any]) -> list[Setting]:
    """Returns each method's choice, the nearest to the ideal on test inputs first."""

    def distance(setting: Setting) -> float:
        rows = (row.get("distance", {}).get("test", 0.0) for row in setting.updates)
        return statistics.mean(rows)

    found = (one for one in settings(results) if is_chosen(results, one))
    return sorted(found, key=distance)


def original(results: Mapping[str, Any]) -> dict[str, Number]:
    """Returns the numbers of the model before the update, which is like itself."""
    test = results["points"][0]["test"]
    alike = {"exact_match": 1.0, "bleu": 100.0, "rougeL": 1.0}
    found = {
        name: Number(
            name, "", "", alike.get(name) if number.value is not None else None
        )
        for name, number in measured(test).items()
    }
    bounds = interval(test, "prevalence", "before")
    before = Number("prevalence", "all", "", test["prevalence"]["before"], *bounds)
    return {**found, "prevalence": before}


def exact_update(results: Mapping[str, Any]) -> Row | None:
    """Returns what is known of the exact update on the test inputs, if anything."""
    found = (row["test"].get("exact_update") for row in results["points"])
    return next(filter(None, found), None)


def beaten_by(scores: Mapping[str, Sequence[Row]]) -> dict[str, list[str]]:
    """Returns name -> the names that beat it; those with none are the Pareto front.

    One beats another that is as good in both respects, the share of unwanted outputs
    and that of clean outputs that stayed word for word, and better in one.

    Args:
      scores: name -> evaluations, of each seed one, whose means count.
    """

    def respects(several: Sequence[Row]) -> tuple[float, float]:
        return (
            statistics.fmean(1 - one["prevalence"]["after"] for one in several),
            statistics.fmean(one["exact_match"]["clean"] or 0.0 for one in several),
        )

    known = {name: respects(several) for name, several in scores.items()}
    return {
        name: [
            other
            for other, theirs in known.items()
            if theirs != own and all(a >= b for a, b in zip(theirs, own, strict=True))
        ]
        for name, own in known.items()
    }
