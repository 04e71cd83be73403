"""What a script is given, checked before anything is loaded or compiled."""

from __future__ import annotations

import ast
import difflib
import importlib
import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from absl import logging

from t5patches.checkpoints import contents, finding, integrity
from t5patches.errors import UserError
from t5patches.interchange import vocabularies


def check_macros(typed: Iterable[str], bindings: Mapping[str, str]) -> None:
    """Looks for macros of the command line that no gin file reads: a misspelt name.

    Args:
      typed: bindings of the command line, `NAME = value`.
      bindings: all of gin's; see `gin_config.Config`.

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


def check(script: str, arguments: dict[str, Any], bindings: Mapping[str, str]) -> None:
    """Checks a script's numbers, tasks and checkpoint.

    It replaces `train_state_initializer_cls`: only when the engine has made it are the
    model's shapes known, and nothing has been restored yet.

    Args:
      script: 'train', 'infer' or 'eval'.
      arguments: of its function.
      bindings: gin's; macros of runs/generate.gin say how to sample.

    Raises:
      UserError: what is wrong, before anything is loaded.
    """
    if script == "infer":
        check_numbers(arguments, bindings)
    for name in ("train_dataset_cfg", "dataset_cfg"):
        if cfg := arguments.get(name):
            _import_module(cfg.module)
            _check_task(cfg.mixture_or_task_name, cfg.split)
    for name in ("train_eval_dataset_cfg", "infer_eval_dataset_cfg"):
        if cfg := arguments.get(name):
            _check_task(cfg.mixture_or_task_name)
    model = arguments["model"]
    for vocabulary in (model.input_vocabulary, model.output_vocabulary):
        vocabularies.check_special_ids(vocabulary)
    own = _latest(arguments["model_dir"]) if script == "train" else None
    restore = restore_config(arguments)
    path = own or _given_checkpoint(script, restore)
    if path is None:
        return
    contents.check_whole(path)
    integrity.check_vocabulary(path, vocabularies.of_model(model))
    if own:
        step, total = finding.step_of(own), arguments["total_steps"]
        if step > total and not arguments.get("relative_steps"):
            raise UserError(
                f"{arguments['model_dir']} is at step {step} and training ends at "
                f"{total}: train for more steps, or give another MODEL_DIR"
            )
    elif restore.state_transformation_fns:
        return  # The checkpoint's names are not the model's.
    initializer_cls = arguments["train_state_initializer_cls"]

    def initializer(*args, **kwargs):
        made = initializer_cls(*args, **kwargs)
        contents.check_architecture(path, made.global_train_state_shape.params)
        return made

    arguments["train_state_initializer_cls"] = initializer


def check_numbers(arguments: Mapping[str, Any], bindings: Mapping[str, str]) -> None:
    """Raises a UserError if a number of an inference is out of its range."""
    macros = {name: _literal(text) for name, text in bindings.items()}
    shards = arguments["num_shards"]
    last_shard = shards - 1 if isinstance(shards, int) else math.inf
    any_number = int | float
    for name, value, kind, low, high in (
        ("NUM_SHARDS", shards, int, 1, math.inf),
        ("SHARD_ID", arguments["shard_id"], int, 0, last_shard),
        ("BATCH_SIZE", arguments["dataset_cfg"].batch_size, int, 1, math.inf),
        ("CHUNK_BATCHES", arguments["checkpoint_period"], int, 1, math.inf),
        ("TEMPERATURE", macros.get("TEMPERATURE"), any_number, 0, math.inf),
        ("TOP_K", macros.get("TOP_K"), int, 0, math.inf),
        ("TOP_P", macros.get("TOP_P"), any_number, 0, 1),
    ):
        fits = isinstance(value, kind) and low <= value <= high
        if value is not None and not fits:
            limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            number = "a whole number" if kind is int else "a number"
            raise UserError(f"{name} must be {number} {limits}, not {value!r}")
    if macros.get("TOP_K") and macros.get("TOP_P"):
        raise UserError("set one of TOP_K and TOP_P, not both")


def _literal(text: str) -> Any:
    """The value of a binding, None where it is another's (`%NAME`) or an object."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


def restore_config(arguments: Mapping[str, Any]) -> Any:
    """Returns the T5X `RestoreCheckpointConfig` in a script's arguments, or None."""
    if "checkpoint_cfg" in arguments:
        return arguments["checkpoint_cfg"] and arguments["checkpoint_cfg"].restore
    return arguments["restore_checkpoint_cfg"]


def _latest(folder: str) -> str | None:
    steps = finding.steps(folder)
    return os.path.join(folder, f"checkpoint_{steps[-1]}") if steps else None


def _given_checkpoint(script: str, cfg: Any) -> str | None:
    """Returns the checkpoint that a `RestoreCheckpointConfig` has restored, if any."""
    if cfg is None or not cfg.path:
        return None
    if cfg.mode == "specific" or script == "infer":
        return cfg.path
    folders = [cfg.path] if isinstance(cfg.path, str) else cfg.path
    for folder in folders:
        if not os.path.isdir(folder) and "://" not in folder:
            raise UserError(f"there is no folder {folder} to restore a checkpoint from")
    return _latest(folders[0])


def _import_module(name: str | None) -> None:
    """Imports a task's module (MIXTURE_OR_TASK_MODULE), or says that it is missing."""
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


def _check_task(name: Any, split: str | None = None) -> None:
    """Checks that a task or mixture is there: a registered name, or the task itself."""
    import seqio

    known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    if isinstance(name, str) and name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise UserError(
            f"no task or mixture is registered as {name!r}{hint}. Import "
            "the module that registers it in the gin file"
        )
    provider = seqio.maybe_get_mixture_or_task(name)
    splits = getattr(provider, "splits", None)
    if split is not None and splits is not None and split not in splits:
        raise UserError(
            f"{getattr(provider, 'name', name)} has no split {split!r}; it has "
            f"{', '.join(map(repr, sorted(splits)))}"
        )
