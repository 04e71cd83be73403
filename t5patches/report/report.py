"""Writes the report of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from t5patches.interchange import shards
from t5patches.report import page, picture
from t5patches.report.checks import check_results


def write_report(
    run_dir: shards.PathLike,
    results: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
    properties: Sequence[Mapping[str, Any]] = (),
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Writes `report.html` and `report.png`; returns the table for the terminal.

    Args:
      run_dir: the folder to write to.
      results: what `evaluate.compare` returns; `method`, `seed`, `seconds` and
        `peak_memory_gb` are shown too if they are there.
      examples: what `evaluate.pick_examples` returns.
      properties: rows of the section on the corpus: `label`, `value`, `requirement`
        (text) and `met` (True, False or None); if empty, `results` is looked up for
        `corpus_properties`, such rows or numbers by name.
      settings: names and values for the section on settings.

    Raises:
      UserError: `results` is not what `evaluate.compare` returns.
    """
    check_results(results)
    properties = properties or _measured(results.get("corpus_properties") or ())
    folder = epath.Path(run_dir)
    png = picture.draw(results)
    document = page.render(results, examples, png, properties, settings)
    with shards.atomic_write(folder / "report.png", "wb") as file:
        file.write(png)
    with shards.atomic_write(folder / "report.html") as file:
        file.write(document)
    return terminal_table(results)


def _measured(
    found: Mapping[str, Any] | Sequence[Mapping[str, Any]],
) -> list[Mapping[str, Any]]:
    """Rows of measured properties from what the results hold of them."""
    if not isinstance(found, Mapping):
        return list(found)
    return [
        {
            "label": name.replace("_", " "),
            "value": f"{value:.3g}" if isinstance(value, float) else value,
        }
        for name, value in found.items()
    ]


def terminal_table(results: Mapping[str, Any]) -> str:
    """Returns the numbers of `results` as a table of plain text."""
    prevalence, rates = results["prevalence"], results["unwanted_per_1000_tokens"]
    rows = [
        ("", "before", "after"),
        (
            "outputs with something unwanted",
            page.number(prevalence["before"]),
            page.number(prevalence["after"]),
        ),
    ]
    if rates["before"] is not None and rates["after"] is not None:
        rows.append(
            (
                "unwanted spans per 1,000 tokens",
                f"{rates['before']:.2f}",
                f"{rates['after']:.2f}",
            )
        )
    head = ("new against old outputs", "inputs", *page.SCORES)
    scores = [head, *page.similarity_rows(results)]
    return f"{page.text_table(rows)}\n\n{page.text_table(scores)}\n"
