"""Data sources over a user's files: checked text in memory, TFRecords streamed."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from t5patches import records
from t5patches.errors import UserError

Files = Mapping[str, str | Sequence[str]]

# The csv module stops at fields of 128 KiB by default; documents can be longer.
csv.field_size_limit(2**24)

_INT64S = {
    name: tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
    for name in ("inputs", "targets", "target_annotations")
}


def split_files(files: Files, split: str, suffix: str) -> list[str]:
    """Returns the files of a split.

    Raises:
      UserError: there is no such split, or no such file.
    """
    if split not in files:
        raise UserError(
            f"no files for split {split!r}; the task has {', '.join(files) or 'none'}"
        )
    return records.expand(files[split], suffix)


class TextSource(seqio.DataSource):
    """Text pairs of JSON-lines or CSV files, checked when read and held in memory.

    Yields `inputs`, `targets` and `id_pretokenized`, scalar strings. The id has that
    name since features so named pass through T5X's inference to what writes the
    results. Shuffling is complete: every epoch is another order of the whole split,
    fixed by the seed.
    """

    def __init__(
        self, files: Files, inputs_key: str, targets_key: str | None, id_key: str
    ):
        super().__init__(
            splits=tuple(files),
            caching_permitted=False,
            performs_internal_shuffling=True,
        )
        self._files = files
        self._keys = (inputs_key, targets_key, id_key)
        self._held: dict[str, tuple[Any, dict[str, list[str]]]] = {}

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> list[str]:
        return [split]

    def num_input_examples(self, split: str) -> int:
        return len(self.columns(split)["inputs"])

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        columns = self.columns(split)
        ds = tf.data.Dataset.from_tensor_slices(
            {name: tf.constant(values, tf.string) for name, values in columns.items()}
        )
        if shard_info and shard_info.num_shards > 1:
            ds = ds.shard(shard_info.num_shards, shard_info.index)
        if shuffle:
            ds = ds.shuffle(len(columns["inputs"]), seed, reshuffle_each_iteration=True)
        return ds

    def columns(self, split: str) -> dict[str, list[str]]:
        """Returns the split's texts by feature, read anew only if a file has changed.

        Raises:
          UserError: naming file, line and field; or if there is no line.
        """
        paths = split_files(self._files, split, ".jsonl")
        stats = [(path, epath.Path(path).stat()) for path in paths]
        state = [(path, stat.length, stat.mtime) for path, stat in stats]
        if split not in self._held or self._held[split][0] != state:
            self._held[split] = (state, self._read(paths, split))
        return self._held[split][1]

    def _read(self, paths: Sequence[str], split: str) -> dict[str, list[str]]:
        names = ("inputs", "targets", "id_pretokenized")
        columns: dict[str, list[str]] = {name: [] for name in names}
        for path in paths:
            for where, row in read_rows(path):
                for name, text in zip(names, self._texts(row, where), strict=True):
                    columns[name].append(text)
                if columns["id_pretokenized"][-1] == "":
                    columns["id_pretokenized"][-1] = (
                        f"{split}:{len(columns['inputs']) - 1}"
                    )
        if not columns["inputs"]:
            raise UserError(f"{', '.join(paths)}: no examples in it")
        return columns

    def _texts(self, row: records.Row, where: str) -> tuple[str, str, str]:
        inputs_key, targets_key, id_key = self._keys
        inputs = text_field(row, inputs_key, where)
        targets = text_field(row, targets_key, where) if targets_key else ""
        example_id = row.get(id_key)
        if isinstance(example_id, bool) or not isinstance(example_id, str | int | None):
            raise UserError(
                f"{where}: field {id_key!r} must be a text or a whole number"
            )
        return inputs, targets, "" if example_id is None else str(example_id)


def read_rows(path: str) -> Iterator[tuple[str, records.Row]]:
    """Yields (`file:line`, row) of a JSON-lines or CSV file, by the file's suffix."""
    rows = _read_csv(path) if path.endswith(".csv") else records.read_jsonl(path)
    for number, row in rows:
        yield f"{path}:{number}", row


def _read_csv(path: str) -> Iterator[tuple[int, records.Row]]:
    lines = (line for _, line in records.read_lines(path))
    reader = csv.DictReader(lines, strict=True)
    start = 2
    try:
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"{path}:{start}: the line has not as many fields as the header "
                    f"({len(reader.fieldnames or ())}: "
                    f"{', '.join(reader.fieldnames or ())})"
                )
            yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{start}: not valid CSV ({error})") from error


def text_field(row: records.Row, key: str, where: str) -> str:
    """Returns a text of a row.

    Raises:
      UserError: naming `where` and the field, if it is missing or no text.
    """
    if key not in row:
        raise UserError(
            f"{where}: field {key!r} is missing; the line has {', '.join(row)}"
        )
    value = row[key]
    if not isinstance(value, str):
        raise UserError(
            f"{where}: field {key!r} must be text, not {type(value).__name__}"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: field {key!r} has half of a surrogate pair, which is not text"
        ) from error
    return value


def annotated_source(files: Files) -> seqio.DataSource:
    """Returns a source of annotated TFRecords (`records.training_features`)."""
    description = {
        name: tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)
        for name in _INT64S
    }
    expanded = {split: split_files(files, split, ".tfrecord") for split in files}
    return seqio.TFExampleDataSource(expanded, feature_description=description)


def check_annotated(
    files: Files, split: str, lengths: Mapping[str, int], vocabulary_size: int
) -> dict[str, int]:
    """Checks the TFRecords of a split and counts what `lengths` would cut off.

    Args:
      files: TFRecord files by split.
      split: which.
      lengths: limits of `inputs` and `targets`; a missing one cuts nothing.
      vocabulary_size: ids must be below it.

    Returns:
      Counts: `examples`, `unwanted_tokens`, `truncated_inputs`, `truncated_targets`
      (examples), `dropped_unwanted_tokens`, and `examples_without_unwanted_left`, those
      which had an unwanted token and lose every one.

    Raises:
      UserError: naming the file and the record.
    """
    counts: dict[str, int] = dict.fromkeys(
        (
            "examples",
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
        "unwanted_tokens": before.sum(),
        "truncated_inputs": (inputs > lengths.get("inputs", inputs)).sum(),
        "truncated_targets": (targets > lengths.get("targets", targets)).sum(),
        "dropped_unwanted_tokens": (before - kept).sum(),
        "examples_without_unwanted_left": ((before > 0) & (kept == 0)).sum(),
    }
    return {key: int(value) for key, value in counts.items()}
