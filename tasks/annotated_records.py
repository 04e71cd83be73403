"""The TFRecords of annotated predictions as a source, and whether they can be read."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from etils import epath
from google.protobuf.message import DecodeError

from t5patches.errors import UserError
from t5patches.interchange import claims, json_files, records, tables, unwanted_sets

from .sources import Files, split_files

# Which numbers a feature may have, and how many for each target (None: any number).
Rule = tuple[range, int | None]

FEATURES = ("inputs", "targets", "target_annotations")
MARKS = FEATURES[-1]


class AnnotatedRecords(seqio.TFExampleDataSource):
    """Records as `records.training_features` has them, looked for when needed.

    Args:
      files: by split, as `shards.expand` takes them.
      more: features to read beside the usual three, which a record may be without, and
        how many ids of them each target has (None: any number), each a row of its own.
      sets: how many rows the table has to which the feature `unwanted_sets` refers; 0
        if it is not read.
      ids: whether to read the ids of the outputs, as `id_pretokenized`, from the JSON
        lines that stand beside the records.
    """

    def __init__(
        self,
        files: Files,
        more: dict[str, int | None],
        sets: int = 0,
        ids: bool = False,
    ):
        description = {
            name: tf.io.FixedLenSequenceFeature(
                [k] if k else [], tf.int64, allow_missing=True
            )
            for name, k in (
                dict.fromkeys((*FEATURES, *[unwanted_sets.FEATURE][: sets > 0])) | more
            ).items()
        }
        super().__init__(files, feature_description=description)
        self._files = files
        self._more, self._sets, self._ids = more, sets, ids
        if ids:
            self._reader = functools.partial(_read_with_ids, self._reader)
        self._checked: dict[str, tuple[Any, tuple[int, list[int]]]] = {}

    def list_shards(self, split: str) -> list[str]:
        return split_files(self._files, split, ".tfrecord")

    def num_input_examples(self, split: str) -> int | None:
        """Returns how many records a split has; None before `check` has read them."""
        found = [self._checked.get(path) for path in self.list_shards(split)]
        return sum(each[1][0] for each in found) if all(found) else None

    def digest(self, split: str) -> str:
        """Returns a short hash of the split's files."""
        return claims.file_digest(self.list_shards(split))

    def check(self, split: str, limit: int | None, vocabulary: seqio.Vocabulary) -> int:
        """Looks whether training can read the records of a split.

        Args:
          split: which.
          limit: of the targets that training reads; None: all of them.
          vocabulary: of which the ids must be.

        Returns:
          How many records have something unwanted within the limit.

        Raises:
          UserError: naming the file and the record, or because there is none.
        """
        paths = self.list_shards(split)
        ids = range(records.max_vocabulary_size(vocabulary))
        mark = records.vocabulary_mark(vocabulary)
        same = range(mark, mark + 1)
        rules: dict[str, Rule] = {name: (ids, None) for name in FEATURES}
        rules |= {MARKS: (range(2), 1), records.VOCABULARY: (same, None)}
        rules |= {name: (ids, k) for name, k in self._more.items()}
        rules |= {unwanted_sets.FEATURE: (range(self._sets), 1)} if self._sets else {}
        hint = f"not {getattr(vocabulary, 'sentencepiece_model_file', vocabulary)}"
        whole = vocabulary.vocab_size - 1  # Padding is never said.
        for path in paths:
            stat = epath.Path(path).stat()
            state = (stat.length, stat.mtime)
            if path not in self._checked or self._checked[path][0] != state:
                found = _check_file(path, state[0], rules, hint, whole)
                self._checked[path] = (state, found)
            count = self._checked[path][1][0]
            if self._ids and (lines := sum(1 for _ in _ids_beside(path))) != count:
                raise UserError(
                    f"{path} has {count} records and {_lines_beside(path)} {lines} "
                    "lines; annotate the predictions again"
                )
        found = [self._checked[path][1] for path in paths]
        if not sum(count for count, _ in found):
            raise UserError(f"{', '.join(paths)}: no annotated example in it")
        return sum(first < (limit or math.inf) for _, each in found for first in each)


def _lines_beside(path: str) -> str:
    return f"{path.removesuffix('.tfrecord')}.jsonl"


def _ids_beside(path: str | bytes) -> Iterator[str]:
    """Yields the ids of the lines that were written with a file of records."""
    lines = _lines_beside(os.fsdecode(path))
    for number, row in json_files.read_jsonl(lines):
        yield tables.id_field(row, "id", f"{lines}:{number}")


def _read_with_ids(read: Callable[..., tf.data.Dataset], path: tf.Tensor) -> Any:
    """Reads the examples of a file, as `read` does, with their ids."""
    scalar = tf.TensorSpec([], tf.string)
    ids = tf.data.Dataset.from_generator(
        _ids_beside, args=[path], output_signature=scalar
    )
    return tf.data.Dataset.zip(read(path), ids).map(
        lambda example, name: {**example, "id_pretokenized": name}
    )


