"""Text pairs as a task: of a user's own files, and of XSUM.

References:
  XSUM: Narayan, Cohen, Lapata, Don't Give Me the Details, Just the Summary!, EMNLP 2018
  Sizes: Zhang, Ranganath, Tafvizi, https://arxiv.org/abs/2406.13660
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
from absl import logging

from t5patches.interchange.shards import Row
from t5patches.interchange.tables import id_field, text_field

from .registry import plain, register
from .sources import Files, FileSource, TfdsSource

XSUM_SIZES = {"train": 203_577, "validation": 11_305, "test": 11_301}


def text_task(
    name: str,
    files: Files,
    vocabulary: seqio.Vocabulary,
    inputs_key: str = "inputs",
    targets_key: str | None = "targets",
    id_key: str = "id",
    metric_fns: Sequence[Callable[..., Any]] = (),
) -> str:
    """Registers text pairs of files as a task; returns its name.

    The text of the inputs and the id go through to generation, as `inputs_pretokenized`
    and `id_pretokenized`. Texts longer than their feature length are cut and still end
    with EOS.

    Args:
      name: of the task, of letters, digits, dots and underscores.
      files: by split, a file, pattern, prefix of shards, or list of these; `.csv` and
        `.parquet` files are read as such, others as JSON lines. Read and checked when
        first needed.
      vocabulary: of inputs and targets.
      inputs_key: field of the input text.
      targets_key: field of the target text; None where there is none (generation only).
      id_key: field of the id; a line without it is called `split:index`.
      metric_fns: SeqIO metric functions.
    """
    files = plain(files)
    return register_text(
        name,
        ("text", files, inputs_key, targets_key, id_key),
        text_source(files, inputs_key, targets_key, id_key),
        vocabulary,
        metric_fns=metric_fns,
    )


def xsum_task(
    name: str,
    vocabulary: seqio.Vocabulary,
    files: Files | None = None,
    tfds_name: str = "xsum:1.1.0",
    metric_fns: Sequence[Callable[..., Any]] = (),
) -> str:
    """Registers XSUM, `document` to `summary`, as a task; returns its name.

    How many examples a split has is said in the log where it is not the paper's number.

    Args:
      name: of the task.
      vocabulary: of documents and summaries.
      files: by split, JSON-lines, CSV or Parquet files with `document`, `summary` and,
        if they have one, `id`; None reads TFDS's copy, which somebody must have made
        (TFDS cannot download it).
      tfds_name: of that copy. Its examples have no id but TFDS's.
      metric_fns: SeqIO metric functions.
    """
    if files is None:
        source: seqio.DataSource = TfdsSource(tfds_name, {s: s for s in XSUM_SIZES})
        names = {"inputs": "document", "targets": "summary"}
        names["id_pretokenized"] = "id_pretokenized"
        first = [functools.partial(seqio.preprocessors.rekey, key_map=names)]
    else:
        source, first = text_source(plain(files), "document", "summary", "id"), []
    return register_text(
        name,
        ("xsum", files and plain(files), tfds_name),
        source,
        vocabulary,
        preprocessors=first,
        metric_fns=metric_fns,
        paper_sizes=XSUM_SIZES,
    )


def text_source(
    files: Files, inputs_key: str, targets_key: str | None, id_key: str
) -> FileSource:
    """Returns a source of `inputs`, `targets` and `id_pretokenized`, scalar texts."""

    def columns_of(row: Row, where: str) -> dict[str, str]:
        return {
            "inputs": text_field(row, inputs_key, where),
            "targets": text_field(row, targets_key, where) if targets_key else "",
            "id_pretokenized": id_field(row, id_key, where),
        }

    names = ("inputs", "targets", "id_pretokenized")
    return FileSource(files, dict.fromkeys(names, tf.string), columns_of)


def register_text(
    name: str,
    spec: tuple[Any, ...],
    source: seqio.DataSource,
    vocabulary: seqio.Vocabulary,
    *,
    preprocessors: Sequence[Callable[..., tf.data.Dataset]] = (),
    metric_fns: Sequence[Callable[..., Any]] = (),
    paper_sizes: Mapping[str, int] | None = None,
) -> str:
    """Registers a source of texts as a task from `inputs` to `targets`.

    Args:
      name: of the task.
      spec: what the source and the preprocessors are made from.
      source: of `inputs`, `targets` and `id_pretokenized`, once `preprocessors` ran.
      vocabulary: of inputs and targets.
      preprocessors: run first.
      metric_fns: SeqIO metric functions.
      paper_sizes: examples by split, said in the log beside the number found.
    """
    sizes = dict(paper_sizes or {})

    def compare_size(split: str, lengths: Mapping[str, int]) -> None:
        if split not in sizes or (found := source.num_input_examples(split)) is None:
            return
        expected = sizes.pop(split)  # Said once.
        log = logging.info if found == expected else logging.warning
        what = "Task %s, split %s: %d examples; the paper has %d"
        log(what, name, split, found, expected)

    return register(
        name,
        (*spec, vocabulary, tuple(metric_fns), tuple(sizes.items())),
        compare_size,
        source=source,
        preprocessors=[
            *preprocessors,
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features={
            "inputs": seqio.Feature(vocabulary),
            "targets": seqio.Feature(vocabulary),
        },
        metric_fns=list(metric_fns),
    )
