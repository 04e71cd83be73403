"""The macros of our gin files: what each takes and means, and the check of it.

It is done before anything heavy is imported, for gin files and the command line; macros
of other names are a user's own.
"""

from __future__ import annotations

import difflib
import math
import os
import pathlib
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging

from t5patches.errors import UserError, shorten
from t5patches.run import gin_errors
from t5patches.run.gin_files import REQUIRED, Binding, Reference, references


class Kind(NamedTuple):
    """What a macro takes, in words and as a test."""

    words: str
    fits: Callable[[Any], bool]

    def __or__(self, other: Kind) -> Kind:  # type: ignore[override]
        return Kind(
            f"{self.words} or {other.words}", lambda x: self.fits(x) or other.fits(x)
        )


class Macro(NamedTuple):
    """A macro of our gin files.

    Attributes:
      scripts: whose gin files have it.
      kind: what it takes.
      meaning: what it says.
    """

    scripts: list[str]
    kind: Kind
    meaning: str


def _one_of(*values: Any) -> Kind:
    words = " or ".join(map(repr, values))
    return Kind(
        words, lambda x: any(x is v or x == v and v is not None for v in values)
    )


_LARGEST = 2**31 - 1  # What is more is a slip, and more than the libraries take.


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(words: str, fits: Callable[[float], bool]) -> Kind:
    return Kind(words, lambda x: _is_number(x) and abs(x) <= _LARGEST and fits(x))


