"""Annotated predictions as TFRecords: a source, and what is wrong with them or lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from t5patches.errors import UserError

from .sources import Files, split_files

_INT64S = {
    name: tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
    for name in ("inputs", "targets", "target_annotations")
}


def source(files: Files, more: Sequence[str] = ()) -> seqio.DataSource:
    """Returns a source of annotated TFRecords (`records.training_features`).

    Args:
      files: by split, as `records.expand` takes them.
      more: features to read beside the usual three, empty where a record has none.
    """
    description = {
        name: tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)
        for name in [*_INT64S, *more]
    }
    expanded = {split: split_files(files, split, ".tfrecord") for split in files}
    return seqio.TFExampleDataSource(expanded, feature_description=description)


def check(
    files: Files, split: str, lengths: Mapping[str, int], vocabulary_size: int
) -> dict[str, int]:
    """Checks the TFRecords of a split and counts what `lengths` would cut off.

    Args:
      files: TFRecord files by split.
      split: which.
      lengths: limits of `inputs` and `targets`; a missing one cuts nothing.
      vocabulary_size: ids must be below it.

    Returns:
      Counts: `examples`, `examples_with_unwanted`, `unwanted_tokens`,
      `truncated_inputs`, `truncated_targets` (examples), `dropped_unwanted_tokens`, and
      `examples_without_unwanted_left`, those which had an unwanted token and lose every
      one.

    Raises:
      UserError: naming the file and the record.
    """
    counts: dict[str, int] = dict.fromkeys(
        (
            "examples",
            "examples_with_unwanted",
            "unwanted_tokens",
            "truncated_inputs",
            "truncated_targets",
            "dropped_unwanted_tokens",
            "examples_without_unwanted_left",
        ),
        0,
    )
    for path in split_files(files, split, ".tfrecord"):
        first = 0
        try:
            for batch in tf.data.TFRecordDataset(path).batch(1024):
                ragged = tf.io.parse_example(batch, _INT64S)
                _check_batch(ragged, path, first, vocabulary_size)
                for key, value in _count_batch(ragged, lengths).items():
                    counts[key] += value
                first += len(batch)
        except tf.errors.OpError as error:
            raise UserError(
                f"{path}: not a readable TFRecord of annotated predictions "
                f"({error.message.splitlines()[0]})"
            ) from error
    return counts


def _check_batch(
    ragged: Mapping[str, tf.RaggedTensor], path: str, first: int, vocabulary_size: int
) -> None:
    sizes = {name: value.row_lengths().numpy() for name, value in ragged.items()}
    for name, size in sizes.items():
        if not size.any():
            raise UserError(
                f"{path}: records without feature {name!r}; `t5patches annotate` "
                "writes records with inputs, targets and target_annotations"
            )
    unequal = np.flatnonzero(sizes["targets"] != sizes["target_annotations"])
    if unequal.size:
        row = unequal[0]
        raise UserError(
            f"{path}: record {first + row} has {sizes['targets'][row]} targets and "
            f"{sizes['target_annotations'][row]} target_annotations; there must be "
            "one per target"
        )
    limits = {
        "inputs": vocabulary_size,
        "targets": vocabulary_size,
        "target_annotations": 2,
    }
    for name, limit in limits.items():
        values = ragged[name].values.numpy()
        outside = np.flatnonzero((values < 0) | (values >= limit))
        if outside.size:
            row = ragged[name].value_rowids().numpy()[outside[0]]
            raise UserError(
                f"{path}: record {first + row}, feature {name!r}, has "
                f"{values[outside[0]]}, which is not in [0, {limit}); "
                "give the vocabulary that the records were made with"
            )


def _count_batch(
    ragged: Mapping[str, tf.RaggedTensor], lengths: Mapping[str, int]
) -> dict[str, int]:
    inputs = ragged["inputs"].row_lengths().numpy()
    targets = ragged["targets"].row_lengths().numpy()
    marks = ragged["target_annotations"]
    before = tf.reduce_sum(marks, axis=1).numpy()
    kept = before
    if "targets" in lengths:
        kept = tf.reduce_sum(marks[:, : lengths["targets"]], axis=1).numpy()
    counts = {
        "examples": inputs.size,
        "examples_with_unwanted": (before > 0).sum(),
        "unwanted_tokens": before.sum(),
        "truncated_inputs": (inputs > lengths.get("inputs", inputs)).sum(),
        "truncated_targets": (targets > lengths.get("targets", targets)).sum(),
        "dropped_unwanted_tokens": (before - kept).sum(),
        "examples_without_unwanted_left": ((before > 0) & (kept == 0)).sum(),
    }
    return {key: int(value) for key, value in counts.items()}
