"""Finds the dates that name a month in a text, and those in digits."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from t5patches.annotate.words import MONTHS, SHORT_MONTHS, Word

# Month, day, year; what is not said is None.
Parts = tuple[int, int | None, int | None]

# Months that are words besides; as months they have a capital.
ALSO_WORDS = frozenset({"may", "march", "august"})
# After these a month is no verb and no part of a name.
_BEFORE_MONTHS = frozenset(
    "in of by since until till from during before after last next early mid late "
    "on".split()
)
_BETWEEN_DAYS = frozenset({"and", "to", "or"})
_ISO = re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b")
_DIGITS = re.compile(r"\b(\d{1,2})([/.])(\d{1,2})\2(\d{4})\b")


class Date(NamedTuple):
    """A month, the days of it and the year that are said, and where the words are."""

    month: int
    days: tuple[int, ...]
    year: int | None
    said: range

    def parts(self) -> list[Parts]:
        """Returns each day of it."""
        return [(self.month, day, self.year) for day in self.days or (None,)]

    def all_parts(self) -> Iterator[Parts]:
        """Yields what says no more than the date does."""
        for day in (None, *self.days):
            for year in {None, self.year}:
                yield self.month, day, year


def named(words: Sequence[Word], labelled: bool = False) -> list[Date]:
    """Returns the dates that name a month: '5 May 2015', 'May 5-7', '5th of May'.

    Args:
      words: what `words.read` returns.
      labelled: the words are known to be a date, so that months need no check.
    """
    found = []
    for at, word in enumerate(words):
        month = MONTHS.get(word.key) or SHORT_MONTHS.get(word.key)
        if month is None:
            continue
        days, first, end = _days_before(words, at), at, at + 1
        if days:
            first = days.start
        else:
            days = _days_after(words, at)
            end = max(days.stop, end)
        year = _year(words[end]) if end < len(words) else None
        numbers = tuple(day for i in days if (day := _day(words[i])))
        date = Date(month, numbers, year, range(first, end + (year is not None)))
        if labelled or _is_month(words, at, date):
            found.append(date)
    return found


def in_digits(text: str) -> list[Parts]:
    """Returns the dates in digits, '05/06/2015' in both readings."""
    found: list[Parts] = [(int(m), int(d), int(y)) for y, m, d in _ISO.findall(text)]
    for first, _, second, year in _DIGITS.findall(text):
        found.append((int(first), int(second), int(year)))
        found.append((int(second), int(first), int(year)))
    return found


def _days_before(words: Sequence[Word], at: int) -> range:
    """Returns where the days before the month at `at` are: '5, 6 and 7', '5th of'."""
    of = at > 0 and words[at - 1].key == "of"
    end = first = at - of
    step = 1
    while first >= step and _day(words[first - step], in_words=of):
        if any(word.gap == "." for word in words[first - step + 1 : first + 1]):
            break
        first -= step
        step = 2 if first and words[first - 1].key in _BETWEEN_DAYS else 1
    if first == end or words[at].gap or words[end].gap:
        return range(at, at)
    return range(first, at)


def _days_after(words: Sequence[Word], at: int) -> range:
    """Returns where the days after the month at `at` are: '5-7', '10 to 12'."""
    end, step = at + 1, 0
    while end + step < len(words) and _day(words[end + step], in_words=True):
        if any(word.gap for word in words[end : end + step + 1]):
            break
        end += step + 1
        step = 1 if end < len(words) and words[end].key in _BETWEEN_DAYS else 0
    return range(at + 1, end)


def _day(word: Word, in_words: bool = True) -> int | None:
    """Reads 5, 5th, and with `in_words` fifth; never five."""
    if not word.form[0].isdecimal() and not (in_words and word.key.endswith("th")):
        return None
    number = word.key.removesuffix("th")
    if len(number) <= 2 and number.isdecimal() and 1 <= int(number) <= 31:
        return int(number)
    return None


def _year(word: Word) -> int | None:
    key = word.key
    if word.gap != "." and len(key) == 4 and key.isdecimal() and key[0] in "12":
        return int(key)
    return None


def _is_month(words: Sequence[Word], at: int, date: Date) -> bool:
    """Says whether the word at `at` is a month, not the verb 'may' or June Brown."""
    word, first = words[at], date.said.start
    before = words[first - 1] if first and not words[first].gap else None
    after_preposition = before is not None and before.key in _BEFORE_MONTHS
    if word.key in ALSO_WORDS and word.form[0].islower():
        return after_preposition or date.year is not None
    if date.days or date.year is not None:
        return True
    after = words[at + 1] if at + 1 < len(words) and not words[at + 1].gap else None
    if word.key in SHORT_MONTHS:
        return after_preposition and not _is_name(after)
    if after_preposition or (before is not None and before.key == "the"):
        return True
    return not (_is_name(before) or _is_name(after))


def _is_name(word: Word | None) -> bool:
    return (
        word is not None and word.form[0].isupper() and word.key not in common_words()
    )


@functools.cache
def common_words() -> frozenset[str]:
    """Returns English words that begin a sentence more often than a name does."""
    from spacy.lang.en.stop_words import STOP_WORDS

    return frozenset(STOP_WORDS)
