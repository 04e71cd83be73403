"""What a script is given, checked before anything is loaded or compiled."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Mapping
from typing import Any

from absl import logging
from etils import epath

from t5patches import frozen, trainer
from t5patches.annotate import custom
from t5patches.checkpoints import contents, finding, integrity
from t5patches.errors import UserError
from t5patches.interchange import vocabularies


def check_devices(partitions: Any) -> None:
    """Raises a UserError if the devices cannot be split into so many partitions.

    Or if the hosts of a TPU have not been introduced: Orbax and SIGTERM need that.
    """
    import jax

    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise UserError(
            f"these are {jax.process_count()} processes: give --multiprocess_gpu to "
            "each of them (T5X's name for JAX's distributed system, on TPUs too)"
        )
    if isinstance(partitions, int) and jax.device_count() % partitions:
        raise UserError(
            f"NUM_PARTITIONS = {partitions}: the {jax.device_count()} devices that JAX "
            "finds cannot be split into so many equal parts"
        )


def check(script: str, arguments: dict[str, Any]) -> None:
    """Checks a script's tasks, model and checkpoint.

    It replaces `train_state_initializer_cls`: only when the engine has made it are the
    model's shapes known, and nothing has been restored yet.

    Args:
      script: 'train', 'infer' or 'eval'.
      arguments: of its function.

    Raises:
      UserError: what is wrong, before anything is loaded.
    """
    for name in ("train_dataset_cfg", "dataset_cfg"):
        if cfg := arguments.get(name):
            _import_module(cfg.module)
            _check_task(cfg.mixture_or_task_name, cfg.split, cfg.use_cached)
            _check_lengths(cfg)
            _check_model(arguments, cfg)
    if cfg := arguments.get("train_eval_dataset_cfg"):  # T5X would leave it out.
        hint = "; without a validation: --gin.train.train_eval_dataset_cfg=None"
        _check_task(cfg.mixture_or_task_name, cfg.split, hint=hint)
    if cfg := arguments.get("infer_eval_dataset_cfg"):
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
    if own and trainer.takes_frozen_params(model):
        record = frozen.read_record(epath.Path(arguments["model_dir"])) or {}
        if restore and restore.path and restore.path == record.get("checkpoint"):
            contents.check_whole(restore.path)  # The frozen model's.
    if own:
        step, total = finding.step_of(own), arguments["total_steps"]
        if step > total and not arguments.get("relative_steps"):
            raise UserError(
                f"{arguments['model_dir']} is at step {step} and training ends at "
                f"{total}: train for more steps, or give another MODEL_DIR"
            )
    elif getattr(restore, "state_transformation_fns", ()):
        return  # The checkpoint's names are not the model's.
    elif script == "train":
        match = finding.STEP.fullmatch(os.path.basename(path))
        total = arguments["total_steps"]
        if match and int(match[1]) >= total and not arguments.get("relative_steps"):
            raise UserError(
                f"{path} is at step {match[1]} and training ends at {total}: "
                "TRAIN_STEPS counts the initial checkpoint's, TRAIN_STEPS_RELATIVE not"
            )
    initializer_cls = arguments["train_state_initializer_cls"]

    def initializer(*args, **kwargs):
        made = initializer_cls(*args, **kwargs)
        contents.check_architecture(path, made.global_train_state_shape.params)
        return made

    arguments["train_state_initializer_cls"] = initializer


def restore_config(arguments: Mapping[str, Any]) -> Any:
    """Returns the T5X `RestoreCheckpointConfig` in a script's arguments, or None."""
    if "checkpoint_cfg" in arguments:
        return arguments["checkpoint_cfg"] and arguments["checkpoint_cfg"].restore
    return arguments["restore_checkpoint_cfg"]


def is_update(arguments: Mapping[str, Any]) -> bool:
    """Says whether a script's arguments are those of an update, by whatever method."""
    found = arguments.get("trainer_cls")
    return inspect.isclass(found) and issubclass(found, trainer.SelfDistillationTrainer)


def _latest(folder: str) -> str | None:
    steps = finding.steps(folder)
    return os.path.join(folder, f"checkpoint_{steps[-1]}") if steps else None


