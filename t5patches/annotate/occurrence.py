"""Whether a name, a number or a date occurs in a text.

An entity *occurs* if its words stand in the text one after the other, where words are
compared after this:

- **Case, accents, width** of letters do not matter, but for one word alone that is also
  a common English word: 'US', 'Will' and 'May' do not occur in "may we tell us". Such a
  word must stand there with the same capitals ('US'; 'Will'), unless the whole text or
  the entity is in lower case.
- **Punctuation** does not matter: hyphens part words, full stops of abbreviations go
  ('U.S.' is 'US', 'J. K.' is 'JK'); an article before the entity goes.
- **Possessives** are the word: "Britain's", "James'".
- **Numbers** are their values, in digits or words: '2,500' is 'two thousand five
  hundred', '£1.5m' is '1.5 million pounds', '20%' is 'twenty per cent'. Ordinals are
  apart: '21st' is 'twenty-first', and neither is '21'.
- **Plurals** are the singular in peoples and quantities ('Germans' and 'German',
  'Frenchmen', '5 years' and 'five-year'), never in names: 'Williams' is not 'William'.
- **Dates** that name a month occur if the text names the same month and there what else
  the entity says, day and year: '5 May' and 'May 2015' occur in 'on the 5th of May
  2015' or '2015-05-05', and '5 May 2015' does not occur in '5 May'. Other words of such
  a date ('Monday', not 'early') must stand somewhere in the text. '05/06/2015' is read
  both ways.
- **Partial names** occur: 'Smith' in 'John Smith', 'United' in 'Manchester United'. The
  names of a person may leave out up to two in between ('John Smith' in 'John Paul
  Smith'), and a title before it does not matter. What the entity says beyond the text
  does: 'John Smith' does not occur in 'Mr Smith'.

No knowledge of the world is used: 'Britain' is not 'UK', 'WHO' is not 'World Health
Organization', 'Berliner' is not 'Berlin'. Numbers in words, months and titles are
English; the rest holds for every language that parts words by spaces.
"""

from __future__ import annotations

import decimal
import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

PERSONS = frozenset({"PERSON", "PER"})
DATES = frozenset({"DATE", "TIME"})
# Labels of spaCy's English pipelines (MISC: of others) where a plural is the singular.
PLURALS = frozenset(
    "NORP MISC LANGUAGE DATE TIME MONEY QUANTITY PERCENT CARDINAL".split()
)
MOST_NAMES_LEFT_OUT = 2


class Word(NamedTuple):
    """A word as it is compared, and as it was written."""

    key: str
    form: str


class Date(NamedTuple):
    """A date, and the words that say it; parts that it does not say are None."""

    month: int
    day: int | None
    year: int | None
    words: frozenset[int] = frozenset()


class Text:
    """A text in which entities are looked for."""

    def __init__(self, text: str):
        self.text = text

    @functools.cached_property
    def words(self) -> list[Word]:
        """The words of the text."""
        return words(self.text)

    @functools.cached_property
    def _dates(self) -> list[Date]:
        return [*_dates(self.words), *_numeric_dates(self.text)]

    @functools.cached_property
    def _places(self) -> dict[bool, dict[str, list[int]]]:
        """Where each word stands: as it is, and as a singular."""
        places: dict[bool, dict[str, list[int]]] = {False: {}, True: {}}
        for place, word in enumerate(self.words):
            places[False].setdefault(word.key, []).append(place)
            places[True].setdefault(_singular(word.key), []).append(place)
        return places

    @functools.cached_property
    def _is_lower(self) -> bool:
        return self.text == self.text.lower()

    def has(self, entity: str, label: str = "") -> bool:
        """Says whether `entity`, an entity with `label`, occurs in the text.

        An entity without a word, e.g. a dash, occurs everywhere.
        """
        wanted = words(entity)
        drop = _ARTICLES | (_TITLES if label in PERSONS else frozenset())
        while len(wanted) > 1 and wanted[0].key in drop:
            del wanted[0]
        if not wanted:
            return True
        if label in DATES and self._has_date(entity, wanted):
            return True
        left_out = MOST_NAMES_LEFT_OUT if label in PERSONS else 0
        return self._has_words(wanted, label in PLURALS, left_out)

    def _has_words(self, wanted: Sequence[Word], plurals: bool, left_out: int) -> bool:
        places = self._places[plurals]
        keys = [_singular(word.key) if plurals else word.key for word in wanted]
        if any(key not in places for key in keys):
            return False
        starts = places[keys[0]]
        if len(wanted) == 1 and _needs_capitals(wanted[0]) and not self._is_lower:
            return any(_same_capitals(wanted[0], self.words[at]) for at in starts)
        return any(self._goes_on(keys[1:], at, plurals, left_out) for at in starts)

    def _goes_on(self, keys: list[str], at: int, plurals: bool, left_out: int) -> bool:
        """Says whether `keys` come after the word at `at`, in order."""
        for key in keys:
            for step in range(1, left_out + 2):
                if at + step >= len(self.words):
                    return False
                form = self.words[at + step].form
                found = self.words[at + step].key
                if (_singular(found) if plurals else found) == key:
                    break
                if not form[0].isupper():
                    return False
            else:
                return False
            at += step
        return True

    def _has_date(self, entity: str, wanted: Sequence[Word]) -> bool:
        dates = [*_dates(wanted), *_numeric_dates(entity)]
        if not dates:
            return False
        said = frozenset().union(*(date.words for date in dates))
        others = [word for i, word in enumerate(wanted) if i not in said]
        if any(date.words for date in dates):
            agree = all(any(_agrees(d, other) for other in self._dates) for d in dates)
        else:  # Digits only, perhaps in two readings.
            others = []
            agree = any(any(_agrees(d, other) for other in self._dates) for d in dates)
        return agree and all(
            self._has_words([word], True, 0)
            for word in others
            if word.key not in _DATE_FILLERS
        )


