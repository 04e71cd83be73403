"""The phrase annotator: every occurrence of a phrase of a list is unwanted."""

from __future__ import annotations

import functools
import itertools
import os
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from t5patches.annotate.alignment import Span
from t5patches.annotate.words import APOSTROPHES
from t5patches.errors import UserError
from t5patches.interchange import claims, json_files

# Raised by one whenever the same phrases come to mark other words.
RULES = 1
# Apostrophes are alike, and so are hyphens; the usual one comes first.
_ALIKE = (APOSTROPHES, "-‐‑")


class PhraseAnnotator:
    """Marks the phrases of a list: `annotator(text, inputs) -> [(start, end, label)]`.

    A phrase matches whole words only, whatever the case, the form of accented letters,
    the kind of apostrophe or hyphen and the width of white space. Of several phrases
    that begin at one place the longest is taken; a match inside another is left out;
    matches that overlap otherwise are all kept. The label is the phrase as the list has
    it.
    "Whole words" means that no letter, digit, underscore or combining mark stands right
    before or after.

    All phrases are one regular expression made of their shared prefixes, so the time
    for a text hardly depends on how many phrases there are.
    """

    def __init__(self, phrases: Iterable[str]):
        """Compiles `phrases`; at least one must have a character that is no space."""
        self._labels: dict[str, str] = {}
        root: _Trie = {}
        for phrase in phrases:
            key = _normalise(phrase)
            if not key:
                continue
            self._labels.setdefault(key, " ".join(phrase.split()))
            for form in _forms(phrase):
                node = root
                for character in form:
                    node = node.setdefault(character, {})
                node[""] = {}
        if not root:
            raise ValueError("no phrases")
        word = rf"[\w{_marks()}]"
        # The look-ahead consumes nothing, so that matches which overlap are found.
        self._pattern = re.compile(
            rf"(?<!{word})(?=({_pattern(root)})(?!{word}))", re.IGNORECASE
        )

    @property
    def phrases(self) -> list[str]:
        """The phrases, as labels."""
        return list(self._labels.values())

    @property
    def settings(self) -> dict[str, Any]:
        """What tells this list of phrases from others, whatever its comments."""
        digest = claims.fingerprint({"phrases": self.phrases})
        return {"annotator": "phrases", "phrases": digest, "rules": RULES}

    def __call__(self, text: str, inputs: str = "") -> list[Span]:
        """Returns the unwanted spans of `text`; `inputs` does not matter here."""
        del inputs
        spans: list[Span] = []
        covered = 0
        for match in self._pattern.finditer(text):
            start, end = match.span(1)
            if end > covered:
                spans.append((start, end, self._label(match[1])))
                covered = end
        return spans

    def _label(self, found: str) -> str:
        return self._labels.get(_normalise(found), found)


_Trie = dict[str, "_Trie"]


def _normalise(text: str) -> str:
    """Returns the form that a phrase shares with every text that it matches."""
    text = unicodedata.normalize("NFD", _plain(text.casefold()))
    # For regular expressions the dotted capital and the dotless small letter of Turkish
    # are cases of i.
    text = text.replace("i\u0307", "i").replace("ı", "i")
    return unicodedata.normalize("NFC", text)


def _forms(phrase: str) -> set[str]:
    """Returns the ways to write a phrase that differ in more than each letter's case.

    An accented letter has two, and 'straße' is 'STRASSE' in capitals.
    """
    return {
        unicodedata.normalize(form, text)
        for text in (_normalise(phrase), _plain(phrase.lower()))
        for form in ("NFC", "NFD")
    }


def _plain(text: str) -> str:
    text = " ".join(text.split())
    for alike in _ALIKE:
        text = re.sub(f"[{alike}]", alike[0], text)
    return text


def _pattern(node: _Trie) -> str:
    """Returns the regular expression of what can follow at a node of the trie."""
    chain = ""
    # A loop along a chain, recursion at forks: phrases may be long.
    while len(node) == 1 and "" not in node:
        character, node = next(iter(node.items()))
        chain += _literal(character)
    branches = [
        _literal(character) + _pattern(child)
        for character, child in sorted(node.items())
        if character
    ]
    if not branches:
        return chain
    # Greedy where a phrase ends: a longer one goes before it.
    return f"{chain}(?:{'|'.join(branches)}){'?' if '' in node else ''}"


def _literal(character: str) -> str:
    if character == " ":
        return r"\s+"
    for alike in _ALIKE:
        if character in alike:
            return f"[{alike}]"
    return re.escape(character)


@functools.cache
def _marks() -> str:
    """Combining marks as ranges for a character class: `\\w` does not hold them.

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
    return "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in ranges)


def read_phrases(path: str | os.PathLike) -> list[str]:
    """Returns the phrases of a file: one per line, `#` begins a comment line.

    A phrase that begins with '#' is written `\\#MeToo`.

    Raises:
      UserError: the file is missing, not UTF-8, or has no phrase.
    """
    phrases = []
    for number, line in json_files.read_lines(path):
        line = line.strip()
        if wrong := re.search(r"[\0-\x08\n-\x1f]", line):  # Old Mac's lines, UTF-16.
            raise UserError(
                f"{os.fspath(path)}:{number}: {wrong[0]!r} inside a phrase; write one "
                "phrase per line, as UTF-8"
            )
        if line and not line.startswith("#"):
            phrases.append(line[1:] if line.startswith("\\#") else line)
    if not phrases:
        raise UserError(f"{path}: no phrases in it; write one phrase per line")
    return phrases


def load(path: str | os.PathLike) -> PhraseAnnotator:
    """Returns the annotator of a phrase file (`read_phrases`)."""
    return PhraseAnnotator(read_phrases(path))
