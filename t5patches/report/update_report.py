"""The report of an update: what is unwanted before and after, and what stayed."""

from __future__ import annotations

import collections
import os
from collections.abc import Mapping, Sequence
from typing import Any

from t5patches.interchange import results_files, shards
from t5patches.report import bars, limits, numbers, rendering, training_curves
from t5patches.report import examples as pairs
from t5patches.report.rendering import score, share, unit
from t5patches.report.result_checks import check_results


def write_report(
    run_dir: shards.PathLike,
    results: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Writes the report's files; returns the table for the terminal.

    Args:
      run_dir: the folder to write to.
      results: what `evaluate.evaluate_files` returns; what of
        `rendering.MADE` is there is shown, too, and the training curves of `model`, a
        folder as seen from `run_dir`.
      examples: the pairs of outputs, as `evaluate.evaluate_files` returns them.
      settings: names and values for the section on settings.

    Raises:
      UserError: `results` is not what `evaluate.evaluate_files` returns.
    """
    check_results(results)
    method, sentence = results.get("method"), headline(results)
    rows, tables = pairs.for_page(examples), numbers.tables(results)
    folder = results.get("model")
    curves = training_curves.read(os.path.join(run_dir, folder)) if folder else {}
    update = "targeted update" + (f" with {str(method).upper()}" if method else "")
    rendering.write(
        run_dir,
        "update.html",
        bars.draw(results, f"A {update}", sentence),
        results,
        settings,
        title=f"Report of a {update}",
        sentence=sentence,
        tables=tables,
        data=numbers.to_csv(
            n for table in tables for _, row in table.rows for n in row
        ),
        runs=[training_curves.Run("this update", bars.AFTER, curves)],
        limits=limits.limits(results),
        remarks=_remarks(results),
        script="browser.js" if examples else "",
        pairs=len(examples),
        examples=rows,
        first=pairs.first_of_each_kind(rows),
        kinds=results_files.KINDS,
        faults=collections.Counter(fault for row in rows for fault in row["faults"]),
        fault_names=pairs.FAULTS,
    )
    return terminal_table(results)


def headline(results: Mapping[str, Any]) -> str:
    """Returns the result in a sentence."""
    before, after = (share(results["prevalence"][k]) for k in ("before", "after"))
    clean = results["exact_match"]["clean"]
    first = f"Unwanted outputs: {before} before, {after} after"
    if clean is None:
        return first
    return f"{first}. {share(clean)} of the clean outputs stayed word for word"


def terminal_table(results: Mapping[str, Any]) -> str:
    """Returns the numbers of `results` as a table of plain text."""
    first, second, *_ = numbers.tables(results)
    second = second._replace(head=["new against old outputs", *second.head[1:]])
    shown = filter(lambda table: table.rows, (first, second, numbers.rounds(results)))
    texts = (rendering.text_table([table.head, *table.texts()]) for table in shown)
    remarks = "".join(f"\n{remark}\n" for remark in _remarks(results))
    return "\n\n".join(texts) + f"\n{remarks}"


def _remarks(results: Mapping[str, Any]) -> list[str]:
    """Returns what is to be said besides the numbers, as sentences."""
    found = [results["verdict"]] if results.get("verdict") else []
    if "distance_to_exact_update" in results:
        distance = results["distance_to_exact_update"]
        same, *alike = _scores(distance["outputs"])
        found.append(
            f"The exact update is {results_files.EXACT_UPDATE}. The update has "
            f"{unit(distance['ratio']['bleu'])} of its BLEU and "
            f"{unit(distance['ratio']['rougeL'])} of its ROUGE-L; {same} of the "
            f"outputs are its, word for word (BLEU {alike[0]}, ROUGE-L {alike[1]})."
        )
    if rejection := results.get("rejection_sampling"):
        found.append(
            f"Rejection sampling: {share(rejection['acceptance_rate'])} of "
            f"{rejection['samples']:,} samples of the original model had nothing "
            f"unwanted; {share(rejection['inputs_accepted'])} of "
            f"{rejection['inputs']:,} inputs got such an output, for "
            f"{rejection['drawn']:,} samples."
        )
    return found


def _scores(part: Mapping[str, Any]) -> tuple[str, str, str]:
    return share(part["exact_match"]), score(part["bleu"]), unit(part["rougeL"])
