"""Finds what is wrong with a run, in words, before or as it goes wrong.

The engines raise whatever their libraries raise. Here the mistakes that users make
become a `UserError` that names the file and line, the task or the checkpoint. The
checks work on both engines and read no arrays.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import json
import os
import re
import tokenize
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from absl import logging
from etils import epath

from t5patches import _engine, records
from t5patches.errors import UserError

_STEP = re.compile(r"checkpoint_(\d+)")
_TEMPORARY = ".orbax-checkpoint-tmp"

BEST = "best.json"  # Names the checkpoint of the lowest validation loss.
KEPT = "best"  # The folder that keeps that checkpoint from being deleted.

# What gin appends to an error: where the call was bound, which can be long.
_GIN_CALL = re.compile(
    r"\n\s*In call to configurable '([^']+)' \(.*?\)(?: in scope '([^']*)')?"
)
_GIN_PLACE = re.compile(
    r'\n\s*In file "(?P<file>[^"]+)", line (?P<line>\d+)\n?(?P<text>.*)', re.S
)
_GIN_BINDINGS = re.compile(
    r"\n\s*In bindings string line (?P<line>\d+)\n?(?P<text>.*)", re.S
)


# ---- Gin ----


def parse_error(error: Exception) -> UserError | None:
    """What was wrong with the gin files or bindings whose parsing raised `error`.

    Returns:
        An error with the file and the line where gin knows them, or None if the
        fault is not in the configuration.
    """
    if isinstance(error, UserError):
        return UserError(_without_calls(error))
    if isinstance(error, SyntaxError):
        place = f"{error.filename or 'a binding'}, line {error.lineno}"
        text = (error.text or "").strip()
        return UserError(f"{place}: {error.msg}" + (f"\n  {text}" if text else ""))
    if isinstance(error, tokenize.TokenError):
        message, (line, _) = error.args
        return UserError(f"{_file_being_parsed(error)}, line {line}: {message}")
    kinds = (OSError, NameError, AttributeError, ValueError, ImportError, TypeError)
    if not isinstance(error, kinds):
        return None
    message = _without_calls(error)
    unbound = re.match(r"No bindings specified for '(.*)/gin\.macro'", message)
    if unbound:
        return _unset_macro(unbound[1])
    required = re.match(r"(\S+) set to `%gin.REQUIRED`", message)
    if required:
        return _unset_macro(required[1].removesuffix("/macro.value"))
    absent = re.search(
        r"selector (\S+?); <module 't5x_embedded\.(\w+)'.*?> has no attribute (\w+)\.",
        message,
    )
    if absent:
        reason = f"the embedded engine does not have {absent[2]}.{absent[3]}; T5X does"
        message = message[: absent.start()] + reason + message[absent.end() :]
        message = message.removeprefix("Couldn't resolve ")
    return UserError(_located(message))


def _unset_macro(name: str) -> UserError:
    return UserError(
        f"{name} is not set: add `{name} = …` to a gin file or --gin.{name}=… to the "
        "command"
    )


def _file_being_parsed(error: Exception) -> str:
    """Gin does not say in which file its tokenizer stumbled; its frames do."""
    found = "a gin file"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        found = frame.f_locals.get("config_file_with_prefix", found)
    return found


def _without_calls(error: Exception) -> str:
    return _GIN_CALL.sub("", str(error)).strip()


def _located(message: str) -> str:
    """Puts the place that gin appended in front, as compilers do."""
    for pattern in (_GIN_PLACE, _GIN_BINDINGS):
        found = pattern.search(message)
        if found is None:
            continue
        place = found.groupdict()
        before = message[: found.start()].strip().strip('"')
        where = "command line"
        if "file" in place:
            where = f"{place['file']}, line {place['line']}"
        text = (place["text"] or "").strip()
        return f"{where}: {before}" + (f"\n  {text}" if text else "")
    return message


def config_error(error: Exception) -> UserError | None:
    """What was wrong with a configuration that parsed, but could not be evaluated.

    Returns:
        An error, or None if the fault is not in the configuration.
    """
    if isinstance(error, UserError):
        return UserError(_without_calls(error))
    message = str(error)
    calls = _GIN_CALL.findall(message)
    if "not provided in config" in message or "No values supplied by Gin" in message:
        names = re.findall(r"\[([^\]]*)\]", message)
        configurable, scope = calls[0] if calls else ("", "")
        if configurable == "macro" or scope and names and "value" in names[0]:
            return _unset_macro(scope)
        missing = names[0].replace("'", "") if names else "an argument"
        at = f"{scope}/{configurable}" if scope else configurable
        where = f" of {at}" if at and at not in message.split("\n")[0] else ""
        return UserError(
            f"not set in the gin files: {missing}{where}\n  {message.splitlines()[0]}"
        )
    if calls and isinstance(error, OSError | ImportError):
        return UserError(_without_calls(error))
    return None


def macros(typed: Iterable[str], bindings: Mapping[str, str]) -> None:
    """Looks for macros of the command line that no gin file reads: a misspelt name.

    Args:
        typed: bindings of the command line, `NAME = value`.
        bindings: all of gin's; see `scripts`.

    Raises:
        UserError: another macro has nearly the same name.
    """
    read = set(re.findall(r"%([\w.]+)", " ".join(bindings.values())))
    for binding in typed:
        name = binding.partition("=")[0].strip()
        if not name.isidentifier() or name in read:
            continue
        near = difflib.get_close_matches(name, read, n=1, cutoff=0.75)
        if near:
            raise UserError(
                f"--gin.{name}: no gin file has this macro; did you mean {near[0]}?"
            )
        logging.warning("--gin.%s changes nothing: no gin file reads it", name)


# What TensorFlow raises where a file or a bucket cannot be read or written.
_STORAGE_ERRORS = (
    "FailedPreconditionError",
    "NotFoundError",
    "PermissionDeniedError",
    "UnauthenticatedError",
    "UnavailableError",
)


def storage_error(error: Exception, bindings: Mapping[str, str]) -> UserError | None:
    """What was wrong with a path that TensorFlow was to read, or None."""
    import tensorflow as tf

    if not isinstance(error, tf.errors.OpError):
        return None
    if type(error).__name__ not in _STORAGE_ERRORS:
        return None
    places = [f"{name} = {text}" for name, text in bindings.items() if "://" in text]
    where = f". Remote paths: {'; '.join(places)}" if places else ""
    return UserError(f"{error.message.splitlines()[0][:300]}{where}")


# ---- Arguments ----


def inference(arguments: Mapping[str, Any], bindings: Mapping[str, str]) -> None:
    """Raises a UserError if a number of an inference is out of its range.

    Args:
        arguments: of T5X's `infer`.
        bindings: gin's; macros of runs/generate.gin say how to sample.
    """
    shards = arguments["num_shards"]
    _in_range("NUM_SHARDS", shards, 1)
    _in_range("SHARD_ID", arguments["shard_id"], 0, shards - 1)
    _in_range("BATCH_SIZE", arguments["dataset_cfg"].batch_size, 1)
    _in_range("CHUNK_BATCHES", arguments["checkpoint_period"], 1)
    values = {name: _number(text) for name, text in bindings.items()}
    _in_range("TEMPERATURE", values.get("TEMPERATURE"), 0, kind=int | float)
    _in_range("TOP_K", values.get("TOP_K"), 0)
    _in_range("TOP_P", values.get("TOP_P"), 0, 1, kind=int | float)
    if values.get("TOP_K") and values.get("TOP_P"):
        raise UserError("set one of TOP_K and TOP_P, not both")


def _number(text: str) -> Any:
    """The value of a binding, None where it is another's (`%NAME`) or an object."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


