"""What a script is given, checked before anything is loaded or compiled."""

from __future__ import annotations

import ast
import difflib
import importlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from absl import logging

from t5patches.checkpoints import finding
from t5patches.errors import UserError


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
    steps, total = finding.steps(arguments["model_dir"]), arguments["total_steps"]
    if steps and not arguments.get("relative_steps") and steps[-1] > total:
        raise UserError(
            f"{arguments['model_dir']} is at step {steps[-1]} and training ends at "
            f"{total}: train for more steps, or give another MODEL_DIR"
        )


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
