"""What it means that an entity occurs in a text."""

import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from occurrence_cases import CASES

from t5patches.annotate import words
from t5patches.annotate.occurrence import Text, occurs

LABELS = (
    "PERSON NORP ORG GPE DATE TIME MONEY QUANTITY PERCENT CARDINAL ORDINAL X".split()
)


@pytest.mark.parametrize(
    ("entity", "label", "text", "expected"),
    [case for cases in CASES.values() for case in cases],
)
def test_occurs(entity, label, text, expected):
    assert occurs(entity, label, text) is expected


def test_entities_without_a_word():
    assert occurs("–", "ORG", "anything")
    assert occurs("🇩🇪", "GPE", "won by 🇩🇪 today")
    assert not occurs("🇩🇪", "GPE", "won by 🇫🇷 today")


# Characters and words that the reading looks at.
ODD = st.text("0159,.:;'’s\n mMayJan£$%&-–/()éß፩²½'\u0301", max_size=40)
TERMS = (
    "May june Jan 5 5th 2015 05/06/2015 2015-05-05 10:30 10.30 a half hundred million "
    "two twenty first and to of per cent aged 25 year old Mr J. K. US$ £ 3m .5 's U.S."
).split()
ANY_TEXT = st.text(max_size=40) | ODD | st.lists(st.sampled_from(TERMS)).map(" ".join)


@settings(max_examples=500, deadline=None)
@given(ANY_TEXT, ANY_TEXT, st.sampled_from(LABELS))
def test_nothing_raises(entity, text, label):
    assert occurs(entity, label, text) in (True, False)


@pytest.mark.parametrize("label", LABELS)
def test_long_numbers(label):
    """Longer than Python reads as a number (4,300 digits) and than decimals hold."""
    for number in ("9" * 5000, "9" * 5000 + "th", "9," * 5000, "0" * 10**6 + ".5"):
        text = f"{number} May, {number} million"
        assert occurs(text, label, text)
    assert not occurs("9" * 20, label, "9" * 21)


# Phrases that are read alike whatever stands beside them.
PHRASES = [
    *("John Smith", "J. K. Rowling", "JK", "Plan B", "O‘Neill", "Zoë’s", "Ødegaard"),
    *("the", "a", "US", "us", "brown", "Brown", "Mr", "Tories", "M&S", "Côte d’Ivoire"),
    *(
        "5 May 2015",
        "May 5-7",
        "early",
        "25-year-old",
        "the 1990s",
        "1990's",
        "Mondays",
    ),
    *(
        "1,500",
        "£1.5m",
        "US$3m",
        "20 per cent",
        "10:30",
        "10.30pm",
        "21st",
        "3-1",
        ".5%",
    ),
    *("two hundred and three people", "half a million votes", "No one else", "8 times"),
    *("more than", "over", "between", "and", "to", "about", "than", "...", "–"),
]
# Pairs: a phrase, and what parts it from the next.
PIECES = st.lists(
    st.tuples(
        st.sampled_from(PHRASES), st.sampled_from([" ", ", ", ". ", " - ", "\n", " ("])
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=500, deadline=None)
@given(PIECES, st.data(), st.sampled_from(LABELS))
def test_what_is_copied_occurs(pieces, data, label):
    start = data.draw(st.integers(0, len(pieces) - 1))
    end = data.draw(st.integers(start + 1, len(pieces)))
    entity = "".join(phrase + gap for phrase, gap in pieces[start:end])
    entity = entity[: -len(pieces[end - 1][1])]
    text = "".join(phrase + gap for phrase, gap in pieces)
    assert occurs(entity, label, text)


LETTERS = st.text(st.characters(exclude_categories=["N", "C"]), max_size=60)


@settings(max_examples=300, deadline=None)
@given(LETTERS, st.data(), st.sampled_from(LABELS))
def test_words_of_any_script_that_are_copied_occur(text, data, label):
    # A bare month is a month only where the text uses it so.
    months = words.MONTHS.keys() | words.SHORT_MONTHS
    assume(not any(word.key in months for word in words.read(text)))
    parts = text.split() or ["-"]
    start = data.draw(st.integers(0, len(parts) - 1))
    end = data.draw(st.integers(start + 1, len(parts)))
    assert occurs(" ".join(parts[start:end]), label, " ".join(parts))


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "1,",
            "10,11,",
            "111,111,",
            "1",
            "0s",
            ".5",
            "1:11:",
            "00'",
            "a.",
            "A. ",
            "''",
        ),
        *("one hundred and ", "half a ", "one thousand two ", "per ", "£", "US", "é"),
        *("May 5 ", "5 and ", "of May ", "25, ", "John ", "John Smith ", "\n", ". "),
    ],
)
def test_time_is_linear(unit):
    """Four times the text takes about four times as long; a square would take 16."""

    def seconds(size):
        text = unit * (size // len(unit))
        start = time.process_time()
        read = Text(text)
        for entity, label in (
            ("John Paul", "PERSON"),
            ("5 May 2015", "DATE"),
            ("25-year-old", "DATE"),
            ("one hundred and one", "CARDINAL"),
        ):
            read.has(entity, label)
        return time.process_time() - start

    small, large = (min(seconds(n) for _ in range(2)) for n in (12_500, 50_000))
    assert large < 10 * small + 0.02


@pytest.mark.parametrize("value", [*range(0, 130), 999, 1000, 1001, 2015, 70_000])
def test_numbers_in_words(value):
    """Digits and words of a number are one word, the same one."""
    (in_digits,) = words.read(f"{value:,}")
    (in_words,) = words.read(spelt(value))
    assert in_words.key == in_digits.key == str(value)


def spelt(value):
    units = list(words._UNITS)
    tens = ["", "", *words._TENS]
    if value < 20:
        return units[value]
    if value < 100:
        return tens[value // 10] + (f"-{units[value % 10]}" if value % 10 else "")
    size, name = (1000, "thousand") if value >= 1000 else (100, "hundred")
    rest = value % size
    return f"{spelt(value // size)} {name}" + (f" and {spelt(rest)}" if rest else "")
