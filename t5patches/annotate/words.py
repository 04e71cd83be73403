"""Reads a text into words that can be compared: case, accents and numbers folded.

'The U.S. spent £1.5m' becomes the, us, spent, 1.5m (or 1500000), pound. What is folded
is told in `t5patches.annotate.occurrence`, which compares the words. Every step looks
only a few words ahead, so a text is read in time linear in its length.
"""

from __future__ import annotations

import decimal
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

APOSTROPHES = "'’ʼ‘"
TITLES = frozenset(
    "mr mrs ms miss sir dame dr lord lady prof professor president".split()
)
MONTHS = {
    name: number
    for number, name in enumerate(
        "january february march april may june july august september october november "
        "december".split(),
        start=1,
    )
}
SHORT_MONTHS = {name[:3]: number for name, number in MONTHS.items()} | {"sept": 9}
SHORT_MONTHS.pop("may")


class Word(NamedTuple):
    """A word of a text.

    Attributes:
      key: the word as it is compared.
      form: the word as it was written; of a number in words, its first.
      gap: punctuation that parts it from the word before: '.' (the end of a sentence or
        paragraph), ',' (also a bracket, a dash, a possessive) or nothing.
      other: a second reading, if there is one: '2m' is two metres or two million.
    """

    key: str
    form: str
    gap: str = ""
    other: str = ""

    def is_like(self, word: Word) -> bool:
        """Says whether a reading of this word is one of the other's."""
        return self.key in (word.key, word.other) or bool(
            self.other and self.other in (word.key, word.other)
        )


def read(text: str) -> list[Word]:
    """Returns the words of a text, numbers put together."""
    tokens = _tokens(_fold(text))
    found = []
    at = 0
    while at < len(tokens):
        word = tokens[at]
        if word.form in _SIGNS:  # '£5' is '5 pounds'.
            number = _number(tokens, at + 1)
            if number:
                found.append(number[0]._replace(gap=word.gap))
                at = number[1] - 1
                word = word._replace(gap="")
        elif word.key in _STARTS or not word.key[0].isalpha():
            number = _number(tokens, at)
            if number:
                word, at = number[0], number[1] - 1
            elif word.key == "per" and _key(tokens, at + 1) == "cent":
                word, at = word._replace(key="percent"), at + 1
        found.append(word)
        at += 1
    return found


def singular(key: str) -> str:
    """Returns one key for a word and its plural: 'tory' for 'tory' and 'tories'."""
    if key.endswith("men"):
        return f"{key[:-3]}man"
    if len(key) > 3 and key[0].isalpha():
        if key[-1] == "s" and key[-2] != "s":
            key = key[:-1]
        if key.endswith("ie"):
            return f"{key[:-2]}y"
        if key.endswith(("che", "she", "xe", "sse")):
            return key[:-1]
    return key


# --------------------------------------------------------------------------- tokens

_LETTER = r"[^\W\d_]"
# Reading is linear because whatever an alternative that fails has run over, digits, is
# taken whole by a later one.
_TOKEN = re.compile(
    rf"""
    (?P<sign>(?:\b(?:US|AU?|CA?|NZ|HK))?\$|[£€¥%&])
  | (?P<clock>(?<![\d:.])\d\d?:[0-5]\d(?![\d:]))
  | (?P<decade>\d+[sS]\b|(?<!{_LETTER})\d*0'[sS]\b)       # 1990s, 1990's
  | (?P<number>\d+(?:,\d{{3}}(?!\d))*(?:\.\d+)?|(?<![\w.])\.\d+)
    (?P<ordinal>(?i:st|nd|rd|th)\b)?(?i:'s\b)?
  | (?P<initials>(?:{_LETTER}\.){{2,}}(?:{_LETTER}\b)?)(?i:'s\b)?  # U.S., p.m
  | {_LETTER}+(?:'{_LETTER}+)*
    """,
    re.VERBOSE,
)
_SIGNS = {"£": "pound", "€": "euro", "¥": "yen"} | {
    f"{country}$": "dollar" for country in ("", "US", "A", "AU", "C", "CA", "NZ", "HK")
}
_OTHER_SIGNS = {"%": "percent", "&": "and"}
_NO_GAPS = frozenset({"", " ", "\n", "-", "–"})
_STOPS = frozenset(".?;")
_COMMAS = frozenset(",:!()[]{}/|–—")
_ABBREVIATIONS = TITLES.union(SHORT_MONTHS, "st mt no jr sr gen capt sgt rev".split())
_LETTERS = dict(
    zip("øØłŁđĐðÐæÆœŒıþÞ", "o O l L d D d D ae AE oe OE i th TH".split(), strict=True)
) | dict.fromkeys(APOSTROPHES, "'")


