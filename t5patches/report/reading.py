"""What `t5patches report` reads: an evaluation, several of one original, or a sweep."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from t5patches.errors import UserError
from t5patches.evaluate import intervals
from t5patches.evaluate.comparison import Comparison
from t5patches.evaluate.pairs import Pair
from t5patches.interchange import claims, json_files, results_files
from t5patches.report import points, result_checks

Results = dict[str, Any]


def read(
    paths: Sequence[str], models: Sequence[str] = ()
) -> tuple[Results, list[dict[str, Any]]]:
    """Returns results, and the examples if they are of one evaluation.

    Args:
      paths: files of results of `t5patches evaluate`, or one of a sweep. Several become
        what `write_comparison` takes, the updates named by their folders.
      models: the updated models' folders, where evaluations do not name them.

    Raises:
      UserError: naming file and field, if they are not what these write; what differs,
        if they are not of one original on the same inputs; a folder of no model.
    """
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise UserError(f"{twice[0]}: is given twice")
    found = {path: _read_results(path) for path in paths}
    for path, model in zip(paths, models, strict=bool(models)):
        if not os.path.isdir(os.path.join(model, "train")):
            raise UserError(f"{model}: no model that `t5patches train` wrote")
        found[path]["model"] = os.path.abspath(model)
    first, results = next(iter(found.items()))
    if len(found) == 1:
        return results, [] if "points" in results else _read_examples(first, results)
    for path, other in found.items():
        if "points" in other:
            raise UserError(f"{path}: is of a sweep; give it alone")
        sides = [
            f"{found['examples']:,} examples, {found['prevalence']['before']:.6g} of "
            "them unwanted before"
            for found in (other, results)
        ]
        if sides[0] != sides[1]:
            raise UserError(
                f"{path}: has {sides[0]}; {first} has {sides[1]}: give updates of one "
                "model, evaluated on the same inputs"
            )
    return _compared(found), []


def _read_results(path: str) -> Results:
    results = json_files.read_json(path)
    try:
        json_files.check_encodes(results, "a text of the results")
        if "points" in results:
            result_checks.check_sweep(results)
        else:
            result_checks.check_results(results)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for part in (results, *results.get("points", ())):
        if "model" in part:  # As seen from the folder of the file.
            part["model"] = os.path.join(_folder(path), part["model"])
    return results


def _folder(path: str) -> str:
    return os.path.dirname(os.path.abspath(path))


def _read_examples(path: str, results: Results) -> list[dict[str, Any]]:
    examples, place = [], results_files.examples_path(path)
    if os.path.exists(place):
        for number, row in json_files.read_jsonl(place):
            result_checks.check_example(row, f"{place}:{number}")
            examples.append(row)
    theirs = results.get(results_files.EXAMPLES)
    if theirs not in (None, claims.fingerprint({results_files.EXAMPLES: examples})):
        logging.warning(
            "%s: is not what `t5patches evaluate` wrote with %s: lost, changed, or of "
            "another run",
            place,
            path,
        )
    return examples


def _compared(found: Mapping[str, Results]) -> Results:
    """Returns several evaluations, by path, as `write_comparison` takes them."""
    root = os.path.commonpath([*map(_folder, found)])
    names = [
        os.path.relpath(path, root).removesuffix(f"{os.sep}results.json")
        for path in found
    ]
    scores = dict(zip(names, found.values(), strict=True))
    beaten_by = points.beaten_by({name: [one] for name, one in scores.items()})
    return {
        "methods": names,
        "titles": dict(zip(names, names, strict=True)),
        "rule": "",
        "failed": [],
        "points": [
            {"name": name, "method": name, "alpha": None, "learning_rate": None}
            | {"test": results}
            | ({"model": results["model"]} if "model" in results else {})
            for name, results in scores.items()
        ],
        "chosen": dict(zip(names, names, strict=True)),
        "beaten_by": beaten_by,
        "front": [name for name in names if not beaten_by[name]],
        "comparisons": intervals.tests(
            columns(dict(zip(names, found, strict=True)), scores)
        ),
    }


def columns(paths: Mapping[str, str], scores: Mapping[str, Results]) -> dict[str, Any]:
    """Returns the columns of `intervals.columns` by name, all of them or none.

    Args:
      paths: name -> file of results, with their examples beside it.
      scores: name -> what is in it.

    Raises:
      UserError: the examples are not of the same inputs.
    """
    found, first = {}, []
    for name, path in paths.items():
        rows = _read_examples(path, scores[name])
        clusters = (scores[name].get("intervals") or {}).get("clusters")
        if len(rows) != scores[name]["examples"] or clusters is not None:
            return {}  # They are not all there, or their groups are not known.
        update = Comparison()
        for row in rows:
            spans = (row["old_spans"], row["new_spans"])
            texts = (row["inputs"], row["old"], row["new"])
            update.add(Pair("", *texts, *spans, None, None))
        found[name] = intervals.columns(update.table())
        texts = [(row["inputs"], row["old"]) for row in rows]
        if texts != (first := first or texts):
            here, there = (
                results_files.examples_path(each)
                for each in (path, next(iter(paths.values())))
            )
            raise UserError(f"{here}: inputs or old outputs are not those of {there}")
    return found
