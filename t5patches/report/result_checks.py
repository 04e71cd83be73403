"""Whether results and examples read from files are what `t5patches evaluate` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, Field

from t5patches import errors
from t5patches.errors import UserError
from t5patches.interchange import results_files
from t5patches.interchange.results_files import KINDS

_HINT = "give what `t5patches evaluate` writes"


def _object(
    fields: Mapping[str, Any], optional: Mapping[str, Any] | None = None, **how: Any
) -> Any:
    """Returns the type of an object.

    Args:
      fields: the types of what it must have.
      optional: of what it may have; null is not as good as nothing.
      **how: more of pydantic's configuration.
    """
    every = {name: (kind, ...) for name, kind in fields.items()}
    every |= {name: (kind, None) for name, kind in (optional or {}).items()}
    config = pydantic.ConfigDict(strict=True, allow_inf_nan=False, **how)
    return pydantic.create_model("Part", __config__=config, **every)


def _in_order(ends: list[float]) -> list[float]:
    if ends[0] > ends[1]:
        raise ValueError("must be [lowest, highest]")
    return ends


# Of pydantic's messages, behind the name of a field.
_WORDS = {
    "Input should be": "must be",
    "Value error, ": "",
    "Field required": "is missing",
    "Extra inputs are not permitted": "is unknown",
}
_Text = str | None
_Count = Annotated[int, Field(ge=0)]
_Number = Annotated[float, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Some = _Share | None
_Bleu = Annotated[float, Field(ge=0, le=100)] | None
_Rate = _Number | None
_End = Annotated[float, Field(ge=-100, le=100)]
_Ends = Annotated[list[_End], Field(min_length=2, max_length=2)]
_Interval = Annotated[_Ends, AfterValidator(_in_order)] | None
_SCORES = {"exact_match": _Some, "bleu": _Bleu, "rougeL": _Some}
_SIDES = ("before", "after")


def _sides(kind: Any, *more: str) -> Any:
    return _object(dict.fromkeys((*_SIDES, *more), kind))


def _by_subset(kind: Any) -> Any:
    return _object(dict.fromkeys(("all", "clean", "marked"), kind), extra="forbid")


def _agreeing(results: Any) -> Any:
    """Checks that what results say twice is the same."""
    parts, marked = results.subsets, results.subsets.marked.examples
    for field, found, other in (
        ("examples", results.examples, parts.clean.examples + marked),
        ("subsets.all.examples", parts.all.examples, results.examples),
        (
            "prevalence.before",
            results.prevalence.before,
            marked / (results.examples or 1),
        ),
        ("bleu", results.bleu, parts.all.bleu),
        ("rougeL", results.rougeL, parts.all.rougeL),
        *(
            (f"exact_match.{name}", found, getattr(parts, name).exact_match)
            for name, found in results.exact_match
        ),
    ):
        if found != other:
            raise ValueError(f"{field!r} must be {other}, as 'subsets' has it")
    return results


_RESULTS = {
    "examples": _Count,
    "prevalence": _sides(_Share),
    "unwanted_per_1000_tokens": _sides(_Rate),
    "exact_match": _by_subset(_Some),
    "bleu": _Bleu,
    "rougeL": _Some,
    "subsets": _by_subset(_object({"examples": _Count, **_SCORES})),
}
_SURE = {
    "confidence": _Share,
    "clusters": _Count | None,
    "prevalence": _sides(_Interval, "difference"),
}
_DETECTED = {"prevalence": _sides(_Share)}
_COMPARED = {"ours": _Rate, "theirs": _Rate, "p": _Some, "difference": _End | None}
_AGAINST = dict.fromkeys(
    ("prevalence", *_SCORES), _object({**_COMPARED, "interval": _Interval})
)


def _distances(kind: Any) -> dict[str, Any]:
    means = dict.fromkeys(("kl_original", "kl_exact", "total_variation"), kind)
    return {**means, "unwanted_probability": _sides(kind)}


# What there may be besides, as far as it is shown.
_MORE = {
    "schema_version": Literal[results_files.SCHEMA_VERSION],
    **dict.fromkeys(("method", "verdict", "model"), _Text),
    "outcomes": dict[Literal[*KINDS], _Count],
    "exact_update": Annotated[_object(_RESULTS), AfterValidator(_agreeing)],
    "distance_to_exact_update": _object(
        {
            "ratio": _object({"bleu": _Rate, "rougeL": _Rate}),
            "outputs": _object(_SCORES),
        }
    ),
    "rejection_sampling": _object(
        dict.fromkeys(("inputs", "samples", "drawn"), _Count)
        | dict.fromkeys(("acceptance_rate", "inputs_accepted"), _Share)
    ),
    "intervals": _object(
        {**_SURE, "exact_match": _by_subset(_Interval)}
        | dict.fromkeys(("bleu", "rougeL"), _Interval)
    ),
    "distances": _object(
        dict.fromkeys(("fine_tokens", "unwanted_positions"), _Count)
        | _distances(_End | None)
        | {"intervals": _object(_distances(_Interval))}
    ),
    "similarity": _by_subset(
        _object({"rouge1": _Some, "rouge2": _Some, "token_edit_rate": _Rate})
    ),
    "second_detector": _object(
        {"name": str, **_DETECTED}, {"intervals": _object(_SURE)}
    ),
    "samples": _object({"number": _Count, **_DETECTED}, {"intervals": _object(_SURE)}),
    "references": _object(
        dict.fromkeys(("old", "new"), _object(_SCORES)), extra="forbid"
    ),
    "against": _object(_AGAINST),
    "by_label": dict[str, _sides(_Share)],
    "variants": dict[str, _sides(_Share)],
    "new_faults": dict[str, _sides(_Count, "new")],
    "rounds": dict[str, _object({k: _RESULTS[k] for k in ("prevalence", *_SCORES)})],
}
_Results = Annotated[_object(_RESULTS, _MORE), AfterValidator(_agreeing)]


def _consistent(sweep: Any) -> Any:
    """Checks that a sweep chooses and compares what it has."""
    methods = {*sweep.methods}
    points = [point for point in sweep.points if not point.control]
    for field, names in (
        ("points", [point.method for point in points]),
        ("front", sweep.front),
        *((f"beaten_by.{name}", some) for name, some in sweep.beaten_by.items()),
        *(("comparisons", tested.methods) for tested in sweep.comparisons or ()),
    ):
        if not {*names} <= methods:
            raise ValueError(f"{field!r} must be some of the 'methods', not {names}")
    for field in ("chosen", "beaten_by"):
        if getattr(sweep, field).keys() != methods:
            raise ValueError(f"{field!r} must be an object of all 'methods'")
    known = {(point.method, point.name) for point in points}
    for method, name in {*sweep.chosen.items()} - known:
        raise ValueError(f"'chosen.{method}' must be a point's name, not {name!r}")
    return sweep


_SETTING = {"method": str, "alpha": _Rate, "learning_rate": _Rate}
_POINT = {
    **_SETTING,
    "name": str,
    "seconds": _Number,
    "distance": _object({"validation": _Number, "test": _Number}),
    "validation": _Results,
    "test": _Results,
}
_RELEARNED = _object({"steps": _Count, "test": _Results})
_TWO = Annotated[set[str], Field(min_length=2, max_length=2), pydantic.Strict(False)]
_SWEEP = {
    "methods": list[str],
    "rule": str,
    "points": Annotated[
        list[_object(_POINT, {"control": bool, "relearned": _RELEARNED})],
        Field(min_length=1),
    ],
    "failed": list[_object({**_SETTING, "failed": str})],
    "front": Annotated[list[str], Field(min_length=1)],
    "chosen": dict[str, str],
    "beaten_by": dict[str, list[str]],
}
_MORE_OF_SWEEPS = {
    "titles": dict[str, str],
    "comparisons": list[_object({"methods": _TWO, **_AGAINST})],
}
_Sweep = Annotated[_object(_SWEEP, _MORE_OF_SWEEPS), AfterValidator(_consistent)]


def _with_its_spans(row: Any) -> Any:
    for field, text in (("old_spans", row.old), ("new_spans", row.new)):
        for start, end, _ in getattr(row, field):
            if not start < end <= len(text):
                raise ValueError(f"{field!r} has [{start}, {end}], outside the text")
    return row


_Spans = list[Annotated[tuple[_Count, _Count, str], pydantic.Strict(False)]]
_EXAMPLE = {"kind": Literal[*KINDS], **dict.fromkeys(("inputs", "old", "new"), str)}
_EXAMPLE |= dict.fromkeys(("old_spans", "new_spans"), _Spans)
_MORE_OF_EXAMPLES = {"id": _Text, "reference": _Text, "faults": list[str]}
_Example = Annotated[
    _object(_EXAMPLE, _MORE_OF_EXAMPLES), AfterValidator(_with_its_spans)
]
# Compiled once: there may be many examples.
_CHECKS = {kind: pydantic.TypeAdapter(kind) for kind in (_Results, _Sweep, _Example)}


def check_results(results: Mapping[str, Any]) -> None:
    """Checks what `evaluate.evaluate_files` returns.

    Raises:
      UserError: naming the field that is missing or wrong.
    """
    _check(_Results, results)


def check_sweep(results: Mapping[str, Any]) -> None:
    """Checks what `report.write_comparison` takes, of a grid.

    Raises:
      UserError: naming the field that is missing or wrong.
    """
    _check(_Sweep, results)


def check_example(row: Mapping[str, Any], where: str) -> None:
    """Checks a pair of outputs of `evaluate.evaluate_files`.

    Raises:
      UserError: naming `where` and the field that is missing or wrong.
    """
    _check(_Example, row, f"{where}: ")


def _check(kind: Any, value: Mapping[str, Any], where: str = "") -> None:
    try:
        _CHECKS[kind].validate_python(value)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        way = (
            f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"]
        )
        name = errors.shorten("".join(way).removeprefix("."), 100)
        said = first["msg"]
        for theirs, ours in _WORDS.items():
            said = said.replace(theirs, ours)
        if first["type"] not in ("missing", "value_error", "extra_forbidden"):
            said += f", not {errors.shorten(first['input'])}"
        field = f"{name} " if first["loc"] else ""
        raise UserError(f"{where}field {field}{said}; {_HINT}") from error
