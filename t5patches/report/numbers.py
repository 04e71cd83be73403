"""The numbers of an evaluation as tables, for the page, the terminal and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from t5patches.report.examples import FAULTS
from t5patches.report.rendering import percent, score, share, unit

SUBSETS = {
    "all": "all inputs",
    "clean": "old output clean",
    "marked": "old output unwanted",
}
SCORES = {"exact_match": "exact match", "bleu": "BLEU", "rougeL": "ROUGE-L"}
_MORE = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "token_edit_rate": "edits"}
_WRITTEN: dict[str, Callable[[Any], str]] = {
    "prevalence": share,
    "exact_match": share,
    "bleu": score,
    "unwanted_per_1000_tokens": lambda rate: f"{rate:.2f}",
    "examples": lambda count: f"{count:,}",
    "tokens": lambda count: f"{count:,}",
    "kl_original": lambda nats: f"{nats:.2g}",
    "kl_exact": lambda nats: f"{nats:.2g}",
    "total_variation": share,
    "unwanted_probability": share,
    "outputs": lambda count: f"{count:,}",
    "p": lambda p: f"{p:.2g}",
}
_MOST = 12  # Rows of a table that are shown.


class Number(NamedTuple):
    """A cell of a table.

    `value`, `low` and `high` (of its interval) are in the measure's own unit: shares
    and ROUGE 0-1, BLEU 0-100, counts; None if there is none.
    """

    measure: str
    subset: str
    side: str
    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "–"
        write = _WRITTEN.get(self.measure, unit)
        if self.side == "difference":
            scale = 100 if write is share else 1
            digits = 1 if write in (share, score) else 3
            write = lambda value: f"{scale * value:+.{digits}f}"
        text = write(self.value)
        if self.low is None or self.high is None:
            return text
        ends = (write(end).removesuffix(" %") for end in (self.low, self.high))
        return f"{text} ({' to '.join(ends)})"


class Table(NamedTuple):
    """A table of the page; a row is its name and its numbers."""

    heading: str
    note: str
    head: Sequence[str]
    rows: list[tuple[str, list[Number]]]

    def texts(self) -> list[tuple[str, ...]]:
        """Returns the rows as they are shown, the first 12."""
        return [(name, *map(str, numbers)) for name, numbers in self.rows[:_MOST]]


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Returns the tables of an evaluation, those of what it has.

    Args:
      results: as `write_report` takes them, checked.
    """
    return [
        _unwanted(results),
        _stayed(results),
        *filter(lambda table: table.rows, [part(results) for part in _PARTS]),
    ]


def to_csv(numbers: Iterable[Number]) -> str:
    """Returns numbers as CSV with a head, a line each; those that are None are not."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(Number._fields)
    writer.writerows(number for number in numbers if number.value is not None)
    return file.getvalue()


def interval(results: Mapping[str, Any], *path: str) -> Sequence[float | None]:
    """Returns the interval of a measure, (None, None) if there is none."""
    found: Any = results.get("intervals")
    for name in path:
        found = found and found.get(name)
    return found or (None, None)


def _change(
    measure: str, subset: str, part: Mapping[str, Any], bounds: Any = None
) -> list[Number]:
    """Returns a measure before and after, and the difference."""
    bounds, (before, after) = bounds or {}, (part["before"], part["after"])
    values = (before, after, after - before)
    return [
        Number(measure, subset, side, value, *(bounds.get(side) or ()))
        for side, value in zip(("before", "after", "difference"), values, strict=True)
    ]


def _unwanted(results: Mapping[str, Any]) -> Table:
    exact = results.get("exact_update")
    rows = []

    def add(name: str, measure: str, subset: str, part: Any, bounds: Any) -> None:
        theirs = exact[measure]["after"] if exact and subset == "all" else None
        more = [Number(measure, subset, "exact update", theirs)] if exact else []
        rows.append((name, [*_change(measure, subset, part, bounds), *more]))

    bounds = results.get("intervals", {}).get("prevalence")
    name = "outputs with something unwanted"
    add(name, "prevalence", "all", results["prevalence"], bounds)
    measure = "unwanted_per_1000_tokens"
    if None not in results[measure].values():
        add("unwanted spans per 1,000 tokens", measure, "all", results[measure], None)
    for part, words in (
        ("second_detector", "by a second detector, {name}"),
        ("samples", "of {number:,} samples of each model"),
    ):
        if found := results.get(part):
            bounds = found.get("intervals", {}).get("prevalence")
            subset = words.format(**found)
            add(subset, "prevalence", subset, found["prevalence"], bounds)
    note = "Outputs with something unwanted, as the annotator finds it"
    if sure := results.get("intervals"):
        note += f". In brackets {percent(sure['confidence'])} intervals"
    head = ["", "before", "after", "difference", *(["exact update"] if exact else [])]
    return Table(
        "What is unwanted", f"{note}. Differences of shares are in points.", head, rows
    )


def _scores(
    part: Mapping[str, Any], subset: str, side: str, names: Iterable[str] = SCORES
) -> list[Number]:
    return [Number(name, subset, side, part[name]) for name in names]


def _stayed(results: Mapping[str, Any]) -> Table:
    exact = results.get("exact_update", {"subsets": {}})
    rows = []
    for who, side, found in (
        ("", "after", results),
        ("exact update, ", "exact update", exact),
    ):
        for subset, part in found["subsets"].items():
            numbers = _scores(part, subset, side)
            if side == "after":
                bounds = [interval(results, "exact_match", subset)]
                if subset == "all":
                    bounds += [interval(results, name) for name in ("bleu", "rougeL")]
                for place, (low, high) in enumerate(bounds):
                    numbers[place] = numbers[place]._replace(low=low, high=high)
            count = Number("examples", subset, side, part["examples"])
            rows.append((f"{who}{SUBSETS[subset]}", [count, *numbers]))
    note = (
        "New outputs against old ones. Exact match: the same word for word. BLEU from "
        "0 to 100 and ROUGE-L from 0 to 1, with the old outputs as the references."
    )
    return Table("What stayed", note, ["", "inputs", *SCORES.values()], rows)


def rounds(results: Mapping[str, Any]) -> Table:
    """Returns the table of a results' rounds, without rows if they have none."""
    rows = [
        (
            f"round {number}",
            [
                Number("prevalence", "all", side, part["prevalence"]["after"]),
                Number("exact_match", "clean", side, part["exact_match"]["clean"]),
                *_scores(part, "all", side, ("bleu", "rougeL")),
            ],
        )
        for number, part in results.get("rounds", {}).items()
        for side in [f"round {number}"]
    ]
    note = "Each an update of the original, on what the one before still said, too."
    head = ["by round", "unwanted", "clean the same", "BLEU", "ROUGE-L"]
    return Table("By round", note, head, rows)


