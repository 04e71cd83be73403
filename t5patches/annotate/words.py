"""Reads a text into words that can be compared: case, accents and numbers folded.

'The U.S. spent £1.5m' becomes the, us, spent, pound, 1500000. What is folded is told in
`t5patches.annotate.occurrence`, which compares the words. Every step looks at one word
and the one before, so a text is read in time linear in its length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

APOSTROPHES = "'’ʼ‘"


class Word(NamedTuple):
    """A word of a text.

    Attributes:
      key: the word as it is compared.
      form: the word as it was written; of a number in words, its first.
      apart: whether punctuation or a possessive parts it from the word before.
    """

    key: str
    form: str
    apart: bool = False

    @property
    def is_name(self) -> bool:
        """Says whether it begins with a capital."""
        return self.form[0].isupper()


def read(text: str) -> list[Word]:
    """Returns the words of a text, numbers put together."""
    found: list[Word] = []
    for word in _tokens(text):
        last = None if word.apart or not found else found[-1]
        if last and (number := _together(last, word)):
            found[-1] = last._replace(key=number)
        else:
            found.append(word._replace(key=_IN_DIGITS.get(word.key, word.key)))
    return found


def singular(key: str) -> str:
    """Returns one key for a word and its plural: 'tory' for 'tory' and 'tories'."""
    if len(key) < 4 or key[-1] != "s" or key[-2] == "s" or not key[0].isalpha():
        return key
    return f"{key[:-3]}y" if key.endswith("ies") else key[:-1]


# --------------------------------------------------------------------------- tokens

_LETTER = r"[^\W\d_]"
_TOKEN = re.compile(
    rf"""
    (?P<number>\d+(?:,\d{{3}}(?!\d))*(?:[.:]\d+)?)
    (?P<unit>(?i:st|nd|rd|th|k|m|mn|bn|tn|'?s)\b)?
  | (?P<initials>(?:{_LETTER}\.){{2,}}(?:{_LETTER}\b)?)  # U.S., p.m
  | (?P<sign>(?:\b(?:US|AU?|CA?|NZ|HK))?\$|[£€%&])
  | {_LETTER}+(?:'{_LETTER}+)*
    """,
    re.VERBOSE,
)
_SIGNS = {"£": "pound", "$": "dollar", "€": "euro", "%": "percent", "&": "and"}
_NO_GAPS = frozenset({"", " ", "\n", "-", "–"})
_LETTERS = str.maketrans(
    dict(zip("øØłŁđĐ", "oOlLdD", strict=True)) | dict.fromkeys(APOSTROPHES, "'")
)


def _fold(text: str) -> str:
    """Takes accents and the width of letters away; one apostrophe for all."""
    if text.isascii():
        return text
    parts = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    return "".join(c for c in parts if not unicodedata.combining(c))


def _tokens(text: str) -> Iterator[Word]:
    text = re.sub(r"\bper cent\b", "percent", _fold(text), flags=re.IGNORECASE)
    text = re.sub(r"\bhalf a (?=[mb]illion\b)", "0.5 ", text, flags=re.IGNORECASE)
    end, possessive = 0, False
    for match in _TOKEN.finditer(text):
        apart = possessive or text[end : match.start()] not in _NO_GAPS
        form, end = match[0], match.end()
        possessive = match.lastgroup is None and form[-2:] in ("'s", "'S")
        if possessive:
            form = form[:-2]
        if match["number"]:
            key = _number(match["number"], (match["unit"] or "").lower())
        else:
            key = _SIGNS.get(form[-1]) or re.sub("['.]", "", form.casefold())
        yield Word(key, form, apart)


# --------------------------------------------------------------------------- numbers

_LONGEST = 15  # Digits; a longer number is compared as it is written.
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen "
    "fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_IN_DIGITS = {
    **{name: str(value) for value, name in enumerate(_UNITS)},
    **{f"{name}th": f"{value}th" for value, name in enumerate(_UNITS)},
    **{name: f"{value}0" for value, name in enumerate(_TENS, start=2)},
    **{f"{name[:-1]}ieth": f"{value}0th" for value, name in enumerate(_TENS, start=2)},
    **{"first": "1th", "second": "2th", "third": "3th", "fifth": "5th"},
    **{"eighth": "8th", "ninth": "9th", "twelfth": "12th", "ii": "2", "iii": "3"},
}
_SCALES = dict(hundred=1e2, thousand=1e3, million=1e6, billion=1e9, trillion=1e12)
_SHORT_SCALES = {"k": 1e3, "m": 1e6, "mn": 1e6, "bn": 1e9, "tn": 1e12}


def _number(digits: str, unit: str) -> str:
    digits = digits.replace(",", "").replace(":", ".")
    number = _times(digits, _SHORT_SCALES.get(unit, 1))
    if not unit or unit in _SHORT_SCALES:
        return number
    return f"{digits}s" if unit[-1] == "s" else f"{number}th"


def _together(last: Word, word: Word) -> str | None:
    """Returns the number that two words make: 'twenty-five', '1.5 million'."""
    number = "1" if last.key == "a" else last.key
    if not number[0].isdecimal() or not number[-1].isdecimal():
        return None
    if word.key in _SCALES:
        return _times(number, _SCALES[word.key])
    unit = _IN_DIGITS.get(word.key, "")
    if last.form.casefold() in _TENS and unit.removesuffix("th") in list("123456789"):
        return number[0] + unit
    return None


def _times(digits: str, scale: float) -> str:
    return digits if len(digits) > _LONGEST else f"{float(digits) * scale:.{_LONGEST}g}"
