"""The data sets of the paper's two use cases as tasks, from TFDS or from files.

References:
  XSUM: Narayan, Cohen, Lapata, Don't Give Me the Details, Just the Summary!, EMNLP 2018
  Civil Comments: Borkan et al., Nuanced Metrics for Measuring Unintended Bias, 2019
  Toxic spans: Pavlopoulos et al., SemEval-2021 Task 5: Toxic Spans Detection
  Sizes: Zhang, Ranganath, Tafvizi, https://arxiv.org/abs/2406.13660
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from . import comments
from .annotated import MARKS, end_inputs_with_eos
from .registry import SHUFFLE_BUFFER_SIZE, plain, register
from .sources import Files
from .texts import register_text, text_source
from .tfds import TfdsSource

XSUM_SIZES = {"train": 203_577, "validation": 11_305, "test": 11_301}
CIVIL_COMMENTS_SIZES = {"train": 175_754, "validation": 21_974, "test": 22_009}


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
      tfds_name: of that copy. Its examples have no id and are called `split:index`.
      metric_fns: SeqIO metric functions.
    """
    if files is None:
        source: seqio.DataSource = TfdsSource(tfds_name, {s: s for s in XSUM_SIZES})
        first = [rekey(inputs="document", targets="summary")]
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


def civil_comments_task(
    name: str,
    vocabulary: seqio.Vocabulary,
    files: str | Sequence[str] | None = None,
    tfds_name: str = "civil_comments/CivilComments:1.2.4",
    min_words: int = 8,
    max_words: int = 200,
    min_toxicity: float = 0.4,
    max_toxicity: float = 1.0,
    prefix_share: float = 0.5,
    text_key: str = "text",
    toxicity_key: str | None = "toxicity",
    id_key: str = "id",
    metric_fns: Sequence[Callable[..., Any]] = (),
) -> str:
    """Registers Civil Comments, the beginning of a comment to its rest, as a task.

    Which split a comment belongs to, 80 % train, 10 % validation, 10 % test, is a hash
    of its id (of its text where it has none), whatever the other comments are. How many
    there are is said in the log beside the paper's numbers; the paper does not say
    which comments it took, and the limits here are ours.

    Args:
      name: of the task.
      vocabulary: of both parts.
      files: JSON-lines, CSV or Parquet files of comments, all splits together; None
        reads TFDS's copy.
      tfds_name: of that copy; all of its splits are read.
      min_words: shorter comments are left out.
      max_words: longer comments are left out.
      min_toxicity: so are less toxic ones, by the share of raters (0 to 1)
      max_toxicity: and more toxic ones.
      prefix_share: of the words of a comment that become its `inputs`.
      text_key: field of the text in `files`.
      toxicity_key: field of the toxicity in `files`; None takes comments of any.
      id_key: field of the id in `files`.
      metric_fns: SeqIO metric functions.
    """
    limits = comments.Limits(min_words, max_words, min_toxicity, max_toxicity)
    keys = (text_key, toxicity_key, id_key)
    if files is None:
        splits = {comments.ALL: "train+validation+test"}
        whole: seqio.DataSource = TfdsSource(tfds_name, splits)
    else:
        whole = comments.comment_source({comments.ALL: files}, *keys)
    return register_text(
        name,
        ("comments", str(files), tfds_name, keys, limits, prefix_share),
        comments.SelectedComments(whole, limits),
        vocabulary,
        preprocessors=[comments.cut_in_two(prefix_share)],
        metric_fns=metric_fns,
        paper_sizes=CIVIL_COMMENTS_SIZES,
    )


def civil_comments_spans_task(
    name: str,
    vocabulary: seqio.Vocabulary,
    files: Files | None = None,
    tfds_name: str = "civil_comments/CivilCommentsToxicSpans:1.2.4",
) -> str:
    """Registers comments whose toxic characters people have marked; returns the name.

    Features: `inputs`, empty but for EOS; `targets`, the comment; `target_annotations`,
    1 at its ids with a marked character.

    Args:
      name: of the task.
      vocabulary: a SentencePiece vocabulary, or ByT5's.
      files: by split, files with `spans` (a list of character offsets, in CSV as Python
        writes it) and `text`, as SemEval-2021 task 5 has them; None reads TFDS's copy.
      tfds_name: of that copy.
    """
    if files is None:
        splits = {split: split for split in comments.SPLITS}
        source: seqio.DataSource = TfdsSource(tfds_name, splits)
    else:
        source = comments.span_source(plain(files))
    internal = source.performs_internal_shuffling
    return register(
        name,
        ("spans", files and plain(files), tfds_name, vocabulary),
        source=source,
        preprocessors=[
            comments.encode_spans(vocabulary),
            seqio.CacheDatasetPlaceholder(),
            end_inputs_with_eos,
        ],
        output_features={
            "inputs": seqio.Feature(vocabulary),
            "targets": seqio.Feature(vocabulary),
            "target_annotations": MARKS,
        },
        shuffle_buffer_size=None if internal else SHUFFLE_BUFFER_SIZE,
    )


def rekey(**names: str) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Returns a preprocessor that renames features: `new="old"`; the id stays."""

    def renamed(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        kept = {new: example[old] for new, old in names.items()}
        return kept | {"id_pretokenized": example["id_pretokenized"]}

    return lambda ds: ds.map(renamed, num_parallel_calls=tf.data.AUTOTUNE)
