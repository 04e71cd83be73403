"""Annotated generations (TFRecords) as tasks: for updates, and for their baselines.

What a task makes of the same records is its kind:

- `annotated`: `inputs`, `targets`, `target_annotations`, for the targeted methods;
- `filtered`: `inputs`, `targets` of the examples without an unwanted token, for the
  baseline that trains on the model's own clean outputs or, over annotated references,
  on the clean part of the original data;
- `corrective`: `inputs`, `targets` as they should have been, for a baseline: the
  record's `corrected_targets` (the text `corrected` of an annotated line) or, where it
  has none, the generated ids without the unwanted ones; examples of which nothing is
  left are passed over;
- `negative`: `inputs`, `negative_targets` (the generated ids), `corrected_targets` (as
  those of `corrective`), for the feature converters of google/t5patches. A length of
  `targets` counts for both.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import seqio
import tensorflow as tf
from absl import logging
from etils import epath

from t5patches.errors import UserError
from t5patches.interchange import alternatives as alternatives_files
from t5patches.interchange import json_files, records
from t5patches.interchange import unwanted_sets as sets_files
from t5patches.interchange.shards import Row

from .annotated_records import AnnotatedRecords
from .registry import plain, register
from .sources import Files, FileSource, split_files

MARKS = seqio.Feature(seqio.PassThroughVocabulary(2), add_eos=False)

_Example = Mapping[str, tf.Tensor]
_Map = Callable[..., tf.data.Dataset]


def annotated_task(
    name: str | None,
    files: Files,
    vocabulary: seqio.Vocabulary,
    negative_token_ids: int = 0,
    allow_nothing_unwanted: bool = False,
    unwanted_sets: str | None = None,
    alternatives: int = 0,
    ids: bool = False,
    kind: str = "annotated",
) -> str:
    """Registers annotated generations (TFRecords) as a task; returns its name.

    Features are int32 [length]. Inputs longer than their length are cut so that they
    end with EOS, as they did when the model generated. What `t5patches annotate` has
    counted of the records, and of what the lengths cut off them, is logged.

    Args:
      name: of the task, of letters, digits, dots and underscores; None: its kind.
      files: by split, TFRecord files as `t5patches annotate` writes them: a file,
        pattern, prefix of shards, or list of these.
      vocabulary: of inputs and targets.
      negative_token_ids: k, where the records name so many unwanted tokens for each
        position, 0 being none, in a feature of this name: k numbers for the first
        target, k for the next. A task of the kind `annotated` has them as int32
        [length, k].
      allow_nothing_unwanted: for the kinds `annotated` and `negative`: whether a split
        'train' in which nothing is unwanted is read, or refused.
      unwanted_sets: the table of sets that stands beside the records, or None. A task
        of the kind `annotated` has its rows as `unwanted_sets`, int32 [length].
      alternatives: k, where the records name up to so many unwanted alternatives of a
        position; a task of the kind `annotated` has them as `negative_token_ids`, too.
      ids: whether the ids of the outputs go through an inference as `id_pretokenized`;
        they are read from the JSON lines beside the records.
      kind: what the task makes of the records, see above.

    Raises:
      UserError: there is no such kind, or another's task has this name.
    """
    if kind not in KINDS:
        raise UserError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    files, name = plain(files), name or kind
    targets = dict.fromkeys(KINDS[kind].targets, seqio.Feature(vocabulary))
    features = {"inputs": seqio.Feature(vocabulary), **targets}
    preprocessors = [*KINDS[kind].preprocessors]
    more: dict[str, int | None] = dict.fromkeys(KINDS[kind].reads)
    if kind == "annotated":
        features["target_annotations"] = MARKS
        if negative_token_ids:
            more["negative_token_ids"] = negative_token_ids
            preprocessors.append(_fill_negative_token_ids)
        if alternatives:
            more[alternatives_files.FEATURE] = None
            preprocessors.append(functools.partial(_add_alternatives, k=alternatives))
        if negative_token_ids or alternatives:
            features["negative_token_ids"] = seqio.Feature(
                vocabulary, add_eos=False, rank=2
            )
    sets = 0
    if kind == "annotated" and unwanted_sets:
        sets = len(sets_files.read(unwanted_sets, vocabulary.vocab_size))
        preprocessors.append(_fill_unwanted_sets)
        features["unwanted_sets"] = seqio.Feature(
            seqio.PassThroughVocabulary(sets), add_eos=False
        )
    source = AnnotatedRecords(files, more, sets, ids)

    def check(split: str, lengths: Mapping[str, int]) -> None:
        length = lengths.get("targets")
        unwanted = source.check(split, length, vocabulary)
        if not unwanted and split == "train" and KINDS[kind].needs_unwanted:
            if not allow_nothing_unwanted:
                files = ", ".join(source.list_shards(split))
                raise UserError(
                    f"{files}: nothing unwanted is marked in any record"
                    f"{f' (in its first {length} ids)' * bool(length)}, so an update "
                    "would only train on the model's own outputs; set "
                    "tasks.annotated_task.allow_nothing_unwanted = True to do that"
                )
        left = source.get_dataset(split, shuffle=False)
        for preprocessor in KINDS[kind].preprocessors:
            left = preprocessor(left)
        if not list(left.take(1)):
            raise UserError(
                f"task {name}, split {split!r}: every example has something unwanted, "
                "and nothing is left to train on"
            )
        _log_counts(f"Task {name}, split {split}", source.list_shards(split), lengths)

    return register(
        name,
        (kind, files, vocabulary, negative_token_ids, allow_nothing_unwanted)
        + (unwanted_sets, alternatives, ids),
        check,
        source=source,
        preprocessors=[
            *preprocessors,
            to_features,
            seqio.CacheDatasetPlaceholder(),
            end_inputs_with_eos,
        ],
        output_features=features,
    )


def _log_counts(what: str, paths: list[str], lengths: Mapping[str, int]) -> None:
    """Logs what `t5patches annotate` has counted in the folders of records."""
    for folder in sorted({os.path.dirname(path) for path in paths}):
        path = epath.Path(folder) / "stats.json"
        if not path.is_file():
            continue
        fields: dict[str, type] = {"truncation": dict, "unwanted_tokens": int}
        stats = json_files.read_record(path, fields, "remove it")
        logging.info("%s: counted when %s was annotated: %s", what, folder, stats)
        lost = stats["truncation"]
        fields = dict.fromkeys(
            ("dropped_unwanted_tokens", "examples_without_unwanted_left"), int
        )
        fields["feature_lengths"] = dict
        json_files.check_fields(lost, fields, path, "remove it")
        limit = lost["feature_lengths"].get("targets")
        if lost["dropped_unwanted_tokens"] and limit == lengths.get("targets"):
            logging.warning(
                "%s: targets longer than %d lose %d of %d unwanted tokens; %d examples "
                "lose all of theirs. Raise the length of targets in "
                "TASK_FEATURE_LENGTHS to keep them.",
                what,
                limit,
                lost["dropped_unwanted_tokens"],
                stats["unwanted_tokens"],
                lost["examples_without_unwanted_left"],
            )


@seqio.map_over_dataset
def to_features(
    example: _Example, output_features: Mapping[str, seqio.Feature]
) -> dict[str, tf.Tensor]:
    """Takes the task's features of an example, as int32, and its id, if it has one."""
    kept = {name: tf.cast(example[name], tf.int32) for name in output_features}
    return kept | {name: example[name] for name in {"id_pretokenized"} & {*example}}