def _in_range(name: str, value: Any, low, high=None, kind: Any = int) -> None:
    if value is None:
        return
    if not isinstance(value, kind) or value < low or high is not None and value > high:
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        number = "a whole number" if kind is int else "a number"
        raise UserError(f"{name} must be {number} {limits}, not {value!r}")


def total_steps(arguments: Mapping[str, Any]) -> None:
    """Raises a UserError if a model folder is past the step where training ends."""
    steps, total = checkpoint_steps(arguments["model_dir"]), arguments["total_steps"]
    if steps and not arguments.get("relative_steps") and steps[-1] > total:
        raise UserError(
            f"{arguments['model_dir']} is at step {steps[-1]} and training ends at "
            f"{total}: train for more steps, or give another MODEL_DIR"
        )


# ---- Tasks ----


def module(name: str | None) -> None:
    """Imports a task's module (MIXTURE_OR_TASK_MODULE).

    Raises:
        UserError: there is no such module.
    """
    if not name:
        return
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not error.name or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"MIXTURE_OR_TASK_MODULE: there is no module {name!r}; it is looked for "
            "where Python looks for modules and in the current folder"
        ) from error


def task(name: Any, split: str | None = None) -> None:
    """Raises a UserError unless a task or mixture, and its split, are there.

    Args:
        name: a registered name, or the task itself, which is not looked up.
        split: name of a split, or None.
    """
    import seqio

    known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    if isinstance(name, str) and name not in known:
        raise UserError(
            f"no task or mixture is registered as {name!r}{_near(name, known)}. Import "
            "the module that registers it in the gin file"
        )
    provider = seqio.get_mixture_or_task(name) if isinstance(name, str) else name
    splits = getattr(provider, "splits", None)
    if split is not None and splits is not None and split not in splits:
        raise UserError(
            f"{getattr(provider, 'name', name)} has no split {split!r}; it has "
            f"{', '.join(map(repr, sorted(splits)))}"
        )


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


