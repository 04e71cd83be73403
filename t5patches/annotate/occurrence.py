"""Whether a name, a number or a date occurs in a text.

An entity *occurs* if it stands in the text letter by letter, or if its words stand there
one after the other, where words are compared after this:

- **Case, accents, punctuation** and hyphens do not matter ('Ødegaard' is 'ODEGAARD',
  'U.S.' is 'US'), but a name of one word needs a capital in the text ('Will' is not
  'will', 'US' not 'us'), unless the text has none at all.
- An **article** or a **title** before the entity and a possessive after a word go.
- **Numbers** are their values: 'twenty-five' is '25', '£1.5m' is '1.5 million pounds',
  '20%' is '20 per cent', 'first' is '1st'; neither '1' nor '2m' is '12m'.
- **Quantities** (numbers, money, dates, times) are compared without 'about', 'more
  than', 'up to', 'past' and the like, and plurals are the singular.
- **Dates and money**: the words may stand in another order close together ('5 May 2015'
  and 'May 5th, 2015', '£5' and '5 pounds'). An age is its number: '25-year-old' occurs
  in 'aged 25'.
- **Names in parts**: 'Smith' occurs in 'John Smith', and a name of several words where
  its parts stand as names of their own: 'Boris Johnson' in 'Boris said … Mr Johnson',
  not in 'Boris Becker and Alan Johnson', nor in 'Mr Johnson' alone.
- **Places and peoples** occur in each other if but the ending differs: 'Rwanda' and
  'Rwandan', 'Britain' and 'Briton'.

No knowledge of the world is used: 'Britain' is not 'UK', 'France' not 'French', 'a fifth'
not '20%', and what the words mean in the text is not looked at: 'one' occurs in 'no one',
'England' where the text speaks of it in another matter. Numbers, months and titles are
English; the rest holds for every language that parts words by spaces.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from t5patches.annotate import words
from t5patches.annotate.words import Word, singular

# Labels of spaCy's English pipelines that are no names.
QUANTITIES = frozenset("DATE TIME MONEY QUANTITY PERCENT CARDINAL ORDINAL".split())
PERSONS = frozenset({"PERSON", "PER"})
PLACES_AND_PEOPLES = frozenset("GPE LOC NORP MISC LANGUAGE".split())

_ARTICLES = frozenset({"the", "a", "an"})
_TITLES = frozenset(
    "mr mrs ms miss sir dame dr lord lady prof professor president".split()
)
# What does not matter in quantities, and in ages.
_FILLERS = _ARTICLES | frozenset(
    "about above almost approximately around at between by circa fewer from in just less "
    "more nearly of on only or over past roughly some than to under up and".split()
)
_OF_AGES = frozenset({"year", "old", "age", "aged"})
_MONTHS = {
    form: name[:3].title()
    for name in "january february march april may june july august september october "
    "november december".split()
    for form in (name, name[:3])
} | {"sept": "Sep"}
_NEAR = 3  # Words that may stand between those of a date or a sum of money.
# Of places and peoples: what may follow four letters or more that both share.
_ENDINGS = frozenset(
    "a ain an and e ean en ese ey i ian ic ish land n on y".split() + [""]
)
_SHORTEST_STEM = 4


class Text:
    """A text in which entities are looked for."""

    def __init__(self, text: str):
        self.text = text

    def has(self, entity: str, label: str = "") -> bool:
        """Says whether `entity`, an entity with `label`, occurs in the text.

        An entity without a letter or digit, e.g. a dash, occurs everywhere.
        """
        if re.search(rf"(?<!\w){re.escape(entity)}(?!\w)", self.text):
            return True
        wanted = words.read(entity)
        drop = _ARTICLES | (_TITLES if label in PERSONS else frozenset())
        while len(wanted) > 1 and wanted[0].key in drop:
            del wanted[0]
        if not wanted:
            return True
        if label in QUANTITIES:
            return self._has_quantity(wanted, label)
        if self._words.has(wanted, self._capitals(wanted)):
            return True
        if label in PLACES_AND_PEOPLES and len(wanted) == 1 and wanted[0].is_name:
            return not self._stems.isdisjoint(_stems(wanted[0].key))
        return any(
            self._words.has_name(wanted[:cut]) and self._words.has_name(wanted[cut:])
            for cut in range(1, len(wanted))
        )

    @functools.cached_property
    def _words(self) -> _Words:
        return _Words(words.read(self.text))

    @functools.cached_property
    def _quantities(self) -> _Words:
        return _Words(_as_quantity(self._words.words))

    @functools.cached_property
    def _stems(self) -> set[str]:
        names = {word.key for word in self._words.words if word.is_name}
        return {stem for name in names for stem in _stems(name)}

    def _capitals(self, wanted: Sequence[Word]) -> str:
        """Returns the form whose capitals the text must have, or ''."""
        name = wanted[0]
        if len(wanted) > 1 or not name.is_name or name.key in _TITLES:
            return ""
        return "" if self.text == self.text.lower() else name.form

    def _has_quantity(self, wanted: Sequence[Word], label: str) -> bool:
        matter = _as_quantity(wanted)
        if {word.key for word in matter} & {"old", "age", "aged"}:
            matter = [word for word in matter if word.key not in _OF_AGES] or matter
        if not matter:
            return self._words.has(wanted)
        return self._quantities.has(matter) or self._quantities.has_near(
            {word.key for word in matter}, is_date=label == "DATE"
        )


class _Words:
    """Words, and where each stands."""

    def __init__(self, found: list[Word]):
        self.words = found
        self.places: dict[str, list[int]] = {}
        for place, word in enumerate(found):
            self.places.setdefault(word.key, []).append(place)

    def starts(self, wanted: Sequence[Word]) -> list[int]:
        """Returns where words stand one after the other."""
        keys = [word.key for word in wanted]
        return [
            at
            for at in self.places.get(keys[0], ())
            if [word.key for word in self.words[at : at + len(keys)]] == keys
        ]

    def has(self, wanted: Sequence[Word], capitals: str = "") -> bool:
        """Says whether words stand here, the first with the capitals of a form."""
        starts = self.starts(wanted)
        return any(_has_capitals(self.words[at].form, capitals) for at in starts)

    def has_name(self, wanted: Sequence[Word]) -> bool:
        """Says whether words stand here as a whole name, not as part of a longer."""
        return any(
            self.words[at].is_name and not self._goes_on(at, at + len(wanted))
            for at in self.starts(wanted)
        )

    def _goes_on(self, start: int, end: int) -> bool:
        first, before = self.words[start], self.words[start - 1] if start else None
        if before and not first.apart and before.is_name and before.key not in _TITLES:
            return True
        after = self.words[end] if end < len(self.words) else None
        return after is not None and not after.apart and after.is_name

    def has_near(self, keys: set[str], is_date: bool) -> bool:
        """Says whether the words of a date or a sum stand close together.

        Args:
          keys: of the words; one at least is a month, or a number beside another.
          is_date: '5th' is '5'.
        """
        months = keys & set(_MONTHS.values())
        numbers = {key for key in keys if key[0].isdecimal()}
        anchors = months or (numbers if numbers < keys else set())
        if is_date:
            keys = {key.removesuffix("th") for key in keys}
        reach = len(keys) + _NEAR
        for at in (at for key in anchors for at in self.places.get(key, ())):
            around = self.words[max(at - reach, 0) : at + reach]
            found = {word.key for word in around}
            if is_date:
                found |= {key.removesuffix("th") for key in found}
            if keys <= found:
                return True
        return False


def occurs(entity: str, label: str, text: str) -> bool:
    """Says whether an entity occurs in a text, as this module defines it."""
    return Text(text).has(entity, label)


def _has_capitals(form: str, wanted: str) -> bool:
    letters = wanted.replace(".", "")
    if letters.isupper() and 1 < len(letters) < 4:  # 'US' is not 'Us'.
        return form.isupper()
    return not wanted or any(character.isupper() for character in form)


def _as_quantity(found: Sequence[Word]) -> list[Word]:
    """Returns what matters of words in a quantity, plurals as singulars."""
    kept = []
    for word in found:
        if word.key not in _FILLERS:
            month = _MONTHS.get(word.key) if word.is_name else None  # Not 'may'.
            kept.append(word._replace(key=month or singular(word.key)))
    return kept


def _stems(name: str) -> set[str]:
    """Returns what is left of a name without each of the endings that it may have."""
    name = singular(name)
    return {
        name[:end]
        for end in range(_SHORTEST_STEM, len(name) + 1)
        if name[end:] in _ENDINGS
    }
