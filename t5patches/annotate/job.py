"""Annotating files of predictions: shard by shard, resumable, with statistics."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from absl import logging
from etils import epath

from t5patches import progress
from t5patches.annotate import trials, workers
from t5patches.annotate.alignment import align
from t5patches.annotate.annotator import Annotator, Found, settings_of
from t5patches.annotate.statistics import FINDINGS, SKIPPED, Statistics
from t5patches.errors import UserError
from t5patches.interchange import (
    alternatives,
    claims,
    json_files,
    records,
    shards,
    tables,
    tfrecords,
    unwanted_sets,
)
from t5patches.interchange.records import AnnotatedPrediction, Annotation, Prediction

NAME = "annotated"
STATISTICS = "stats.json"
# Raised by one whenever the same spans come to mark other ids or are written in another
# form, so that nothing that an earlier version made is taken for done.
RULES = 1


def annotate_files(
    predictions: shards.PathLike | Sequence[shards.PathLike],
    annotator: Annotator,
    output_dir: shards.PathLike,
    vocabulary: Any,
    *,
    processes: int = 1,
    **options: Any,
) -> dict[str, Any]:
    """Annotates predictions; a shard of input becomes a shard of output.

    Writes `annotated-00000-of-00016.jsonl` (annotated predictions), `.tfrecord` (what
    training reads) and `.done.json` (the mark that it is done) of each shard,
    `unwanted_sets.npz` (what else is unwanted at each position, if the annotator can
    tell), `stats.json` of all, and `skipped.txt` if something was. A call with the
    same settings skips the shards that are done, unless their predictions have changed,
    as when a wrong line was put right; with other settings it refuses. It also refuses
    to replace what was made completely, with nothing skipped, from other predictions.

    Args:
      predictions, annotator, output_dir, vocabulary: as `Job` takes them.
      processes: how many share the work; the annotator must be picklable if several.
      **options: `settings`, `only_annotated`, `feature_lengths`, `on_error`,
        `alternatives` of `Job`.

    Returns:
      The statistics, as in `stats.json`.

    Raises:
      UserError: naming file, line and field of a wrong prediction, or if the folder
        holds another job's results.
    """
    job = Job(predictions, annotator, output_dir, vocabulary, **options)
    return job.run(processes)


@dataclasses.dataclass
class Job:
    """A set of files to annotate, whose shards can be done anywhere, in any order.

    When it is made, it checks the files and claims the output folder, with a UserError
    if there are no predictions, or the folder holds another job's results.

    Attributes:
      predictions: files as `shards.expand` takes them.
      annotator: says which characters are unwanted.
      output_dir: a folder of its own.
      vocabulary: the one that the model generated with.
      settings: what tells the annotator from others, where it does not say so in an
        attribute `settings` as those of this package do: e.g. the name and version of a
        function of yours.
      only_annotated: keep only predictions with an unwanted id.
      feature_lengths: lengths of `inputs` and `targets` in training; what they would
        cut off is counted.
      on_error: 'stop' raises at the first wrong line; 'skip' leaves out wrong lines and
        missing shards and lists them.
      alternatives: files of what else the model would have said
        (`interchange.alternatives`), of which the annotator finds what is unwanted. Not
        for annotators that know whole sets.
      paths: the files.
    """

    predictions: shards.PathLike | Sequence[shards.PathLike]
    annotator: Annotator
    output_dir: shards.PathLike
    vocabulary: Any
    _: dataclasses.KW_ONLY
    settings: Mapping[str, Any] | None = None
    only_annotated: bool = False
    feature_lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)
    on_error: Literal["stop", "skip"] = "stop"
    alternatives: shards.PathLike | Sequence[shards.PathLike] | None = None

    def __post_init__(self):
        # It imports TensorFlow, which workers, who import this module, do without.
        from t5patches.interchange import vocabularies

        self._skips = self.on_error == "skip"
        self._folder = os.fspath(self.output_dir)
        self._missing: list[UserError] = []
        self.paths = shards.expand(
            self.predictions,
            on_error=self._missing.append if self._skips else shards.raise_error,
        )
        make = getattr(self.annotator, "unwanted_sets", None)
        self._sets = make and make(self.vocabulary)
        self._trials: trials.Trials | None = None
        if self._sets and self.alternatives:
            logging.warning("This annotator knows whole sets: no alternatives are read")
        elif self.alternatives:
            self._trials = trials.Trials(self.alternatives, self.vocabulary)
        # What the results of all depend on, as the folder's `settings.json`.
        self._claimed = {
            "step": "annotate",
            **settings_of(self.annotator, self.settings),
            "job_rules": RULES,
            "vocabulary": vocabularies.fingerprint(self.vocabulary),
            "extra_ids": self.vocabulary.extra_ids,
            "only_annotated": self.only_annotated,
            "feature_lengths": dict(self.feature_lengths),
            "files": len(self.paths),
            **({unwanted_sets.FEATURE: True} if self._sets else {}),
            **({alternatives.SETTING: self._trials.settings} if self._trials else {}),
        }
        self._repeated: list[dict[int, UserError]] = []  # Lines of each file.
        self._sources = self._find_sources()
        self._claim()

    def _find_sources(self) -> list[dict[str, Any]]:
        """Returns what the result of each file depends on besides the settings.

        That is its content, how many lines the files before it have, since a line
        without an id is named by its number, and its lines whose id was there before.
        """
        sources, before, ids = [], 0, tables.Ids()
        made_by = claims.fingerprint(self._claimed)
        for path in self.paths:
            source = {"digest": claims.file_digest(path), "settings": made_by}
            source["lines_before"] = before
            count, repeated = _line_count(path), _repeated(path, before, ids)
            if repeated and not self._skips:
                raise next(iter(repeated.values()))
            self._repeated.append(repeated)
            sources.append(source | ({"repeated": [*repeated]} if repeated else {}))
            before += count
            if not count:
                logging.warning("%s: empty, there are no predictions in it", path)
        if not before:
            raise UserError(f"{', '.join(self.paths)}: no predictions to annotate")
        if check := getattr(self.annotator, "check_ids", None):
            check(ids, self._missing.append if self._skips else shards.raise_error)
        return sources

    def _claim(self) -> None:
        indices = range(len(self.paths))
        results = {os.path.realpath(p) for i in indices for p in self._files(i)}
        for path in self.paths:
            if os.path.realpath(path) in results:
                what = "stands where results are written; give another output folder"
                raise UserError(f"{path}: {what}")
        names = [f"{NAME}-*", STATISTICS]
        if not (epath.Path(self._folder) / claims.SETTINGS).exists():
            names.append(SKIPPED)  # Not ours: a list of one's own, perhaps.
        claims.claim(self._folder, self._claimed, results=names)
        made = [claims.findings(self._unit(i), None, FINDINGS) for i in indices]
        changed = [i for i in indices if made[i] and self._findings(i) is None]
        if changed and all(found and not found["skipped"] for found in made):
            raise UserError(
                f"{self._folder}: made from other predictions "
                f"({self.paths[changed[0]]} has changed); give another output folder "
                "or remove this one"
            )
        if not all(map(self._is_done, indices)):  # Those there are an earlier call's.
            (epath.Path(self._folder) / STATISTICS).unlink(missing_ok=True)

    def _unit(self, index: int) -> str:
        """Returns the path of a shard's results, without suffix."""
        prefix = os.path.join(self._folder, NAME)
        return shards.shard_path(prefix, index, len(self.paths), "")

    def _files(self, index: int) -> list[str]:
        return [f"{self._unit(index)}{suffix}" for suffix in (".jsonl", ".tfrecord")]

    def _findings(self, index: int) -> dict[str, Any] | None:
        return claims.findings(self._unit(index), self._sources[index], FINDINGS)

    def _is_done(self, index: int) -> bool:
        found = self._findings(index)
        files = map(epath.Path, self._files(index))
        if found is None or not all(path.is_file() for path in files):
            return False
        # What an earlier call skipped must be an error now, if errors are asked for.
        return self._skips or not found["skipped"]

    def run(self, processes: int = 1) -> dict[str, Any]:
        """Annotates the files that are not done; returns the statistics of all."""
        with self.lock():
            with workers.several(self.annotator, processes) as team:
                for index in range(len(self.paths)):
                    self.run_shard(index, team)
            return self.finish()

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Keeps a second job from the output folder, with a UserError there."""
        return claims.lock(os.path.join(self._folder, NAME))

    def run_shard(self, index: int, team: workers.Workers | None = None) -> None:
        """Annotates one file, unless it is done.

        Args:
          index: which of `paths`.
          team: those who run the annotator; this process if None.

        Raises:
          UserError: naming file, line and field of a wrong prediction.
        """
        unit = self._unit(index)
        if self._is_done(index):
            logging.info("%s: there already, skipped", unit)
            return
        # Two jobs that begin at once may both find the folder free; one of them has it.
        claims.check(self._folder, self._claimed)
        claims.unmark(unit)
        statistics = Statistics(self.feature_lengths)
        on_error = statistics.skip if self._skips else shards.raise_error
        team = team or workers.alone(self.annotator)
        self._write(unit, self._annotated(index, team, on_error), statistics)
        claims.mark_done(unit, statistics.findings(), self._sources[index])

    def _annotated(
        self, index: int, team: workers.Workers, on_error: shards.OnError
    ) -> Iterator[tuple[str, AnnotatedPrediction]]:
        """Yields (`file:line`, annotated prediction) of a file."""
        rows = self._predictions(index, on_error)
        rows = progress.track(rows, f"annotate {epath.Path(self.paths[index]).name}")
        if not self._trials:
            return self._judged(rows, team, on_error)
        rows = self._trials.beside(rows)
        return self._trials.gather(self._judged(rows, team, on_error))

    def _judged(
        self,
        rows: Iterator[tuple[str, Prediction]],
        team: workers.Workers,
        on_error: shards.OnError,
    ) -> Iterator[tuple[str, AnnotatedPrediction]]:
        """Yields predictions with what is unwanted in them."""
        for (where, row), found in workers.find(rows, team):
            try:
                annotated = _with_spans(row, found, self.vocabulary)
            except UserError as error:
                on_error(UserError(f"{where}: {error}"))
            else:
                yield where, annotated

    def _predictions(
        self, index: int, on_error: shards.OnError
    ) -> Iterator[tuple[str, Prediction]]:
        """Yields (`file:line`, prediction) of a file."""
        path, before = self.paths[index], self._sources[index]["lines_before"]
        for number, line in json_files.read_jsonl(path, on_error):
            where, place = f"{path}:{number}", before + number - 1
            try:
                if error := self._repeated[index].get(number):
                    raise error
                row = records.check_prediction(line, where, place, self.vocabulary)
            except UserError as error:
                on_error(error)
            else:
                yield where, row

    def _write(
        self,
        unit: str,
        rows: Iterator[tuple[str, AnnotatedPrediction]],
        statistics: Statistics,
    ) -> None:
        """Writes the lines and, of the same, the TFRecord."""

        def features() -> Iterator[dict[str, list[int]]]:
            for where, row in rows:
                kept = any(row["target_annotations"]) or not self.only_annotated
                made: dict[str, list[int]] = {}
                if kept or "inputs" in self.feature_lengths:
                    made = records.training_features(row, self.vocabulary)
                statistics.count(row, made.get("inputs", []), where)
                if self._trials:
                    statistics.counts.update(self._trials.counts(row))
                    if found := trials.feature(row):
                        made[alternatives.FEATURE] = found
                if kept:
                    lines.write(json_files.json_line(row))
                    if self._sets:
                        made[unwanted_sets.FEATURE] = self._sets.of(made["targets"])
                    yield {**made, records.VOCABULARY: [mark]}

        mark = records.vocabulary_mark(self.vocabulary)
        with shards.atomic_write(f"{unit}.jsonl") as lines:
            written = tfrecords.write(f"{unit}.tfrecord", features())
        statistics.counts["written"] = written

    def finish(self) -> dict[str, Any]:
        """Adds up the shards' statistics, writes them and returns them.

        Raises:
          UserError: every line of all files was wrong, or another job has written to
            the folder.
        """
        claims.check(self._folder, self._claimed)
        totals = Statistics(self.feature_lengths)
        for error in self._missing:
            totals.skip(error)
        for index in range(len(self.paths)):
            found = self._findings(index)
            if found is None:
                raise UserError(
                    f"{self._unit(index)}: made by another command meanwhile; remove "
                    f"{self._folder} and type one of them again"
                )
            totals.add(found)
        listed = epath.Path(self._folder) / SKIPPED
        if totals.skipped:
            with shards.atomic_write(listed) as file:
                file.writelines(f"{line}\n" for line in totals.skipped)
        else:
            listed.unlink(missing_ok=True)
        report = totals.report()
        if not report["examples"]:
            for index in range(len(self.paths)):
                claims.unmark(self._unit(index))
                for path in self._files(index):
                    epath.Path(path).unlink(missing_ok=True)
            wrong, first = report["skipped"], totals.skipped[0]
            raise UserError(f"no line is right (wrong: {wrong}); the first: {first}")
        if self._sets:
            unwanted_sets.write(self._folder, self._sets.bits())
        json_files.write_json(epath.Path(self._folder) / STATISTICS, report)
        for warning in totals.warnings():
            logging.warning("%s", warning)
        return report


def _with_spans(row: Prediction, found: Found, vocabulary: Any) -> AnnotatedPrediction:
    if isinstance(found, UserError):
        raise found
    ids = row.get("target_tokens", [])  # They are there: the vocabulary is known.
    row.pop(alternatives.FEATURE, None)  # Of an annotation before.
    return {
        **row,
        "target_tokens": ids,
        "annotations": [Annotation(start=s, end=e, label=t) for s, e, t in found],
        "target_annotations": align(ids, row["prediction"], found, vocabulary),
    }


def _line_count(path: str) -> int:
    """Returns the number of the last line with something in it, right or wrong."""
    errors: list[UserError] = []
    lines = json_files.raw_lines(path, errors.append)
    last = max((number for number, line in lines if line.strip()), default=0)
    return last or len(errors)


def _repeated(path: str, before: int, ids: tables.Ids) -> dict[int, UserError]:
    """Returns the lines whose id a line before has: by number, and what is wrong.

    Other mistakes are found when the lines are annotated.

    Args:
      path: of predictions.
      before: how many lines the files before it have.
      ids: of these; those of the file are added.
    """
    found: dict[int, UserError] = {}
    for number, row in json_files.read_jsonl(path, lambda error: None):
        where = f"{path}:{number}"
        with contextlib.suppress(UserError):
            name = records.check_prediction(row, where, before + number - 1)["id"]
            try:
                ids.add(name, where)
            except UserError as error:
                found[number] = error
    return found
