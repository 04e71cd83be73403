"""How the letters of phrases are matched: as parts of regular expressions."""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata

from t5patches.annotate.words import APOSTROPHES

# Apostrophes are alike, and so are hyphens; the usual one comes first.
ALIKE = (APOSTROPHES, "-‐‑")


def literal(character: str) -> str:
    """Returns the regular expression of a letter of a phrase."""
    if character == " ":
        return r"\s+"
    for alike in ALIKE:
        if character in alike:
            return f"[{alike}]"
    return re.escape(character)


@functools.cache
def word_class() -> str:
    """Returns the class of the characters of words: `\\w` and combining marks.

    Without them 'cafe' would match the first letters of a decomposed 'café', and words
    of Indic scripts would end at each vowel sign. Variation selectors, which follow
    emoji, are left out: a word may begin after one.
    """
    points = [
        point
        for point in range(0x300, 0x20000)
        if not 0xFE00 <= point < 0xFE10 and unicodedata.category(chr(point))[0] == "M"
    ]
    # Neighbours have the same distance to their places in the list.
    runs = itertools.groupby(enumerate(points), lambda pair: pair[1] - pair[0])
    ranges = [[point for _, point in run] for _, run in runs]
    marks = "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in ranges)
    return rf"[\w{marks}]"
