"""Registration of tasks whose files, vocabulary and name come from gin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
from absl import logging

from t5patches import records
from t5patches.errors import UserError

from . import sources

# What each of our names was registered with: the same again changes nothing, something
# else replaces it (a process can run several jobs).
_registered: dict[str, tuple[Any, ...]] = {}


def text_task(
    name: str,
    files: sources.Files,
    vocabulary: seqio.Vocabulary,
    inputs_key: str = "inputs",
    targets_key: str | None = "targets",
    id_key: str = "id",
    output_vocabulary: seqio.Vocabulary | None = None,
    metric_fns: Sequence[Callable[..., Any]] = (),
) -> str:
    """Registers text pairs of JSON-lines or CSV files as a task; returns its name.

    The text of the inputs and the id go through to generation, as `inputs_pretokenized`
    and `id_pretokenized`. Texts longer than their feature length are cut and still end
    with EOS.

    Args:
      name: of the task, of letters, digits, dots and underscores.
      files: by split, a file, pattern, prefix of shards, or list of these; `.csv` files
        are read as CSV, others as JSON lines. Read and checked when first needed.
      vocabulary: of inputs and targets.
      inputs_key: field of the input text.
      targets_key: field of the target text; None where there is none (generation only).
      id_key: field of the id; a line without it is called `split:index`.
      output_vocabulary: of the targets, if it is another.
      metric_fns: SeqIO metric functions.
    """
    output_vocabulary = output_vocabulary or vocabulary
    spec = (
        "text",
        _plain(files),
        vocabulary,
        output_vocabulary,
        inputs_key,
        targets_key,
        id_key,
        tuple(metric_fns),
    )
    _register(
        name,
        spec,
        task_cls=FileTask,
        source=sources.TextSource(_plain(files), inputs_key, targets_key, id_key),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features={
            "inputs": seqio.Feature(vocabulary),
            "targets": seqio.Feature(output_vocabulary),
        },
        metric_fns=list(metric_fns),
        shuffle_buffer_size=None,
    )
    return name


def annotated_task(
    name: str,
    files: sources.Files,
    vocabulary: seqio.Vocabulary,
    output_vocabulary: seqio.Vocabulary | None = None,
    shuffle_buffer_size: int = 10_000,
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
    """
    output_vocabulary = output_vocabulary or vocabulary
    files = _plain(files)
    spec = ("annotated", files, vocabulary, output_vocabulary, shuffle_buffer_size)
    _register(
        name,
        spec,
        task_cls=AnnotatedTask,
        source=sources.annotated_source(files),
        preprocessors=[_to_int32, _end_inputs_with_eos],
        output_features={
            "inputs": seqio.Feature(vocabulary),
            "targets": seqio.Feature(output_vocabulary),
            "target_annotations": seqio.Feature(
                seqio.PassThroughVocabulary(2), add_eos=False
            ),
        },
        shuffle_buffer_size=shuffle_buffer_size,
    )
    return name


def truncation(
    name: str, split: str, task_feature_lengths: Mapping[str, int]
) -> dict[str, int]:
    """Counts what feature lengths cut off a registered `annotated_task`.

    Returns:
      The counts of `sources.check_annotated`.

    Raises:
      UserError: the task is not an `annotated_task`, or its files are wrong.
    """
    spec = _registered.get(name)
    if spec is None or spec[0] != "annotated":
        raise UserError(f"{name}: not a task that tasks.annotated_task registered")
    _, files, vocabulary, output_vocabulary, _ = spec
    size = max(map(records.max_vocabulary_size, (vocabulary, output_vocabulary)))
    return sources.check_annotated(files, split, task_feature_lengths, size)


class FileTask(seqio.Task):
    """A task without SeqIO's cache in memory, which would freeze the first shuffle."""

    def get_dataset(
        self,
        sequence_length: Mapping[str, int] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> tf.data.Dataset:
        kwargs["try_in_mem_cache"] = False
        return super().get_dataset(sequence_length, *args, **kwargs)


class AnnotatedTask(seqio.Task):
    """A task that trims annotations with their targets and says what was lost."""

    def get_dataset(
        self,
        sequence_length: Mapping[str, int] | None = None,
        split: str = "train",
        *args: Any,
        **kwargs: Any,
    ) -> tf.data.Dataset:
        if sequence_length and "targets" in sequence_length:
            sequence_length = {
                "target_annotations": sequence_length["targets"],
                **sequence_length,
            }
        if split in self.splits:
            self._report(split, sequence_length or {})
        return super().get_dataset(sequence_length, split, *args, **kwargs)

    def _report(self, split: str, lengths: Mapping[str, int]) -> None:
        counts = truncation(self.name, split, lengths)
        if not counts["examples"]:
            raise UserError(
                f"task {self.name}, split {split!r}: no annotated example in its files"
            )
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


def _plain(files: sources.Files) -> dict[str, str | list[str]]:
    if not isinstance(files, Mapping) or not files:
        raise UserError(
            f"files must name files by split, as {{'train': 'data/train.jsonl'}}, "
            f"not {files!r}"
        )
    return {
        split: spec if isinstance(spec, str) else [str(part) for part in spec]
        for split, spec in files.items()
    }


def _register(name: str, spec: tuple[Any, ...], **task: Any) -> None:
    if _registered.get(name) == spec and name in seqio.TaskRegistry.names():
        return
    if name in seqio.TaskRegistry.names() and name not in _registered:
        raise UserError(f"a task called {name!r} is registered already; choose a name")
    seqio.TaskRegistry.remove(name)
    try:
        seqio.TaskRegistry.add(name, **task)
    except ValueError as error:
        raise UserError(f"task {name!r}: {error}") from error
    _registered[name] = spec


def _to_int32(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.map(
        lambda example: {k: tf.cast(v, tf.int32) for k, v in example.items()},
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def _end_inputs_with_eos(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    sequence_length: Mapping[str, int] | None = None,
) -> tf.data.Dataset:
    """Cuts inputs so that they end with EOS, as they did when the model generated."""
    limit = (sequence_length or {}).get("inputs")
    if limit is None:
        return dataset
    eos_id = output_features["inputs"].vocabulary.eos_id

    def cut(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        inputs = example["inputs"]
        ended = tf.concat([inputs[: limit - 1], [eos_id]], axis=0)
        return {**example, "inputs": ended if tf.size(inputs) > limit else inputs}

    return dataset.map(cut, num_parallel_calls=tf.data.AUTOTUNE)