def occurs(entity: str, label: str, text: str) -> bool:
    """Says whether an entity occurs in a text, as this module defines it."""
    return Text(text).has(entity, label)


# --------------------------------------------------------------------------- words

_APOSTROPHE = "['’ʼ]"
_POSSESSIVE = re.compile(rf"(?<=[\w.]){_APOSTROPHE}s\b", re.IGNORECASE)
_LETTERS = r"[^\W\d_]"
_TOKEN = re.compile(
    rf"""
    \d[\d,]*(?:st|nd|rd|th)\b             # 21st
  | \d+s\b                                # 1990s
  | \d+(?:,\d{{3}})+(?:\.\d+)? | \d+(?:\.\d+)?
  | (?:{_LETTERS}\.){{2,}}(?:{_LETTERS}\b)?  # U.S., p.m
  | {_LETTERS}+(?:{_APOSTROPHE}{_LETTERS}+)*
  | [£$€¥%]
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CURRENCIES = {"£": "pound", "$": "dollar", "€": "euro", "¥": "yen"}
_ARTICLES = frozenset({"the", "a", "an"})
_TITLES = frozenset(
    "mr mrs ms miss sir dame dr lord lady prof professor president".split()
)


def words(text: str) -> list[Word]:
    """Returns the words of a text, numbers put together."""
    text = "".join(
        character
        for character in unicodedata.normalize("NFKD", text)
        if not unicodedata.combining(character)
    )
    forms = _TOKEN.findall(_POSSESSIVE.sub("", text))
    return list(_words(forms))


def _words(forms: list[str]) -> Iterator[Word]:
    at = 0
    while at < len(forms):
        form = forms[at]
        if form in _CURRENCIES and at + 1 < len(forms):
            number = _number(forms, at + 1, money=True)
            if number:
                value, at = number
                yield value
                yield Word(_CURRENCIES[form], form)
                continue
        if number := _number(forms, at):
            value, at = number
            yield value
        elif form.lower() == "per" and forms[at + 1 : at + 2] == ["cent"]:
            yield Word("percent", form)
            at += 2
        elif form == "%":
            yield Word("percent", form)
            at += 1
        elif _is_initial(form):
            end = at
            while end < len(forms) and _is_initial(forms[end]):
                end += 1
            initials = "".join(forms[at:end])
            yield Word(initials.lower(), initials)
            at = end
        else:
            key = re.sub(rf"{_APOSTROPHE}|\.", "", form).casefold()
            yield Word(_CURRENCIES.get(form, key), form)
            at += 1


def _is_initial(form: str) -> bool:
    return len(form) == 1 and form.isupper()


def _singular(key: str) -> str:
    if key.endswith("men"):
        return f"{key[:-3]}man"
    if len(key) > 3 and key[0].isalpha() and key[-1] == "s" and key[-2] != "s":
        return key[:-1]
    return key


@functools.cache
def _common_words() -> frozenset[str]:
    from spacy.lang.en.stop_words import STOP_WORDS

    return frozenset({*STOP_WORDS, "march"})


def _needs_capitals(word: Word) -> bool:
    return word.form[0].isupper() and word.key in _common_words()


def _same_capitals(wanted: Word, found: Word) -> bool:
    if len(wanted.key) > 1 and wanted.form.isupper():
        return found.form.isupper()
    return found.form[0].isupper()


# --------------------------------------------------------------------------- numbers

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
_SHORT_SCALES = {"k": 10**3, "bn": 10**9, "tn": 10**12}
_IRREGULAR = {"first": 1, "second": 2, "third": 3, "fifth": 5, "eighth": 8, "ninth": 9}
_ORDINALS = {
    **{f"{name}th": value for name, value in _UNITS.items()},
    **{f"{name[:-1]}ieth": value for name, value in _TENS.items()},
    **_IRREGULAR,
    "twelfth": 12,
}


def _number(
    forms: Sequence[str], at: int, money: bool = False
) -> tuple[Word, int] | None:
    """Reads the longest number that begins at `at`; returns it and where it ends."""
    if match := re.fullmatch(r"(\d[\d,]*)(?:st|nd|rd|th)", forms[at], re.IGNORECASE):
        return Word(f"{int(match[1].replace(',', ''))}th", forms[at]), at + 1
    total, group, last = decimal.Decimal(0), None, ""
    largest = 10**15
    in_words = not forms[at][0].isdigit()
    end = at
    while end < len(forms):
        word = forms[end].lower()
        if end == at and word[0].isdigit() and not word.endswith("s"):
            group, last = decimal.Decimal(word.replace(",", "")), "digits"
        elif in_words and word in _SMALL and _joins(_SMALL[word], last):
            group = (group or 0) + _SMALL[word]
            last = "tens" if word in _TENS else "unit"
        elif in_words and word in _ORDINALS and _joins(_ORDINALS[word], last):
            value = total + (group or 0) + _ORDINALS[word]
            return Word(f"{_plain(value)}th", forms[at]), end + 1
        elif word == "hundred" and last in ("", "unit", "tens", "digits"):
            group, last = (1 if group is None else group) * decimal.Decimal(100), word
        elif scale := _scale(word, last, money or "." in forms[at]):
            if scale >= largest or (group is None and end > at):
                break
            total += (1 if group is None else group) * scale
            group, last, largest = None, "scale", scale
        elif not (
            (in_words and word == "and")
            and last in ("hundred", "scale")
            and forms[end + 1 : end + 2]
            and forms[end + 1].lower() in _SMALL
        ):
            break
        end += 1
    if end == at:
        return None
    return Word(_plain(total + (group or 0)), forms[at]), end


def _joins(value: int, last: str) -> bool:
    """Says whether a small number goes on the number that `last` ended."""
    return last in ("", "hundred", "scale") or (last == "tens" and 0 < value < 10)


def _scale(word: str, last: str, may_be_million: bool) -> int | None:
    if last == "digits":
        # '100m' is also a length; '£5m' and '1.5m' are millions.
        if word == "m" and may_be_million:
            return 10**6
        if word in _SHORT_SCALES:
            return _SHORT_SCALES[word]
    return _SCALES.get(word)


def _plain(value: decimal.Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


# --------------------------------------------------------------------------- dates

_MONTHS = {
    name: number
    for number, name in enumerate(
        "january february march april may june july august september october november "
        "december".split(),
        start=1,
    )
}
_SHORT_MONTHS = {name[:3]: number for name, number in _MONTHS.items()} | {"sept": 9}
_DATE_FILLERS = frozenset(
    "the of on in at by from to and early late mid beginning end start middle".split()
)
_ISO = re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b")
_SLASHES = re.compile(r"\b(\d{1,2})/(\d{1,2})/(\d{4})\b")


def _dates(words: Sequence[Word]) -> list[Date]:
    """Returns the dates that name a month: '5 May 2015', 'May 5th', '5th of May'."""
    dates = []
    for at, word in enumerate(words):
        month = _MONTHS.get(word.key)
        if month is None and word.form[0].isupper():
            month = _SHORT_MONTHS.get(word.key)
        if month is None:
            continue
        said, day, after = {at}, None, at + 1
        before = at - 2 if at > 1 and words[at - 1].key == "of" else at - 1
        if before >= 0 and (day := _day(words[before].key)):
            said.update(range(before, at))
        elif after < len(words) and (day := _day(words[after].key)):
            said.add(after)
            after += 1
        year = _year(words[after].key) if after < len(words) else None
        if year:
            said.add(after)
        if day or year or word.form[0].isupper() or word.key not in ("may", "march"):
            dates.append(Date(month, day, year, frozenset(said)))
    return dates


def _numeric_dates(text: str) -> list[Date]:
    dates = [Date(int(m), int(d), int(y)) for y, m, d in _ISO.findall(text)]
    for first, second, year in _SLASHES.findall(text):
        dates.append(Date(int(first), int(second), int(year)))
        dates.append(Date(int(second), int(first), int(year)))
    return dates


def _day(key: str) -> int | None:
    number = key.removesuffix("th")
    return int(number) if number.isdecimal() and 1 <= int(number) <= 31 else None


def _year(key: str) -> int | None:
    return int(key) if key.isdecimal() and 1000 <= int(key) < 3000 else None


def _agrees(wanted: Date, found: Date) -> bool:
    return wanted.month == found.month and all(
        part is None or part == other
        for part, other in (
            (wanted.day, found.day),
            (wanted.year, found.year),
        )
    )
