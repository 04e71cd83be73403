"""The TFRecords of annotated predictions as a source, and whether they can be read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
from etils import epath
from google.protobuf.message import DecodeError

from t5patches.errors import UserError

from .sources import Files, split_files

PerTarget = Mapping[str, int | None]

FEATURES = ("inputs", "targets", "target_annotations")


class AnnotatedRecords(seqio.TFExampleDataSource):
    """Records as `records.training_features` has them, looked for when needed.

    Args:
      files: by split, as `shards.expand` takes them.
      more: features to read beside the usual three, which a record may be without, and
        how many ids of them each target has (None: any number).
    """

    def __init__(self, files: Files, more: Mapping[str, int | None]):
        feature = tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)
        description = dict.fromkeys([*FEATURES, *more], feature)
        super().__init__(files, feature_description=description)
        self._files = files
        self._per_target = {"target_annotations": 1, **more}
        self._checked: dict[str, tuple[Any, int]] = {}

    def list_shards(self, split: str) -> list[str]:
        return split_files(self._files, split, ".tfrecord")

    def check(self, split: str, vocabulary_size: int) -> None:
        """Looks whether training can read the records of a split.

        Args:
          split: which.
          vocabulary_size: ids must be below it.

        Raises:
          UserError: naming the file and the record, or because there is none.
        """
        paths = self.list_shards(split)
        for path in paths:
            stat = epath.Path(path).stat()
            state = (stat.length, stat.mtime)
            if path not in self._checked or self._checked[path][0] != state:
                count = _check_file(path, self._per_target, vocabulary_size)
                self._checked[path] = (state, count)
        if not sum(self._checked[path][1] for path in paths):
            raise UserError(f"{', '.join(paths)}: no annotated example in it")


def _check_file(path: str, per_target: PerTarget, vocabulary_size: int) -> int:
    """Returns how many records a file has, all of which training can read."""
    limits = dict.fromkeys([*FEATURES, *per_target], vocabulary_size)
    limits["target_annotations"] = 2
    some: list[bytes] = []
    count = 0
    try:
        for raw in tf.data.TFRecordDataset(path).as_numpy_iterator():
            if len(some) == 1024:
                _check_records(some, path, count - len(some), limits, per_target)
                some = []
            some.append(raw)
            count += 1
    except tf.errors.OpError as error:
        # Without the names of TensorFlow's own operations.
        text = (error.message or type(error).__name__).splitlines()[0]
        reason = re.sub(r"\{\{.*?\}\}|' failed with .*|\[Op:.*", "", text).strip()
        raise UserError(
            f"{path}: not a readable TFRecord of annotated predictions: after {count} "
            f"records, {reason}; make it or copy it again"
        ) from error
    _check_records(some, path, count - len(some), limits, per_target)
    return count


def _check_records(
    some: Sequence[bytes],
    path: str,
    first: int,
    limits: Mapping[str, int],
    per_target: PerTarget,
) -> None:
    # One by one takes ten times as long.
    if some and not _are_right(some, limits, per_target):
        for number, raw in enumerate(some, first):
            _check_record(raw, f"{path}: record {number}", limits, per_target)


def _are_right(
    some: Sequence[bytes], limits: Mapping[str, int], per_target: PerTarget
) -> bool:
    """Says whether records are surely right; `_check_record` says what is not."""
    feature = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
    try:
        found = tf.io.parse_example(some, dict.fromkeys(limits, feature))
    # The message has the record's own bytes in it, which may be no text.
    except (tf.errors.OpError, UnicodeDecodeError):
        return False
    sizes = {name: ragged.row_lengths().numpy() for name, ragged in found.items()}
    return (
        all(sizes[name].all() for name in FEATURES)
        and all(
            ((sizes[name] == count * sizes["targets"]) | (sizes[name] == 0)).all()
            for name, count in per_target.items()
            if count is not None
        )
        and all(
            not ((ids := found[name].values.numpy()) < 0).any() and (ids < limit).all()
            for name, limit in limits.items()
        )
    )


def _check_record(
    raw: bytes, where: str, limits: Mapping[str, int], per_target: PerTarget
) -> None:
    """Raises a UserError that says what is wrong with a record, if something is."""
    try:
        features = tf.train.Example.FromString(raw).features.feature
    except DecodeError as error:
        raise UserError(
            f"{where} is not a readable TFRecord example; give what `t5patches "
            "annotate` wrote"
        ) from error
    sizes = {}
    for name, limit in limits.items():
        if name in FEATURES and name not in features:
            raise UserError(
                f"{where} is without feature {name!r}; `t5patches annotate` writes "
                "records with inputs, targets and target_annotations"
            )
        kind = features[name].WhichOneof("kind") if name in features else None
        if kind not in (None, "int64_list"):
            raise UserError(
                f"{where}, feature {name!r}, is a {kind}; it must be whole numbers "
                "(int64_list)"
            )
        ids = features[name].int64_list.value
        for wrong in [i for i in ids if not 0 <= i < limit][:1]:
            raise UserError(
                f"{where}, feature {name!r}, has {wrong}, which is not in [0, {limit});"
                " give the vocabulary that the records were made with"
            )
        sizes[name] = len(ids)
    for name, count in per_target.items():
        may_lack = count is None or name not in FEATURES and not sizes[name]
        if not may_lack and sizes[name] != count * sizes["targets"]:
            raise UserError(
                f"{where} has {sizes['targets']} targets and {sizes[name]} {name}; "
                f"there must be {count} per target"
            )
