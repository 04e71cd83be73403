"""Annotated predictions as TFRecords: a source, and what is wrong with them or lost."""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from etils import epath
from google.protobuf.message import DecodeError

from t5patches.errors import UserError

from .sources import Files, split_files

_FEATURES = ("inputs", "targets", "target_annotations")
_COUNTS = (
    "examples",
    "examples_with_unwanted",
    "unwanted_tokens",
    "truncated_inputs",
    "truncated_targets",
    "dropped_unwanted_tokens",
    "examples_without_unwanted_left",
)
# Further features of ids, and how many of them each target has; None is any number.
More = Mapping[str, int | None]
_Ragged = Mapping[str, tf.RaggedTensor]


class Source(seqio.TFExampleDataSource):
    """Annotated TFRecords (`records.training_features`), looked for when needed."""

    def __init__(self, files: Files, more: Sequence[str] = ()):
        """Takes files by split, as `shards.expand` does.

        Args:
          files: by split.
          more: features to read beside the usual three, empty where a record has none.
        """
        feature = tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)
        description = dict.fromkeys([*_FEATURES, *more], feature)
        super().__init__(files, feature_description=description)
        self._files = files

    def list_shards(self, split: str) -> list[str]:
        return split_files(self._files, split, ".tfrecord")


def check(
    files: Files,
    split: str,
    lengths: Mapping[str, int],
    vocabulary_size: int,
    more: More | None = None,
) -> dict[str, int]:
    """Checks the TFRecords of a split and counts what `lengths` would cut off.

    Args:
      files: TFRecord files by split.
      split: which.
      lengths: limits of `inputs` and `targets`; a missing one cuts nothing.
      vocabulary_size: ids must be below it.
      more: further features, which a record may have, see `More`.

    Returns:
      Counts: `examples`, `examples_with_unwanted`, `unwanted_tokens`,
      `truncated_inputs`, `truncated_targets` (examples), `dropped_unwanted_tokens`, and
      `examples_without_unwanted_left`, those which had an unwanted token and lose every
      one.

    Raises:
      UserError: naming the file and the record.
    """
    counts = collections.Counter(dict.fromkeys(_COUNTS, 0))
    settings = (tuple(lengths.items()), vocabulary_size, tuple((more or {}).items()))
    for path in split_files(files, split, ".tfrecord"):
        stat = epath.Path(path).stat()
        counts.update(_check_file(path, (stat.length, stat.mtime), *settings))
    return dict(counts)


@functools.lru_cache(maxsize=4096)
def _check_file(
    path: str,
    state: tuple[float, float],
    lengths: tuple[tuple[str, int], ...],
    vocabulary_size: int,
    more: tuple[tuple[str, int | None], ...],
) -> Mapping[str, int]:
    """Checks and counts a file; reads it anew only if its `state` is another."""
    del state
    counts: collections.Counter[str] = collections.Counter()
    feature = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
    features = dict.fromkeys([*_FEATURES, *dict(more)], feature)
    first = 0
    try:
        for batch in tf.data.TFRecordDataset(path).batch(1024):
            ragged = _parse(batch, features, path, first)
            _check_there(batch, ragged, path, first)
            _check_sizes(ragged, path, first, dict(more))
            _check_values(ragged, path, first, vocabulary_size)
            counts.update(_count_batch(ragged, dict(lengths)))
            first += len(batch)
    except tf.errors.OpError as error:
        raise UserError(
            f"{path}: not a readable TFRecord of annotated predictions: after "
            f"{_readable(path)} records, {_plain(error)}; make it or copy it again"
        ) from error
    return counts


def _readable(path: str) -> int:
    """Returns how many records stand before what cannot be read."""
    count = 0
    try:
        for _ in tf.data.TFRecordDataset(path):
            count += 1
    except tf.errors.OpError:
        pass
    return count


