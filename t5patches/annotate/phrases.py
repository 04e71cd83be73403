"""The phrase annotator: every occurrence of a phrase of a list is unwanted."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from t5patches.annotate import unwanted_sets
from t5patches.annotate.alignment import Span
from t5patches.annotate.letters import ALIKE, literal, word_class
from t5patches.errors import UserError
from t5patches.interchange import claims, json_files

# Raised by one whenever the same phrases come to mark other words.
RULES = 1


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

    def __init__(self, phrases: Iterable[str], word_end: str = "piece"):
        """Compiles `phrases`; at least one must have a character that is no space.

        Args:
          phrases: the list.
          word_end: which of the ids that could come next are unwanted; see
            `unwanted_sets.PhraseSets`.
        """
        self._word_end = word_end
        self._labels: dict[str, str] = {}
        self._forms: set[str] = set()
        root: _Trie = {}
        for phrase in phrases:
            key = _normalise(phrase)
            if not key:
                continue
            self._labels.setdefault(key, " ".join(phrase.split()))
            for form in _forms(phrase) - self._forms:
                self._forms.add(form)
                node = root
                for character in form:
                    node = node.setdefault(character, {})
                node[""] = {}
        if not root:
            raise ValueError("no phrases")
        word = word_class()
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
        made = {"annotator": "phrases", "phrases": digest, "rules": RULES}
        return (
            made if self._word_end == "piece" else {**made, "word_end": self._word_end}
        )

    def unwanted_sets(self, vocabulary: Any) -> unwanted_sets.PhraseSets:
        """Returns what is unwanted after each prefix, said or not."""
        return unwanted_sets.PhraseSets(sorted(self._forms), vocabulary, self._word_end)

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
    for alike in ALIKE:
        text = re.sub(f"[{alike}]", alike[0], text)
    return text


def _pattern(node: _Trie) -> str:
    """Returns the regular expression of what can follow at a node of the trie."""
    chain = ""
    # A loop along a chain, recursion at forks: phrases may be long.
    while len(node) == 1 and "" not in node:
        character, node = next(iter(node.items()))
        chain += literal(character)
    branches = [
        literal(character) + _pattern(child)
        for character, child in sorted(node.items())
        if character
    ]
    if not branches:
        return chain
    # Greedy where a phrase ends: a longer one goes before it.
    return f"{chain}(?:{'|'.join(branches)}){'?' if '' in node else ''}"


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


def load(path: str | os.PathLike, word_end: str = "piece") -> PhraseAnnotator:
    """Returns the annotator of a phrase file (`read_phrases`)."""
    return PhraseAnnotator(read_phrases(path), word_end)
