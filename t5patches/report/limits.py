"""What the numbers of an evaluation do not say, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from t5patches.report.numbers import SCORES, interval
from t5patches.report.rendering import percent, share

_FEW = 30
# Part of the results -> what is not known without it.
_PARTS = {
    "references": "whether outputs became better or worse by the right answers "
    "(no references)",
    "second_detector": "what another detector would find (no second detector)",
    "samples": "what the models say besides the one output for each input (no samples)",
    "exact_update": "how near the update is to the exact one (no exact update)",
}


def limits(results: Mapping[str, Any]) -> list[str]:
    """Returns what a reader should know before believing the numbers, as sentences.

    Args:
      results: as `write_report` takes them, checked.
    """
    return [*_detector(results), *_sizes(results), *_chance(results), *_absent(results)]


def _detector(results: Mapping[str, Any]) -> Iterator[str]:
    said = (
        "What is unwanted is what the annotator finds, as a rule the one that also "
        "marked the training data: what it overlooks counts as clean, before and after"
    )
    if second := results.get("second_detector"):
        before, after = (share(second["prevalence"][s]) for s in ("before", "after"))
        said += (
            f". By a second detector, {second['name']}, {before} were unwanted "
            f"before and {after} after"
        )
    yield f"{said}."


def _sizes(results: Mapping[str, Any]) -> Iterator[str]:
    count, after = results["examples"], results["prevalence"]["after"]
    low, high = interval(results, "prevalence", "after")
    if after in (0, 1) and low is not None and high is not None:
        end = f"up to {100 * high:.2g}" if after == 0 else f"down to {100 * low:.3g}"
        yield (
            f"{round(after * count):,} of {count:,} outputs are unwanted after the "
            f"update: {end} % is still possible (95 %)."
        )
    for subset, what in (("clean", "clean"), ("marked", "unwanted")):
        number = results["subsets"][subset]["examples"]
        if not number:
            yield f"No old output was {what}: nothing is known of such ones."
        elif number < _FEW:
            yield f"Only {number} of the old outputs were {what}: too few to rely on."


def _chance(results: Mapping[str, Any]) -> Iterator[str]:
    sure = results.get("intervals")
    if not sure:
        yield (
            "There are no intervals: how much the numbers would differ on other inputs "
            "is not shown."
        )
    for name, part in (
        ("unwanted outputs", results),
        ("unwanted outputs by the second detector", results.get("second_detector")),
        ("unwanted samples", results.get("samples")),
    ):
        bounds = ((part or {}).get("intervals") or {}).get("prevalence") or {}
        low, high = bounds.get("difference") or (1, 1)
        if low <= 0 <= high:
            yield (
                f"The interval of the difference in {name} includes 0: an update "
                "without any effect could have given this."
            )
    names = {"prevalence": "unwanted outputs", **SCORES}
    against = {
        name: results.get("against", {}).get(measure, {}).get("interval") or (1, 1)
        for measure, name in names.items()
    }
    if same := [name for name, (low, high) in against.items() if low <= 0 <= high]:
        yield (
            f"The intervals of the differences from the other update include 0 in "
            f"{', '.join(same)}: there these inputs do not tell them apart."
        )
    if sure:
        units = (
            "every input as independent of the others"
            if sure["clusters"] is None
            else f"{sure['clusters']:,} groups of inputs as independent of each other"
        )
        yield (
            f"The {percent(sure['confidence'])} intervals take {units}. They say how "
            "much other inputs of the same kind would change the numbers, not what "
            "another kind of inputs, another training run or another seed would."
        )


def _absent(results: Mapping[str, Any]) -> Iterator[str]:
    unknown = [what for part, what in _PARTS.items() if not results.get(part)]
    if unknown:
        yield f"Not measured: {'; '.join(unknown)}."
