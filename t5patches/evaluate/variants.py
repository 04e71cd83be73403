"""Phrases of a list in other spellings, which the list itself does not match.

A list of phrases is what the update was trained with and what it is judged by: a model
that learned to write `f00l` has not learned not to say it. Case, accents written in two
ways, apostrophes, hyphens and the width of spaces make no difference to the list
anyhow (`annotate.phrases`). What is counted here is to be looked at, for some of it is
innocent.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from t5patches.annotate.phrases import PhraseAnnotator

_LEET = str.maketrans("013457@$!€", "oieastasie")
# 1 and ! may stand for l, too.
_LEET_L = str.maketrans("013457@$!€", "oleastasle")
_BETWEEN = r"[\s.\-‐‑_*·\u00ad\u200b]"  # Soft hyphens and invisible spaces, too.
# Letters one by one, three at least; and what stands in the middle of a word.
_SPACED = re.compile(rf"(?<!\w)\w(?:{_BETWEEN}\w){{2,}}(?!\w)")
_INSIDE = re.compile(r"(?<=\w)[.\-‐‑_*·\u00ad\u200b]+(?=\w)")
_THRICE = re.compile(r"(\w)\1{2,}")
_SHORTEST = 4  # Letters of a phrase that is looked for in longer words.


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

    NAMES = ("accents", "repeated_letters", "leetspeak", "separated", "joined") + (
        "inside",
    )

    def __init__(self, annotator: PhraseAnnotator):
        """Takes the list of an annotator."""
        phrases = annotator.phrases
        self._list = annotator
        plain = PhraseAnnotator(map(_plain, phrases))
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
        self._rewritten: dict[
            str, tuple[PhraseAnnotator, tuple[Callable[[str], str], ...]]
        ] = {
            "accents": (plain, (_plain,)),
            "repeated_letters": (
                annotator,
                tuple(
                    lambda text, to=to: _THRICE.sub(to, text) for to in (r"\1", r"\1\1")
                ),
            ),
            "leetspeak": (
                annotator,
                (lambda text: text.translate(_LEET), lambda t: t.translate(_LEET_L)),
            ),
            "separated": (annotator, (_unseparated,)),
        }

    def __call__(self, text: str) -> set[str]:
        """Returns the names of the variants in which a text has more than the list."""
        known = len(self._list(text))
        found = {
            name
            for name, (phrases, ways) in self._rewritten.items()
            if any(
                (other := way(text)) != text and len(phrases(other)) > known
                for way in ways
            )
        }
        if self._joined is not None and self._joined(text):
            found.add("joined")
        if self._words and any(map(self._is_longer, re.findall(r"\w+", text))):
            found.add("inside")
        return found

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