def _plain(error: tf.errors.OpError) -> str:
    """Returns TensorFlow's message without the names of its own operations."""
    text = (error.message or type(error).__name__).splitlines()[0]
    return re.sub(r"\{\{.*?\}\}|' failed with .*|\[Op:.*", "", text).strip()


def _parse(
    batch: tf.Tensor, features: Mapping[str, Any], path: str, first: int
) -> _Ragged:
    try:
        return tf.io.parse_example(batch, features)
    # The message has the record's own bytes in it, which may be no text.
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        raise _wrong_record(batch, list(features), path, first) from error


def _wrong_record(
    batch: tf.Tensor, names: Sequence[str], path: str, first: int
) -> UserError:
    for number, raw in enumerate(batch.numpy(), first):
        try:
            found = tf.train.Example.FromString(raw).features.feature
        except DecodeError:
            return UserError(
                f"{path}: record {number} is not a readable TFRecord example; give "
                "what `t5patches annotate` wrote"
            )
        for name in names:
            kind = found[name].WhichOneof("kind") if name in found else None
            if kind not in (None, "int64_list"):
                return UserError(
                    f"{path}: record {number}, feature {name!r}, is a {kind}; it must "
                    "be whole numbers (int64_list)"
                )
    last = first + len(batch) - 1
    return UserError(f"{path}: one of the records {first} to {last} is not readable")


def _check_there(batch: tf.Tensor, ragged: _Ragged, path: str, first: int) -> None:
    for name in _FEATURES:
        # An empty feature looks like one that is missing.
        for row in np.flatnonzero(ragged[name].row_lengths().numpy() == 0):
            example = tf.train.Example.FromString(batch[row].numpy())
            if name not in example.features.feature:
                raise UserError(
                    f"{path}: record {first + row} is without feature {name!r}; "
                    "`t5patches annotate` writes records with inputs, targets and "
                    "target_annotations"
                )


def _check_sizes(ragged: _Ragged, path: str, first: int, more: More) -> None:
    sizes = {name: value.row_lengths().numpy() for name, value in ragged.items()}
    for name, count in {"target_annotations": 1, **more}.items():
        if count is None:
            continue
        wrong = sizes[name] != count * sizes["targets"]
        if name in more:
            wrong &= sizes[name] > 0
        for row in np.flatnonzero(wrong):
            raise UserError(
                f"{path}: record {first + row} has {sizes['targets'][row]} targets and "
                f"{sizes[name][row]} {name}; there must be {count} per target"
            )


def _check_values(ragged: _Ragged, path: str, first: int, vocabulary_size: int) -> None:
    for name, feature in ragged.items():
        limit = 2 if name == "target_annotations" else vocabulary_size
        values = feature.values.numpy()
        outside = np.flatnonzero((values < 0) | (values >= limit))
        if outside.size:
            row = feature.value_rowids().numpy()[outside[0]]
            raise UserError(
                f"{path}: record {first + row}, feature {name!r}, has "
                f"{values[outside[0]]}, which is not in [0, {limit}); "
                "give the vocabulary that the records were made with"
            )


def _count_batch(ragged: _Ragged, lengths: Mapping[str, int]) -> dict[str, int]:
    inputs = ragged["inputs"].row_lengths().numpy()
    targets = ragged["targets"].row_lengths().numpy()
    marks = ragged["target_annotations"]
    before = tf.reduce_sum(marks, axis=1).numpy()
    kept = before
    if "targets" in lengths:
        kept = tf.reduce_sum(marks[:, : lengths["targets"]], axis=1).numpy()
    counts = (
        inputs.size,
        (before > 0).sum(),
        before.sum(),
        (inputs > lengths.get("inputs", inputs)).sum(),
        (targets > lengths.get("targets", targets)).sum(),
        (before - kept).sum(),
        ((before > 0) & (kept == 0)).sum(),
    )
    return dict(zip(_COUNTS, map(int, counts), strict=True))
