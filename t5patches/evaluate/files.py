"""Files of predictions, compared: what `t5patches evaluate` does."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from t5patches import errors, progress
from t5patches.annotate.annotator import Annotator
from t5patches.errors import UserError
from t5patches.evaluate import (
    besides,
    intervals,
    pairs,
    probabilities,
    samples,
    similarity,
    verdict,
)
from t5patches.evaluate.comparison import Comparison, Table, distance
from t5patches.evaluate.joining import Joined
from t5patches.evaluate.variants import Variants
from t5patches.interchange import (
    claims,
    json_files,
    records,
    results_files,
    shards,
    tables,
)

# Settings of an annotated set that may differ from another's: they do not say what is
# unwanted in a text, or what people have marked in this set.
_OWN_SETTINGS = {"vocabulary", "extra_ids", "only_annotated", "feature_lengths"}
_OWN_SETTINGS |= {"files", "spans"}
_EXACT, _OTHER = "exact update's predictions", "other update's predictions"
_SAMPLED = ("old samples", "new samples")
_AFTER = (pairs.NEW, _EXACT, _OTHER, "samples")
_UPDATES = (pairs.NEW, _EXACT, _OTHER)
_JOINED = (pairs.OLD, *_UPDATES, *besides.SECOND, probabilities.NAME)
Files = shards.PathLike | Sequence[shards.PathLike]


class Examples:
    """Lines of JSON in a temporary file, to be read as often as needed."""

    def __init__(self):
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8")
        weakref.finalize(self, self._file.close)
        self._count = 0

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a line."""
        self._file.write(json.dumps(row) + "\n")
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        return map(json.loads, self._file)


def evaluate_files(
    old: Files,
    new: Files,
    annotator: Annotator | None,
    references: shards.PathLike | None = None,
    references_key: str = "targets",
    exact_update: Files | None = None,
    rejection: Files | None = None,
    *,
    seed: int = 0,
    cluster: str | None = None,
    second: Annotator | tuple[Files, Files] | None = None,
    variants: bool = False,
    sampled: tuple[Files, Files] | None = None,
    against: Files | None = None,
    distances: Files | None = None,
) -> tuple[dict[str, Any], Examples]:
    """Compares files of predictions.

    The rows are joined on disk; in memory stay some 150 bytes for each pair.

    Args:
      old: predictions before the update, as `shards.expand` takes them.
      new: predictions after it.
      annotator: says what is unwanted; None reads annotated predictions.
      references: JSON lines, CSV or Parquet with `id` and the right output.
      references_key: field of the right output there.
      exact_update: predictions of the exact update, for the same inputs.
      rejection: samples of the model before the update, for some of the inputs.
      seed: of the resamples and permutations.
      cluster: field of the old predictions whose equal values are resampled together.
      second: an annotator that had no part in the update, to judge it besides; or the
        old and the new predictions as such a one has annotated them.
      variants: whether to look for other spellings of the annotator's phrases.
      sampled: samples of the model before and after the update, several for each
        input.
      against: predictions of another update, for the same inputs.
      distances: how far the update is from the exact one at every token of the old
        predictions, sums for each.

    Returns:
      The `Comparison.results`, with `schema_version`, `intervals`, `verdict`, a text,
      and where they were asked for `exact_update` (those of it),
      `distance_to_exact_update` (`distance`), `rejection_sampling`, `second_detector`,
      `variants`, `samples`, `against` and `distances`; and the examples: every pair,
      in the order of the old predictions.

    Raises:
      UserError: naming file, line and field, the ids that do not match, or what differs
        between the annotators of the two sets.
    """
    sets: dict[str, Any] = {
        pairs.OLD: old,
        pairs.NEW: new,
        _EXACT: exact_update,
        _OTHER: against,
        "samples": rejection,
        probabilities.NAME: distances,
    }
    if sampled:
        sets |= zip(_SAMPLED, sampled, strict=True)
    if own := isinstance(second, tuple):
        sets |= zip(besides.SECOND, second, strict=True)
    paths = {name: shards.expand(files) for name, files in sets.items() if files}
    _check_apart(paths)
    if annotator is None:
        first = (found for name, found in paths.items() if name not in besides.SECOND)
        _check_same_annotators([*itertools.chain(*first)])
    read = records.read_annotated if annotator is None else records.read_predictions
    names = {name: f"{name} ({_typed(sets[name])})" for name in paths}

    parts: dict[str, besides.Part] = {}
    if second:
        name = _typed(second[0]) if own else besides.name_of(second)
        detector = besides.SecondDetector(None if own else second, name, names)
        parts["second_detector"] = detector
    if variants:
        parts["variants"] = Variants(annotator)
    if rejection:
        drawn = samples.Rejection(read(paths["samples"]), annotator)
        parts["rejection_sampling"] = drawn
    if distances:
        parts[probabilities.NAME] = probabilities.Distances()
    clusters = besides.Clusters(cluster, names[pairs.OLD]) if cluster else None

    joined, seen = Joined(), pairs.Seen()
    there = [name for name in _JOINED if name in paths]
    others: dict[str, Any] = {probabilities.NAME: probabilities.read}
    others |= dict.fromkeys(besides.SECOND, records.read_annotated)
    for name in there:
        rows = others.get(name, read)(paths[name])
        joined.add(names[name], seen.through(rows) if name == pairs.OLD else rows)
    hint = pairs.ANNOTATED if annotator is None else pairs.SPLIT
    for number in range(1, len(there)):
        joined.check(0, number, hint)
        joined.check(number, 0, hint)
    if references is not None:
        there.append(pairs.REFERENCES)
        name = f"{pairs.REFERENCES} ({_typed(references)})"
        joined.add(name, _read_references(references, references_key))
        hint = "give the references of the split that the outputs are for"
        joined.check(0, len(there) - 1, hint)

    updates = {name: Comparison() for name in _UPDATES if name in paths}
    examples, apart = Examples(), Table(similarity.NUMBERS)
    for old_output, row, found in _pairs(joined, there, names, annotator, seen):
        for name, update in updates.items():
            update.add(found[name])
        examples.append(found[pairs.NEW].example())
        if exact_update:
            texts = (found[_EXACT].new, found[pairs.NEW].new)
            apart.append(similarity.numbers(*texts))
        for part in parts.values():
            part.add(old_output, row)
        if clusters:
            clusters.add(old_output.row)

    results = {
        "schema_version": results_files.SCHEMA_VERSION,
        **updates[pairs.NEW].results(),
    }
    groups = None if clusters is None else clusters.array()
    columns = intervals.columns(updates[pairs.NEW].table())
    results["intervals"] = intervals.intervals(columns, groups, seed)
    results["verdict"] = verdict.in_words(results)
    if exact_update:
        results["exact_update"] = exact = updates[_EXACT].results()
        results["distance_to_exact_update"] = distance(results, exact, apart.array())
    if against:
        theirs = intervals.columns(updates[_OTHER].table())
        results["against"] = intervals.against(columns, theirs, groups, seed)
    results |= {name: part.results(groups, seed) for name, part in parts.items()}
    if sampled:
        first, then = (read(paths[name]) for name in _SAMPLED)
        results["samples"] = samples.compare(first, then, annotator, seed)
    return results, examples