def _fold(text: str) -> str:
    """Takes accents and the width of letters away; one apostrophe for all."""
    if text.isascii():
        return text
    return re.sub(
        r"[^\x00-\x7f]",
        lambda m: "" if unicodedata.combining(m[0]) else _LETTERS.get(m[0], m[0]),
        unicodedata.normalize("NFKD", text),
    )


def _tokens(text: str) -> list[Word]:
    tokens = []
    end, last, possessive = 0, "", False
    for match in _TOKEN.finditer(text):
        between = text[end : match.start()]
        gap = "" if between in _NO_GAPS else _gap(between, last)
        if possessive and not gap:
            gap = ","
        form, kind = match[0], match.lastgroup
        possessive = kind not in ("decade", "sign") and form[-2:] in ("'s", "'S")
        if possessive:
            form = form[:-2]
        if kind is None:
            last = key = form.casefold().replace("'", "")
            if key in _SHORT_SCALES and not between:
                form = key  # '5M' is '5m', '2015 M&S' is not.
        elif kind == "initials":
            last, key = "", form.casefold().replace(".", "")
        else:
            last, key = "", _key_of_sign(match, form)
        tokens.append(Word(key, form, gap))
        end = match.end()
    return tokens


def _key_of_sign(match: re.Match[str], form: str) -> str:
    """Returns the key of a token that is not made of letters."""
    if match["sign"]:
        return _SIGNS.get(form) or _OTHER_SIGNS[form]
    if match["decade"]:
        return form.replace("'", "").lower()
    if match["clock"]:
        hour, _, minute = form.partition(":")
        return f"{int(hour)}:{int(minute):02}"
    number = match["number"].replace(",", "")
    if len(number) <= _LONGEST:
        number = _plain(decimal.Decimal(number))
    return f"{number}th" if match["ordinal"] else number


def _gap(between: str, last: str) -> str:
    """Returns the gap that `between`, after a word with the key `last`, makes."""
    if between[0] == "." and (len(last) == 1 or last in _ABBREVIATIONS):
        between = between[1:]
    if not _STOPS.isdisjoint(between) or between.count("\n") > 1:
        return "."
    dash = "-" in between and between != "-"
    return "," if dash or not _COMMAS.isdisjoint(between) else ""


# --------------------------------------------------------------------------- numbers

