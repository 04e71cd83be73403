"""The report of several methods on one job: curves, each method's choice, the grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from etils import epath

from t5patches.interchange import shards
from t5patches.report import curves, page

Row = Mapping[str, Any]


def write_comparison(
    run_dir: shards.PathLike,
    results: Mapping[str, Any],
    titles: Mapping[str, str],
    properties: Sequence[Row] = (),
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Writes `report.html` and `report.png`; returns the table for the terminal.

    Args:
      run_dir: the folder to write to.
      results: `methods`; `points`, each with `name`, `method`, `alpha`,
        `learning_rate`, `seconds`, what `evaluate.compare` returns as `validation` and
        `test`, and of both the `distance` from the ideal; `chosen` (method -> name of
        its point); `rule` (how it was chosen, in words); `beaten_by` (method ->
        methods); `front` (the methods that none beats, the best first); `failed`, the
        points without scores but with a reason of that name.
      titles: method -> its name for the reader.
      properties: rows of the section on the corpus, as for `write_report`.
      settings: names and values for the section on settings.
    """
    folder = epath.Path(run_dir)
    png = curves.draw(results, titles)
    with shards.atomic_write(folder / "report.png", "wb") as file:
        file.write(png)
    with shards.atomic_write(folder / "report.html") as file:
        file.write(render(results, titles, png, properties, settings or {}))
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


def render(
    results: Mapping[str, Any],
    titles: Mapping[str, str],
    png: bytes,
    properties: Sequence[Row],
    settings: Mapping[str, Any],
) -> str:
    """Returns the page; arguments as for `write_comparison`, the picture as PNG."""
    sentence = f"{headline(results, titles)}."
    return page.document(
        "Methods compared",
        sentence,
        [
            page.figure(png, sentence),
            _choices(results, titles),
            _grid(results, titles),
            _failed(results, titles),
            page.properties_section(properties),
            page.settings_section(results, settings),
        ],
    )


_CHOICE_HEAD = (
    "method", "alpha", "rate", "unwanted", "95 %", "clean the same", "95 %", "BLEU",
    "ROUGE-L", "beaten by",
)  # fmt: skip


def chosen_rows(results: Mapping[str, Any]) -> list[Row]:
    """Returns each method's point, the nearest to the ideal on test inputs first."""
    rows = [row for row in results["points"] if row["name"] in _names(results)]
    return sorted(rows, key=lambda row: row["distance"]["test"])


def _names(results: Mapping[str, Any]) -> set[str]:
    return set(results["chosen"].values())


def _choice(row: Row, results: Mapping[str, Any], titles: Mapping[str, str]):
    scores = row["test"]
    after, same = scores["prevalence"]["after"], scores["exact_match"]["clean"]
    beaten = results["beaten_by"][row["method"]]
    return (
        titles[row["method"]],
        _alpha(row),
        f"{row['learning_rate']:g}",
        page.number(after),
        _interval(after, scores["examples"]),
        page.number(same),
        _interval(same, scores["subsets"]["clean"]["examples"]),
        page.number(scores["bleu"], "score"),
        page.number(scores["rougeL"], "unit"),
        ", ".join(titles[method] for method in beaten) or "none",
    )


def _alpha(row: Row) -> str:
    return "–" if row["alpha"] is None else f"{row['alpha']:g}"


def _interval(share: float | None, count: int) -> str:
    """A 95 % interval of a share of `count` inputs (Wilson's)."""
    if share is None:
        return "–"
    from scipy import stats

    test = stats.binomtest(round(share * count), count)
    low, high = test.proportion_ci(0.95, method="wilson")
    return f"{100 * low:.1f}–{100 * high:.1f}"


def _choices(results: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    scores = results["points"][0]["test"]
    before, clean = scores["prevalence"]["before"], scores["subsets"]["clean"]
    text = (
        f"{results['rule']} The numbers are those of the test inputs: "
        f"{scores['examples']:,}, of which {page.number(before)} gave something "
        f"unwanted before and {clean['examples']:,} were clean. A method is beaten by "
        "another that leaves no more unwanted outputs and no fewer clean ones as they "
        "were, and does better in one of the two. One seed: differences within the "
        "intervals mean little."
    )
    rows = [_choice(row, results, titles) for row in chosen_rows(results)]
    return (
        f"<h2>Each method at its best</h2><p>{escape(text)}</p>"
        f"{page.table(_CHOICE_HEAD, rows)}"
    )


_GRID_HEAD = (
    "method", "alpha", "rate", "validation: unwanted", "clean the same", "distance",
    "test: unwanted", "clean the same", "BLEU", "seconds", "",
)  # fmt: skip


def _grid(results: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    def cells(row):
        first, second = row["validation"], row["test"]
        return (
            titles[row["method"]],
            _alpha(row),
            f"{row['learning_rate']:g}",
            page.number(first["prevalence"]["after"]),
            page.number(first["exact_match"]["clean"]),
            f"{row['distance']['validation']:.3f}",
            page.number(second["prevalence"]["after"]),
            page.number(second["exact_match"]["clean"]),
            page.number(second["bleu"], "score"),
            f"{row['seconds']:.0f}",
            "chosen" if row["name"] in _names(results) else "",
        )

    text = "Every update. A method's point is chosen by its distance on validation."
    rows = [cells(row) for row in results["points"]]
    return f"<h2>The whole grid</h2><p>{text}</p>{page.table(_GRID_HEAD, rows)}"


def _failed(results: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    rows = [
        (titles[row["method"]], _alpha(row), f"{row['learning_rate']:g}", row["failed"])
        for row in results["failed"]
    ]
    if not rows:
        return ""
    head = ("method", "alpha", "rate", "why")
    return f"<h2>Updates that failed</h2>{page.table(head, rows)}"


def terminal_table(results: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """Returns each method's numbers as plain text, and by how many it is beaten."""
    beaten_by = results["beaten_by"]
    rows = [
        (*_choice(row, results, titles)[:-1], str(len(beaten_by[row["method"]])))
        for row in chosen_rows(results)
    ]
    lines = page.text_table([_CHOICE_HEAD, *rows], first=18, width=6)
    return f"{lines}\n\n{headline(results, titles)}."
