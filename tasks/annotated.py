"""Annotated generations (TFRecords) as tasks: for updates, and for their baselines.

- `annotated_task`: `inputs`, `targets`, `target_annotations`, for the targeted methods;
- `filtered_task`: `inputs`, `targets` of the examples without an unwanted token, and
- `corrective_task`: `inputs`, `targets` without what is unwanted, for the baselines;
- `negative_task`: `inputs`, `negative_targets`, `corrected_targets`, for the feature
  converters of google/t5patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
from absl import logging

from t5patches.errors import UserError
from t5patches.interchange import records

from . import tfrecords
from .files import SHUFFLE_BUFFER_SIZE
from .registry import plain, register, registered
from .sources import Files

_Example = Mapping[str, tf.Tensor]
_Map = Callable[..., tf.data.Dataset]


def annotated_task(
    name: str,
    files: Files,
    vocabulary: seqio.Vocabulary,
    output_vocabulary: seqio.Vocabulary | None = None,
    shuffle_buffer_size: int = SHUFFLE_BUFFER_SIZE,
    negative_token_ids: int = 0,
) -> str:
    """Registers annotated generations (TFRecords) as a task; returns its name.

    Features are `inputs`, `targets` and `target_annotations`, int32 [length]. Inputs
    longer than their length are cut so that they end with EOS, as they did when the
    model generated. What the lengths cut off the annotations is counted and logged
    (`truncation`).

    Args:
      name: of the task, of letters, digits, dots and underscores.
      files: by split, TFRecord files as `t5patches annotate` writes them: a file,
        pattern, prefix of shards, or list of these.
      vocabulary: of inputs and targets.
      output_vocabulary: of the targets, if it is another.
      shuffle_buffer_size: examples held for shuffling.
      negative_token_ids: k, where the records name so many unwanted tokens for each
        position, 0 being none, in a feature of this name: k numbers for the first
        target, k for the next. The task has them as int32 [length, k].
    """
    output_vocabulary = output_vocabulary or vocabulary
    features = {
        "targets": seqio.Feature(output_vocabulary),
        "target_annotations": seqio.Feature(
            seqio.PassThroughVocabulary(2), add_eos=False
        ),
    }
    if negative_token_ids:
        features["negative_token_ids"] = seqio.Feature(
            output_vocabulary, add_eos=False, rank=2
        )
    return _register(
        "annotated",
        (name, files, vocabulary, output_vocabulary, shuffle_buffer_size),
        [_rows_of(negative_token_ids)] if negative_token_ids else [],
        features,
        negative_token_ids,
    )


def filtered_task(
    name: str,
    files: Files,
    vocabulary: seqio.Vocabulary,
    output_vocabulary: seqio.Vocabulary | None = None,
    shuffle_buffer_size: int = SHUFFLE_BUFFER_SIZE,
) -> str:
    """Registers the annotated examples without an unwanted token; returns the name.

    Over annotated generations it is the baseline that trains on the model's own clean
    outputs; over annotated references (`python -m t5patches.tasks.references`, then
    `annotate`) the one that trains on the original data without its unwanted examples.

    Args:
      name: as of `annotated_task`, and so are the others.
      files: annotated TFRecords by split.
      vocabulary: of inputs and targets.
      output_vocabulary: of the targets, if it is another.
      shuffle_buffer_size: examples held for shuffling.
    """
    output_vocabulary = output_vocabulary or vocabulary
    return _register(
        "filtered",
        (name, files, vocabulary, output_vocabulary, shuffle_buffer_size),
        [_only_clean],
        {"targets": seqio.Feature(output_vocabulary)},
    )


def corrective_task(
    name: str,
    files: Files,
    vocabulary: seqio.Vocabulary,
    output_vocabulary: seqio.Vocabulary | None = None,
    shuffle_buffer_size: int = SHUFFLE_BUFFER_SIZE,
) -> str:
    """Registers annotated examples with corrected outputs as targets.

    The corrected output is the record's `corrected_targets` (the text `corrected` of an
    annotated line) or, where it has none, the generated ids without the unwanted ones.
    Examples of which nothing is left are passed over.

    Args:
      name: as of `annotated_task`, and so are the others.
      files: annotated TFRecords by split.
      vocabulary: of inputs and targets.
      output_vocabulary: of the targets, if it is another.
      shuffle_buffer_size: examples held for shuffling.
    """
    output_vocabulary = output_vocabulary or vocabulary
    return _register(
        "corrective",
        (name, files, vocabulary, output_vocabulary, shuffle_buffer_size),
        [_correct],
        {"targets": seqio.Feature(output_vocabulary)},
    )


def negative_task(
    name: str,
    files: Files,
    vocabulary: seqio.Vocabulary,
    output_vocabulary: seqio.Vocabulary | None = None,
    shuffle_buffer_size: int = SHUFFLE_BUFFER_SIZE,
) -> str:
    """Registers annotated examples with the features of google/t5patches' converters.

    `negative_targets` are the generated ids, `corrected_targets` those of
    `corrective_task`. A length of `targets` counts for both.

    Args:
      name: as of `annotated_task`, and so are the others.
      files: annotated TFRecords by split.
      vocabulary: of inputs and targets.
      output_vocabulary: of the targets, if it is another.
      shuffle_buffer_size: examples held for shuffling.
    """
    output_vocabulary = output_vocabulary or vocabulary
    return _register(
        "negative",
        (name, files, vocabulary, output_vocabulary, shuffle_buffer_size),
        [_correct],
        {
            "negative_targets": seqio.Feature(output_vocabulary),
            "corrected_targets": seqio.Feature(output_vocabulary),
        },
    )


def truncation(
    name: str, split: str, task_feature_lengths: Mapping[str, int]
) -> dict[str, int]:
    """Counts what feature lengths cut off a registered `annotated_task`.

    Returns:
      The counts of `tfrecords.check`.

    Raises:
      UserError: the task is not an `annotated_task`, or its files are wrong.
    """
    return _counts(registered(name, "annotated"), split, task_feature_lengths)


def _counts(spec: tuple[Any, ...], split: str, lengths: Mapping[str, int]):
    kind, _, files, *vocabularies, _, negative_token_ids = spec
    size = max(map(records.max_vocabulary_size, vocabularies))
    more = _more_features(kind, negative_token_ids)
    return tfrecords.check(dict(files), split, lengths, size, more)


def _more_features(kind: str, negative_token_ids: int) -> tfrecords.More:
    """Returns the features that a kind of task reads beside the usual three."""
    if kind in ("corrective", "negative"):
        return {"corrected_targets": None}
    if negative_token_ids:
        return {"negative_token_ids": negative_token_ids}
    return {}


def _register(
    kind: str,
    arguments: tuple[Any, ...],
    preprocessors: Sequence[_Map],
    features: Mapping[str, seqio.Feature],
    negative_token_ids: int = 0,
) -> str:
    name, files, vocabulary, output_vocabulary, shuffle_buffer_size = arguments
    files = plain(files)
    more = list(_more_features(kind, negative_token_ids))
    return register(
        name,
        (
            kind,
            name,
            files,
            vocabulary,
            output_vocabulary,
            shuffle_buffer_size,
            negative_token_ids,
        ),
        task_cls=RecordsTask,
        kind=kind,
        source=tfrecords.Source(files, more),
        preprocessors=[
            to_int32,
            *preprocessors,
            seqio.CacheDatasetPlaceholder(),
            end_inputs_with_eos,
        ],
        output_features={"inputs": seqio.Feature(vocabulary), **features},
        shuffle_buffer_size=shuffle_buffer_size,
    )


class RecordsTask(seqio.Task):
    """A task over annotated records that says what is in them and what was lost."""

    def __init__(self, name: str, *, kind: str, **kwargs: Any):
        super().__init__(name, **kwargs)
        self._kind = kind

    def get_dataset(
        self,
        sequence_length: Mapping[str, int] | None = None,
        split: str = "train",
        use_cached: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> tf.data.Dataset:
        lengths = dict(sequence_length or {})
        if "targets" in lengths:
            for feature in self.output_features:
                if feature not in lengths:
                    lengths[feature] = lengths["targets"]
        # SeqIO's cache need not have the files beside it.
        if split in self.splits and not use_cached:
            self._report(split, lengths)
        return super().get_dataset(
            lengths if sequence_length else None, split, use_cached, *args, **kwargs
        )

    def _report(self, split: str, lengths: Mapping[str, int]) -> None:
        counts = _counts(registered(self.name, self._kind), split, lengths)
        where = f"task {self.name}, split {split!r}"
        if not counts["examples"]:
            raise UserError(f"{where}: no annotated example in its files")
        if self._kind == "filtered":
            clean = counts["examples"] - counts["examples_with_unwanted"]
            if not clean:
                raise UserError(f"{where}: every example has something unwanted")
            logging.info("Task %s, split %s: %d of %d examples have nothing unwanted",
                         self.name, split, clean, counts["examples"])  # fmt: skip
            return
        logging.info("Task %s, split %s: %s", self.name, split, counts)
        if counts["dropped_unwanted_tokens"]:
            logging.warning(
                "Task %s, split %s: targets longer than %d lose %d of %d unwanted "
                "tokens; %d examples lose all of theirs. Raise the length of targets "
                "in TASK_FEATURE_LENGTHS to keep them.",
                self.name,
                split,
                lengths["targets"],
                counts["dropped_unwanted_tokens"],
                counts["unwanted_tokens"],
                counts["examples_without_unwanted_left"],
            )


def to_int32(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.map(
        lambda example: {k: tf.cast(v, tf.int32) for k, v in example.items()},
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def _rows_of(k: int) -> _Map:
    """Gives the negative token ids of a position a row of their own."""

    def reshape(example: _Example) -> dict[str, tf.Tensor]:
        ids = example["negative_token_ids"]
        shape = [tf.size(example["targets"]), k]
        rows = (
            tf.reshape(ids, shape) if tf.size(ids) > 0 else tf.zeros(shape, ids.dtype)
        )
        return {**example, "negative_token_ids": rows}

    return lambda dataset: dataset.map(reshape, num_parallel_calls=tf.data.AUTOTUNE)


def _only_clean(dataset: tf.data.Dataset) -> tf.data.Dataset:
    def pair(example: _Example) -> dict[str, tf.Tensor]:
        return {name: example[name] for name in ("inputs", "targets")}

    clean = dataset.filter(lambda x: tf.reduce_sum(x["target_annotations"]) == 0)
    return clean.map(pair, num_parallel_calls=tf.data.AUTOTUNE)


def _correct(
    dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]
) -> tf.data.Dataset:
    """Adds the corrected output, see `corrective_task`, under the name it has there."""
    name = "targets" if "targets" in output_features else "corrected_targets"

    def correct(example: _Example) -> dict[str, tf.Tensor]:
        generated, given = example["targets"], example["corrected_targets"]
        kept = tf.boolean_mask(generated, example["target_annotations"] == 0)
        return {
            "inputs": example["inputs"],
            "negative_targets": generated,
            name: given if tf.size(given) > 0 else kept,
        }

    def chosen(example: _Example) -> dict[str, tf.Tensor]:
        return {feature: example[feature] for feature in output_features}

    # An EOS alone is no output.
    return (
        dataset.map(correct, num_parallel_calls=tf.data.AUTOTUNE)
        .filter(lambda example: tf.size(example[name]) > 1)
        .map(chosen, num_parallel_calls=tf.data.AUTOTUNE)
    )


def end_inputs_with_eos(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    sequence_length: Mapping[str, int] | None = None,
) -> tf.data.Dataset:
    """Cuts inputs so that they end with EOS, as they did when the model generated."""
    limit = (sequence_length or {}).get("inputs")
    if limit is None:
        return dataset
    eos_id = output_features["inputs"].vocabulary.eos_id

    def cut(example: _Example) -> dict[str, tf.Tensor]:
        inputs = example["inputs"]
        ended = tf.concat([inputs[: limit - 1], [eos_id]], axis=0)
        return {**example, "inputs": ended if tf.size(inputs) > limit else inputs}

    return dataset.map(cut, num_parallel_calls=tf.data.AUTOTUNE)
