"""Whether a name, a number or a date occurs in a text.

An entity *occurs* if its words stand in the text one after the other, where words are
compared after this:

- **Case, accents, width** of letters do not matter ('Ødegaard' is 'ODEGAARD'), but for
  a name of one word: 'Brown', 'Will' and 'Sky' need a capital in the text, and one that
  is a common English word in capitals, 'US' or 'IT', needs all of them. Not so if the
  entity is in lower case, if the text has no capital at all, or for a title
  ('President').
- **Punctuation** does not matter, but for the end of a sentence, which nothing occurs
  across. Hyphens part words, full stops of abbreviations go ('U.S.' is 'US', 'J. K.
  Rowling' is 'JK Rowling'); '&' is 'and'; an article before the entity goes.
- **Possessives** are the word: "Britain's", "James'". "1990's" is '1990s', 'under-21s'
  is 'under-21'.
- **Numbers** are their values, in digits or words: '2,500' is 'two thousand five
  hundred', '£1.5m' is '1.5 million pounds', '20%' is 'twenty per cent', '.5' is '0.5'.
  '2m' is '2 million' as well, but for a QUANTITY. Ordinals are apart: '21st' is
  'twenty-first', and neither is '21'. The country of a dollar ('US$', 'A$') and the
  minus of a number do not matter. A number of more than 15 digits is compared as it is
  written.
- **Times**: '10:30' is '10.30', '10:00' is '10'.
- **Quantities** (numbers, money, dates, times) leave out articles, 'about' and its like
  ('around', 'nearly'), and the words of ranges: '10-15' is 'between 10 and 15'. 'More
  than' is 'over', 'fewer than' is 'under'; these matter.
- **Plurals** are the singular in peoples and quantities ('Tories' and 'Tory',
  'Frenchmen', '6 inches' and 'six-inch'), never in names: 'Williams' is not 'William'.
- **Ages**: '25-year-old', 'aged 25', 'the age of 25', '25 years old' are one, and so is
  a number between commas or in brackets after a word ('John Smith, 25, of Leeds').
- **Dates** that name a month occur if the text names the same month and there what else
  the entity says, days and year: '5 May' and 'May 2015' occur in 'on the 5th of May
  2015', '2015-05-05', '5 and 6 May 2015', and '5 May 2015' does not occur in '5 May'.
  Of '5-7 May' the days that are said are 5 and 7. Other words of such a date ('Monday',
  not 'early') must stand somewhere in the text. '05/06/2015' is read both ways. In the
  text 'may', 'march' and 'august' in lower case are months only after a preposition or
  before a year; a month without day and year is none beside another name ('June Brown')
  unless a preposition or 'the' comes before; 'Jan' needs a day, a year or a
  preposition. A day is in digits, or 'fifth' in 'fifth of May' and 'May fifth'.
- **Partial names** occur: 'Smith' in 'John Smith', 'United' in 'Manchester United'. The
  names of a person may leave out up to two in between ('John Smith' in 'John Paul
  Smith'), but none across a comma, a full stop or a possessive; a title before it does
  not matter. What the entity says beyond the text does: 'John Smith' does not occur in
  'Mr Smith'.

An entity that stands in the text letter by letter occurs, but for a bare month that is
another word there, and a piece of a number ('million' of 'two million').

No knowledge of the world is used: 'Britain' is not 'UK', 'WHO' is not 'World Health
Organization', 'Berliner' is not 'Berlin', '7pm' is not '19:00', 'the 90s' are not 'the
1990s', 'one year' is not 'a year' or '12 months', '100m' is not '100 metres'. What the
words mean in the text is not looked at either: 'one' occurs in 'no one', 'Apple' at the
start of a sentence about apples, 'Lady Gaga' in 'Gaga sang', names of several words
('Take That') in lower case. Numbers in words, months and titles are English; the rest
holds for every language that parts words by spaces.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence

from t5patches.annotate import dates, words
from t5patches.annotate.words import Word, singular

PERSONS = frozenset({"PERSON", "PER"})
DATES = frozenset({"DATE", "TIME"})
# Labels of spaCy's English pipelines that are no names.
QUANTITIES = DATES | {"MONEY", "QUANTITY", "PERCENT", "CARDINAL", "ORDINAL"}
# Labels (MISC: of other pipelines) where a plural is the singular.
PLURALS = QUANTITIES | {"NORP", "MISC", "LANGUAGE"}
MOST_NAMES_LEFT_OUT = 2

_ARTICLES = frozenset({"the", "a", "an"})
# What does not matter in quantities.
_FILLERS = _ARTICLES | frozenset(
    "about around approximately roughly circa nearly almost some between from to and "
    "than".split()
)
_BOUNDS = {"more": "over", "above": "over", "less": "under", "fewer": "under"}
_DATE_FILLERS = _FILLERS | frozenset(
    "of on in at by until early late mid beginning end start middle".split()
)
_OF_AGES = frozenset("year old age aged of".split())


class Text:
    """A text in which entities are looked for."""

    def __init__(self, text: str):
        self.text = text

    def has(self, entity: str, label: str = "") -> bool:
        """Says whether `entity`, an entity with `label`, occurs in the text.

        An entity of punctuation alone, e.g. a dash, occurs everywhere, one of symbols,
        e.g. a flag, where it stands.
        """
        wanted = words.read(entity)
        drop = _ARTICLES | (words.TITLES if label in PERSONS else frozenset())
        while len(wanted) > 1 and wanted[0].key in drop:
            del wanted[0]
        if not wanted:
            symbols = any(unicodedata.category(c)[0] == "S" for c in entity)
            return not symbols or entity.strip() in self.text
        if label in DATES:
            occurs = self._has_date(entity, wanted)
            if occurs is not None:
                return occurs
        if label in QUANTITIES and _age(wanted) in self._ages:
            return True
        if label == "QUANTITY":  # Metres, not millions.
            wanted = [word._replace(other="") for word in wanted]
        if label in PLURALS and (quantity := _as_quantity(wanted)):
            return self._quantities.has(quantity, self._of_name(quantity, label))
        return any(
            self._words.has(
                reading,
                self._of_name(reading, label),
                MOST_NAMES_LEFT_OUT if label in PERSONS else 0,
            )
            for reading in _readings(wanted)
        )

    @functools.cached_property
    def _words(self) -> _Words:
        return _Words(words.read(self.text))

    @functools.cached_property
    def _quantities(self) -> _Words:
        return _Words(_as_quantity(self._words.words))

    @functools.cached_property
    def _dates(self) -> set[dates.Parts]:
        """What is said of dates: a date and all that says less."""
        found = set(dates.in_digits(self.text))
        found |= {(month, day, None) for month, day, _ in found}
        found |= {(month, None, year) for month, _, year in found}
        for date in dates.named(self._words.words):
            found.update(date.all_parts())
        return found

    @functools.cached_property
    def _ages(self) -> frozenset[str]:
        return frozenset(_ages(self._words.words))

    def _of_name(self, wanted: Sequence[Word], label: str) -> str:
        """Returns the form whose capitals the text must have, or ''."""
        name = wanted[0]
        if len(wanted) > 1 or label in QUANTITIES or name.key in words.TITLES:
            return ""
        if not (name.form[0].isupper() and name.key[0].isalpha()):
            return ""
        return "" if self._is_lower else name.form

    @functools.cached_property
    def _is_lower(self) -> bool:
        return self.text == self.text.lower()

    def _has_date(self, entity: str, wanted: Sequence[Word]) -> bool | None:
        """Says whether a date occurs; None if only its words can tell."""
        named = dates.named(wanted, labelled=True)
        if not named:
            said = dates.in_digits(entity)
            return not self._dates.isdisjoint(said) or None
        said = {place for date in named for place in date.said}
        others = _as_quantity(
            [
                word
                for place, word in enumerate(wanted)
                if place not in said and word.key not in _DATE_FILLERS
            ]
        )
        agree = all(part in self._dates for date in named for part in date.parts())
        if agree and all(self._quantities.has([word]) for word in others):
            return True
        is_bare = not others and len(said) == len(named)
        return False if is_bare else None


class _Words:
    """Words, and where each stands."""

    def __init__(self, found: list[Word]):
        self.words = found
        self.places: dict[str, list[int]] = {}
        for place, word in enumerate(found):
            self.places.setdefault(word.key, []).append(place)
            if word.other and word.other != word.key:
                self.places.setdefault(word.other, []).append(place)

    def has(
        self, wanted: Sequence[Word], capitals: str = "", left_out: int = 0
    ) -> bool:
        """Says whether words stand here one after the other.

        Args:
          wanted: the words, one at least.
          capitals: a form; the first word must have such capitals.
          left_out: how many words with a capital may stand between two of them.
        """
        if any(not self._starts(word) for word in wanted):
            return False
        return any(
            _has_capitals(self.words[at].form, capitals)
            and self._goes_on(wanted[1:], at, left_out)
            for at in self._starts(wanted[0])
        )

    def _starts(self, word: Word) -> list[int]:
        other = self.places.get(word.other, []) if word.other else []
        return self.places.get(word.key, []) + other

    def _goes_on(self, wanted: Sequence[Word], at: int, left_out: int) -> bool:
        for word in wanted:
            for step in range(1, left_out + 2):
                found = self.words[at + step] if at + step < len(self.words) else None
                if found is None or (step > 1 and found.gap):
                    return False
                if found.gap == "." != word.gap:  # A sentence ends here.
                    return False
                if word.is_like(found):
                    break
                if found.gap or not found.form[0].isupper():
                    return False
            else:
                return False
            at += step
        return True


def occurs(entity: str, label: str, text: str) -> bool:
    """Says whether an entity occurs in a text, as this module defines it."""
    return Text(text).has(entity, label)


def _has_capitals(form: str, wanted: str) -> bool:
    if len(wanted) > 1 and wanted.isupper():
        key = wanted.replace(".", "").casefold()
        if key in dates.common_words():
            return form.isupper()
    return not wanted or any(character.isupper() for character in form)


def _as_quantity(found: Sequence[Word]) -> list[Word]:
    """Returns what matters of words in a quantity, plurals as singulars."""
    kept = []
    for word in found:
        key = word.key
        if key in _FILLERS:
            continue
        # 'may' is another word than 'May'.
        changed = word.form if key in dates.ALSO_WORDS else _BOUNDS.get(key)
        changed = changed or singular(key)
        kept.append(word if changed == key else word._replace(key=changed))
    return kept


def _readings(wanted: list[Word]) -> Iterator[list[Word]]:
    """Yields a name as it is, and with its initials joined, 'JK', and apart, 'J K'."""
    yield wanted
    if len(wanted) == 1:
        return
    joined: list[Word] = []
    apart: list[Word] = []
    for word in wanted:
        initials = re.sub(r"\W", "", word.form)
        is_initials = initials.isupper() and initials.isalpha() and len(initials) < 4
        if is_initials and len(initials) == 1 and joined and joined[-1].form.isupper():
            last = joined.pop()
            word = Word(last.key + word.key, last.form + word.form)
        joined.append(word)
        if is_initials:
            apart.extend(Word(letter.casefold(), letter) for letter in initials)
        else:
            apart.append(word)
    for reading in (joined, apart):
        if len(reading) != len(wanted):
            yield reading


def _age(wanted: Sequence[Word]) -> str | None:
    """Returns the age that an entity says."""
    numbers = [word.key for word in wanted if word.key.isdecimal()]
    others = {singular(word.key) for word in wanted} - set(numbers)
    if len(numbers) == 1 and others <= _OF_AGES and others & {"old", "age", "aged"}:
        return numbers[0]
    return None


def _ages(found: Sequence[Word]) -> Iterator[str]:
    """Yields the ages that a text says."""
    for at, word in enumerate(found):
        if not word.key.isdecimal() or len(word.key) > 3:
            continue
        before = [other.key for other in found[max(at - 2, 0) : at]]
        after = [singular(other.key) for other in found[at + 1 : at + 4]]
        is_parted = word.gap == "," and (at + 1 == len(found) or found[at + 1].gap)
        if (
            after[:2] == ["year", "old"]
            or after == ["year", "of", "age"]
            or before[-1:] in (["aged"], ["age"])
            or before == ["age", "of"]
            or (is_parted and not found[at - 1].key[0].isdecimal())
        ):
            yield word.key
