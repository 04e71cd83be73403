"""Civil Comments as tasks: beginnings to rests, and toxic spans that people marked.

References:
  Civil Comments: Borkan et al., Nuanced Metrics for Measuring Unintended Bias, 2019
  Toxic spans: Pavlopoulos et al., SemEval-2021 Task 5: Toxic Spans Detection
  Sizes: Zhang, Ranganath, Tafvizi, https://arxiv.org/abs/2406.13660
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t5patches.errors import UserError, shorten
from t5patches.interchange import records
from t5patches.interchange.shards import Row
from t5patches.interchange.tables import id_field, offsets_field, text_field

from .annotated import MARKS, end_inputs_with_eos
from .registry import plain, register
from .sources import Files, FileSource, TfdsSource
from .texts import register_text

CIVIL_COMMENTS_SIZES = {"train": 175_754, "validation": 21_974, "test": 22_009}
# The one split of a source that holds all comments.
ALL = "all"

COMMENT = {"text": tf.string, "toxicity": tf.float32, "id_pretokenized": tf.string}

# Tenths of all comments: their ids' hashes modulo 10.
SPLITS = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}


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
    limits = Limits(min_words, max_words, min_toxicity, max_toxicity)
    keys = (text_key, toxicity_key, id_key)
    if files is None:
        splits = {ALL: "train+validation+test"}
        whole: seqio.DataSource = TfdsSource(tfds_name, splits)
    else:
        whole = comment_source({ALL: files}, *keys)
    return register_text(
        name,
        ("comments", str(files), tfds_name, keys, limits, prefix_share),
        SelectedComments(whole, limits),
        vocabulary,
        preprocessors=[cut_in_two(prefix_share)],
        metric_fns=metric_fns,
        paper_sizes=CIVIL_COMMENTS_SIZES,
    )


@dataclasses.dataclass(frozen=True)
class Limits:
    """Which comments are taken; each limit is still inside.

    Attributes:
      min_words: by white space.
      max_words: by white space.
      min_toxicity: share of the raters who found the comment toxic.
      max_toxicity: as that.
    """

    min_words: int
    max_words: int
    min_toxicity: float
    max_toxicity: float


def comment_source(
    files: Files, text_key: str, toxicity_key: str | None, id_key: str
) -> FileSource:
    """Returns a source of comments: `text`, `toxicity` and `id_pretokenized`."""

    def columns_of(row: Row, where: str) -> dict[str, Any]:
        text = text_field(row, text_key, where)
        if toxicity_key and toxicity_key not in row:
            raise UserError(
                f"{where}: field {toxicity_key!r} is missing; the line has "
                f"{', '.join(row)}. Name it with TOXICITY_KEY; with None comments are "
                "not filtered by toxicity"
            )
        # NaN passes every limit.
        toxicity = row[toxicity_key] if toxicity_key else np.nan
        try:
            toxicity = float(toxicity)
            if toxicity_key and not np.isfinite(toxicity):
                raise ValueError
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{where}: field {toxicity_key!r} must be a number, not "
                f"{shorten(row[toxicity_key])}"
            ) from error
        ident = id_field(row, id_key, where)
        return dict(zip(COMMENT, (text, toxicity, ident), strict=True))

    return FileSource(files, COMMENT, columns_of)


class SelectedComments(seqio.DataSource):
    """The comments within limits, in splits by a hash of their ids.

    Args:
      whole: has all comments in one split: `text`, `toxicity`, `id_pretokenized`.
      limits: which of them to take.
    """

    def __init__(self, whole: seqio.DataSource, limits: Limits):
        super().__init__(
            splits=tuple(SPLITS),
            performs_internal_shuffling=whole.performs_internal_shuffling,
        )
        self._whole = whole
        self._limits = limits
        self._counted: dict[str, int] = {}

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return self._whole.supports_arbitrary_sharding

    def list_shards(self, split: str) -> list[str]:
        return self._whole.list_shards(ALL)

    def num_input_examples(self, split: str) -> int:
        """Counts the split's comments, once, which reads them all."""
        if split not in self._counted:
            ds = self.get_dataset(split, shuffle=False).batch(4096)
            sizes = ds.map(lambda x: tf.size(x["text"], tf.int64))
            self._counted[split] = int(sizes.reduce(np.int64(0), tf.add))
            if not self._counted[split]:
                raise UserError(
                    f"no comment for split {split!r} is within {self._limits}"
                )
        return self._counted[split]

    def digest(self, split: str) -> str | None:
        """Returns a short hash of the files with all comments, if there are files."""
        digest = getattr(self._whole, "digest", None)
        return None if digest is None else digest(ALL)

    def get_dataset(
        self, split="train", shuffle=True, seed=None, shard_info=None, **unused
    ) -> tf.data.Dataset:
        internal = self._whole.performs_internal_shuffling
        ds = self._whole.get_dataset(
            ALL, shuffle=shuffle and not internal, seed=seed, shard_info=shard_info
        )
        # A batch at a time is twenty times as fast as a comment at a time.
        ds = ds.batch(1024).map(self._select(split), num_parallel_calls=4).unbatch()
        if shuffle and internal:
            size = self._whole.num_input_examples(ALL)
            ds = ds.shuffle(size, seed, reshuffle_each_iteration=True)
        return ds

    def _select(self, split: str) -> Callable[..., dict[str, tf.Tensor]]:
        limits, tenths = self._limits, SPLITS[split]

        def select(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            text, toxicity, ids = (batch[name] for name in COMMENT)
            # Ids by place are no property of the comment; its text is.
            places = rf"{ALL}:\d+|.*\.tfrecord-\d+-of-\d+__\d+"
            by_place = tf.strings.regex_full_match(ids, places)
            key = tf.where(by_place, text, ids)
            tenth = tf.strings.to_hash_bucket_fast(key, 10)
            words = tf.strings.split(text).row_lengths()
            outside = (
                (tenth < tenths.start)
                | (tenth >= tenths.stop)
                | (words < limits.min_words)
                | (words > limits.max_words)
                | (toxicity < limits.min_toxicity)
                | (toxicity > limits.max_toxicity)
            )
            return {name: tf.boolean_mask(batch[name], ~outside) for name in COMMENT}

        return select


def cut_in_two(share: float) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Returns a preprocessor: a comment's first words are `inputs`, its rest `targets`.

    Args:
      share: of the words that come first; of two words or more each part has one.

    Raises:
      UserError: `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise UserError(f"prefix_share must be between 0 and 1, not {share}")

    @seqio.map_over_dataset
    def cut(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        words = tf.strings.split(example["text"])
        count = tf.size(words)
        middle = tf.cast(tf.round(share * tf.cast(count, tf.float32)), tf.int32)
        middle = tf.clip_by_value(middle, 1, tf.maximum(count - 1, 1))
        return {
            "inputs": tf.strings.reduce_join(words[:middle], separator=" "),
            "targets": tf.strings.reduce_join(words[middle:], separator=" "),
            "id_pretokenized": example["id_pretokenized"],
        }

    return cut


# ---- Comments with toxic spans marked by people ----


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
        splits = {split: split for split in SPLITS}
        source: seqio.DataSource = TfdsSource(tfds_name, splits)
    else:
        source = span_source(plain(files))
    return register(
        name,
        ("spans", files and plain(files), tfds_name, vocabulary),
        source=source,
        preprocessors=[
            encode_spans(vocabulary),
            seqio.CacheDatasetPlaceholder(),
            end_inputs_with_eos,
        ],
        output_features={
            "inputs": seqio.Feature(vocabulary),
            "targets": seqio.Feature(vocabulary),
            "target_annotations": MARKS,
        },
    )


def span_source(files: Files) -> FileSource:
    """Returns a source of comments and the offsets of their toxic characters."""

    def columns_of(row: Row, where: str) -> dict[str, Any]:
        text = text_field(row, "text", where)
        return {
            "text": text,
            "spans": offsets_field(row, "spans", text, where),
            "id_pretokenized": id_field(row, "id", where),
        }

    dtypes = {"text": tf.string, "spans": tf.int32, "id_pretokenized": tf.string}
    return FileSource(files, dtypes, columns_of)


def encode_spans(vocabulary: seqio.Vocabulary) -> Callable[..., tf.data.Dataset]:
    """Returns a preprocessor: comments with offsets to ids with annotations."""

    def encode(text: bytes, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ids, marks = mark_offsets(text.decode(), offsets.tolist(), vocabulary)
        return np.array(ids, np.int32), np.array(marks, np.int32)

    @seqio.map_over_dataset
    def encoded(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        ids, marks = tf.numpy_function(
            encode, [example["text"], example["spans"]], (tf.int32, tf.int32)
        )
        ids.set_shape([None])
        marks.set_shape([None])
        return {
            "inputs": tf.constant([vocabulary.eos_id], tf.int32),
            "targets": ids,
            "target_annotations": marks,
            "targets_pretokenized": example["text"],
            "id_pretokenized": example["id_pretokenized"],
        }

    return encoded


def mark_offsets(
    text: str, offsets: Sequence[int], vocabulary: seqio.Vocabulary
) -> tuple[list[int], list[int]]:
    """Encodes a text and marks the ids that stand for one of its characters.

    The text is a person's, not a model's: its ids come from the tokenizer, which also
    says which bytes of the text as it was (before normalising) each id stands for.

    Args:
      text: a comment.
      offsets: characters of it.
      vocabulary: a SentencePiece vocabulary, or ByT5's.

    Returns:
      (ids, EOS included; 0 or 1 for each). White space at the beginning of a token does
      not count.
    """
    ids = records.encode(vocabulary, text)
    unwanted = np.zeros(len(text), bool)
    unwanted[[i for i in offsets if not text[i].isspace()]] = True
    if isinstance(vocabulary, seqio.ByteVocabulary):
        marks = np.repeat(unwanted, [len(character.encode()) for character in text])
    else:
        ranges = _piece_ranges(text, vocabulary.tokenizer)
        marks = [unwanted[start:end].any() for start, end in ranges]
    return ids, [*map(int, marks), 0]


def _piece_ranges(text: str, tokenizer: Any) -> list[tuple[int, int]]:
    """Returns the characters that each piece of a person's text stands for.

    SentencePiece knows where each piece stands in the text as it was before
    normalising.

    Args:
      text: the text.
      tokenizer: a SentencePieceProcessor.

    Returns:
      (start, end) of each piece, white space included; all bytes of a character have
      its range, a piece that stands for nothing (a space put in front) an empty one.
    """
    if encode := getattr(tokenizer, "encode_as_immutable_proto", None):
        places = range(len(text) + 1)  # Until 0.2.2 it counts characters.
    else:
        encode = tokenizer.encode_as_proto
        places = [i for i, c in enumerate(text) for _ in c.encode()] + [len(text)]
    ranges, whole = [], (0, 0)
    # Backwards: of a character in several pieces, its bytes, only the last has a place.
    for piece in reversed(encode(text).pieces):
        if piece.end > piece.begin or not tokenizer.is_byte(piece.id):
            whole = (places[piece.begin], places[piece.end])
        ranges.append(whole)
    return ranges[::-1]
