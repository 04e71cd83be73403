"""Whether results and examples read from files are what `t5patches evaluate` writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from t5patches import errors
from t5patches.errors import UserError
from t5patches.interchange import results_files
from t5patches.interchange.results_files import KINDS

_HINT = "give the results.json that `t5patches evaluate` writes"


def _number(most: float, least: float = 0, kind: Any = int | float) -> Any:
    return lambda value: (
        type(value) is not bool and isinstance(value, kind) and least <= value <= most
    )


def _or_null(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _is_interval(value: Any) -> bool:
    ends = isinstance(value, list | tuple) and len(value) == 2
    return ends and all(map(_number(100, -100), value)) and value[0] <= value[1]


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _list_of(what: str, fits: Callable[[Any], bool]) -> tuple[str, Any]:
    words = f"a list of {what}"
    return words, lambda value: isinstance(value, list) and all(map(fits, value))


# What values can be: in words, and as a test. No output has a thousand unwanted spans
# for each of its tokens.
_TEXT = ("text", lambda value: isinstance(value, str))
_COUNT = ("a whole number, 0 or more", _number(2**53, kind=int))
_GROUPS = (f"{_COUNT[0]}, or null", _or_null(_COUNT[1]))
_SHARE = ("a number from 0 to 1", _number(1))
_SOME = ("a number from 0 to 1, or null", _or_null(_number(1)))
_BLEU = ("a number from 0 to 100, or null", _or_null(_number(100)))
_RATE = ("a number, 0 or more, or null", _or_null(_number(1e6)))
_DIFFERENCE = ("a number from -100 to 100, or null", _or_null(_number(100, -100)))
_INTERVAL = ("[lowest, highest], or null", _or_null(_is_interval))
_SCORES = {"exact_match": _SOME, "bleu": _BLEU, "rougeL": _SOME}
_SUBSETS = ("all", "clean", "marked")
_RESULTS = {
    "examples": _COUNT,
    "prevalence": {"before": _SHARE, "after": _SHARE},
    "unwanted_per_1000_tokens": {"before": _RATE, "after": _RATE},
    "exact_match": dict.fromkeys(_SUBSETS, _SOME),
    "bleu": _BLEU,
    "rougeL": _SOME,
    "subsets": dict.fromkeys(_SUBSETS, {"examples": _COUNT, **_SCORES}),
}
_CHANGE = {"before": _SHARE, "after": _SHARE}
_SURE = {
    "confidence": _SHARE,
    "clusters": _GROUPS,
    "prevalence": dict.fromkeys(("before", "after", "difference"), _INTERVAL),
}
_REFERENCES = {"old": _SCORES, "new": _SCORES}


def _distances(kind: Any) -> dict[str, Any]:
    means = dict.fromkeys(("kl_original", "kl_exact", "total_variation"), kind)
    return means | {"unwanted_probability": {"before": kind, "after": kind}}


# What there may be besides, as far as it is shown.
_MORE = {
    "exact_update": _RESULTS,
    "distance_to_exact_update": {
        "ratio": {"bleu": _RATE, "rougeL": _RATE},
        "outputs": _SCORES,
    },
    "rejection_sampling": {
        "inputs": _COUNT,
        "samples": _COUNT,
        "acceptance_rate": _SHARE,
        "inputs_accepted": _SHARE,
        "drawn": _COUNT,
    },
    "intervals": {
        **_SURE,
        "exact_match": dict.fromkeys(_SUBSETS, _INTERVAL),
        "bleu": _INTERVAL,
        "rougeL": _INTERVAL,
    },
    "distances": {
        **dict.fromkeys(("fine_tokens", "unwanted_positions"), _COUNT),
        **_distances(_DIFFERENCE),
        "intervals": _distances(_INTERVAL),
    },
    "similarity": dict.fromkeys(
        _SUBSETS, {"rouge1": _SOME, "rouge2": _SOME, "token_edit_rate": _RATE}
    ),
    "second_detector": {"name": _TEXT, "prevalence": _CHANGE},
    "samples": {"number": _COUNT, "prevalence": _CHANGE},
    "against": dict.fromkeys(
        ("prevalence", *_SCORES),
        {"ours": _RATE, "theirs": _RATE, "p": _SOME}
        | {"difference": _DIFFERENCE, "interval": _INTERVAL},
    ),
}
# The same, by names that are not known here.
_NAMED = {
    "rounds": {
        name: _RESULTS[name] for name in ("prevalence", "exact_match", "bleu", "rougeL")
    },
    "by_label": _CHANGE,
    "variants": _CHANGE,
    "new_faults": dict.fromkeys(("before", "after", "new"), _COUNT),
}

# A sweep, in whose objects other fields may be, too.
_SOME_METHODS = _list_of("texts", _TEXT[1])
_OBJECT, _OBJECTS = ("an object", _is_object), _list_of("objects", _is_object)
_ANY = ("a number, 0 or more", _number(1e9))
_SETTING = {"method": _TEXT, "alpha": _RATE, "learning_rate": _RATE}
_POINT = {
    **_SETTING,
    "name": _TEXT,
    "seconds": _ANY,
    "distance": {"validation": _ANY, "test": _ANY},
    "validation": _OBJECT,
    "test": _OBJECT,
}
_SWEEP = {
    "methods": _SOME_METHODS,
    "rule": _TEXT,
    "points": _OBJECTS,
    "failed": _OBJECTS,
    "front": _SOME_METHODS,
    "chosen": _OBJECT,
    "beaten_by": _OBJECT,
}


def check_results(results: Mapping[str, Any]) -> None:
    """Checks what `evaluate.compare` returns.

    Raises:
      UserError: naming the field that is missing or wrong.
    """
    known = results_files.SCHEMA_VERSION
    if (version := results.get("schema_version", known)) != known:
        raise UserError(
            f"field 'schema_version' of the results is {errors.shorten(version)}, this "
            f"version of t5patches reads {known}; use the one that wrote them"
        )
    _check(results, _RESULTS, "")
    if "references" in results:
        _check(results["references"], _REFERENCES, "references")
    for name in ("method", "verdict", "model"):
        if not isinstance(text := results.get(name), str | None):
            raise _wrong(name, "text", text)
    _check_agreement(results, results["subsets"])
    if "outcomes" in results:
        _check(results["outcomes"], dict.fromkeys(KINDS, _COUNT), "outcomes")
    for name in _MORE.keys() & results.keys():
        _check(results[name], _MORE[name], name, more=True)
    for name in _NAMED.keys() & results.keys():
        if not isinstance(found := results[name], Mapping):
            raise _wrong(name, "an object", found)
        _check(found, dict.fromkeys(found, _NAMED[name]), name, more=True)
    for name in ("second_detector", "samples"):
        if sure := results.get(name, {}).get("intervals"):
            _check(sure, _SURE, f"{name}.intervals", more=True)
    if exact := results.get("exact_update"):
        _check_agreement(exact, exact["subsets"], "exact_update.")


def check_sweep(results: Mapping[str, Any]) -> None:
    """Checks what `report.write_comparison` takes, of a grid.

    Raises:
      UserError: naming the field that is missing or wrong.
    """
    _check(results, _SWEEP, "")
    titles, tested = results.get("titles", {}), results.get("comparisons", [])
    _check(tested, _OBJECTS, "comparisons")
    _check(titles, _OBJECT, "titles")
    _check(titles, dict.fromkeys(titles, _TEXT), "titles")
    for number, row in enumerate(results["points"]):
        where = f"points[{number}]"
        _check(row, _POINT, where, more=True)
        parts = {split: row[split] for split in ("validation", "test")}
        if more := row.get("relearned"):
            shape = {"steps": _COUNT, "test": _OBJECT}
            _check(more, shape, f"{where}.relearned", more=True)
            parts["relearned.test"] = more["test"]
        for name, scores in parts.items():
            try:
                check_results(scores)
            except UserError as error:
                raise UserError(f"{where}.{name}: {error}") from error
    for number, row in enumerate(results["failed"]):
        _check(row, {**_SETTING, "failed": _TEXT}, f"failed[{number}]", more=True)
    for number, row in enumerate(tested):
        shape = {"methods": _SOME_METHODS, **_MORE["against"]}
        _check(row, shape, f"comparisons[{number}]", more=True)
    _check_names(results)


def _check_names(results: Mapping[str, Any]) -> None:
    """Checks that a sweep chooses and compares what it has."""
    methods = results["methods"]
    rows = [row for row in results["points"] if not row.get("control")]
    for field in ("points", "front"):
        if not results[field]:
            raise _wrong(field, "one or more", [])
    for field in ("chosen", "beaten_by"):
        if results[field].keys() != {*methods}:
            raise _wrong(field, "an object of all 'methods'", [*results[field]])
    for field, found in (
        ("front", results["front"]),
        ("points", [row["method"] for row in rows]),
        *((f"beaten_by.{name}", some) for name, some in results["beaten_by"].items()),
    ):
        _check(found, _SOME_METHODS, field)
        if not {*found} <= {*methods}:
            raise _wrong(field, "some of the 'methods'", found)
    for number, row in enumerate(results.get("comparisons", ())):
        two = row["methods"]
        if len({*two}) != 2 or not {*two} <= {*methods}:
            raise _wrong(f"comparisons[{number}].methods", "two of the 'methods'", two)
    for method, name in results["chosen"].items():
        if not any((row["method"], row["name"]) == (method, name) for row in rows):
            raise _wrong(f"chosen.{method}", "the name of a point of it", name)


def _check_agreement(
    results: Mapping[str, Any], parts: Mapping[str, Any], where: str = ""
) -> None:
    """Checks that what the results say twice is the same."""
    count, before = results["examples"], results["prevalence"]["before"]
    whole, marked = parts["all"], parts["marked"]
    for field, found, other in (
        ("examples", count, parts["clean"]["examples"] + marked["examples"]),
        ("subsets.all.examples", whole["examples"], count),
        ("prevalence.before", before, marked["examples"] / max(count, 1)),
        ("bleu", results["bleu"], whole["bleu"]),
        ("rougeL", results["rougeL"], whole["rougeL"]),
        *(
            (f"exact_match.{name}", found, parts[name]["exact_match"])
            for name, found in results["exact_match"].items()
        ),
    ):
        if found != other:
            raise _wrong(where + field, f"{other}, as 'subsets' has it", found)


def _check(value: Any, shape: Any, field: str, more: bool = False) -> None:
    """Checks a value; `more` says whether objects may have other fields, too."""
    if isinstance(shape, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(field, "an object", value)
        if others := field and not more and sorted(value.keys() - shape.keys()):
            name = errors.shorten(f"{field}.{others[0]}")
            raise UserError(f"the results have an unknown {name}; {_HINT}")
        for key, part in shape.items():
            name = f"{field}.{key}" if field else key
            if key not in value:
                raise UserError(f"the results have no {name!r}; {_HINT}")
            _check(value[key], part, name, more)
        return
    wanted, fits = shape
    if not fits(value):
        raise _wrong(field, wanted, value)


def _wrong(field: str, wanted: str, value: Any) -> UserError:
    found = errors.shorten(value)
    return UserError(
        f"field {field!r} of the results must be {wanted}, not {found}; {_HINT}"
    )


def check_example(row: Mapping[str, Any], where: str) -> None:
    """Checks a pair of outputs of `evaluate.evaluate_files`.

    Raises:
      UserError: naming `where` and the field that is missing or wrong.
    """
    for key in ("kind", "inputs", "old", "new"):
        if not isinstance(row.get(key), str):
            raise UserError(f"{where}: field {key!r} must be text")
    if row["kind"] not in KINDS:
        raise UserError(f"{where}: field 'kind' must be one of {', '.join(KINDS)}")
    for key in ("id", "reference"):
        if not isinstance(row.get(key), str | None):
            raise UserError(f"{where}: field {key!r} must be text")
    faults = row.get("faults", [])
    if not isinstance(faults, list) or not all(
        isinstance(name, str) for name in faults
    ):
        raise UserError(f"{where}: field 'faults' must be a list of texts")
    for key in ("old", "new"):
        spans = row.get(f"{key}_spans")
        if not isinstance(spans, list) or not all(
            isinstance(span, list)
            and len(span) == 3
            and isinstance(span[2], str)
            and all(type(place) is int for place in span[:2])
            and 0 <= span[0] < span[1] <= len(row[key])
            for span in spans
        ):
            raise UserError(
                f"{where}: field '{key}_spans' must be a list of [start, end, label] "
                f"in the text {key!r}"
            )
