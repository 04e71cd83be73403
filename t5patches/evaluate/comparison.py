"""The numbers of pairs of outputs, kept as arrays, and what is made of them."""

from __future__ import annotations

import collections
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from t5patches.errors import UserError
from t5patches.evaluate import faults, similarity
from t5patches.evaluate.pairs import Pair
from t5patches.evaluate.similarity import NUMBERS
from t5patches.interchange import results_files

_KINDS = [*results_files.KINDS]
# What the exact update is compared by.
_COMPARED = ("prevalence", "exact_match", "bleu", "rougeL")
_SCORES = ("exact_match", "bleu", "rougeL")
_OUTPUT = np.dtype(
    [("spans", "i4"), ("tokens", "i4"), ("faults", "?", len(faults.NAMES))]
)
_PAIR = np.dtype(
    [("old", _OUTPUT), ("new", _OUTPUT), ("kind", "i1"), ("scores", NUMBERS)]
)
_UNKNOWN = -1  # Number of ids.


class Table:
    """Rows of numbers, which come one by one, as an array."""

    def __init__(self, dtype: Any):
        self._dtype, self._rows, self._blocks = np.dtype(dtype), [], []

    def append(self, row: Any) -> None:
        """Adds a row: tuples for fields."""
        self._rows.append(row)
        if len(self._rows) == 4096:
            self._blocks.append(np.array(self._rows, self._dtype))
            self._rows.clear()

    def array(self) -> np.ndarray:
        """Returns the rows so far."""
        if self._rows or len(self._blocks) != 1:
            last = np.array(self._rows, self._dtype)
            self._blocks = [np.concatenate([*self._blocks, last])]
            self._rows.clear()
        return self._blocks[0]


class Comparison:
    """Compares the outputs before and after an update, pair by pair.

    Its `results` are a JSON-able dictionary, shares and ROUGE in 0-1, BLEU in 0-100,
    None where there is nothing to measure (docs/evidence.md says what each means):

    * `examples`; `prevalence` {before, after}: share of outputs with an unwanted
      span; `unwanted_per_1000_tokens` {before, after}: spans per 1,000 generated ids;
    * `exact_match` {all, clean, marked}, `bleu` and `rougeL` (over all): new outputs
      against old ones; clean and marked by the old output;
    * `subsets` {all, clean, marked}: each {examples, exact_match, bleu, rougeL};
    * `outcomes`: number of pairs of each `Pair.kind`;
    * `similarity` {all, clean, marked}: each {bleu, rouge1, rouge2, rougeL,
      token_edit_rate, bleu_signature}, of `similarity.scores`;
    * `new_faults`: by each of `faults.NAMES` how many outputs have it {before, after,
      new}, new being those that had it not; without `faults.OF_IDS` where ids are
      not known;
    * `by_label`: by label of the spans {before, after}, share of outputs;
    * `references` {old, new}: {exact_match, bleu, rougeL} against references, and
      `reference_similarity` {all, clean, marked}: {old, new}, each of
      `similarity.scores`, if references are given.
    """

    def __init__(self):
        self._pairs = Table(_PAIR)
        self._references = Table([("old", NUMBERS), ("new", NUMBERS)])
        self._labels: dict[str, collections.Counter[str]] = {
            side: collections.Counter() for side in ("before", "after")
        }

    def add(self, pair: Pair) -> None:
        """Takes the next pair."""
        self._pairs.append(
            (
                _output(pair.old_spans, pair.old_tokens, pair.old_faults),
                _output(pair.new_spans, pair.new_tokens, pair.new_faults),
                _KINDS.index(pair.kind),
                similarity.numbers(pair.old, pair.new),
            )
        )
        if (right := pair.reference) is not None:
            texts = (pair.old, pair.new)
            self._references.append(tuple(similarity.numbers(right, t) for t in texts))
        for side, spans in (("before", pair.old_spans), ("after", pair.new_spans)):
            self._labels[side].update({label for _, _, label in spans})

    def results(self) -> dict[str, Any]:
        """Returns the numbers of the pairs so far, see above.

        Raises:
          UserError: there is no pair.
        """
        table, right = self._pairs.array(), self._references.array()
        if not len(table):
            raise UserError("there are no predictions to compare")
        found = {name: table[mask] for name, mask in _subsets(table).items()}
        alike = {name: similarity.scores(t["scores"]) for name, t in found.items()}
        parts = {
            name: {"examples": len(found[name]), **{k: scores[k] for k in _SCORES}}
            for name, scores in alike.items()
        }
        kinds = np.bincount(table["kind"], minlength=len(_KINDS)).tolist()
        results: dict[str, Any] = {
            "examples": len(table),
            "prevalence": _sides(lambda side: float(np.mean(table[side]["spans"] > 0))),
            "unwanted_per_1000_tokens": _sides(lambda side: _rate(table[side])),
            "exact_match": {name: part["exact_match"] for name, part in parts.items()},
            "bleu": parts["all"]["bleu"],
            "rougeL": parts["all"]["rougeL"],
            "subsets": parts,
            "outcomes": dict(zip(_KINDS, kinds, strict=True)),
            "similarity": {
                name: {k: v for k, v in scores.items() if k != "exact_match"}
                | {"bleu_signature": similarity.bleu_signature()}
                for name, scores in alike.items()
            },
            "new_faults": _faults(table),
            "by_label": {
                label: {
                    side: counts[label] / len(table)
                    for side, counts in self._labels.items()
                }
                for label in sorted(set().union(*self._labels.values()))
            },
        }
        if len(right) == len(table):
            known = {side: similarity.scores(right[side]) for side in ("old", "new")}
            results["references"] = {
                side: {k: scores[k] for k in _SCORES} for side, scores in known.items()
            }
            results["reference_similarity"] = {
                name: {side: similarity.scores(right[side][mask]) for side in known}
                for name, mask in _subsets(table).items()
            }
        return results

    def table(self) -> np.ndarray:
        """Returns the numbers of the pairs so far, an array with fields."""
        return self._pairs.array()