def _whole(low: int, high: int = _LARGEST) -> Kind:
    limits = f"at least {low}" if high == _LARGEST else f"from {low} to {high}"
    return Kind(
        f"a whole number {limits}",
        lambda x: _is_number(x) and isinstance(x, int) and low <= x <= high,
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _are_texts(value: Any) -> bool:
    parts = value if isinstance(value, list | tuple) else [value]
    return bool(parts) and all(map(_is_text, parts))


def _are_lengths(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and "targets" in value
        and all(_COUNT.fits(length) for length in value.values())
    )


def _are_files(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(map(_is_text, value))
        and all(map(_are_texts, value.values()))
    )


_COUNT, _INDEX = _whole(1), _whole(0)
# Orbax and TensorFlow take these characters for patterns.
_PATTERN = {*"[*?"}
_NONE = Kind("None", lambda x: x is None)
# The kinds of macros.toml.
KINDS = {
    "above 0": _number("a number above 0", lambda x: x > 0),
    "at least 0": _number("a number at least 0", lambda x: x >= 0),
    "below 1": _number("a number from 0 to below 1", lambda x: 0 <= x < 1),
    "bool": _one_of(True, False),
    "count": _COUNT,
    "dtype": _one_of("float32", "bfloat16", "float16"),
    "files": Kind("files by split, as {'train': 'train.jsonl'}", _are_files),
    "folder": Kind(
        "a path (not empty, without [ * ?)",
        lambda x: _is_text(x) and not _PATTERN & {*x},
    ),
    "index": _INDEX,
    "inside 1": _number("a number above 0 and below 1", lambda x: 0 < x < 1),
    "lengths": Kind("{'inputs': LENGTH, 'targets': LENGTH}", _are_lengths),
    "method": Kind("as {'name': 'tnff'}", lambda x: isinstance(x, dict)),
    "name": Kind(
        "letters, digits, dots and underscores",
        lambda x: _is_text(x) and re.fullmatch(r"[\w.:]+", x) is not None,
    ),
    "normalizer": _number("a number above 0", lambda x: x > 0)
    | _one_of(
        "NUM_REAL_TARGET_TOKENS", "NUM_TOTAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE"
    ),
    "object": Kind(
        "a reference, as @module.function()", lambda x: isinstance(x, Reference)
    ),
    "path": Kind("a path", _is_text),
    "paths": Kind("a path", _are_texts),
    "seed": _whole(0, 2**32 - 1),
    "share": _number("a number from 0 to 1", lambda x: 0 <= x <= 1),
    "step": _one_of("best", "latest") | _INDEX,
    "task": Kind("a task's name, or a reference to what registers it", _is_text),
    "text": Kind("a text", _is_text),
    "word end": _one_of("piece", "next"),
}


def _table() -> dict[str, Macro]:
    """Reads macros.toml."""
    found = {}
    path = pathlib.Path(__file__).with_suffix(".toml")
    for scripts, rows in tomllib.loads(path.read_text("utf-8")).items():
        for name, (kind, meaning) in rows.items():
            known = KINDS[kind.removesuffix("?")]
            if kind.endswith("?"):
                known |= _NONE
            found[name] = Macro(scripts.split("-"), known, meaning)
    return found


MACROS = _table()

# Arguments that gin files also bind without a macro.
_ARGUMENTS = {
    "METHOD.alpha": "ALPHA",
    "METHOD.epsilon": "EPSILON",
    "METHOD.frozen_dropout": "FROZEN_DROPOUT",
    "infer.shard_id": "SHARD_ID",
    "infer.num_shards": "NUM_SHARDS",
    "infer.checkpoint_period": "CHUNK_BATCHES",
    "DatasetConfig.batch_size": "BATCH_SIZE",
}


def describe(script: str) -> str:
    """Returns the macros of a script (a key of `scripts.SCRIPTS`), for its `--help`."""
    lines = []
    for name, macro in MACROS.items():
        if script.replace("cache", "train") in macro.scripts:
            text = f"{name}: {macro.kind.words}; {macro.meaning}"
            lines += textwrap.wrap(
                text, 84, initial_indent="  ", subsequent_indent="      "
            )
    return "\n".join(lines)


def check(bindings: Sequence[Binding], ours: str, others: Sequence[str] = ()) -> None:
    """Checks macros, and the arguments that gin files give them to.

    Args:
      bindings: what gin files and the command line say, as `gin_files.read` has it.
      ours: the folder of our gin files.
      others: folders of the engine's.

    Raises:
      UserError: a macro is unset, misspelt, refers to itself, is out of its range or
        does not fit to another.
    """
    ours = os.path.join(ours, "")
    last = {binding.name: binding for binding in bindings}
    read = set(_macros_of([binding.value for binding in last.values()]))
    for name in sorted(read):
        if name not in last or last[name].value == REQUIRED:
            raise gin_errors.unset_macro(name, _place_of(name, last, ours))
        _check_circle(last, (name,))
    for binding in last.values():
        if not binding.file.startswith((ours, *others)):
            _check_name(binding, read)
    ours_too = any(binding.file.startswith(ours) for binding in bindings)
    values = _check_ranges(bindings, last, ours_too)
    for conflict in _conflicts(values, last, ours_too):
        raise UserError(conflict)


def _macros_of(value: Any) -> Iterator[str]:
    """Yields the macros that a value reads; gin's constants have dots."""
    for reference in references(value):
        if reference.macro and "." not in reference.macro:
            yield reference.macro


def _place_of(name: str, last: Mapping[str, Binding], ours: str) -> str:
    """Returns where a file of a user's, or the command line, reads a macro; or ""."""
    for binding in last.values():
        if not binding.file.startswith(ours) and name in _macros_of(binding.value):
            return f"{binding.place}: "
    return ""


def _check_circle(last: Mapping[str, Binding], path: tuple[str, ...]) -> None:
    for name in _macros_of(last[path[-1]].value if path[-1] in last else None):
        if name in path:
            circle = " → ".join((*path[path.index(name) :], name))
            raise UserError(f"{last[name].place}: macros refer to each other: {circle}")
        _check_circle(last, (*path, name))


def _check_name(binding: Binding, read: set[str]) -> None:
    """Looks for macros that no gin file reads: misspelt names."""
    name, typed = binding.name, not binding.file
    plain = name.rpartition("/")[2]  # A macro of a scope is read with its scope.
    if not plain.isidentifier() or name in read or name in MACROS and not typed:
        return
    label = f"--gin.{name}" if typed else f"{binding.place}: {name}"
    known = sorted({*MACROS, *(read if typed else ())} - {name})
    near = difflib.get_close_matches(plain.upper(), known, n=1, cutoff=0.75)
    words = {*plain.upper().split("_")}  # SEED for RANDOM_SEED.
    near += [other for other in known if words <= {*other.split("_")}]
    if name not in MACROS and (near or typed):
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{label}: no gin file has this macro{hint}")
    logging.warning("%s changes nothing: no gin file reads it", label)


def _resolved(value: Any, last: Mapping[str, Binding]) -> Any:
    """Returns a value with the values of macros in place of their names."""
    if isinstance(value, Reference) and value.macro in last:
        return _resolved(last[value.macro].value, last)
    if isinstance(value, dict):
        return {key: _resolved(part, last) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(part, last) for part in value]
    return value


def _check_ranges(
    bindings: Sequence[Binding], last: Mapping[str, Binding], ours_too: bool
) -> dict[str, Any]:
    """Checks each value by itself; returns those of macros."""
    fed = dict(_ARGUMENTS)  # Argument -> the macro that a gin file gives it.
    for name, value, *_ in bindings:
        if isinstance(value, Reference) and value.macro in MACROS:
            fed[name.rpartition("/")[2]] = value.macro
    values: dict[str, Any] = {}
    for binding in last.values():
        for name, written in _parts(binding):
            macro = name if name in MACROS else fed.get(name, "")
            value = _resolved(written, last)
            if macro not in MACROS or value is None and not ours_too:
                continue  # T5X's gin files have None for more than ours.
            if macro in last and written == Reference(f"%{macro}"):
                continue  # It is looked at where it is set.
            kind = MACROS[macro].kind
            # What a reference gives is not known yet.
            if not any(references(value)) and not kind.fits(value):
                raise UserError(
                    f"{binding.place}: {name} must be {kind.words}, not "
                    f"{'so large: ' * (_is_number(value) and value > _LARGEST)}"
                    f"{shorten(value)} ({MACROS[macro].meaning})"
                )
            if name == macro or macro not in last:
                values[macro] = value
    return values


def _parts(binding: Binding) -> Iterator[tuple[str, Any]]:
    """Yields a binding's value and, of a dict, each value, by names without scopes."""
    name = binding.name.rpartition("/")[2]
    yield name, binding.value
    if isinstance(binding.value, dict):
        for key, value in binding.value.items():
            yield f"{name}.{key}", value


def _conflicts(
    values: Mapping[str, Any], last: Mapping[str, Binding], ours_too: bool
) -> Iterator[str]:
    """Yields what is wrong with macros together."""
    numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
    get = numbers.get
    batch, parts = get("BATCH_SIZE"), get("NUM_MICROBATCHES")
    if batch and parts and batch % parts:
        yield f"NUM_MICROBATCHES = {parts} does not divide BATCH_SIZE = {batch}"
    shard, shards = get("SHARD_ID"), get("NUM_SHARDS")
    if shard is not None and shards is not None and shard >= shards:
        yield f"SHARD_ID must be below NUM_SHARDS = {shards}, not {shard}"
    if get("TOP_K") and get("TOP_P"):
        yield "set one of TOP_K and TOP_P, not both"
    save, evaluate = get("SAVE_PERIOD"), get("EVAL_PERIOD")
    if save and evaluate and max(save, evaluate) % min(save, evaluate):
        yield (
            f"one of EVAL_PERIOD = {evaluate} and SAVE_PERIOD = {save} must be a "
            "multiple of the other"
        )
    for what in ("WORDS", "TOXICITY"):
        if get(f"MIN_{what}", 0) > get(f"MAX_{what}", math.inf):
            yield f"MIN_{what} is above MAX_{what}"
    if values.get("METHOD") and get("LABEL_SMOOTHING"):
        yield "LABEL_SMOOTHING must be 0.0 with a METHOD"
    model = last.get("MODEL")
    if model and "%UPDATED_MODEL" in str(model.value) and not values.get("METHOD"):
        yield "METHOD is not set: after the models/ file name one of methods/"
    lengths = values.get("TASK_FEATURE_LENGTHS")
    if ours_too and isinstance(lengths, dict) and "inputs" not in lengths:
        yield f"TASK_FEATURE_LENGTHS must be {KINDS['lengths'].words}, not {lengths}"
    trainer = last.get("train.trainer_cls")
    if trainer and values.get("TARGETS_KEY", "") is None:
        yield "TARGETS_KEY is None: training needs targets, generation alone does not"
    frozen = last.get("SelfDistillationTrainer.frozen_checkpoint")
    if trainer and frozen and "SelfDistillationTrainer" in str(trainer.value):
        if _resolved(frozen.value, last) is None:
            yield (
                "an update starts from the fine-tuned model: set "
                "INITIAL_CHECKPOINT_PATH to its checkpoint"
            )
    if values.get("FORBID"):
        from t5patches.annotate import phrases

        phrases.read_phrases(values["FORBID"])
    path, size = values.get("VOCABULARY_PATH"), get("VOCABULARY_SIZE")
    if isinstance(path, str) and "by_pieces" in str(values.get("VOCABULARY")):
        extra = last.get("SentencePieceVocabulary.extra_ids")
        pieces = _pieces(path)
        if pieces and extra and isinstance(extra.value, int):
            pieces += extra.value
        if pieces and size is not None and size < pieces:
            yield f"VOCABULARY_SIZE = {size} is below the {pieces} pieces of {path}"


def _pieces(path: str) -> int | None:
    """Returns the size of a SentencePiece model; None if it is a remote one."""
    import sentencepiece

    if "://" in path:
        return None
    if not os.path.isfile(path):
        raise UserError(f"VOCABULARY_PATH: there is no file {path!r}")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=path).GetPieceSize()
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"VOCABULARY_PATH: {path} is not a SentencePiece model"
        ) from error