# ---- Checkpoints ----


def absolute(path: epath.PathLike) -> epath.Path:
    """The path without the working folder's help, as orbax wants it; URLs stay."""
    text = os.fspath(path)
    return epath.Path(text if "://" in text else os.path.abspath(text))


def checkpoint_steps(folder: epath.PathLike) -> list[int]:
    """Steps of the complete checkpoints, `checkpoint_<step>`, of a folder, ascending.

    One that is being written has a suffix until it is complete; on gs://, where
    there is no renaming, it lacks orbax's commit marker.
    """
    folder = epath.Path(folder)
    if not folder.is_dir():
        return []
    found = {path: _STEP.fullmatch(path.name) for path in folder.iterdir()}
    return sorted(
        int(match[1]) for path, match in found.items() if match and _committed(path)
    )


def checkpoint_step(path: epath.PathLike) -> int:
    """The step of a checkpoint by its path, or the latest in a model folder.

    Raises:
        UserError: `path` is neither.
    """
    match = _STEP.fullmatch(epath.Path(path).name)
    if match:
        return int(match[1])
    steps = checkpoint_steps(path)
    if not steps:
        raise UserError(
            f"{path} is neither a checkpoint (…/checkpoint_<step>) nor a folder with"
            " checkpoints"
        )
    return steps[-1]


def choose_checkpoint(path: epath.PathLike | None, which: str | int = "best") -> str:
    """The path of one checkpoint of a model folder. Also for gin files.

    Args:
        path: the model folder; None, an unset macro, is refused.
        which: 'best' (the lowest validation loss, by `best.json`), 'latest', or a step.

    Raises:
        UserError: there is no such checkpoint; the message says which there are.
    """
    if path is None:
        raise UserError(
            f"to choose the {which!r} checkpoint, name the model folder (in our gin"
            " files: INITIAL_MODEL_DIR)"
        )
    folder = absolute(path)
    if _STEP.fullmatch(folder.name):
        raise UserError(
            f"{path} is one checkpoint already: to choose {which!r}, name its folder, "
            f"{folder.parent}"
        )
    steps, kept = checkpoint_steps(folder), checkpoint_steps(folder / KEPT)
    if not steps and not kept:
        missing = "has no checkpoints" if folder.is_dir() else "does not exist"
        raise UserError(f"the model folder {folder} {missing}")
    step = _step_of(which, folder, steps or kept)
    if step not in {*steps, *kept}:
        raise UserError(f"{folder} has no checkpoint_{step}{_there_is(folder)}")
    place = folder if step in steps else folder / KEPT
    return str(place / f"checkpoint_{step}")


def _step_of(which: str | int, folder: epath.Path, steps: list[int]) -> int:
    if which == "latest":
        return steps[-1]
    if str(which).isdecimal():
        return int(which)
    if which != "best":
        raise UserError(f"checkpoint {which!r}: expected 'best', 'latest' or a step")
    record = folder / BEST
    if not record.exists():
        raise UserError(
            f"{folder} has no {BEST}: a run writes it when it evaluates a step that it"
            f" saves. Choose 'latest' or a step{_there_is(folder)}"
        )
    try:
        return int(json.loads(record.read_text())["step"])
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f'{record} does not name the best checkpoint: expected {{"step": STEP, …}}'
        ) from None


def _committed(path: epath.Path) -> bool:
    on_gcs = str(path).startswith("gs://")
    return not on_gcs or _is_legacy(path) or (path / "commit_success.txt").exists()