_LONGEST = 15  # Digits; a longer number is compared as it is written.
_UNITS = {
    name: value
    for value, name in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen "
        "fourteen fifteen sixteen seventeen eighteen nineteen".split()
    )
}
_TENS = {
    name: 10 * value
    for value, name in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2
    )
}
_SMALL = {**_UNITS, **_TENS}
_SCALES = {
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_SHORT_SCALES = {"k": 10**3, "m": 10**6, "mn": 10**6, "bn": 10**9, "tn": 10**12}
_ORDINALS = {
    **{f"{name}th": value for name, value in _UNITS.items()},
    **{f"{name[:-1]}ieth": value for name, value in _TENS.items()},
    **{"first": 1, "second": 2, "third": 3, "fifth": 5, "eighth": 8, "ninth": 9},
    "twelfth": 12,
}
_STARTS = frozenset({*_SMALL, *_SCALES, *_ORDINALS, "hundred", "a", "half", "per"})


def _key(tokens: Sequence[Word], at: int) -> str:
    """Returns the key at `at` if nothing parts it from the word before."""
    return tokens[at].key if at < len(tokens) and not tokens[at].gap else ""


def _number(tokens: Sequence[Word], at: int) -> tuple[Word, int] | None:
    """Reads the longest number that begins at `at`; returns it and where it ends."""
    if at == len(tokens):
        return None
    first = tokens[at]
    if first.key[0].isdecimal():
        return _number_in_digits(tokens, at)
    total, end = _number_in_words(
        lambda i: first.key if i == at else _key(tokens, i), at
    )
    return (Word(total, first.form, first.gap), end) if end > at else None


def _number_in_digits(tokens: Sequence[Word], at: int) -> tuple[Word, int]:
    first = tokens[at]
    if first.key[-1] == "s" and at and tokens[at - 1].key in ("under", "over"):
        return first._replace(other=first.key[:-1]), at + 1
    if ":" in first.key:  # '10:00' is also '10', as in '10am'.
        return first._replace(other=first.key.removesuffix(":00")), at + 1
    if not first.key[-1].isdecimal() or len(first.key) > _LONGEST:
        return first, at + 1
    value, end = decimal.Decimal(first.key), at + 1
    if _key(tokens, end) == "hundred":
        value, end = value * 100, end + 1
    unit = _key(tokens, end)
    scale = _SCALES.get(unit)
    if scale is None and unit and tokens[end].form == unit:
        scale = _SHORT_SCALES.get(unit)
    if scale:
        scaled, end = _plain(value * scale), end + 1
        if unit == "m":
            return first._replace(key=f"{_plain(value)}m", other=scaled), end
        return first._replace(key=scaled), end
    if clock := re.fullmatch(r"(\d\d?)\.([0-5]\d)", first.form):
        return first._replace(other=f"{int(clock[1])}:{int(clock[2]):02}"), end
    return first._replace(key=_plain(value)), end


def _number_in_words(key: Callable[[int], str], at: int) -> tuple[str, int]:
    """Reads hundreds with scales that fall: 'two million three hundred thousand'.

    Args:
      key: returns the key at a place, '' where nothing goes on the number.
      at: where the number begins; it ends there if there is none.
    """
    total, largest, end = decimal.Decimal(0), 10**15, at
    while True:
        start = end + 1 if end > at and key(end) == "and" else end
        value, stop, ordinal = _hundreds(key, start)
        scale = _SCALES.get(key(stop), 1)
        # In 'one thousand and two thousand' another number begins.
        if stop == start and (scale == 1 or end > at) or scale >= largest:
            return _plain(total), end
        total += value * (1 if ordinal else scale)
        if ordinal or scale == 1:
            return f"{_plain(total)}{'th' * ordinal}", stop
        largest, end = scale, stop + 1


def _hundreds(key: Callable[[int], str], at: int) -> tuple[decimal.Decimal, int, bool]:
    """Reads a number below a thousand; returns it, its end, whether it is ordinal.

    One before a hundred or a scale may be missing or 'a', a half be 'half a'.
    """
    word = key(at)
    if word in ("a", "half"):
        end = at + 2 if word == "half" and key(at + 1) == "a" else at + 1
        follows = key(end)
        if follows not in _SCALES and (follows, word) != ("hundred", "a"):
            return decimal.Decimal(0), at, False
        value = decimal.Decimal("0.5" if word == "half" else 1)
        ordinal = False
    else:
        small, end, ordinal = _below_hundred(key, at)
        value = decimal.Decimal(small if end > at else 1)
    if ordinal or key(end) != "hundred":
        return value, end, ordinal
    value, end = value * 100, end + 1
    start = end + 1 if key(end) == "and" else end
    small, stop, ordinal = _below_hundred(key, start)
    # In 'one hundred and two hundred' another number begins.
    if stop > start and key(stop) != "hundred":
        return value + small, stop, ordinal
    return value, end, False


def _below_hundred(key: Callable[[int], str], at: int) -> tuple[int, int, bool]:
    word, after = key(at), key(at + 1)
    if word in _ORDINALS:
        return _ORDINALS[word], at + 1, True
    if word not in _SMALL:
        return 0, at, False
    for names in (_UNITS, _ORDINALS):
        if word in _TENS and 0 < names.get(after, 0) < 10:
            return _TENS[word] + names[after], at + 2, names is _ORDINALS
    return _SMALL[word], at + 1, False


def _plain(value: decimal.Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