def _given_checkpoint(script: str, cfg: Any) -> str | None:
    """Returns the checkpoint that a `RestoreCheckpointConfig` has restored, if any."""
    if cfg is None or not cfg.path:
        if script != "train":
            raise UserError("CHECKPOINT_PATH is not set: it names the checkpoint")
        return None
    if script == "infer" and not isinstance(cfg.path, str):
        raise UserError(f"CHECKPOINT_PATH must be one checkpoint, not {cfg.path}")
    if cfg.mode == "specific" or script == "infer":
        return cfg.path
    folders = [cfg.path] if isinstance(cfg.path, str) else cfg.path
    for folder in folders:
        if not os.path.isdir(folder) and "://" not in folder:
            raise UserError(f"there is no folder {folder} to restore a checkpoint from")
    return _latest(folders[0])


def _import_module(name: str | None) -> None:
    """Imports a task's module (MIXTURE_OR_TASK_MODULE), or says that it is missing."""
    hint = "it is looked for where Python looks for modules and in the current folder"
    try:
        if name:
            custom.imported(name, hint)
    except UserError as error:
        raise UserError(f"MIXTURE_OR_TASK_MODULE: {error}") from error


def _check_lengths(cfg: Any) -> None:
    """Raises a UserError if features have lengths that the task does not have."""
    import seqio

    provider = seqio.maybe_get_mixture_or_task(cfg.mixture_or_task_name)
    if more := sorted(cfg.task_feature_lengths.keys() - provider.output_features):
        raise UserError(
            f"TASK_FEATURE_LENGTHS: {provider.name} has no {', '.join(more)}; it has "
            f"{', '.join(provider.output_features)}"
        )


def _check_task(
    name: Any, split: str | None = None, cached: bool = False, hint: str = ""
) -> None:
    """Checks that a task or mixture is there: a registered name, or the task itself."""
    import seqio

    known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    if isinstance(name, str) and name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise UserError(
            f"no task or mixture is registered as {name!r}{meant}. Import "
            "the module that registers it in the gin file"
        )
    provider = seqio.maybe_get_mixture_or_task(name)
    try:
        for task in seqio.get_subtasks(provider) if cached else ():
            task.assert_cached()
    except AssertionError as error:
        raise UserError(f"USE_CACHED_TASKS: {error}") from error
    splits = getattr(provider, "splits", None)
    if split is not None and splits is not None and split not in splits:
        raise UserError(
            f"{getattr(provider, 'name', name)} has no split {split!r}; it has "
            f"{', '.join(map(repr, sorted(splits)))}{hint}"
        )


def _check_model(arguments: Mapping[str, Any], cfg: Any) -> None:
    """Checks that the model fits to its vocabulary, the devices and the task."""
    import seqio

    try:
        arguments["partitioner"].get_data_layout(cfg.batch_size)
    except ValueError as error:
        raise UserError(f"BATCH_SIZE: {error}") from error
    model = arguments["model"]
    rows = getattr(getattr(model.module, "config", None), "vocab_size", None)
    for name in ("input_vocabulary", "output_vocabulary"):
        ids = getattr(getattr(model, name, None), "vocab_size", None)
        if isinstance(rows, int) and isinstance(ids, int) and rows < ids:
            raise UserError(
                f"VOCABULARY_SIZE = {rows} is below the {ids} ids of the vocabulary"
            )
    task = seqio.get_mixture_or_task(cfg.mixture_or_task_name)
    converter = getattr(
        model.FEATURE_CONVERTER_CLS, "func", model.FEATURE_CONVERTER_CLS
    )
    read = getattr(converter, "TASK_FEATURES", ["target_annotations"])
    if (
        inspect.isclass(arguments.get("trainer_cls"))
        and "target_annotations" in task.output_features
        and "target_annotations" not in read
    ):
        text = (
            f"task {task.name} marks unwanted tokens, which the model takes as wanted"
        )
        if is_update(arguments):
            raise UserError(
                f"{text}: after the models/ file name one of methods/, such as "
                "--gin_file=methods/tnff.gin"
            )
        logging.warning("%s", text)
