"""The TFRecords of annotated predictions as a source, and whether they can be read."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping

import seqio
import tensorflow as tf
from etils import epath
from google.protobuf.message import DecodeError

from t5patches.errors import UserError

from .sources import Files, split_files

FEATURES = ("inputs", "targets", "target_annotations")


class AnnotatedRecords(seqio.TFExampleDataSource):
    """Records as `records.training_features` has them, looked for when needed."""

    def __init__(self, files: Files, more: Iterable[str] = ()):
        """Takes files by split, as `shards.expand` does.

        Args:
          files: by split.
          more: features to read beside the usual three, empty where a record has none.
        """
        self._files, self._names = files, [*FEATURES, *more]
        feature = tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)
        description = dict.fromkeys(self._names, feature)
        super().__init__(files, feature_description=description)

    def list_shards(self, split: str) -> list[str]:
        return split_files(self._files, split, ".tfrecord")

    def check(
        self, split: str, vocabulary_size: int, per_target: Mapping[str, int]
    ) -> None:
        """Looks whether training can read the records of a split.

        Args:
          split: which.
          vocabulary_size: ids must be below it.
          per_target: features, beside the annotations, of so many ids for each target.

        Raises:
          UserError: naming the file and the record, or because there is none.
        """
        limits = dict.fromkeys(self._names, vocabulary_size)
        limits["target_annotations"] = 2
        counts = tuple({"target_annotations": 1, **per_target}.items())
        paths = self.list_shards(split)
        states = [epath.Path(path).stat() for path in paths]
        if not sum(
            _check_file(
                path, (state.length, state.mtime), tuple(limits.items()), counts
            )
            for path, state in zip(paths, states, strict=True)
        ):
            raise UserError(f"{', '.join(paths)}: no annotated example in it")


@functools.lru_cache(maxsize=4096)
def _check_file(
    path: str,
    state: tuple[float, float],
    limits: tuple[tuple[str, int], ...],
    counts: tuple[tuple[str, int], ...],
) -> int:
    """Returns how many records a file has, read anew only if its state is another."""
    del state
    number = 0
    try:
        for batch in tf.data.TFRecordDataset(path).batch(1024):
            if not _are_right(batch, dict(limits), dict(counts)):
                for i, raw in enumerate(batch.numpy(), number):
                    _check_record(raw, f"{path}: record {i}", limits, counts)
            number += len(batch)
    except tf.errors.OpError as error:
        # Without the names of TensorFlow's own operations.
        text = (error.message or type(error).__name__).splitlines()[0]
        reason = re.sub(r"\{\{.*?\}\}|' failed with .*|\[Op:.*", "", text).strip()
        raise UserError(
            f"{path}: not a readable TFRecord of annotated predictions: after "
            f"{_readable(path)} records, {reason}; make it or copy it again"
        ) from error
    return number


def _readable(path: str) -> int:
    """Returns how many records stand before what cannot be read."""
    count = 0
    try:
        for _ in tf.data.TFRecordDataset(path):
            count += 1
    except tf.errors.OpError:
        pass
    return count


def _are_right(
    batch: tf.Tensor, limits: Mapping[str, int], counts: Mapping[str, int]
) -> bool:
    """Says whether many records are surely right; `_check_record` says what is not."""
    feature = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
    try:
        found = tf.io.parse_example(batch, dict.fromkeys(limits, feature))
    # The message has the record's own bytes in it, which may be no text.
    except (tf.errors.OpError, UnicodeDecodeError):
        return False
    sizes = {name: ragged.row_lengths().numpy() for name, ragged in found.items()}
    return (
        all(sizes[name].all() for name in FEATURES)
        and all(
            ((sizes[name] == count * sizes["targets"]) | (sizes[name] == 0)).all()
            for name, count in counts.items()
        )
        and all(
            not ((ids := found[name].values.numpy()) < 0).any() and (ids < limit).all()
            for name, limit in limits.items()
        )
    )


def _check_record(
    raw: bytes,
    where: str,
    limits: Iterable[tuple[str, int]],
    counts: Iterable[tuple[str, int]],
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
    for name, limit in limits:
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
    for name, count in counts:
        absent = name not in FEATURES and not sizes[name]
        if not absent and sizes[name] != count * sizes["targets"]:
            raise UserError(
                f"{where} has {sizes['targets']} targets and {sizes[name]} {name}; "
                f"there must be {count} per target"
            )