@seqio.map_over_dataset
def _fill_negative_token_ids(example: _Example) -> dict[str, tf.Tensor]:
    """A record without any has none at each position."""
    ids = example["negative_token_ids"]
    missing = tf.size(example["targets"]) - tf.shape(ids)[0]
    return {**example, "negative_token_ids": tf.pad(ids, [[0, missing], [0, 0]])}


@seqio.map_over_dataset
def _add_alternatives(example: _Example, k: int) -> dict[str, tf.Tensor]:
    """Alternatives, pairs of position and id, go to their positions."""
    pairs = tf.reshape(example[alternatives_files.FEATURE], [-1, 2])
    length = tf.size(example["targets"], tf.int64)
    rows = tf.RaggedTensor.from_value_rowids(pairs[:, 1], pairs[:, 0], length)
    ids = rows.to_tensor(shape=[None, k])
    if "negative_token_ids" in example:
        ids = tf.concat([example["negative_token_ids"], ids], axis=1)
    return {**example, "negative_token_ids": ids}


@seqio.map_over_dataset
def _fill_unwanted_sets(example: _Example) -> dict[str, tf.Tensor]:
    """A record without any has the empty set at each position."""
    rows = example[sets_files.FEATURE]
    missing = tf.size(example["targets"]) - tf.size(rows)
    return {**example, "unwanted_sets": tf.pad(rows, [[0, missing]])}


def find_unwanted_sets(files: Files) -> str | None:
    """Returns the table of sets that stands beside annotated records, if one does.

    Args:
      files: by split, as `annotated_task` takes them.

    Raises:
      UserError: the folders have different tables.
    """
    return sets_files.find(_all_shards(files))


