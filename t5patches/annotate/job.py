"""Annotating files of predictions: shard by shard, resumable, with statistics."""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from t5patches import progress, records
from t5patches.annotate.alignment import DecodingMismatch, Span, align
from t5patches.errors import UserError

Annotator = Callable[[str, str], list[Span]]

NAME = "annotated"


def annotate_row(
    row: records.Row, annotator: Annotator, vocabulary: Any
) -> records.Row:
    """Returns a prediction with `annotations` and `target_annotations`.

    Args:
      row: a prediction with `target_tokens`.
      annotator: says which characters are unwanted.
      vocabulary: the one that decodes `target_tokens`.

    Raises:
      DecodingMismatch: `target_tokens` do not decode to `prediction`.
      UserError: the annotator returned something that is no span of the text.
    """
    text = row["prediction"]
    spans = annotator(text, row["inputs"])
    for start, end, _ in spans:
        if not 0 <= start < end <= len(text):
            raise UserError(
                f"the annotator returned ({start}, {end}), which is no span of the "
                f"{len(text)} characters of 'prediction'"
            )
    marks = align(row["target_tokens"], text, spans, vocabulary)
    return {
        **row,
        "annotations": [
            {"start": start, "end": end, "label": label} for start, end, label in spans
        ],
        "target_annotations": marks,
    }


