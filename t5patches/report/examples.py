"""The pairs of outputs that a page has: all of them, or an even choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t5patches.interchange.results_files import KINDS

# Faults of an output that its old one had not -> what the page calls them.
FAULTS = {
    "unwanted": "something unwanted",
    "repeats": "repeats itself",
    "empty": "empty",
    "cut": "cut off",
    "longer": "much longer",
    "shorter": "much shorter",
    "unseen_tokens": "unseen tokens",
    "lost_characters": "lost characters",
}
_MOST = 20_000
_FIRST = 4  # Of each kind, without the browser.
_FIELDS = {
    "inputs": "", "old": "", "new": "", "old_spans": (), "new_spans": (),
    "old_tokens": None, "new_tokens": None, "reference": None, "kind": "", "faults": (),
}  # fmt: skip


def for_page(examples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the pairs that a page has, at most 20,000, spread evenly over the file.

    Args:
      examples: rows of `results.examples.jsonl`; those without an id get their place.
    """
    count = len(examples)
    places = range(count)
    if count > _MOST:
        places = [number * count // _MOST for number in range(_MOST)]
    return [
        {"id": str(place + 1)}
        | {name: examples[place].get(name, other) for name, other in _FIELDS.items()}
        | ({"id": examples[place]["id"]} if "id" in examples[place] else {})
        for place in places
    ]


def first_of_each_kind(
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, list[Mapping[str, Any]]]:
    """Returns heading -> pairs of a kind, for paper and for pages without scripts."""
    found = {
        heading: [row for row in rows if row["kind"] == kind][:_FIRST]
        for kind, heading in KINDS.items()
    }
    return {heading: some for heading, some in found.items() if some}
