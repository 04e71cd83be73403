"""What can be wrong with an output besides that it is unwanted."""

from __future__ import annotations

import collections
from collections.abc import Sequence, Set

from t5patches.evaluate.similarity import UnicodeTokenizer

NAMES = (
    "unwanted",
    "repeats",
    "empty",
    "cut",
    "longer",
    "shorter",
    "unseen_tokens",
    "lost_characters",
)
OF_IDS = {"cut", "unseen_tokens"}  # Looked for where the ids are known.
_EOS, _UNKNOWN = 1, 2  # Ids of T5's vocabularies.
_SHORTEST_REPEAT = 3  # Words.


def of_output(text: str, unwanted: bool, ids: Sequence[int] | None) -> set[str]:
    """Returns the faults that an output has by itself.

    Args:
      text: the output.
      unwanted: whether anything in it is.
      ids: as generated, without padding; None if they are not known.
    """
    found = {
        "unwanted": unwanted,
        "repeats": repeats(text),
        "empty": not text.strip(),
        "cut": ids is not None and (not ids or ids[-1] != _EOS),
        "lost_characters": "⁇" in text
        or "\ufffd" in text
        or (ids is not None and _UNKNOWN in ids),
    }
    return {name for name, has in found.items() if has}


def beside(
    old: str, new: str, ids: Sequence[int] | None, seen: Set[int] | None
) -> set[str]:
    """Returns the faults that an output has beside the old one for the same input.

    Args:
      old: the output before the update.
      new: that after it.
      ids: of the new output, None if they are not known.
      seen: the ids of all old outputs, None if they are not known.
    """
    before, after = len(old.split()), len(new.split())
    found = {
        "longer": after > 2 * before,
        "shorter": 2 * after < before,
        "unseen_tokens": seen is not None and not seen >= {*(ids or ())},
    }
    return {name for name, has in found.items() if has}


def repeats(text: str) -> bool:
    """Says whether three words or more are said twice in a row, as in loops.

    So are one word six times and two words four times in a row. Case and punctuation
    do not matter.
    """
    words = UnicodeTokenizer().tokenize(text)
    places: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)
    for at in range(len(words) - _SHORTEST_REPEAT + 1):
        known = places[tuple(words[at : at + _SHORTEST_REPEAT])]
        for start in known:
            length = at - start
            if length >= _SHORTEST_REPEAT:
                if words[start:at] == words[at : at + length]:
                    return True
        known.append(at)
    return False
