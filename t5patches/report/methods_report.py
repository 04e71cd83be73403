"""The report of several methods on one job: curves, each method's choice, the grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t5patches.interchange import results_files, shards
from t5patches.report import curves, rendering
from t5patches.report.rendering import general, score, share, unit

Row = Mapping[str, Any]

_CHOICE_HEAD = (
    "method", "alpha", "rate", "unwanted", "95 %", "clean the same", "95 %", "BLEU",
    "ROUGE-L", "beaten by",
)  # fmt: skip


def write_comparison(
    run_dir: shards.PathLike,
    results: Mapping[str, Any],
    titles: Mapping[str, str],
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
      settings: names and values for the section on settings.
    """
    sentence = headline(results, titles)
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
            (*_cells(row, titles), beaten_by[row["method"]]) for row in _chosen(results)
        ],
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


def _cells(row: Row, titles: Mapping[str, str]) -> tuple[str, ...]:
    scores = row["test"]
    after, same = scores["prevalence"]["after"], scores["exact_match"]["clean"]
    return (
        titles[row["method"]],
        general(row["alpha"]),
        general(row["learning_rate"]),
        share(after),
        _interval(after, scores["examples"]),
        share(same),
        _interval(same, scores["subsets"]["clean"]["examples"]),
        score(scores["bleu"]),
        unit(scores["rougeL"]),
    )


def _interval(fraction: float | None, count: int) -> str:
    """Returns a 95 % interval of a share of `count` inputs (Wilson's)."""
    if fraction is None:
        return "–"
    from scipy import stats

    test = stats.binomtest(round(fraction * count), count)
    low, high = test.proportion_ci(0.95, method="wilson")
    return f"{100 * low:.1f}–{100 * high:.1f}"