def _pairs(
    joined: Joined,
    there: Sequence[str],
    names: Mapping[str, str],
    annotator: Annotator | None,
    seen: pairs.Seen,
) -> Iterator[tuple[pairs.Output, besides.Rows, dict[str, pairs.Pair]]]:
    """Yields the old output, the rows of all sets, and the pair of each update."""
    read = pairs.reader(annotator)
    for rows in progress.track(joined, "evaluate", len(joined)):
        row = dict(zip(there, rows, strict=True))
        old, right = read(row[pairs.OLD]), row.get(pairs.REFERENCES)
        reference = None if right is None else right["text"]
        found = {}
        for name in _UPDATES:
            if name in row:
                who = (names[pairs.OLD], names[name])
                found[name] = pairs.pair(old, read(row[name]), reference, seen.ids, who)
        yield old, row, found


def _typed(spec: Any) -> str:
    return ", ".join(map(str, spec)) if isinstance(spec, list | tuple) else str(spec)


def _check_apart(paths: Mapping[str, Sequence[str]]) -> None:
    """Checks that no file is given as what is before and as what is after."""
    for first, others in ((pairs.OLD, _AFTER), (_SAMPLED[0], _SAMPLED[1:])):
        known = {*map(os.path.realpath, paths.get(first, ()))}
        for name in others:
            for path in paths.get(name, ()):
                if os.path.realpath(path) in known:
                    raise UserError(f"{path}: is given as {first} and as {name}")


def _check_same_annotators(paths: Sequence[str]) -> None:
    """Checks that annotated files were made with the same annotator.

    A folder that `t5patches annotate` did not write has no say in this.
    """
    made_with = {}
    for folder in sorted({os.path.dirname(path) for path in paths}):
        record = epath.Path(folder or ".") / claims.SETTINGS
        settings = json_files.read_json(record) if record.is_file() else {}
        if settings.get("step") == "annotate":
            made_with[folder] = settings
    for (first, one), (second, other) in itertools.pairwise(made_with.items()):
        differing = [
            f"{key} is {errors.shorten(one.get(key))} in {first} and "
            f"{errors.shorten(other.get(key))} in {second}"
            for key in sorted({*one, *other} - _OWN_SETTINGS)
            if one.get(key) != other.get(key)
        ]
        if differing:
            raise UserError(
                f"the outputs were not annotated alike: {'; '.join(differing)}; "
                "annotate one as the other was"
            )


def _read_references(path: shards.PathLike, key: str) -> Iterator[dict[str, str]]:
    ids = tables.Ids()
    for part in shards.expand(path):
        for where, row in tables.read_rows(part):
            name = tables.id_field(row, "id", where)
            if not name:
                raise UserError(f"{where}: field 'id' is missing or empty")
            ids.add(name, where)
            yield {"id": name, "text": tables.text_field(row, key, where)}