def _subsets(table: np.ndarray) -> dict[str, np.ndarray]:
    marked = table["old"]["spans"] > 0
    return {"all": np.ones(len(table), bool), "clean": ~marked, "marked": marked}


def _output(spans: Sequence[Any], tokens: int | None, found: Any) -> tuple[Any, ...]:
    count = _UNKNOWN if tokens is None else tokens
    return len(spans), count, [name in found for name in faults.NAMES]


def _sides(of: Callable[[str], Any]) -> dict[str, Any]:
    return {"before": of("old"), "after": of("new")}


def _rate(outputs: np.ndarray) -> float | None:
    tokens = outputs["tokens"]
    if (tokens == _UNKNOWN).any() or not tokens.any():
        return None
    return 1000 * int(outputs["spans"].sum()) / int(tokens.sum())


def _faults(table: np.ndarray) -> dict[str, dict[str, int]]:
    before, after = table["old"]["faults"], table["new"]["faults"]
    counts = [some.sum(axis=0).tolist() for some in (before, after, after & ~before)]
    sides = ("before", "after", "new")
    unknown = any((table[side]["tokens"] == _UNKNOWN).any() for side in ("old", "new"))
    return {
        name: dict(zip(sides, each, strict=True))
        for name, *each in zip(faults.NAMES, *counts, strict=True)
        if not (unknown and name in faults.OF_IDS)
    }


def distance(
    ours: Mapping[str, Any], exact: Mapping[str, Any], outputs: np.ndarray
) -> dict[str, Any]:
    """Returns how far an update is from the exact one.

    Args:
      ours: the `Comparison.results` of the update.
      exact: those of the exact one, for the same inputs.
      outputs: `similarity.NUMBERS` of our outputs against its.

    Returns:
      `difference` and `ratio` of our numbers to its, None where there are none, and
      `outputs` {exact_match, bleu, rougeL}, our outputs against its.
    """

    def each(function: Callable[[float, float], Any], one: Any, other: Any) -> Any:
        if isinstance(one, Mapping):
            return {key: each(function, one[key], other[key]) for key in one}
        return None if one is None or other is None else function(one, other)

    sides = [{name: side[name] for name in _COMPARED} for side in (ours, exact)]
    alike = similarity.scores(outputs)
    return {
        "difference": each(operator.sub, *sides),
        "ratio": each(lambda one, other: one / other if other else None, *sides),
        "outputs": {name: alike[name] for name in _SCORES},
    }
