"""Annotating files of predictions: shard by shard, resumable, with statistics."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import process
from typing import Any

from absl import logging
from etils import epath

from t5patches import progress
from t5patches.annotate.alignment import DecodingMismatch, Span, align
from t5patches.annotate.annotator import (
    RAISED,
    Annotator,
    Found,
    annotate_text,
    annotate_texts,
    settings_of,
)
from t5patches.errors import UserError
from t5patches.interchange import claims, json_files, records, shards, tfrecords

NAME = "annotated"
SKIPPED = "skipped.txt"
# Lines that an annotator gets, or a process is sent, at a time.
CHUNK = 256
# Raised by one whenever the same spans come to mark other ids or are written in another
# form, so that shards of an earlier version are made again.
RULES = 1

_SUFFIXES = (".jsonl", ".tfrecord", ".stats.json")
_SHARD_OF = re.compile(rf"{NAME}-\d{{5,}}-of-(\d{{5,}})\.")
_Located = tuple[str, shards.Row]  # `file:line` and a prediction.


def annotate_row(row: shards.Row, annotator: Annotator, vocabulary: Any) -> shards.Row:
    """Returns a prediction with `annotations` and `target_annotations`.

    Args:
      row: a prediction with `target_tokens`.
      annotator: says which characters are unwanted.
      vocabulary: the one that decodes `target_tokens`.

    Raises:
      DecodingMismatch: `target_tokens` do not decode to `prediction`.
      UserError: the annotator raised or returned something that is no span of the text.
    """
    spans = annotate_text(annotator, row["prediction"], row["inputs"])
    return _with_spans(row, spans, vocabulary)


def _with_spans(row: shards.Row, spans: Sequence[Span], vocabulary: Any) -> shards.Row:
    try:
        marks = align(row["target_tokens"], row["prediction"], spans, vocabulary)
    except DecodingMismatch as error:
        raise DecodingMismatch(f"field 'target_tokens': {error}") from error
    return {
        **row,
        "annotations": [
            {"start": start, "end": end, "label": label} for start, end, label in spans
        ],
        "target_annotations": marks,
    }


def annotate_files(
    predictions: shards.PathLike | Sequence[shards.PathLike],
    annotator: Annotator,
    output_dir: shards.PathLike,
    vocabulary: Any,
    *,
    settings: Mapping[str, Any] | None = None,
    only_annotated: bool = False,
    feature_lengths: Mapping[str, int] | None = None,
    on_error: str = "stop",
    processes: int = 1,
) -> dict[str, Any]:
    """Annotates predictions; a shard of input becomes a shard of output.

    Writes `annotated-00000-of-00016.jsonl` (annotated predictions), `.tfrecord` (what
    training reads) and `.stats.json` of each shard, `stats.json` of all, and, if
    something was skipped, `skipped.txt`. A call with the same settings skips the shards
    that are there, unless their predictions have changed, as after a wrong line was put
    right; with others, or where annotators decide otherwise by now, it refuses. It also
    refuses to replace what was made completely, with nothing skipped, from other
    predictions.

    Args:
      predictions: files as `shards.expand` takes them.
      annotator: says which characters are unwanted.
      output_dir: a folder of its own.
      vocabulary: the one that the model generated with.
      settings: what tells the annotator from others, where it does not say so in an
        attribute `settings` as those of this package do: e.g. the name and version of
        a function of yours.
      only_annotated: keep only predictions with an unwanted id.
      feature_lengths: lengths of `inputs` and `targets` in training; what they would
        cut off is counted.
      on_error: 'stop' raises at the first wrong line; 'skip' leaves out wrong lines and
        missing shards and lists them.
      processes: how many share the work; the annotator must be picklable if several.

    Returns:
      The statistics, as in `stats.json`.

    Raises:
      UserError: naming file, line and field of a wrong prediction, or if the folder
        holds another job's results.
    """
    job = Job.start(
        predictions,
        annotator,
        output_dir,
        vocabulary,
        settings=settings,
        only_annotated=only_annotated,
        feature_lengths=feature_lengths,
        on_error=on_error,
    )
    with _chunk_runner(annotator, processes) as run_chunks:
        for index in range(len(job.paths)):
            job.run_shard(index, run_chunks)
    return job.finish()


# Runs an annotator over chunks of a file; gives back each with what it found in it.
_Chunk = list[_Located]
_RunChunks = Callable[[Iterator[_Chunk]], Iterator[tuple[_Chunk, list[Found]]]]


@dataclasses.dataclass(frozen=True)
class Job:
    """A set of files to annotate, whose shards can be done anywhere, in any order.

    Attributes:
      paths: the files.
      sources: what the result of each depends on besides the settings: its content,
        and how many lines the files before it have, which ids may be of.
      missing: errors of shards that are missing, if they are skipped.
      annotator, vocabulary, only_annotated, feature_lengths: as in `annotate_files`.
      folder: the output folder.
      settings: what its `settings.json` has.
      skips: whether wrong lines are left out.
    """

    paths: list[str]
    sources: list[dict[str, Any]]
    missing: list[str]
    annotator: Annotator
    folder: str
    settings: dict[str, Any]
    vocabulary: Any
    only_annotated: bool
    feature_lengths: dict[str, int]
    skips: bool

    @classmethod
    def start(
        cls,
        predictions: shards.PathLike | Sequence[shards.PathLike],
        annotator: Annotator,
        output_dir: shards.PathLike,
        vocabulary: Any,
        *,
        settings: Mapping[str, Any] | None = None,
        only_annotated: bool = False,
        feature_lengths: Mapping[str, int] | None = None,
        on_error: str = "stop",
    ) -> Job:
        """Checks the files and claims the output folder; see `annotate_files`."""
        if on_error not in ("stop", "skip"):
            raise ValueError(f"on_error must be 'stop' or 'skip', not {on_error!r}")
        missing: list[UserError] = []
        skips = on_error == "skip"
        paths = shards.expand(
            predictions, on_error=missing.append if skips else shards.raise_error
        )
        lines = [_line_count(path) for path in paths]
        if not any(lines):
            raise UserError(f"{', '.join(paths)}: no predictions to annotate")
        for path, count in zip(paths, lines, strict=True):
            if not count:
                logging.warning("%s: empty, there are no predictions in it", path)
        lengths = dict(feature_lengths or {})
        claimed = {
            "step": "annotate",
            **settings_of(annotator, settings),
            "job_rules": RULES,
            "vocabulary": vocabulary_digest(vocabulary),
            "only_annotated": only_annotated,
            "feature_lengths": lengths,
        }
        made_by = claims.fingerprint(claimed)
        job = cls(
            paths,
            [
                {
                    "digest": claims.file_digest(path),
                    "lines_before": before,
                    "settings": made_by,
                }
                for path, before in zip(
                    paths, itertools.accumulate(lines, initial=0), strict=False
                )
            ],
            [_line(error) for error in missing],
            annotator,
            os.fspath(output_dir),
            claimed,
            vocabulary,
            only_annotated,
            lengths,
            skips,
        )
        claims.claim_folder(output_dir, claimed, job._check_folder())
        job._make_room()
        return job

    def _check_folder(self) -> bool:
        """Says whether the folder has results; refuses one with files of others."""
        folder = epath.Path(self.folder)
        for path in self.paths:
            own = os.path.basename(path).startswith(f"{NAME}-")
            if own and _is_in(path, self.folder):
                raise UserError(
                    f"{path}: stands where results are written; give another output "
                    "folder"
                )
        if not folder.is_dir():
            return False
        results = [
            part.name
            for part in folder.iterdir()
            if part.name.startswith(f"{NAME}-") or part.name == "stats.json"
        ]
        record = folder / "settings.json"
        if results and not record.is_file():
            raise UserError(
                f"{self.folder}: has {min(results)}, but no settings.json that says "
                "what it was made with; give another output folder or remove this one"
            )
        if results or not record.is_file():
            return bool(results)
        return json_files.read_json(record).get("step") != "annotate"

    def _make_room(self) -> None:
        """Removes what other predictions have left, but for a complete result."""
        stats = epath.Path(self.folder) / "stats.json"
        count = len(self.paths)
        others = {
            path: int(shard[1])
            for path in epath.Path(self.folder).iterdir()
            if (shard := _SHARD_OF.match(path.name)) and int(shard[1]) != count
        }
        changed = [i for i in range(count) if self._has_changed(i)]
        if shards.is_complete(stats) and not json_files.read_json(stats).get("skipped"):
            if others or changed:
                what = (
                    f"they were {next(iter(others.values()))} files, now {count}"
                    if others
                    else f"{self.paths[changed[0]]} has changed"
                )
                raise UserError(
                    f"{self.folder}: made from other predictions ({what}); give "
                    "another output folder or remove this one"
                )
        for path in others:
            logging.warning("%s: removed, one of a set of more or fewer files", path)
            path.unlink(missing_ok=True)
        if not all(map(self._is_done, range(count))):
            _remove(stats)

    def _outputs(self, index: int) -> dict[str, str]:
        prefix = os.path.join(self.folder, NAME)
        return {
            suffix: shards.shard_path(prefix, index, len(self.paths), suffix)
            for suffix in _SUFFIXES
        }

    def _has_changed(self, index: int) -> bool:
        """Says whether a file is there that was made from another content."""
        state = self._state(index)
        return state is not None and state.get("source") != self.sources[index]

    def _state(self, index: int) -> dict[str, Any] | None:
        """Returns a file's `.stats.json`, which is written last, if it is there."""
        path = self._outputs(index)[".stats.json"]
        return json_files.read_json(path) if shards.is_complete(path) else None

    def _is_done(self, index: int) -> bool:
        state = self._state(index)
        if state is None or state.get("source") != self.sources[index]:
            return False
        if not all(map(shards.is_complete, self._outputs(index).values())):
            return False
        # What an earlier call skipped must be an error now, if errors are asked for.
        return self.skips or not state.get("skipped")

    def run_shard(self, index: int, run_chunks: _RunChunks | None = None) -> None:
        """Annotates one file, unless it is done.

        Args:
          index: which of `paths`.
          run_chunks: runs the annotator; in this process if None.

        Raises:
          UserError: naming file, line and field of a wrong prediction.
        """
        outputs = self._outputs(index)
        if self._is_done(index):
            logging.info("%s: there already, skipped", outputs[".jsonl"])
            return
        # Two jobs that begin at once may both find the folder free; one has it.
        claims.claim_folder(self.folder, self.settings)
        # Nothing counts as done while some of it is of an earlier call.
        epath.Path(outputs[".stats.json"]).unlink(missing_ok=True)
        stats = Statistics(self.feature_lengths)
        on_error = stats.skip if self.skips else shards.raise_error
        rows = self._annotated(index, run_chunks or self._run_chunks, on_error)
        _write_shard(rows, outputs, self.vocabulary, stats, self.only_annotated)
        state = {**stats.state(), "source": self.sources[index]}
        json_files.write_json(outputs[".stats.json"], state)

    def _run_chunks(
        self, chunks: Iterator[_Chunk]
    ) -> Iterator[tuple[_Chunk, list[Found]]]:
        for chunk in chunks:
            yield chunk, annotate_texts(self.annotator, _pairs(chunk))

    def _annotated(
        self, index: int, run_chunks: _RunChunks, on_error: shards.OnError
    ) -> Iterator[shards.Row]:
        path, first = self.paths[index], self.sources[index]["lines_before"]
        rows = _predictions(path, first, self.vocabulary, on_error)
        results = (
            (where, row, spans)
            for chunk, found in run_chunks(_batched(rows, CHUNK))
            for (where, row), spans in zip(chunk, found, strict=True)
        )
        name = f"annotate {epath.Path(path).name}"
        for where, row, spans in progress.track(results, name):
            try:
                if isinstance(spans, UserError):
                    raise spans
                annotated = _with_spans(row, spans, self.vocabulary)
            except UserError as error:
                on_error(UserError(f"{where}: {error}"))
            else:
                yield annotated

    def finish(self) -> dict[str, Any]:
        """Adds up the shards' statistics, writes them and returns them.

        Raises:
          UserError: every line of all files was wrong, or another job has written to
            the folder.
        """
        claims.claim_folder(self.folder, self.settings)
        totals = Statistics(self.feature_lengths)
        totals.skipped += self.missing
        for index in range(len(self.paths)):
            state = self._state(index)
            if state is None or state.get("source") != self.sources[index]:
                raise UserError(
                    f"{self._outputs(index)['.stats.json']}: made by another command "
                    f"meanwhile; remove {self.folder} and type one of them again"
                )
            totals.add(state)
        stats = totals.report()
        listed = epath.Path(self.folder) / SKIPPED
        if totals.skipped:
            with shards.atomic_write(listed) as file:
                file.writelines(f"{line}\n" for line in totals.skipped)
        else:
            listed.unlink(missing_ok=True)
        if not stats["examples"]:
            for index in range(len(self.paths)):
                for path in self._outputs(index).values():
                    _remove(path)
            count = stats["skipped"]
            raise UserError(
                f"all {count} lines are wrong; the first: {totals.skipped[0]}"
                if count > 1
                else f"the only line is wrong: {totals.skipped[0]}"
            )
        json_files.write_json(epath.Path(self.folder) / "stats.json", stats)
        _warn(stats, totals.skipped)
        return stats


