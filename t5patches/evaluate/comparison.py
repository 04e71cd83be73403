"""Outputs of the old and the new model, joined by id and compared."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from etils import epath

from t5patches import errors, progress
from t5patches.annotate.alignment import Span
from t5patches.annotate.annotator import Annotator, arguments, call
from t5patches.errors import UserError
from t5patches.evaluate import similarity, verdict
from t5patches.interchange import claims, json_files, records, shards, tables
from t5patches.interchange.records import AnnotatedPrediction, Prediction

# How many pairs of each `Pair.kind` are shown, at most.
_SHOWN = {"fixed": 8, "remaining": 4, "changed": 4, "broken": 4, "unchanged": 2}
# Settings of an annotated set that may differ from another's: they do not say what is
# unwanted in a text, or what people have marked in this set.
_OWN_SETTINGS = {"vocabulary", "only_annotated", "feature_lengths", "files", "spans"}
_NAMES = ("old predictions", "new predictions", "references")
# What the exact update is compared by.
_COMPARED = ("prevalence", "exact_match", "bleu", "rougeL")


@dataclasses.dataclass(frozen=True)
class Pair:
    """The outputs of both models for one input, with their unwanted spans."""

    id: str
    inputs: str
    old: str
    new: str
    old_spans: list[Span]
    new_spans: list[Span]
    old_tokens: int | None
    new_tokens: int | None
    reference: str | None = None

    @property
    def kind(self) -> str:
        """What happened: 'fixed', 'remaining', 'broken', 'changed' or 'unchanged'."""
        if self.old_spans:
            return "remaining" if self.new_spans else "fixed"
        if self.new_spans:
            return "broken"
        return "unchanged" if self.old == self.new else "changed"


def join(
    old_predictions: Iterable[Prediction],
    new_predictions: Iterable[Prediction],
    annotator: Annotator | None,
    references: Mapping[str, str] | None = None,
    names: Sequence[str] = _NAMES,
) -> list[Pair]:
    """Joins predictions of both models by id, in the order of the old ones.

    Args:
      old_predictions: predictions of the model before the update.
      new_predictions: those of the model after it, for the same inputs.
      annotator: says what is unwanted in an output; None takes the predictions'
        `annotations`.
      references: the right outputs by id.
      names: what the old ones, the new ones and the references are called in messages.

    Raises:
      UserError: an id occurs twice, is missing on one side, or has other inputs there.
    """
    before, after, right = names
    old, new = _by_id(old_predictions, before), _by_id(new_predictions, after)
    hint = "generate both from the same split"
    if annotator is None:
        hint += ", and annotate both without --only-annotated"
    _check_same_ids(old, new, before, after, hint)
    _check_same_ids(new, old, after, before, hint)
    if references is not None:
        hint = "give the references of the split that the outputs are for"
        _check_same_ids(old, references, before, right, hint)
    spans = _finder(annotator)
    pairs = []
    for key, row in progress.track(old.items(), "evaluate", len(old)):
        other = new[key]
        if row["inputs"] != other["inputs"]:
            raise UserError(
                f"id {key!r} has other inputs in the {after} than in the {before}; "
                "generate both from the same split"
            )
        pairs.append(
            Pair(
                id=key,
                inputs=row["inputs"],
                old=row["prediction"],
                new=other["prediction"],
                old_spans=spans(row),
                new_spans=spans(other),
                old_tokens=_token_count(row),
                new_tokens=_token_count(other),
                reference=None if references is None else references[key],
            )
        )
    return pairs


def _by_id(rows: Iterable[Prediction], name: str) -> dict[str, Prediction]:
    found: dict[str, Prediction] = {}
    for row in rows:
        if row["id"] in found:
            raise UserError(
                f"id {row['id']!r} occurs twice in the {name}; ids must be unique, "
                "since they say which outputs belong together"
            )
        found[row["id"]] = row
    return found


def _check_same_ids(
    one: Iterable[str], other: Mapping[str, Any], name: str, other_name: str, hint: str
) -> None:
    if missing := [key for key in one if key not in other]:
        listed = ", ".join(map(repr, missing[:3])) + ("…" if missing[3:] else "")
        raise UserError(
            f"ids of the {name} are missing in the {other_name}: {listed}; {hint}"
        )


def _finder(annotator: Annotator | None) -> Callable[[Prediction], list[Span]]:
    """Returns what finds the unwanted spans of a prediction."""
    if annotator is not None:
        of = arguments(annotator)
        return lambda row: list(call(annotator, *of(row)))
    return lambda row: [
        (span["start"], span["end"], span["label"])
        for span in cast(AnnotatedPrediction, row)["annotations"]
    ]


def _token_count(row: Prediction) -> int | None:
    return len(row["target_tokens"]) if "target_tokens" in row else None


def compare(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Compares the outputs before and after an update, in pairs of `join`.

    Returns:
      A JSON-able dictionary, shares and ROUGE in 0-1, BLEU in 0-100, None where there
      is nothing to measure:

      * `examples`; `prevalence` {before, after}: share of outputs with an unwanted
        span; `unwanted_per_1000_tokens` {before, after}: spans per 1,000 generated ids;
      * `exact_match` {all, clean, marked}, `bleu` and `rougeL` (over all): new outputs
        against old ones; clean and marked by the old output;
      * `subsets` {all, clean, marked}: each {examples, exact_match, bleu, rougeL};
      * `outcomes`: number of pairs of each `Pair.kind`;
      * `references` {old, new}: {exact_match, bleu, rougeL} against references, if
        they are given.

    Raises:
      UserError: there is no pair.
    """
    if not pairs:
        raise UserError("there are no predictions to compare")
    subsets = {
        "all": pairs,
        "clean": [pair for pair in pairs if not pair.old_spans],
        "marked": [pair for pair in pairs if pair.old_spans],
    }
    scores = {
        name: {"examples": len(some), **_scores([(p.old, p.new) for p in some])}
        for name, some in subsets.items()
    }
    kinds = collections.Counter(pair.kind for pair in pairs)
    results: dict[str, Any] = {
        "examples": len(pairs),
        "prevalence": {
            "before": sum(bool(pair.old_spans) for pair in pairs) / len(pairs),
            "after": sum(bool(pair.new_spans) for pair in pairs) / len(pairs),
        },
        "unwanted_per_1000_tokens": {
            "before": _rate([(p.old_spans, p.old_tokens) for p in pairs]),
            "after": _rate([(p.new_spans, p.new_tokens) for p in pairs]),
        },
        "exact_match": {name: part["exact_match"] for name, part in scores.items()},
        "bleu": scores["all"]["bleu"],
        "rougeL": scores["all"]["rougeL"],
        "subsets": scores,
        "outcomes": {kind: kinds[kind] for kind in _SHOWN},
    }
    known = [(p.reference, p) for p in pairs if p.reference is not None]
    if len(known) == len(pairs):
        results["references"] = {
            "old": _scores([(right, pair.old) for right, pair in known]),
            "new": _scores([(right, pair.new) for right, pair in known]),
        }
    return results


