"""What a training run depends on, on record in its folder: `settings.json`.

A run goes on from the checkpoints of its folder only with the settings that they were
trained with: gin's bindings, the data, the vocabulary, the initial checkpoint. What
leaves the numbers of a step as they are may change: how many steps there are, when one
is saved or evaluated, on how many devices, and where files lie, of which the contents
count. `--branch` goes on with other settings on purpose; those before it stay on record
as `settings.until_<step>.json`.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from t5patches.checkpoints import contents, finding, integrity
from t5patches.errors import UserError
from t5patches.interchange import claims, json_files, vocabularies
from t5patches.run import gin_config, patches, preflight

# What the numbers of a step do not depend on: macros of our gin files, and arguments.
_FREE = {
    *("MODEL_DIR", "train.model_dir", "get_dataset.model_dir"),
    *("TRAIN_STEPS", "train.total_steps", "train.relative_steps"),
    *("TRAIN_STEPS_RELATIVE", "total_steps.relative_steps"),
    *("EVAL_STEPS", "train.eval_steps", "EVAL_PERIOD", "train.eval_period"),
    *("SAVE_PERIOD", "SaveCheckpointConfig.period"),
    *("KEEP_CHECKPOINTS", "SaveCheckpointConfig.keep"),
    *("NUM_PARTITIONS", "PjitPartitioner.num_partitions"),
    *("train.stats_period", "train.summarize_config_fn", "train.concurrent_metrics"),
    # What lies there is on record by its contents.
    *("INITIAL_CHECKPOINT_PATH", "INITIAL_MODEL_DIR", "INITIAL_CHECKPOINT"),
    *("RestoreCheckpointConfig.path", "choose_checkpoint.path"),
    *("choose_checkpoint.which", "get_dataset.initial_checkpoint_path"),
    *("total_steps.initial_checkpoint_path", "first_step.initial_checkpoint_path"),
    *("SelfDistillationTrainer.frozen_checkpoint", "FROZEN_CHECKPOINT_PATH"),
    *gin_config.HOW_COMPUTED,
    "original.checkpoint",
    *("VOCABULARY_PATH", "SentencePieceVocabulary.sentencepiece_model_file"),
}
# Files of our tasks. The sources of other tasks may have no digest: then paths count.
_FILES = {"FILES", "XSUM_FILES", "COMMENTS_FILES", "SPANS_FILES"} | {
    f"{name}_task.files"
    for name in ("annotated", "text", "xsum", "civil_comments", "civil_comments_spans")
}
# In `settings.until_<step>.json`: what its last checkpoint is sealed with.
_RUN = "run"
# They draw dropout's masks in another order.
_MICROBATCHES = {
    "NUM_MICROBATCHES",
    "WatchedTrainer.num_microbatches",
    "SelfDistillationTrainer.num_microbatches",
}


def check_place(arguments: Mapping[str, Any]) -> None:
    """Raises a UserError if a run would write among the files that it starts from."""
    folder, initial = arguments["model_dir"], _initial(arguments)
    if not initial:
        return
    mine, theirs = (
        epath.Path(p if "://" in p else os.path.realpath(p)) for p in (folder, initial)
    )
    home = finding.model_folder(theirs)
    inner = os.fspath(mine.relative_to(home)) if mine.is_relative_to(home) else ""
    if re.match(rf"(\.|{finding.KEPT}|checkpoint_\d+)(/|$)", inner):
        raise UserError(
            f"MODEL_DIR {folder} is the folder of the initial checkpoint {initial}, or "
            "in it: the run would write over the model that it starts from; give "
            "another MODEL_DIR"
        )


def _initial(arguments: Mapping[str, Any]) -> str | None:
    restore = preflight.restore_config(arguments)
    return restore and restore.path


def check(
    arguments: Mapping[str, Any], bindings: Mapping[str, str], branch: bool
) -> Callable[[], None]:
    """Checks that the folder of a training run is its own, or still without results.

    Args:
      arguments: of T5X's `train`.
      bindings: gin's; see `gin_config.Config`.
      branch: whether to go on from its latest checkpoint with other settings.

    Returns:
      A function that puts the settings on record, when nothing is left to be refused.

    Raises:
      UserError: the folder has checkpoints of other settings (which are named).
    """
    folder = epath.Path(arguments["model_dir"])
    steps = finding.steps(folder) or finding.steps(folder / finding.KEPT)
    record, before = folder / claims.SETTINGS, {}
    if steps and record.is_file():
        before = json_files.read_record(
            record, {}, "put it back from a copy; without it the folder is taken as is"
        )
    settings = _settings(arguments, bindings, before)
    changes = claims.differences(before, settings) if before else ""
    if steps and not changes:
        known = {None, claims.fingerprint(before or settings)}
        until = folder.glob("settings.until_*.json")
        known |= {json_files.read_json(path).get(_RUN) for path in until}
        if _run_of(steps, folder) not in known:
            changes = f"checkpoint_{steps[-1]} is of a run with others than on record"
    if changes and not branch:
        raise UserError(
            f"{folder}: trained with other settings ({changes}); give another "
            f"MODEL_DIR, or --branch to go on from checkpoint_{steps[-1]} with these"
        )
    start, chain = _initial(arguments), None
    if preflight.is_update(arguments) and (changes or not steps):
        start = os.fspath(folder / f"checkpoint_{steps[-1]}") if steps else start
        chain = patches.of_checkpoint(start)

    def write() -> None:
        import jax

        if jax.process_index() != 0:
            return
        if steps and not before:
            logging.warning(
                "%s has checkpoints, but no %s: they are taken for this run's",
                *(folder, claims.SETTINGS),
            )
        if changes:
            logging.warning("%s: a new branch (%s)", folder, changes)
            old = folder / f"settings.until_{steps[-1]}.json"
            json_files.write_json(old, {**before, _RUN: _run_of(steps, folder)})
        if changes or not before:
            json_files.write_json(record, settings)
        if chain:
            files = _value(bindings.get("FILES", "None"))
            if isinstance(files, dict):
                files = jax.tree.map(lambda path: str(finding.absolute(path)), files)
            patches.write(folder, chain, start, arguments, settings, files)

    return write


def _run_of(steps: Sequence[int], folder: epath.Path) -> str | None:
    """Returns which run saved the latest checkpoint of a folder, as far as it says."""
    return integrity.run_of(folder / f"checkpoint_{steps[-1]}")


def _settings(
    arguments: Mapping[str, Any], bindings: Mapping[str, str], before: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what the run depends on, by the names that messages have for it."""
    found: dict[str, Any] = {"step": "train"}
    free, read = set(_FREE), set(re.findall(r"%(\w+)", " ".join(bindings.values())))
    digests = {
        what: dict(_digests(arguments[f"{cfg}_dataset_cfg"]))
        for what, cfg in (("training data", "train"), ("validation data", "train_eval"))
        if arguments[f"{cfg}_dataset_cfg"]
    }
    if all(all(of_tasks.values()) for of_tasks in digests.values()):
        free |= _FILES
    if _value(bindings.get("DROPOUT_RATE", "")) == 0:
        free |= _MICROBATCHES
    for name, text in bindings.items():
        used = "." in name or name in read
        if used and gin_config.argument(name) not in free:
            found[name] = _value(text)
    found |= digests
    found["vocabulary"] = vocabularies.of_model(arguments["model"])
    initial = _initial(arguments)
    if initial and epath.Path(initial).exists():
        found["initial checkpoint"] = contents.content(initial)
    elif "initial checkpoint" in before:  # It is gone; a run that goes on needs it not.
        found["initial checkpoint"] = before["initial checkpoint"]
    return found


def _value(text: str) -> Any:
    """Returns what gin writes so: 1 and 1.0 are the same."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):  # A reference to something else.
        return text


def _digests(cfg: Any) -> Iterator[tuple[str, str | None]]:
    """Yields the name of each task of a data set, and the digest of its files.

    A cached task has none: its files may be gone.
    """
    import seqio

    provider = seqio.maybe_get_mixture_or_task(cfg.mixture_or_task_name)
    for task in seqio.get_subtasks(provider):
        if cfg.split in task.splits:
            source, digest = task.source, None
            if cfg.use_cached:
                pass
            elif isinstance(source, seqio.FileDataSource):
                digest = claims.file_digest(source.list_shards(cfg.split))
            elif hasattr(source, "digest"):
                digest = source.digest(cfg.split)
            yield task.name, digest
