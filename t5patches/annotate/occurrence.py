"""Whether a name, a number or a date occurs in a text.

An entity *occurs* if it stands in the text letter by letter, or if its words stand
there one after the other. Words are compared after this:

- **Case, accents and punctuation** do not matter ('Ødegaard' is 'ODEGAARD', 'U.S.' is
  'US'), but a name of one word needs a capital in the text, unless the text has none:
  'Will' is not 'will'.
- **Articles** and titles ('Mr') before an entity are left out, and so are possessives.
- **Numbers** are their values: 'twenty-five' is '25', '£1.5m' is '£1.5 million', '20%'
  is '20 per cent', 'first' is '1st'. '1' occurs neither in '12' nor in '1m'.
- **Quantities** (numbers, money, dates, times) with a number are compared without
  'about', 'more than', 'up to' and their like; plurals are the singular.
- **Dates and money** occur where their words stand close together, in any order: '5 May
  2015' in 'May 5th, 2015', '£5' in '5 pounds'. An **age** ('25-year-old') occurs in
  'aged 25' and in 'John Smith, 25, of Leeds'.
- **Names** occur in longer ones ('Smith' in 'John Smith'), and where their parts stand
  as names of their own: 'Boris Johnson' in 'Boris said … Mr Johnson said', but neither
  in 'Mr Johnson' alone nor in 'Boris Becker … Alan Johnson'.
- **Places and peoples** are one where only the ending differs: 'Rwanda' and 'Rwandan',
  'Britain' and 'Briton'.
- **⁇**, which decoding gives for what the vocabulary does not know, stands for any
  characters but digits and spaces.

No knowledge of the world is used: 'Britain' is not 'UK', 'France' is not 'French', 'a
fifth' is not '20%', 'one hundred and one' is not '101'. What the text says of it does
not matter either: 'three' occurs in 'the bottom three', 'England' in a sentence about
another match. Numbers, months and titles are English; the rest holds for every language
that puts spaces between words.
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
# What does not matter beside a number.
_FILLERS = _ARTICLES | frozenset(
    "about almost and approximately around between fewer from just less more nearly "
    "of only or over some than to under up".split()
)
_OF_AGES = frozenset({"old", "age", "aged"})
_PARTS = frozenset({"early", "late", "mid"})  # Of a month.
_CURRENCIES = frozenset({"pound", "dollar", "euro"})
_MONTHS = {
    form: name[:3].title()
    for name in "january february march april may june july august september october "
    "november december".split()
    for form in (name, name[:3])
} | {"sept": "Sep"}
# Of places and peoples: what may follow the letters that both share, four or more.
_ENDINGS = ("", *"a n i y an en on ey ain ian ese ish land".split())
_SHORTEST_STEM = 4
UNKNOWN = "⁇"
# What stands letter by letter, and is no piece of a word or of a number.
_BEGINS, _ENDS = r"(?<!\w)(?<!\d[.,:])", r"(?!\w|[.,:]\d)"


class Text:
    """A text in which entities are looked for."""

    def __init__(self, text: str):
        self.text = text

    def has(self, entity: str, label: str = "") -> bool:
        """Says whether `entity`, an entity with `label`, occurs in the text.

        An entity without a letter or digit, e.g. a dash, occurs everywhere.
        """
        wanted = words.read(entity)
        drop = _ARTICLES | (_TITLES if label in PERSONS else frozenset())
        while len(wanted) > 1 and wanted[0].key in drop:
            del wanted[0]
        if not wanted or self.spells(entity):
            return True
        if label in QUANTITIES:
            return self._has_quantity(wanted)
        has_capitals = self.text != self.text.lower()
        needs_capital = has_capitals and len(wanted) == 1 and wanted[0].is_name
        if self._words.has(wanted, needs_capital and wanted[0].key not in _TITLES):
            return True
        if label in PLACES_AND_PEOPLES and needs_capital:
            return not self._stems.isdisjoint(_stems(wanted[0].key))
        return any(
            self._words.has_name(wanted[:cut]) and self._words.has_name(wanted[cut:])
            for cut in range(1, len(wanted))
        )

    def spells(self, entity: str) -> bool:
        """Says whether an entity stands in the text letter by letter."""
        return bool(re.search(_pattern(entity), self.text))

    @functools.cached_property
    def _words(self) -> _Words:
        return _Words(words.read(self.text))

    @functools.cached_property
    def _quantities(self) -> _Words:
        return _Words(_as_quantity(self._words.words[:-1]))

    @functools.cached_property
    def _stems(self) -> set[str]:
        names = {word.key for word in self._words.words if word.is_name}
        return set().union(*map(_stems, names))

    def _has_quantity(self, wanted: Sequence[Word]) -> bool:
        matter = _as_quantity(wanted)
        keys = {word.key for word in matter}
        numbers = [key for key in keys if key[0].isdecimal()]
        months = keys.intersection(_MONTHS.values())
        if not numbers and not months:
            return self._words.has(wanted)
        if self._quantities.has(matter):
            return True
        if keys & _OF_AGES:
            return len(numbers) == 1 and self._words.has_age(numbers[0])
        return self._quantities.has_near(keys - _PARTS, months or keys & _CURRENCIES)


def _pattern(entity: str) -> str:
    """Returns what finds an entity letter by letter, as no piece of a longer word.

    Where it begins or ends with what is unknown, this may be the rest of the word.
    """
    first, *others = (re.escape(part.strip()) for part in entity.split(UNKNOWN))
    pattern = r"\s*[^\s\d]{1,20}?\s*".join([first, *others])
    begins = _BEGINS if first else r"(?<!\d)"
    return begins + pattern + (_ENDS if not others or others[-1] else "")


_END = Word("", ".", apart=True)


class _Words:
    """Words, and where each stands."""

    def __init__(self, found: list[Word]):
        self.words = [*found, _END]  # Which also stands before the first, at -1.
        self.places: dict[str, list[int]] = {}
        for place, word in enumerate(found):
            self.places.setdefault(word.key, []).append(place)

    def runs(self, wanted: Sequence[Word]) -> list[int]:
        """Returns where words stand one after the other."""
        keys = [word.key for word in wanted]
        return [
            at
            for at in self.places.get(keys[0], ())
            if [word.key for word in self.words[at : at + len(keys)]] == keys
        ]

    def has(self, wanted: Sequence[Word], needs_capital: bool = False) -> bool:
        """Says whether words stand here, the first with a capital if it needs one."""
        forms = (self.words[at].form for at in self.runs(wanted))
        return any(not needs_capital or form != form.lower() for form in forms)

    def has_name(self, wanted: Sequence[Word]) -> bool:
        """Says whether words stand here as a whole name, not as part of a longer."""
        for at in self.runs(wanted):
            first, before = self.words[at], self.words[at - 1]
            after = self.words[at + len(wanted)]
            begins = first.apart or not before.is_name or before.key in _TITLES
            if first.is_name and begins and (after.apart or not after.is_name):
                return True
        return False

    def has_age(self, number: str) -> bool:
        """Says whether a number stands after 'aged' or, as in 'John, 25,', apart."""
        return any(
            self.words[at - 1].key in _OF_AGES
            or (self.words[at].apart and self.words[at + 1].apart)
            for at in self.places.get(number, ())
        )

    def has_near(self, keys: set[str], anchors: set[str]) -> bool:
        """Says whether words stand close to one of them, an anchor, in any order."""
        keys = {key.removesuffix("th") for key in keys}  # A day may be '5th' or '5'.
        for at in (at for anchor in anchors for at in self.places.get(anchor, ())):
            around = self.words[max(at - len(keys), 0) : at + len(keys)]
            if keys <= {word.key.removesuffix("th") for word in around}:
                return True
        return False


def _as_quantity(found: Sequence[Word]) -> list[Word]:
    """Returns what matters of words in a quantity, plurals as singulars."""
    return [
        # 'may' is no month.
        word._replace(key=word.is_name and _MONTHS.get(word.key) or singular(word.key))
        for word in found
        if word.key not in _FILLERS
    ]


def _stems(name: str) -> set[str]:
    """Returns what is left of a name without each of the endings that it may have."""
    name = singular(name)
    stems = {name.removesuffix(ending) for ending in _ENDINGS}
    return {stem for stem in stems if len(stem) >= _SHORTEST_STEM}
