"""The report of several updates of one model: curves, a table, the whole grid."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import markupsafe

from t5patches.evaluate import uncertainty
from t5patches.interchange import results_files, shards
from t5patches.report import curves, numbers, points, rendering, training_curves
from t5patches.report.numbers import Number
from t5patches.report.points import Setting
from t5patches.report.rendering import general

_COLUMNS = points.MEASURES | points.DISTANCES
_SIGNIFICANT = 0.05


def write_comparison(
    run_dir: shards.PathLike,
    results: Mapping[str, Any],
    titles: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Writes the report's files; returns the table for the terminal.

    Args:
      run_dir: the folder to write to.
      results: `methods`; `points`, each with `name`, `method`, `alpha`,
        `learning_rate` and the results of `evaluate.evaluate_files` as `test`; `chosen`
        (method
        -> name of its point, of several seeds of one of them); `beaten_by` (method ->
        methods); `front` (the methods that none beats, the best first). Of a grid the
        points have `validation`, `seconds` and the `distance` from the ideal on both,
        too, and there are `rule` (how was chosen, in words) and `failed` (points
        without scores but with a reason of that name). Where it is known, a point has
        its `seed`, `control` (it is the no-op control), `relearned` ({`steps`, `test`},
        after training on the original data again) and `model` (its folder, as seen from
        `run_dir`), and `comparisons` are as `evaluate.intervals.against` returns them,
        each of two `methods`.
      titles: method -> its name for the reader.
      settings: names and values for the section on settings.
    """
    titles = _titles(results, titles or results.get("titles") or {})
    sentence = headline(results, titles)
    head, rows = _table(results, titles)
    seeds = sorted({row.get("seed") for row in results["points"]} - {None})
    rendering.write(
        run_dir,
        "methods.html",
        curves.draw(results, titles),
        results,
        {
            **({"seeds": ", ".join(map(str, seeds))} if seeds else {}),
            **(settings or {}),
        },
        numbers.to_csv(_numbers(results)),
        [*_training(run_dir, results, titles)],
        title="Updates compared",
        sentence=sentence,
        head=head,
        rows=rows,
        seeds=max(len(setting.updates) for setting in points.chosen(results)),
        relearned=[*_relearned(results, titles)],
        exact_update=points.exact_update(results) and results_files.EXACT_UPDATE,
        chosen={*results["chosen"].values()},
        titles=titles,
    )
    return terminal_table(results, titles)


def _titles(results: Mapping[str, Any], titles: Mapping[str, str]) -> dict[str, str]:
    rows = [*results["points"], *results.get("failed", ())]
    names = {row["method"]: row["method"].upper() for row in rows}
    control = {row["method"]: points.CONTROL for row in rows if row.get("control")}
    return {**names, **titles, **control}


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
    # Of a grid the front is in the order of the distance.
    nearest = f". {names[0]} is nearest to the ideal" if results["rule"] else ""
    return (
        f"{listed} are not beaten: no method leaves both less that is unwanted and "
        f"more clean outputs as they were{nearest}"
    )


