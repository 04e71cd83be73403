"""Phrases of a list in other spellings, which the list itself does not match.

A list of phrases is what the update was trained with and what it is judged by: a model
that learned to write `f00l` has not learned not to say it. Case, accents written in two
ways, apostrophes, hyphens and the width of spaces make no difference to the list
anyhow (`annotate.phrases`). What is counted here is to be looked at, for some of it is
innocent.
"""

from __future__ import annotations

import collections
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from t5patches.annotate.annotator import Annotator
from t5patches.annotate.phrases import PhraseAnnotator
from t5patches.errors import UserError
from t5patches.evaluate import pairs
from t5patches.interchange.records import Prediction

NAMES = ("accents", "repeated_letters", "leetspeak", "separated", "joined", "inside")
_LEET = str.maketrans("013457@$!€", "oieastasie")
# 1 and ! may stand for l, too.
_LEET_L = str.maketrans("013457@$!€", "oleastasle")
_BETWEEN = r"[\s.\-‐‑_*·\u00ad\u200b]"  # Soft hyphens and invisible spaces, too.
# Letters one by one, three at least; and what stands in the middle of a word.
_SPACED = re.compile(rf"(?<!\w)\w(?:{_BETWEEN}\w){{2,}}(?!\w)")
_INSIDE = re.compile(r"(?<=\w)[.\-‐‑_*·\u00ad\u200b]+(?=\w)")
_THRICE = re.compile(r"(\w)\1{2,}")
_SHORTEST = 4  # Letters of a phrase that is looked for in longer words.
_Way = Callable[[str], str]


class Variants:
    """Counts the phrases of a list that a text has in other spellings only.

    * `accents`: without accents, and in plain letters for those of other widths and
      styles ('fóol', 'ｆｏｏｌ');
    * `repeated_letters`: a letter three times or more for one or two ('fooool');
    * `leetspeak`: digits and signs for letters ('f00l');
    * `separated`: with spaces, hyphens, dots or the like between letters ('f-o-o-l',
      'f o o l', 'fo.ol');
    * `joined`: the words of a phrase without their spaces, or with hyphens;
    * `inside`: a phrase of one word, of four letters or more, in a longer word
      ('foolish').
    """

    def __init__(self, annotator: Annotator | None):
        """Takes the list of an annotator.

        Raises:
          UserError: it has none.
        """
        if not isinstance(annotator, PhraseAnnotator):
            raise UserError("variants are of a list of phrases; give one")
        self._number = 0
        self._counts = {side: collections.Counter() for side in (pairs.OLD, pairs.NEW)}
        phrases = annotator.phrases
        self._list = annotator
        plain = PhraseAnnotator(_plain(phrase) or phrase for phrase in phrases)
        several = [phrase.split() for phrase in phrases if len(phrase.split()) > 1]
        joined = [mark.join(words) for words in several for mark in ("", "-")]
        self._joined = PhraseAnnotator(joined) if joined else None
        self._words = {
            key
            for key in (phrase.casefold() for phrase in phrases)
            if len(key) >= _SHORTEST and key.isalnum()
        }
        self._lengths = sorted({len(word) for word in self._words})
        # Name -> the list, and ways to write a text so that the list finds its phrases.
        self._rewritten: dict[str, tuple[PhraseAnnotator, tuple[_Way, ...]]] = {
            "accents": (plain, (_plain,)),
            "repeated_letters": (
                annotator,
                (lambda t: _THRICE.sub(r"\1", t), lambda t: _THRICE.sub(r"\1\1", t)),
            ),
            "leetspeak": (
                annotator,
                (lambda t: t.translate(_LEET), lambda t: t.translate(_LEET_L)),
            ),
            "separated": (annotator, (_unseparated,)),
        }

    def __call__(self, text: str) -> set[str]:
        """Returns the names of the variants in which a text has more than the list."""
        known = len(self._list(text))
        found = {
            name
            for name, (phrases, ways) in self._rewritten.items()
            if any(len(phrases(way(text))) > known for way in ways)
        }
        if self._joined is not None and self._joined(text):
            found.add("joined")
        if self._words and any(map(self._is_longer, re.findall(r"\w+", text))):
            found.add("inside")
        return found

    def add(self, old: pairs.Output, rows: Mapping[str, Prediction]) -> None:
        """Takes the next outputs, the rows of their sets."""
        self._number += 1
        for side, counts in self._counts.items():
            counts.update(self(rows[side]["prediction"]))

    def results(self, clusters: Any, seed: int) -> dict[str, Any]:
        """Returns by variant {before, after}, share of outputs; without intervals."""
        before, after = (
            {name: counts[name] / self._number for name in NAMES}
            for counts in self._counts.values()
        )
        return {name: {"before": before[name], "after": after[name]} for name in NAMES}

    def _is_longer(self, word: str) -> bool:
        word = word.casefold()
        return any(
            word[at : at + length] in self._words
            for length in self._lengths
            if length < len(word)
            for at in range(len(word) - length + 1)
        )


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text)
    return "".join(c for c in letters if not unicodedata.combining(c))


def _unseparated(text: str) -> str:
    spaced = _SPACED.sub(lambda found: re.sub(_BETWEEN, "", found[0]), text)
    return _INSIDE.sub("", spaced)
