"""Generations as prediction files: what T5X's inference calls to write and to merge.

`write_predictions` is a T5X `write_fn` and `merge_predictions` a `merge_fn`; the gin
file of a generation binds both. Ids are kept as generated: re-tokenising the decoded
text need not give them back, and annotations must sit on them. `claim_output` sees to
it that an inference goes on only where it is the same one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from t5patches.checkpoints import contents, finding
from t5patches.errors import UserError
from t5patches.interchange import claims, json_files, records, shards, vocabularies
from t5patches.run import gin_config

_OUTPUT_NAME = re.compile(r"^(?P<stem>.+)\.(?P<suffix>\w+)-(?P<shard>\d+-of-\d+)$")

# What the results do not depend on: arguments, and the macros that our gin files and
# T5X's bind them to.
_FREE = {
    "infer.shard_id": "SHARD_ID",
    "infer.num_shards": "NUM_SHARDS",
    "infer.output_dir": "INFER_OUTPUT_DIR",
    "infer.checkpoint_period": "CHUNK_BATCHES",
    "DatasetConfig.batch_size": "BATCH_SIZE",
    "RestoreCheckpointConfig.path": "CHECKPOINT_PATH",
    "both.original": "ORIGINAL_CHECKPOINT_PATH",
    "PjitPartitioner.num_partitions": "NUM_PARTITIONS",
    # What they forbid counts.
    "without.phrase_file": "FORBID",
    "without.word_end": "WORD_END",
}


def write_predictions(
    path: str,
    inferences: tuple[Sequence[Any], Mapping[str, Any]],
    task_ds: Iterable[Any],
    mode: str,
    vocabulary: Any = None,
) -> None:
    """Writes generations as predictions, one JSON line each (a T5X `write_fn`).

    Args:
      path: the file to write; it appears when it is whole.
      inferences: (ids int [examples, length], auxiliary values), in the order of
        `task_ds`.
      task_ds: the task's examples, a tf.data.Dataset. `inputs_pretokenized` is the
        input text (else `inputs` is decoded) and `id_pretokenized` or `id` the id
        (else `merge_predictions` numbers the lines).
      mode: 'predict' or 'predict_with_aux'.
      vocabulary: the vocabulary of the targets.

    Raises:
      UserError: another mode, or no vocabulary.
    """
    if mode not in ("predict", "predict_with_aux"):
        raise UserError(
            f"write_predictions writes generations; infer.mode is {mode!r}, "
            "set it to 'predict'"
        )
    if vocabulary is None:
        raise UserError("write_predictions needs the vocabulary of the targets")
    tokens, _ = inferences
    json_files.write_jsonl(path, _prediction_rows(tokens, task_ds, vocabulary))


def _prediction_rows(
    tokens: Sequence[Any], task_ds: Any, vocabulary: Any
) -> Iterator[shards.Row]:
    for ids, example in zip(tokens, task_ds.as_numpy_iterator(), strict=True):
        kept = _kept_ids(ids, vocabulary)
        row = {
            "inputs": _input_text(example, vocabulary),
            "prediction": vocabulary.decode(kept),
            "target_tokens": kept,
        }
        example_id = example.get("id_pretokenized", example.get("id"))
        if example_id is not None:
            row["id"] = _text(example_id)
        yield row


def _input_text(example: Mapping[str, Any], vocabulary: Any) -> str:
    if "inputs_pretokenized" in example:
        return _text(example["inputs_pretokenized"])
    return vocabulary.decode(_kept_ids(example["inputs"], vocabulary))


def _kept_ids(tokens: Any, vocabulary: Any) -> list[int]:
    return records.generated_ids(np.asarray(tokens).tolist(), vocabulary.eos_id)


def _text(value: Any) -> str:
    value = value.item() if isinstance(value, np.ndarray | np.generic) else value
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def output_name(inference_name: str) -> str:
    """Returns a shard's name with the suffix last.

    T5X calls it `task-predict.jsonl-00000-of-00001`; with its suffix last,
    `task-predict-00000-of-00001.jsonl`, it is a shard as the other steps know them.
    """
    match = _OUTPUT_NAME.match(inference_name)
    if not match:
        return inference_name
    return f"{match['stem']}-{match['shard']}.{match['suffix']}"


def merge_predictions(
    output_dir: str, output_fname: str, tmp_dir: str, step: int | None
) -> None:
    """Joins the chunks of an inference into one shard (a T5X `merge_fn`).

    Lines without an `id` get `<task>-<mode>:<shard>:<number of the line>`.

    Args:
      output_dir: folder of the result, named as `output_name` says.
      output_fname: T5X's name for the result.
      tmp_dir: folder with the chunks, `<output_fname>-chunk00000` and on.
      step: the model's training step, for the log.

    Raises:
      UserError: there is no chunk (the task's split is empty), or one is missing.
    """
    chunks = sorted(epath.Path(tmp_dir).glob(f"{output_fname}-chunk*[0-9]"))
    if not chunks:
        raise UserError(f"{tmp_dir}: nothing was generated; is the task's split empty?")
    for index, path in enumerate(chunks):
        if not path.name.endswith(f"-chunk{index:05d}"):
            raise UserError(
                f"{tmp_dir}: chunk {index} is missing; remove the folder and run again"
            )
    target = os.path.join(output_dir, output_name(output_fname))
    logging.info("Joining %d chunks into %s", len(chunks), target)
    count = json_files.write_jsonl(target, _with_ids(chunks, output_fname))
    logging.info("%d generations of step %s written to %s", count, step, target)


def _with_ids(chunks: Sequence[os.PathLike], output_fname: str) -> Iterator[shards.Row]:
    match = _OUTPUT_NAME.match(output_fname)
    prefix = f"{match['stem']}:{match['shard'][:5]}" if match else output_fname
    lines = (row for chunk in chunks for _, row in json_files.read_jsonl(chunk))
    for index, row in enumerate(lines):
        yield row if "id" in row else {**row, "id": f"{prefix}:{index}"}


# ---- Inferences that were stopped, or are asked for again ----


def check_place(folder: str) -> None:
    """Raises a UserError if results would lie in a model's folder or in a checkpoint.

    T5X writes a config.gin beside results, too.
    """
    place = epath.Path(os.path.realpath(folder) if "://" not in folder else folder)
    in_checkpoint = any(
        finding.STEP.fullmatch(path.name)
        and ((path / "_CHECKPOINT_METADATA").exists() or finding.is_legacy(path))
        for path in (place, *place.parents)
    )
    if in_checkpoint or (place / "config.gin").exists() and finding.steps(place):
        raise UserError(
            f"{folder} is a model's folder, or in a checkpoint: results would "
            "overwrite its files; give another output folder"
        )


def claim_output(arguments: Mapping[str, Any], bindings: Mapping[str, str]) -> None:
    """Checks before an inference that what its folder has already is of the same one.

    T5X's inference skips a shard that is complete, and chunks that are, by their names
    alone. What the results depend on is kept beside them as
    `<task>-<mode>.settings.json`: gin's bindings, the checkpoint, the data. Chunks of
    another batch size are made anew; so is a shard whose file has been removed.

    Args:
      arguments: of T5X's `infer`.
      bindings: gin's; see `gin_config.Config`.

    Raises:
      UserError: the folder has results of another inference, or nothing heeds FORBID.
    """
    import seqio

    cfg, folder = arguments["dataset_cfg"], epath.Path(arguments["output_dir"])
    index, count = arguments["shard_id"], arguments["num_shards"]
    decode_fn = getattr(arguments["model"], "decode_fn", None)
    forbidden = getattr(decode_fn, "forbidden", {})
    original = getattr(arguments["model"], "original_checkpoint", None)
    if bindings.get("FORBID", "None") != "None" and not forbidden:
        raise UserError(
            "FORBID is set, but the model decodes with another DECODE_FN than that of "
            "runs/generate.gin, which heeds it; bind forbidding.without.decode_fn to "
            "yours, and name the run file behind that of models/"
        )
    settings = {
        "checkpoint": contents.identity(arguments["restore_checkpoint_cfg"].path),
        "num_shards": count,
        **({"original checkpoint": contents.identity(original)} if original else {}),
        "vocabulary": vocabularies.of_model(arguments["model"]),
        **{name: text for name, text in bindings.items() if not _is_free(name)},
        **{f"forbidden {name}": value for name, value in forbidden.items()},
    }
    chunks = {"batch_size": cfg.batch_size, "batches": arguments["checkpoint_period"]}
    provider = seqio.maybe_get_mixture_or_task(cfg.mixture_or_task_name)
    for task in seqio.get_subtasks(provider):
        name = f"{task.name}-{arguments['mode']}"
        digest = getattr(task.source, "digest", None)
        # The files of a cached task may be gone.
        data = {} if digest is None or cfg.use_cached else {"data": digest(cfg.split)}
        record = f"{name}.settings.json"
        claims.claim(
            folder,
            settings | data,
            results=(f"{name}*-of-*", f"tmp-{task.name}-*/*-chunk*.COMPLETED"),
            name=record,
        )
        shard = f"{index:05d}-of-{count:05d}"
        if arguments["merge_chunked_results"]:
            _forget_removed(folder, f"{name}.{arguments['file_extension']}-{shard}")
        _claim_chunks(folder / f"tmp-{task.name}-{shard}", chunks)


def _claim_chunks(folder: epath.Path, settings: Mapping[str, int]) -> None:
    """Claims the folder of a shard's chunks; chunks that do not fit are removed."""
    chunks = ("*-chunk*",)
    try:
        claims.claim(folder, settings, results=chunks)
    except UserError:
        logging.info("%s: of another batch size, made anew", folder)
        folder.rmtree()
        claims.claim(folder, settings, results=chunks)


def _is_free(binding: str) -> bool:
    free = {*_FREE, *_FREE.values(), *gin_config.HOW_COMPUTED}
    return gin_config.argument(binding) in free


def _forget_removed(folder: epath.Path, inference_name: str) -> None:
    """Removes T5X's marker of a shard whose file is not there any more."""
    marker = folder / f"{inference_name}.COMPLETED"
    names = (inference_name, output_name(inference_name))
    if marker.exists() and not any((folder / name).exists() for name in names):
        logging.info("%s: removed, made anew", inference_name)
        marker.unlink()