def terminal_table(results: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """Returns the table of methods as plain text."""
    head, rows = _table(results, titles)
    # The intervals, and by whom one is beaten, are too wide.
    short = [[name, *map(_short, cells)] for name, *cells, _ in rows]
    return (
        f"{rendering.text_table([head[:-1], *short])}\n\n{headline(results, titles)}."
    )


def _short(cell: str) -> str:
    text = cell.striptags() if isinstance(cell, markupsafe.Markup) else cell
    return text.partition(" (")[0]


def _table(
    results: Mapping[str, Any], titles: Mapping[str, str]
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Returns the head and the rows of the table of methods, without empty columns."""
    methods = points.chosen(results)
    control = points.settings(results, control=True)
    names = [titles[setting.method] for setting in (*methods, *control)]
    found = [setting.numbers() for setting in (*methods, *control)]
    names, found = [*names, "the original"], [*found, points.original(results)]
    if exact := points.exact_update(results):
        names, found = [*names, "exact update"], [*found, points.measured(exact)]

    columns: dict[str, Sequence[str]] = {"method": names}
    for head, field in (("alpha", "alpha"), ("rate", "learning_rate")):
        values = [getattr(setting, field) for setting in (*methods, *control)]
        if any(value is not None for value in values):
            more = [""] * (len(names) - len(values))
            columns[head] = [*map(general, values), *more]
    for measure, (head, _, _) in _COLUMNS.items():
        column = [numbers[measure] for numbers in found]
        if any(number.value is not None for number in column):
            cells = _marked(results, column[: len(methods)], methods)
            columns[head] = [*cells, *map(str, column[len(methods) :])]
    beaten = (results["beaten_by"][setting.method] for setting in methods)
    said = [", ".join(titles[name] for name in some) or "none" for some in beaten]
    columns["beaten by"] = [*said, *[""] * (len(names) - len(said))]
    return [*columns], [*zip(*columns.values(), strict=True)]


def _marked(
    results: Mapping[str, Any], column: Sequence[Number], methods: Sequence[Setting]
) -> list[str]:
    """Returns the cells of a column: the best bold, an ≈ before its like."""
    measure, values = column[0].measure, [number.value for number in column]
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return [*map(str, column)]
    best = _COLUMNS[measure][1](known)
    first = [m.method for m, v in zip(methods, values, strict=True) if v == best]
    p = max((_p_values(results, measure, method) for method in first), key=len)
    cells = []
    for number, setting in zip(column, methods, strict=True):
        cell = str(number)
        if number.value == best:
            cell = markupsafe.Markup("<strong>{}</strong>").format(cell)
        elif p.get(setting.method, 0) >= _SIGNIFICANT:
            cell = f"≈ {cell}"
        cells.append(cell)
    return cells


def _p_values(
    results: Mapping[str, Any], measure: str, method: str
) -> dict[str, float]:
    """Returns p, corrected by Holm, of the methods that one was compared with."""
    p: dict[str, float] = {}
    for row in results.get("comparisons", ()):
        value = row.get(measure, {}).get("p")
        if method in row["methods"] and value is not None:
            (other,) = {*row["methods"]} - {method}
            p[other] = value
    return dict(zip(p, uncertainty.holm([*p.values()]).tolist(), strict=True))


def _training(
    run_dir: shards.PathLike, results: Mapping[str, Any], titles: Mapping[str, str]
) -> Iterator[training_curves.Run]:
    """Yields the training runs of the chosen points whose model folders are known."""
    for setting in points.chosen(results):
        row = setting.updates[0]
        if "model" in row:
            colour, _ = curves.look(results, setting.method)
            found = training_curves.read(os.path.join(run_dir, row["model"]))
            yield training_curves.Run(titles[setting.method], colour, found)


def _relearned(
    results: Mapping[str, Any], titles: Mapping[str, str]
) -> Iterator[tuple[str, ...]]:
    """Yields rows: the chosen updates before and after more fine-tuning."""
    for setting in points.chosen(results):
        for row in setting.updates:
            if more := row.get("relearned"):
                columns = points.measured(row["test"]), points.measured(more["test"])
                cells = (
                    str(numbers[measure])
                    for measure in ("prevalence", "exact_match")
                    for numbers in columns
                )
                yield titles[setting.method], f"{more['steps']:,}", *cells


def _numbers(results: Mapping[str, Any]) -> Iterator[Number]:
    """Yields the numbers of all points; the side is the point and the split."""
    for row in results["points"]:
        relearned = row.get("relearned", {}).get("test")
        for split, scores in (
            ("validation", row.get("validation")),
            ("test", row["test"]),
            ("relearned", relearned),
        ):
            for number in points.measured(scores).values() if scores else ():
                yield number._replace(side=f"{row['name']}, {split}")