def _scores(texts: Sequence[tuple[str, str]]) -> dict[str, float | None]:
    """Returns how alike texts are to their references, the first of each pair."""
    if not texts:
        return dict.fromkeys(("exact_match", "bleu", "rougeL"))
    old, new = zip(*texts, strict=True)
    return {
        "exact_match": similarity.exact_match(old, new),
        "bleu": similarity.bleu(old, new),
        "rougeL": similarity.rouge_l(old, new),
    }


def _rate(outputs: Sequence[tuple[Sequence[Span], int | None]]) -> float | None:
    tokens = [count for _, count in outputs if count is not None]
    if len(tokens) < len(outputs) or not sum(tokens):
        return None
    return 1000 * sum(len(spans) for spans, _ in outputs) / sum(tokens)


def pick_examples(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Picks pairs to show, some of each kind, spread evenly over the file.

    Returns:
      Pairs as JSON-able dictionaries, with their `kind`.
    """
    picked = []
    for kind, count in _SHOWN.items():
        some = [pair for pair in pairs if pair.kind == kind]
        step = max(len(some) / count, 1)
        chosen = [some[int(i * step)] for i in range(min(count, len(some)))]
        picked += [{**dataclasses.asdict(pair), "kind": kind} for pair in chosen]
    return picked


def distance(
    ours: Mapping[str, Any], exact: Mapping[str, Any], texts: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Returns how far an update is from the exact one.

    Args:
      ours: what `compare` says of the update.
      exact: what it says of the exact one, for the same inputs.
      texts: the outputs of the exact update and of ours.

    Returns:
      `difference` and `ratio` of our numbers to its, None where there are none, and
      `outputs` {exact_match, bleu, rougeL}, our outputs against its.
    """

    def each(function: Callable[[float, float], Any], one: Any, other: Any) -> Any:
        if isinstance(one, Mapping):
            return {key: each(function, one[key], other[key]) for key in one}
        return None if one is None or other is None else function(one, other)

    sides = [{name: side[name] for name in _COMPARED} for side in (ours, exact)]
    return {
        "difference": each(operator.sub, *sides),
        "ratio": each(lambda one, other: one / other if other else None, *sides),
        "outputs": _scores(texts),
    }


def rejection_sampling(
    pairs: Sequence[Pair], samples: Iterable[Prediction], annotator: Annotator | None
) -> dict[str, Any]:
    """Takes, of the original model's samples for each input, the first clean one.

    Args:
      pairs: of `join`.
      samples: any number for some of the inputs, whose texts say what belongs together.
      annotator: as `join` takes it.

    Returns:
      `inputs` and `samples`, how many there are; `acceptance_rate`, the share of clean
      samples; `inputs_accepted`, that of inputs with one; `drawn`, how many samples
      were needed; `accepted`, what `compare` says of those taken, None without any.

    Raises:
      UserError: a sample has other inputs than the old predictions, or there is none.
    """
    old = {pair.inputs: pair for pair in pairs}
    spans: dict[str, list[list[Span]]] = collections.defaultdict(list)
    taken: dict[str, Pair] = {}
    drawn, find = 0, _finder(annotator)
    for row in samples:
        key = row["inputs"]
        if key not in old:
            raise UserError(
                f"id {row['id']!r} of the samples has inputs that no old prediction "
                "has; sample for inputs of the same split"
            )
        spans[key].append(find(row))
        drawn += key not in taken
        if key not in taken and not spans[key][-1]:
            new = {"new": row["prediction"], "new_spans": []}
            count = _token_count(row)
            taken[key] = dataclasses.replace(old[key], new_tokens=count, **new)
    found = [*itertools.chain.from_iterable(spans.values())]
    if not found:
        raise UserError("there are no samples")
    return {
        "inputs": len(spans),
        "samples": len(found),
        "acceptance_rate": sum(not some for some in found) / len(found),
        "inputs_accepted": len(taken) / len(spans),
        "drawn": drawn,
        "accepted": compare([*taken.values()]) if taken else None,
    }


def evaluate_files(
    old: shards.PathLike | Sequence[shards.PathLike],
    new: shards.PathLike | Sequence[shards.PathLike],
    annotator: Annotator | None,
    references: shards.PathLike | None = None,
    references_key: str = "targets",
    exact_update: shards.PathLike | Sequence[shards.PathLike] | None = None,
    rejection: shards.PathLike | Sequence[shards.PathLike] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compares files of predictions.

    Args:
      old: predictions before the update, as `shards.expand` takes them.
      new: predictions after it.
      annotator: says what is unwanted; None reads annotated predictions.
      references: JSON lines, CSV or Parquet with `id` and the right output.
      references_key: field of the right output there.
      exact_update: predictions of the exact update, for the same inputs.
      rejection: samples of the model before the update, for some of the inputs.

    Returns:
      The results of `compare`, with `verdict`, a text, and where they were asked for
      `exact_update` (`compare` of it) and `distance_to_exact_update` (`distance`), and
      `rejection_sampling`; and the examples of `pick_examples`.

    Raises:
      UserError: naming file, line and field, the ids that do not match, or what differs
        between the annotators of the two sets.
    """
    before, after = shards.expand(old), shards.expand(new)
    exact, sampled = (shards.expand(f) if f else [] for f in (exact_update, rejection))
    sides = {"new predictions": after, "exact update": exact, "samples": sampled}
    for path in before:
        for side, paths in sides.items():
            if os.path.realpath(path) in map(os.path.realpath, paths):
                raise UserError(f"{path}: is given as old predictions and as {side}")
    if annotator is None:
        _check_same_annotators([*before, *after, *exact, *sampled])
    right = None if references is None else _read_references(references, references_key)
    read = records.read_annotated if annotator is None else records.read_predictions
    files = (old, new, references)
    names = [f"{n} ({_typed(f)})" for n, f in zip(_NAMES, files, strict=True)]
    pairs = join(read(before), read(after), annotator, right, names)
    results = compare(pairs)
    results["verdict"] = verdict.in_words(results)
    if exact:
        names[1] = f"exact update's predictions ({_typed(exact_update)})"
        theirs = join(read(before), read(exact), annotator, right, names)
        results["exact_update"] = compare(theirs)
        texts = [(p.new, q.new) for p, q in zip(theirs, pairs, strict=True)]
        results["distance_to_exact_update"] = distance(
            results, results["exact_update"], texts
        )
    if sampled:
        found = rejection_sampling(pairs, read(sampled), annotator)
        results["rejection_sampling"] = found
    return results, pick_examples(pairs)


def _typed(spec: Any) -> str:
    return ", ".join(map(str, spec)) if isinstance(spec, list | tuple) else str(spec)


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


def _read_references(path: shards.PathLike, key: str) -> dict[str, str]:
    found: dict[str, str] = {}
    ids = tables.Ids()
    for part in shards.expand(path):
        for where, row in tables.read_rows(part):
            name = tables.id_field(row, "id", where)
            if not name:
                raise UserError(f"{where}: field 'id' is missing or empty")
            ids.add(name, where)
            found[name] = tables.text_field(row, key, where)
    return found
