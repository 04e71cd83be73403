"""The report of several methods on one job: curves, each method's choice, the grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import markupsafe

from t5patches.interchange import results_files, shards
from t5patches.report import curves, numbers, rendering
from t5patches.report.numbers import Number
from t5patches.report.rendering import general, score, share, unit

Row = Mapping[str, Any]

_CHOICE_HEAD = (
    "method", "alpha", "rate", "unwanted", "95 %", "clean the same", "95 %", "BLEU",
    "ROUGE-L", "beaten by",
)  # fmt: skip
# Place of a cell -> which of its numbers is the best.
_BETTER = {3: min, 5: max, 7: max, 8: max}


def write_comparison(
    run_dir: shards.PathLike,
    results: Mapping[str, Any],
    titles: Mapping[str, str],
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Writes `report.html`, `.png` and `.csv`; returns the table for the terminal.

    Args:
      run_dir: the folder to write to.
      results: `methods`; `points`, each with `name`, `method`, `alpha`,
        `learning_rate`, `seconds`, what `evaluate.compare` returns as `validation` and
        `test`, with `intervals` or without, and of both the `distance` from the ideal;
        `chosen` (method -> name of its point); `rule` (how it was chosen, in words);
        `beaten_by` (method -> methods); `front` (the methods that none beats, the best
        first); `failed`, the points without scores but with a reason of that name.
      titles: method -> its name for the reader.
      settings: names and values for the section on settings.
    """
    points = [row for row in results["points"] if not row.get("control")]
    results = {**results, "points": points}
    sentence, chosen = headline(results, titles), _chosen(results)
    beaten_by = {
        method: ", ".join(titles[other] for other in others) or "none"
        for method, others in results["beaten_by"].items()
    }
    rendering.write(
        run_dir,
        "methods.html",
        curves.draw(results, titles),
        results,
        settings,
        title="Methods compared",
        sentence=sentence,
        choice_head=_CHOICE_HEAD,
        choices=[
            (*cells, beaten_by[row["method"]])
            for cells, row in zip(_marked(chosen, titles), chosen, strict=True)
        ],
        data=numbers.to_csv(_numbers(results)),
        exact_rows=_exact_rows(results),
        exact_update=results_files.EXACT_UPDATE,
        titles=titles,
    )
    return terminal_table(results, titles)


def headline(results: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """Returns the result in a sentence: which methods are better, by the numbers."""
    names = [titles[method] for method in results["front"]]
    if len(results["methods"]) == 1:
        return f"{names[0]}, one method alone, has nothing to be compared with"
    if len(names) == 1:
        return (
            f"{names[0]} beats every other method, or equals it: less unwanted, and "
            "more clean outputs as they were"
        )
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return (
        f"{listed} are not beaten: no method leaves both less that is unwanted and "
        f"more clean outputs as they were. {names[0]} is nearest to the ideal"
    )


def terminal_table(results: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """Returns each method's numbers as plain text, and by how many it is beaten."""
    beaten_by = results["beaten_by"]
    rows = [
        (*_cells(row, titles), str(len(beaten_by[row["method"]])))
        for row in _chosen(results)
    ]
    lines = rendering.text_table([_CHOICE_HEAD, *rows, *_exact_rows(results)])
    return f"{lines}\n\n{headline(results, titles)}."


def _chosen(results: Mapping[str, Any]) -> list[Row]:
    """Returns each method's point, the nearest to the ideal on test inputs first."""
    names = set(results["chosen"].values())
    rows = [row for row in results["points"] if row["name"] in names]
    return sorted(rows, key=lambda row: row["distance"]["test"])


def _exact_rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    exact = curves.exact_update(results)
    if exact is None:
        return []
    row = {"method": "", "alpha": None, "learning_rate": None, "test": exact}
    return [(*_cells(row, {"": "exact update"}), "")]


def _measured(scores: Mapping[str, Any]) -> list[Number]:
    """Returns the numbers of a point that the tables show, with their intervals.

    Where the results have no intervals, shares have Wilson's.
    """
    after, same = scores["prevalence"]["after"], scores["exact_match"]["clean"]
    of = numbers.interval
    ranges = [of(scores, "prevalence", "after"), of(scores, "exact_match", "clean")]
    if "intervals" not in scores:
        clean = scores["subsets"]["clean"]["examples"]
        ranges = [_wilson(after, scores["examples"]), _wilson(same, clean)]
    return [
        Number("prevalence", "all", "", after, *ranges[0]),
        Number("exact_match", "clean", "", same, *ranges[1]),
        Number("bleu", "all", "", scores["bleu"], *of(scores, "bleu")),
        Number("rougeL", "all", "", scores["rougeL"], *of(scores, "rougeL")),
    ]


def _numbers(results: Mapping[str, Any]) -> list[Number]:
    """Returns the numbers of all points; the side is the point and the split."""
    return [
        number._replace(side=f"{row['name']}, {split}")
        for row in results["points"]
        for split in ("validation", "test")
        for number in _measured(row[split])
    ]


def _cells(row: Row, titles: Mapping[str, str]) -> tuple[str, ...]:
    after, same, bleu, rouge = _measured(row["test"])
    return (
        titles[row["method"]],
        general(row["alpha"]),
        general(row["learning_rate"]),
        share(after.value),
        _range(after),
        share(same.value),
        _range(same),
        score(bleu.value),
        unit(rouge.value),
    )


def _marked(rows: Sequence[Row], titles: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Returns the cells of rows, the best of a column bold.

    An ≈ is before what these inputs do not tell from the best: the intervals overlap.
    """
    cells = [[*_cells(row, titles)] for row in rows]
    columns = zip(*(_measured(row["test"]) for row in rows), strict=True)
    for (place, better), column in zip(_BETTER.items(), columns, strict=True):
        known = [number for number in column if number.value is not None]
        if len(known) < 2:
            continue
        best = better(known, key=lambda number: number.value)
        for number, row in zip(column, cells, strict=True):
            if number.value == best.value:
                row[place] = markupsafe.Markup("<strong>{}</strong>").format(row[place])
            elif _overlap(number, best):
                row[place] = f"≈ {row[place]}"
    return [tuple(row) for row in cells]


def _overlap(one: Number, other: Number) -> bool:
    ends = (one.low, one.high, other.low, other.high)
    if None in ends:
        return False
    low, high, others_low, others_high = cast("tuple[float, ...]", ends)
    return low <= others_high and others_low <= high


def _range(number: Number) -> str:
    if number.low is None or number.high is None:
        return "–"
    return f"{100 * number.low:.1f}–{100 * number.high:.1f}"


def _wilson(fraction: float | None, count: int) -> Sequence[float | None]:
    """Returns a 95 % interval of a share of `count` inputs."""
    if fraction is None:
        return (None, None)
    from scipy import stats

    test = stats.binomtest(round(fraction * count), count)
    return tuple(map(float, test.proportion_ci(0.95, method="wilson")))
