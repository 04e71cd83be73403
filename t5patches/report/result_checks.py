"""Whether results and examples read from files are what `t5patches evaluate` writes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from t5patches import errors
from t5patches.errors import UserError
from t5patches.interchange import json_files, results_files

_HINT = "give the results.json that `t5patches evaluate` writes"
_NUMBER, _MAYBE = "a number", "a number or null"
_SCORES = {"exact_match": _MAYBE, "bleu": _MAYBE, "rougeL": _MAYBE}
_SUBSETS = ("all", "clean", "marked")
_RESULTS = {
    "examples": _NUMBER,
    "prevalence": {"before": _NUMBER, "after": _NUMBER},
    "unwanted_per_1000_tokens": {"before": _MAYBE, "after": _MAYBE},
    "exact_match": dict.fromkeys(_SUBSETS, _MAYBE),
    "bleu": _MAYBE,
    "rougeL": _MAYBE,
    "subsets": dict.fromkeys(_SUBSETS, {"examples": _NUMBER, **_SCORES}),
}
_REFERENCES = {"old": _SCORES, "new": _SCORES}


def read(path: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the results of a file of `t5patches evaluate`, and their examples.

    Raises:
      UserError: naming file and field, if they are not what it writes.
    """
    results = json_files.read_json(path)
    try:
        check_results(results)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    examples, place = [], results_files.examples_path(path)
    if os.path.exists(place):
        for number, row in json_files.read_jsonl(place):
            check_example(row, f"{place}:{number}")
            examples.append(row)
    return results, examples


def check_results(results: Mapping[str, Any]) -> None:
    """Checks what `evaluate.compare` returns.

    Raises:
      UserError: naming the field that is missing or wrong.
    """
    _check(results, _RESULTS, "")
    if "references" in results:
        _check(results["references"], _REFERENCES, "references")


def _check(value: Any, shape: Any, field: str) -> None:
    if isinstance(shape, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(field, "an object", value)
        for key, part in shape.items():
            name = f"{field}.{key}" if field else key
            if key not in value:
                raise UserError(f"the results have no {name!r}; {_HINT}")
            _check(value[key], part, name)
    elif value is not None or shape != _MAYBE:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise _wrong(field, shape, value)


def _wrong(field: str, wanted: str, value: Any) -> UserError:
    found = errors.shorten(value)
    return UserError(
        f"field {field!r} of the results must be {wanted}, not {found}; {_HINT}"
    )


def check_example(row: Mapping[str, Any], where: str) -> None:
    """Checks one of what `evaluate.pick_examples` returns.

    Raises:
      UserError: naming `where` and the field that is missing or wrong.
    """
    for key in ("kind", "inputs", "old", "new"):
        if not isinstance(row.get(key), str):
            raise UserError(f"{where}: field {key!r} must be text")
    for key in ("old", "new"):
        spans = row.get(f"{key}_spans")
        if not isinstance(spans, list) or not all(
            isinstance(span, list)
            and len(span) == 3
            and all(type(place) is int for place in span[:2])
            and 0 <= span[0] < span[1] <= len(row[key])
            for span in spans
        ):
            raise UserError(
                f"{where}: field '{key}_spans' must be a list of [start, end, label] "
                f"in the text {key!r}"
            )