def _is_in(path: str, folder: str) -> bool:
    if "://" in path or "://" in folder:
        return os.path.dirname(path) == folder.rstrip("/")
    return os.path.realpath(os.path.dirname(path)) == os.path.realpath(folder)


def _remove(path: shards.PathLike) -> None:
    for name in (os.fspath(path), shards.completion_marker(path)):
        epath.Path(name).unlink(missing_ok=True)


def _line_count(path: str) -> int:
    """Returns the number of the last line with something in it, right or wrong."""
    errors: list[UserError] = []
    lines = json_files.raw_lines(path, errors.append)
    last = max((number for number, line in lines if line.strip()), default=0)
    return last or len(errors)


def _line(error: UserError) -> str:
    text = " ".join(str(error).split())
    # File names and messages may hold what is no text.
    return text.encode("utf-8", "backslashreplace").decode()


def _predictions(
    path: str, first: int, vocabulary: Any, on_error: shards.OnError
) -> Iterator[_Located]:
    for number, line in json_files.read_jsonl(path, on_error):
        where = f"{path}:{number}"
        try:
            index = first + number - 1
            row = records.check_prediction(line, where, index, vocabulary)
        except UserError as error:
            on_error(error)
        else:
            yield where, row


def _batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _pairs(chunk: _Chunk) -> list[tuple[str, str]]:
    return [(row["prediction"], row["inputs"]) for _, row in chunk]