def _is_legacy(path: epath.Path) -> bool:
    """Whether it is of T5X's older format, whose msgpack file is written last."""
    return (path / "checkpoint").exists()


def checkpoint(path: epath.PathLike) -> None:
    """Raises a UserError unless `path` is the folder of a complete checkpoint."""
    path = epath.Path(path)
    if epath.Path(f"{path}.index").exists():
        return  # TensorFlow's, which T5X reads.
    if not path.is_dir():
        siblings = path.parent.iterdir() if path.parent.is_dir() else ()
        if any(p.name.startswith(path.name + _TEMPORARY) for p in siblings):
            raise _half_written(path)
        raise UserError(f"there is no checkpoint {path}{_there_is(path.parent)}")
    if _TEMPORARY in path.name:
        raise _half_written(path)
    if _is_legacy(path) and _engine.name() == "t5x":
        return  # T5X knows more of its older formats.
    if not _STEP.fullmatch(path.name):
        raise UserError(
            f"{path} is not the folder of a checkpoint (checkpoint_<step>)"
            f"{_there_is(path)}"
        )
    state = path / "state"
    parts = [state / "_METADATA", state / "manifest.ocdbt"]
    whole = _is_legacy(path) or (state / "checkpoint").exists()
    whole = whole or all(part.exists() for part in parts)
    if not (whole and _committed(path)):
        raise _half_written(path)


def checkpoint_identity(path: epath.PathLike) -> str:
    """What tells a checkpoint from another, wherever its folder has been moved.

    Orbax writes when it was made; of other formats the path has to do.
    """
    record = epath.Path(path) / "_CHECKPOINT_METADATA"
    if not record.is_file():
        return os.fspath(path)
    return f"checkpoint_{checkpoint_step(path)}:{records.file_digest(record)}"


def _half_written(path) -> UserError:
    return UserError(
        f"checkpoint {path} was not written to its end, or lost files since"
        f"{_there_is(path.parent)}"
    )


def _there_is(folder: epath.Path) -> str:
    steps = checkpoint_steps(folder)
    if not steps:
        return "" if folder.is_dir() else f" (nor a folder {folder})"
    return f"; in {folder} there is {', '.join(f'checkpoint_{s}' for s in steps)}"


def stored_shapes(path: epath.PathLike) -> dict[str, tuple[int, ...]] | None:
    """Shapes of a checkpoint's arrays by '/'-separated names; None if only T5X knows.

    Raises:
        UserError: its description cannot be read.
    """
    import orbax.checkpoint as ocp
    from flax import traverse_util

    path = absolute(path)
    state = path / "state"
    if _is_legacy(path) and _engine.name() != "t5x":
        from t5x_embedded import checkpoints

        try:
            return {n: x.shape for n, x in checkpoints.stored_arrays(path).items()}
        except ValueError as error:
            raise UserError(str(error)) from error
    if not state.is_dir():
        return None
    try:
        tree = ocp.PyTreeCheckpointHandler().metadata(state).tree
    except Exception as error:  # orbax raises whatever its parsers raise.
        raise UserError(f"checkpoint {path} cannot be read: {error}") from error
    flat = traverse_util.flatten_dict(dict(tree), sep="/")
    shapes = {name: getattr(meta, "shape", None) for name, meta in flat.items()}
    return {name: tuple(s) for name, s in shapes.items() if s is not None}


def architecture(path: epath.PathLike, params: Mapping[str, Any]) -> None:
    """Raises a UserError unless a checkpoint's parameters fit a model's.

    Args:
        path: the folder of a complete checkpoint.
        params: the model's parameters, or their `jax.ShapeDtypeStruct`s.
    """
    import flax.core
    from flax import traverse_util

    shapes = stored_shapes(path)
    if shapes is None:
        return
    wanted = {
        name: tuple(array.shape)
        for name, array in traverse_util.flatten_dict(
            flax.core.unfreeze(params), sep="/"
        ).items()
    }
    prefix = "target/"
    stored = {k.removeprefix(prefix): v for k, v in shapes.items() if prefix in k[:7]}
    for name in [*wanted, *(n for n in stored if n not in wanted)]:
        mine, theirs = wanted.get(name), stored.get(name)
        if mine != theirs:
            raise UserError(
                f"checkpoint {path} is of another architecture: {name} is "
                f"{theirs or 'missing'} there and {mine or 'missing'} in the model"
            )