def _alike(results: Mapping[str, Any]) -> Table:
    found = results.get("similarity", {})
    rows = [
        (SUBSETS[subset], _scores(part, subset, "after", _MORE))
        for subset, part in found.items()
    ]
    note = "Edits: changed words as a share of the old outputs' words."
    if signature := found.get("all", {}).get("bleu_signature"):
        note += f" BLEU above is {signature}."
    return Table("Other measures", note, ["", *_MORE.values()], rows)


def _references(results: Mapping[str, Any]) -> Table:
    sides = {"old": "before", "new": "after"}
    rows = [
        (f"{side} outputs", _scores(part, "references", sides[side]))
        for side, part in results.get("references", {}).items()
    ]
    head = ["", *SCORES.values()]
    return Table("Against the references", "", head, rows)


def _faults(results: Mapping[str, Any]) -> Table:
    rows = [
        (
            FAULTS.get(name) or name,
            [Number("outputs", name, s, n) for s, n in part.items()],
        )
        for name, part in results.get("new_faults", {}).items()
    ]
    note = "How many outputs have it; new are those whose old output had it not."
    return Table("Faults", note, ["", "before", "after", "new"], rows)


def _labels(results: Mapping[str, Any]) -> Table:
    found = results.get("by_label", {}).items()
    ranked = sorted(found, key=lambda item: (-max(item[1].values()), item[0]))
    rows = [(name, _change("prevalence", f"label {name}", p)) for name, p in ranked]
    note = "Share of outputs."
    if len(rows) > _MOST:
        note += f" The {_MOST} most frequent; all are in report.csv."
    return Table("By label", note, ["", "before", "after", "difference"], rows)


def _variants(results: Mapping[str, Any]) -> Table:
    rows = [
        (name.replace("_", " "), _change("prevalence", f"spelling {name}", part))
        for name, part in results.get("variants", {}).items()
    ]
    note = "Outputs with phrases of the list in spellings that the list does not match."
    head = ["", "before", "after", "difference"]
    return Table("Other spellings", note, head, rows)


def _against(results: Mapping[str, Any]) -> Table:
    found: Mapping[str, Any] = results.get("against", {})
    names = {"prevalence": "unwanted after", **SCORES} | {
        "exact_match": "clean outputs the same"
    }
    rows = []
    for measure, name in names.items():
        if part := found.get(measure):
            subset = "other update"
            values = [Number(measure, subset, s, part[s]) for s in ("ours", "theirs")]
            bounds = part["interval"] or (None, None)
            change = Number(measure, subset, "difference", part["difference"], *bounds)
            p = Number("p", subset, measure, part["p"])
            rows.append((name, [*values, change, p]))
    note = (
        "p by approximate randomisation of pairs; the interval is a paired bootstrap's."
    )
    head = ["", "this one", "the other", "difference", "p"]
    return Table("Against another update", note, head, rows)


def _distances(results: Mapping[str, Any]) -> Table:
    found, rows = results.get("distances"), []
    unwanted = "unwanted positions"
    for measure, name, where in (
        ("kl_original", "KL from the original model", "fine tokens"),
        ("kl_exact", "KL from the exact update", "all tokens"),
        ("total_variation", "total variation from the exact update", unwanted),
        ("unwanted_probability", "probability of the unwanted", unwanted),
    ):
        if found:
            counts = {k: found[k.replace(" ", "_")] for k in ("fine tokens", unwanted)}
            count = counts.get(where, sum(counts.values()))
            part, sure = found[measure], found["intervals"][measure]
            if measure != "unwanted_probability":
                part, sure = {"before": None, "after": part}, {"after": sure}
            values = [
                Number(measure, where, side, value, *(sure.get(side) or ()))
                for side, value in part.items()
            ]
            cells = [Number("tokens", measure, "before", count), *values]
            rows.append((f"{name}, {where}", cells))
    note = (
        "Both models' probabilities at the tokens of the old outputs, means; KL "
        "divergences in nats. The exact update leaves the unwanted nothing."
    )
    return Table("Distances", note, ["", "tokens", "before", "after"], rows)


_PARTS = (
    rounds, _alike, _references, _labels, _faults, _variants, _against, _distances
)  # fmt: skip