# --------------------------------------------------------------------------- processes


@contextlib.contextmanager
def _chunk_runner(annotator: Annotator, processes: int) -> Iterator[_RunChunks | None]:
    """Yields what runs an annotator in several processes; None for this one alone."""
    if processes <= 1:
        yield None
        return
    pool = futures.ProcessPoolExecutor(
        processes,
        # Not forked: TensorFlow's threads do not live through a fork. The annotator
        # alone goes there, so that no process but this one imports TensorFlow.
        multiprocessing.get_context("spawn"),
        _start_worker,
        # As bytes, since a process that failed to unpickle its arguments would be gone
        # without a word.
        (pickle.dumps(annotator),),
    )

    def run_chunks(
        chunks: Iterator[_Chunk],
    ) -> Iterator[tuple[_Chunk, list[Found]]]:
        # Some chunks ahead, not the whole file.
        pending: collections.deque[tuple[_Chunk, futures.Future]] = collections.deque()
        for chunk in chunks:
            pending.append((chunk, pool.submit(_work, _pairs(chunk))))
            if len(pending) > 2 * processes:
                first, result = pending.popleft()
                yield first, result.result()
        while pending:
            first, result = pending.popleft()
            yield first, result.result()

    try:
        yield run_chunks
    except process.BrokenProcessPool as error:
        raise UserError(
            f"one of the {processes} processes was killed or ended by what it ran; if "
            "the memory was full, use fewer"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_worker: list[Annotator | UserError] = []


def _start_worker(pickled: bytes) -> None:
    try:
        _worker[:] = [pickle.loads(pickled)]
    except RAISED as error:
        text = f"the annotator does not load in a process of its own: {error}"
        _worker[:] = [UserError(text)]


def _work(pairs: list[tuple[str, str]]) -> list[Found]:
    (annotator,) = _worker
    if isinstance(annotator, UserError):
        raise annotator
    return annotate_texts(annotator, pairs)


# --------------------------------------------------------------------------- results


def _write_shard(
    rows: Iterable[shards.Row],
    outputs: Mapping[str, str],
    vocabulary: Any,
    stats: Statistics,
    only_annotated: bool,
) -> None:
    """Writes the lines, then the TFRecord of those lines; counts in `stats`."""

    def counted() -> Iterator[shards.Row]:
        for row in rows:
            stats.count(row, vocabulary)
            if any(row["target_annotations"]) or not only_annotated:
                yield row

    stats.counts["written"] = json_files.write_jsonl(outputs[".jsonl"], counted())
    written = (row for _, row in json_files.read_jsonl(outputs[".jsonl"]))
    tfrecords.write(
        outputs[".tfrecord"],
        (records.training_features(row, vocabulary) for row in written),
    )


class Statistics:
    """Counts over annotated predictions; shards' counts add up.

    Attributes:
      lengths: of features in training.
      skipped: what was left out, a message each.
    """

    def __init__(self, lengths: Mapping[str, int]):
        """Starts at nothing; `lengths` are those of features in training."""
        self.lengths = lengths
        self.skipped: list[str] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.labels: collections.Counter[str] = collections.Counter()

    def count(self, row: shards.Row, vocabulary: Any) -> None:
        """Counts one annotated prediction."""
        marks = row["target_annotations"]
        limit = self.lengths.get("targets", len(marks))
        self.labels.update(span["label"] for span in row["annotations"])
        self.counts.update(
            examples=1,
            examples_with_unwanted=int(any(marks)),
            tokens=len(marks),
            unwanted_tokens=sum(marks),
            empty=int(not row["prediction"].strip()),
            reencoded=int(bool(row.get("reencoded"))),
            truncated_targets=int(len(marks) > limit),
            dropped_unwanted_tokens=sum(marks[limit:]),
            examples_without_unwanted_left=int(any(marks) and not any(marks[:limit])),
        )
        if "inputs" in self.lengths:
            inputs = records.encode(vocabulary, row["inputs"])
            self.counts["truncated_inputs"] += len(inputs) > self.lengths["inputs"]

    def skip(self, error: UserError) -> None:
        """Notes a line that is left out."""
        self.skipped.append(_line(error))

    def state(self) -> dict[str, Any]:
        """Returns the counts, for `add`."""
        return {
            "counts": dict(self.counts),
            "labels": dict(self.labels),
            "skipped": self.skipped,
        }

    def add(self, state: Mapping[str, Any]) -> None:
        """Adds the counts of a shard."""
        self.skipped += state.get("skipped", [])
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
            "empty": counts["empty"],
            "reencoded": counts["reencoded"],
            "skipped": len(self.skipped),
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


def _warn(stats: Mapping[str, Any], skipped: Sequence[str]) -> None:
    if skipped:
        logging.warning(
            "%s skipped and listed in %s; the first: %s",
            "1 line or file was"
            if len(skipped) == 1
            else f"{len(skipped)} lines or files were",
            SKIPPED,
            skipped[0],
        )
    if stats["reencoded"]:
        logging.warning(
            "%d of %d texts had no ids and were encoded. For references that is right; "
            "for a model's outputs it need not give the ids that were generated (T5X "
            "writes them with output_ids = True)",
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
    if 2 * stats["empty"] > stats["examples"]:
        logging.warning(
            "%d of %d predictions are empty: see whether the model generated as it "
            "should",
            stats["empty"],
            stats["examples"],
        )
    if not stats["unwanted_tokens"]:
        logging.warning("Nothing unwanted was found (examples: %d)", stats["examples"])


def vocabulary_digest(vocabulary: Any) -> str:
    """Returns what tells vocabularies apart, independent of where the file lies."""
    import hashlib

    name = type(vocabulary).__name__
    model = getattr(vocabulary, "sp_model", b"") or b""
    digest = hashlib.sha256(model).hexdigest()[:16]
    return f"{name}:{vocabulary.vocab_size}:{digest}"