def find_alternatives(files: Files) -> int:
    """Returns how many alternatives annotated records name for a position, at most.

    Args:
      files: by split, as `annotated_task` takes them.
    """
    return alternatives_files.most(_all_shards(files))


def _all_shards(files: Files) -> list[str]:
    """Returns the files of records of all splits."""
    files = plain(files)
    return [path for split in files for path in split_files(files, split, ".tfrecord")]


def outputs_task(name: str, files: Files, vocabulary: seqio.Vocabulary) -> str:
    """Registers annotated outputs (JSON lines) as a task; returns its name.

    The features are those of `annotated_task`; the output's text and the id go through
    an inference as `prediction_pretokenized` and `id_pretokenized`.

    Args:
      name: of the task, of letters, digits, dots and underscores.
      files: by split, as `t5patches annotate` writes them: a file, pattern, prefix of
        shards, or list of these.
      vocabulary: of inputs and targets.
    """
    files = plain(files)

    def columns_of(row: Row, where: str) -> dict[str, Any]:
        checked = records.check_prediction(row, where, 0, vocabulary)
        output = records.check_annotations(checked, where)
        return {
            "inputs": output["inputs"],
            "targets": output["target_tokens"],
            "target_annotations": output["target_annotations"],
            "prediction_pretokenized": output["prediction"],
            "id_pretokenized": output["id"],
        }

    dtypes = dict.fromkeys(
        ("inputs", "prediction_pretokenized", "id_pretokenized"), tf.string
    ) | dict.fromkeys(("targets", "target_annotations"), tf.int32)

    @seqio.map_over_dataset
    def encode(example: _Example) -> dict[str, tf.Tensor]:
        inputs = tf.concat([vocabulary.encode_tf(example["inputs"]), [eos_id]], 0)
        return {**example, "inputs": inputs}

    eos_id = vocabulary.eos_id
    return register(
        name,
        ("outputs", files, vocabulary),
        source=FileSource(files, dtypes, columns_of),
        preprocessors=[encode, seqio.CacheDatasetPlaceholder(), end_inputs_with_eos],
        output_features={
            "inputs": seqio.Feature(vocabulary),
            "targets": seqio.Feature(vocabulary),
            "target_annotations": MARKS,
        },
    )


def _only_clean(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.filter(lambda x: tf.reduce_sum(x["target_annotations"]) == 0)


@seqio.map_over_dataset
def _correct(example: _Example) -> dict[str, tf.Tensor]:
    """Adds both outputs of an example."""
    generated, given = example["targets"], example["corrected_targets"]
    kept = tf.boolean_mask(generated, example["target_annotations"] == 0)
    corrected = given if tf.size(given) > 0 else kept
    return {
        "inputs": example["inputs"],
        "targets": corrected,
        "corrected_targets": corrected,
        "negative_targets": generated,
    }


def _not_empty(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Leaves out outputs that are an EOS alone."""
    return dataset.filter(lambda example: tf.size(example["targets"]) > 1)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a task makes of annotated records.

    Attributes:
      targets: its features of target ids.
      preprocessors: make them.
      reads: features of a record beside the usual three.
      needs_unwanted: whether without anything unwanted it has nothing to teach.
    """

    targets: tuple[str, ...] = ("targets",)
    preprocessors: tuple[_Map, ...] = ()
    reads: tuple[str, ...] = ()
    needs_unwanted: bool = False


_CORRECTED: dict[str, Any] = dict(
    preprocessors=(_correct, _not_empty), reads=("corrected_targets",)
)
KINDS = {
    "annotated": Kind(needs_unwanted=True),
    "filtered": Kind(preprocessors=(_only_clean,)),
    "corrective": Kind(**_CORRECTED),
    "negative": Kind(
        ("negative_targets", "corrected_targets"), **_CORRECTED, needs_unwanted=True
    ),
}


@seqio.map_over_dataset
def end_inputs_with_eos(
    example: _Example,
    output_features: Mapping[str, seqio.Feature],
    sequence_length: Mapping[str, int] | None = None,
) -> dict[str, tf.Tensor]:
    """Cuts inputs so that they end with EOS, as they did when the model generated."""
    inputs, limit = example["inputs"], (sequence_length or {}).get("inputs")
    if limit is not None and tf.size(inputs) > limit:
        eos_id = output_features["inputs"].vocabulary.eos_id
        inputs = tf.concat([inputs[: limit - 1], [eos_id]], axis=0)
    return {**example, "inputs": inputs}