def _check_file(
    path: str, length: int, rules: Mapping[str, Rule], hint: str, whole: int
) -> tuple[int, list[int]]:
    """Returns how many records a file has, and the first unwanted id of each with any.

    Of a file that is cut inside a record's head TensorFlow reads what is before; so the
    lengths must make up its own.

    Raises:
      UserError: naming the first that training cannot read.
    """
    dataset = tf.data.TFRecordDataset(path)
    count = size = 0
    unwanted: list[int] = []
    try:
        for some in dataset.batch(1024).as_numpy_iterator():
            # One by one takes ten times as long.
            if not _are_right(some, rules, whole):
                for number, raw in enumerate(some, count):
                    _check_record(raw, f"{path}: record {number}", rules, hint, whole)
            count += len(some)
            size += sum(len(raw) + 16 for raw in some)  # With head and checksums.
            found = tf.io.parse_example(some, {MARKS: tf.io.RaggedFeature(tf.int64)})
            marks = np.pad(found[MARKS].to_tensor() > 0, [(0, 0), (0, 1)])
            unwanted += marks.argmax(1)[marks.any(1)].tolist()
    except tf.errors.OpError as error:
        # Without the names of TensorFlow's own operations.
        text = (error.message or type(error).__name__).splitlines()[0]
        reason = re.sub(r"\{\{.*?\}\}|' failed with .*|\[Op:.*", "", text).strip()
        count = sum(1 for _ in dataset.ignore_errors())
        raise UserError(
            f"{path}: not a readable TFRecord of annotated predictions: after {count} "
            f"records, {reason}; make it or copy it again"
        ) from error
    if size != length:
        raise UserError(
            f"{path}: is broken off after {count} records; make it or copy it again"
        )
    return count, unwanted


def _are_right(some: Sequence[bytes], rules: Mapping[str, Rule], whole: int) -> bool:
    """Says whether records are surely right; `_check_record` says what is not."""
    # With the target itself, so many could be all ids that there are.
    if any(per_target and per_target + 1 >= whole for _, per_target in rules.values()):
        return False
    feature = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
    try:
        found = tf.io.parse_example(some, dict.fromkeys(rules, feature))
    # The message has the record's own bytes in it, which may be no text.
    except (tf.errors.OpError, UnicodeDecodeError):
        return False
    sizes = {name: ragged.row_lengths().numpy() for name, ragged in found.items()}
    for name, (allowed, per_target) in rules.items():
        ids, size = found[name].values.numpy(), sizes[name]
        fits = per_target is None or size == per_target * sizes["targets"]
        right = (size > 0) & fits if name in FEATURES else (size == 0) | fits
        if (
            not right.all()
            or (ids < allowed.start).any()
            or (ids >= allowed.stop).any()
        ):
            return False
    return True


def _check_record(
    raw: bytes, where: str, rules: Mapping[str, Rule], hint: str, whole: int
) -> None:
    """Raises a UserError that says what is wrong with a record, if something is."""
    try:
        features = tf.train.Example.FromString(raw).features.feature
    except DecodeError as error:
        raise UserError(
            f"{where} is not a readable TFRecord example; give what `t5patches "
            "annotate` wrote"
        ) from error
    for name, (allowed, per_target) in rules.items():
        if name in FEATURES and name not in features:
            raise UserError(
                f"{where} is without feature {name!r}; `t5patches annotate` writes "
                "records with inputs, targets and target_annotations"
            )
        kind = features[name].WhichOneof("kind")
        if kind not in (None, "int64_list"):
            raise UserError(
                f"{where}, feature {name!r}, is a {kind}; it must be whole numbers "
                "(int64_list)"
            )
        ids = features[name].int64_list.value
        for wrong in [i for i in ids if i not in allowed][:1]:
            what = f"has {wrong}, which is not in [0, {allowed.stop})"
            if name == unwanted_sets.FEATURE:
                raise UserError(
                    f"{where}, feature {name!r}, {what}: the rows of the table beside "
                    "it; they are not of one annotation"
                )
            if name == records.VOCABULARY:
                what = "is another's than the task's"
            raise UserError(
                f"{where}, feature {name!r}, {what}; give the vocabulary that the "
                f"records were made with, {hint}"
            )
        own = features["targets"].int64_list.value
        targets = len(own)
        there = per_target and (ids or name in FEATURES)
        if there and len(ids) != per_target * targets:
            raise UserError(
                f"{where} has {targets} targets and {len(ids)} {name}; "
                f"there must be {per_target} per target"
            )
        if not there or per_target + 1 < whole:
            continue
        marks = features[MARKS].int64_list.value
        for place in range(targets):
            unwanted = {*ids[place * per_target : (place + 1) * per_target]}
            unwanted |= {own[place]} if any(marks[place : place + 1]) else set()
            if len(unwanted - {0}) >= whole:
                raise UserError(
                    f"{where}, feature {name!r}, has every id of the vocabulary at "
                    f"target {place}, so that nothing could be said there; leave out "
                    "what is not unwanted"
                )