def annotate_files(
    predictions: records.PathLike | Sequence[records.PathLike],
    annotator: Annotator,
    output_dir: records.PathLike,
    vocabulary: Any,
    *,
    settings: Mapping[str, Any],
    only_annotated: bool = False,
    feature_lengths: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Annotates predictions; a shard of input becomes a shard of output.

    Writes `annotated-00000-of-00016.jsonl` (annotated predictions), `.tfrecord` (what
    training reads) and `.stats.json` of each shard, and `stats.json` of all. A call
    with the same settings skips the shards that are there; with others it refuses.

    Args:
      predictions: files as `records.expand` takes them.
      annotator: says which characters are unwanted.
      output_dir: a folder of its own.
      vocabulary: the one that the model generated with.
      settings: what else than `predictions` and the arguments here decides the result,
        e.g. the annotator's name and the digest of its phrases.
      only_annotated: keep only predictions with an unwanted id.
      feature_lengths: lengths of `inputs` and `targets` in training; what they would
        cut off is counted.

    Returns:
      The statistics, as in `stats.json`.

    Raises:
      UserError: naming file, line and field of a wrong prediction, or if the folder
        holds another job's results.
    """
    paths = records.expand(predictions)
    lengths = dict(feature_lengths or {})
    folder = records.claim_folder(
        output_dir,
        {
            "step": "annotate",
            **settings,
            "predictions": [records.file_digest(path) for path in paths],
            "vocabulary": vocabulary_digest(vocabulary),
            "only_annotated": only_annotated,
            "feature_lengths": lengths,
        },
    )
    totals = Statistics(lengths)
    for index, path in enumerate(paths):
        prefix = os.fspath(folder / NAME)
        outputs = {
            suffix: records.shard_path(prefix, index, len(paths), suffix)
            for suffix in (".jsonl", ".tfrecord", ".stats.json")
        }
        if all(map(records.is_complete, outputs.values())):
            logging.info("%s: there already, skipped", outputs[".jsonl"])
        else:
            rows = _annotated_rows(path, annotator, vocabulary)
            _write_shard(rows, outputs, vocabulary, Statistics(lengths), only_annotated)
        totals.add(json.loads(epath.Path(outputs[".stats.json"]).read_text()))
    stats = totals.report()
    if not stats["examples"]:
        raise UserError(f"{', '.join(paths)}: no predictions to annotate")
    records.write_json(folder / "stats.json", stats)
    _warn(stats)
    return stats


def _annotated_rows(
    path: str, annotator: Annotator, vocabulary: Any
) -> Iterator[records.Row]:
    lines = progress.track(
        records.read_jsonl(path), f"annotate {epath.Path(path).name}"
    )
    for index, (number, line) in enumerate(lines):
        where = f"{path}:{number}"
        row = records.check_prediction(line, where, index, vocabulary)
        try:
            yield annotate_row(row, annotator, vocabulary)
        except DecodingMismatch as error:
            raise UserError(f"{where}: field 'target_tokens': {error}") from error
        except UserError as error:
            raise UserError(f"{where}: {error}") from error


def _write_shard(
    rows: Iterable[records.Row],
    outputs: Mapping[str, str],
    vocabulary: Any,
    stats: Statistics,
    only_annotated: bool,
) -> None:
    """Writes the lines, then the TFRecord of those lines, then the statistics."""

    def counted() -> Iterator[records.Row]:
        for row in rows:
            stats.count(row, vocabulary)
            if any(row["target_annotations"]) or not only_annotated:
                yield row

    stats.counts["written"] = records.write_jsonl(outputs[".jsonl"], counted())
    written = (row for _, row in records.read_jsonl(outputs[".jsonl"]))
    records.write_tfrecords(
        outputs[".tfrecord"],
        (records.training_features(row, vocabulary) for row in written),
    )
    records.write_json(outputs[".stats.json"], stats.state())


class Statistics:
    """Counts over annotated predictions; shards' counts add up."""

    def __init__(self, lengths: Mapping[str, int]):
        self.lengths = lengths
        self.counts: collections.Counter[str] = collections.Counter()
        self.labels: collections.Counter[str] = collections.Counter()

    def count(self, row: records.Row, vocabulary: Any) -> None:
        """Counts one annotated prediction."""
        marks = row["target_annotations"]
        limit = self.lengths.get("targets", len(marks))
        self.labels.update(span["label"] for span in row["annotations"])
        self.counts.update(
            examples=1,
            examples_with_unwanted=int(any(marks)),
            tokens=len(marks),
            unwanted_tokens=sum(marks),
            reencoded=int(bool(row.get("reencoded"))),
            truncated_targets=int(len(marks) > limit),
            dropped_unwanted_tokens=sum(marks[limit:]),
            examples_without_unwanted_left=int(any(marks) and not any(marks[:limit])),
        )
        if "inputs" in self.lengths:
            inputs = records.encode(vocabulary, row["inputs"])
            self.counts["truncated_inputs"] += len(inputs) > self.lengths["inputs"]

    def state(self) -> dict[str, dict[str, int]]:
        """Returns the counts, for `add`."""
        return {"counts": dict(self.counts), "labels": dict(self.labels)}

    def add(self, state: Mapping[str, Mapping[str, int]]) -> None:
        """Adds the counts of a shard."""
        self.counts.update(state["counts"])
        self.labels.update(state["labels"])

    def report(self) -> dict[str, Any]:
        """Returns what `stats.json` holds."""
        counts = self.counts
        return {
            "examples": counts["examples"],
            "examples_with_unwanted": counts["examples_with_unwanted"],
            "share_with_unwanted": counts["examples_with_unwanted"]
            / max(counts["examples"], 1),
            "tokens": counts["tokens"],
            "unwanted_tokens": counts["unwanted_tokens"],
            "annotations_by_label": dict(self.labels.most_common()),
            "written": counts["written"],
            "reencoded": counts["reencoded"],
            "truncation": {
                "feature_lengths": dict(self.lengths),
                "truncated_inputs": counts["truncated_inputs"],
                "truncated_targets": counts["truncated_targets"],
                "dropped_unwanted_tokens": counts["dropped_unwanted_tokens"],
                "examples_without_unwanted_left": counts[
                    "examples_without_unwanted_left"
                ],
            },
        }


def _warn(stats: Mapping[str, Any]) -> None:
    if stats["reencoded"]:
        logging.warning(
            "%d of %d predictions had no ids and were encoded from their text, which "
            "need not give the ids that the model generated (T5X writes them with "
            "output_ids = True)",
            stats["reencoded"],
            stats["examples"],
        )
    truncation = stats["truncation"]
    if truncation["dropped_unwanted_tokens"]:
        logging.warning(
            "Feature length %d of targets would cut off %d of %d unwanted tokens",
            truncation["feature_lengths"]["targets"],
            truncation["dropped_unwanted_tokens"],
            stats["unwanted_tokens"],
        )
    if not stats["unwanted_tokens"]:
        logging.warning("Nothing unwanted was found in %d examples", stats["examples"])


def vocabulary_digest(vocabulary: Any) -> str:
    """Returns what tells vocabularies apart, independent of where the file lies."""
    import hashlib

    name = type(vocabulary).__name__
    model = getattr(vocabulary, "sp_model", b"") or b""
    digest = hashlib.sha256(model).hexdigest()[:16]
    return f"{name}:{vocabulary.vocab_size}:{digest}"
