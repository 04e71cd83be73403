"""The pairs of outputs that a page has: all of them, or an even choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Kind of a pair -> what the page calls it, how many are shown without the browser.
KINDS = {
    "fixed": ("Fixed: unwanted before, clean now", 8),
    "remaining": ("Still unwanted: before and now", 4),
    "broken": ("Newly unwanted: clean before, unwanted now", 4),
    "changed": ("Changed without need: clean before and now, but other words", 4),
    "unchanged": ("Unchanged: the same before and now", 2),
}
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
        heading: [row for row in rows if row["kind"] == kind][:count]
        for kind, (heading, count) in KINDS.items()
    }
    return {heading: some for heading, some in found.items() if some}
