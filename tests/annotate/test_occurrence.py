"""What it means that an entity occurs in a text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5patches.annotate import occurrence
from t5patches.annotate.occurrence import occurs

# (entity, label, text, whether it occurs)
CASES = {
    "case": [
        ("paris", "GPE", "In PARIS today", True),
        ("Paris", "GPE", "in paris today", True),
        ("Paris", "GPE", "In Parisian style", False),
        ("US", "GPE", "They told us so", False),
        ("US", "GPE", "The US told them", True),
        ("US", "GPE", "The U.S. told them", True),
        ("U.S.", "GPE", "They told us so", False),
        ("us", "GPE", "They told us so", True),
        ("US", "GPE", "all of it is lower case and tells us", True),
        ("Will", "PERSON", "She will go", False),
        ("Will", "PERSON", "Then Will went", True),
        ("May", "DATE", "It may rain", False),
        ("May", "PERSON", "Mrs May may go", True),
        ("March", "DATE", "They march in", False),
        ("March", "DATE", "In March 2015", True),
    ],
    "accents": [
        ("Beyonce", "PERSON", "Beyoncé sang", True),
        ("Beyoncé", "PERSON", "Beyonce\u0301 sang", True),
        ("Ｐａｒｉｓ", "GPE", "Paris", True),
    ],
    "possessives": [
        ("Britain's", "GPE", "Britain voted", True),
        ("Britain", "GPE", "Britain’s vote", True),
        ("James", "PERSON", "James' house", True),
        ("the U.S.'s", "GPE", "in the US", True),
        ("Bank of England", "ORG", "the Bank of England's rate", True),
    ],
    "punctuation": [
        ("Jean-Claude Juncker", "PERSON", "Jean Claude Juncker", True),
        ("Washington, D.C.", "GPE", "in Washington DC", True),
        ("J.K. Rowling", "PERSON", "J K Rowling", True),
        ("J. K. Rowling", "PERSON", "JK Rowling", True),
        ("O'Brien", "PERSON", "Mr O’Brien", True),
        ('"The Times"', "ORG", "the Times said", True),
        ("the", "ORG", "the", True),
        ("--", "ORG", "", True),
    ],
    "numbers": [
        ("25", "CARDINAL", "twenty-five people", True),
        ("twenty five", "CARDINAL", "25 people", True),
        ("2,500", "CARDINAL", "2500 of them", True),
        ("2,500", "CARDINAL", "two thousand five hundred", True),
        ("250,000", "CARDINAL", "two hundred and fifty thousand", True),
        ("a hundred", "CARDINAL", "100 people", True),
        ("5", "CARDINAL", "25 or 52", False),
        ("1.5", "CARDINAL", "15 or 1.55", False),
        ("1.50", "CARDINAL", "1.5 of", True),
        ("£1.5m", "MONEY", "1.5 million pounds", True),
        ("£1.5m", "MONEY", "£1,500,000", True),
        ("£2bn", "MONEY", "two billion pounds", True),
        ("£5", "MONEY", "$5", False),
        ("20%", "PERCENT", "twenty per cent", True),
        ("20 percent", "PERCENT", "20%", True),
        ("100m", "QUANTITY", "100 million", False),
        ("100m", "QUANTITY", "the 100m race", True),
        ("21st", "ORDINAL", "the twenty-first", True),
        ("21st", "ORDINAL", "21 people", False),
        ("first", "ORDINAL", "the 1st", True),
        ("one", "CARDINAL", "the first", False),
        ("twelfth", "ORDINAL", "12th", True),
        ("five years", "DATE", "a 5-year plan", True),
        ("3-1", "CARDINAL", "won 3-1", True),
        ("3-1", "CARDINAL", "won 1-3", False),
        ("three and four", "CARDINAL", "7", False),
        ("the 1990s", "DATE", "in 1990", False),
    ],
    "dates": [
        ("5 May 2015", "DATE", "on May 5, 2015", True),
        ("5 May 2015", "DATE", "the 5th of May 2015", True),
        ("5 May 2015", "DATE", "dated 2015-05-05", True),
        ("5 May", "DATE", "on 5 May 2015", True),
        ("May 2015", "DATE", "on 5 May 2015", True),
        ("May fifth", "DATE", "on 5 May 2015", True),
        ("5 May 2015", "DATE", "on 5 May", False),
        ("6 May", "DATE", "on 5 May, 6 people", False),
        ("May 2016", "DATE", "on 5 May 2015, not 2016", False),
        ("Sept 11", "DATE", "on 11 September", True),
        ("Monday 5 May", "DATE", "5 May, a Monday", True),
        ("Monday 5 May", "DATE", "on 5 May", False),
        ("early May", "DATE", "on 5 May", True),
        ("5/6/2015", "DATE", "on 5 June 2015", True),
        ("5/6/2015", "DATE", "on May 6, 2015", True),
        ("5/6/2015", "DATE", "on 7 May 2015", False),
        ("2015", "DATE", "on 5 May 2015", True),
        ("last week", "DATE", "in the last two weeks", False),
        ("Jan", "PERSON", "in January", False),
    ],
    "partial names": [
        ("Smith", "PERSON", "John Smith said", True),
        ("Smith's", "PERSON", "John Smith said", True),
        ("John Smith", "PERSON", "Mr Smith said", False),
        ("Mr Smith", "PERSON", "John Smith said", True),
        ("Jane Smith", "PERSON", "John Smith and Jane Doe", False),
        ("John Smith", "PERSON", "John Paul Smith said", True),
        ("John Smith", "PERSON", "John A. B. Smith said", True),
        ("John Smith", "PERSON", "John met Mary, then Smith", False),
        ("John Smith", "PERSON", "John P Q Tom Dick Smith", False),
        ("Bank England", "ORG", "the Bank Of England", False),
        ("United", "ORG", "Manchester United won", True),
        ("Manchester City", "ORG", "Manchester United won", False),
        ("Smith John", "PERSON", "John Smith", False),
    ],
    "plurals": [
        ("Germans", "NORP", "a German man", True),
        ("German", "NORP", "the Germans", True),
        ("Frenchmen", "NORP", "a Frenchman", True),
        ("Swiss", "NORP", "the Swi", False),
        ("German", "NORP", "in Germany", False),
        ("Williams", "PERSON", "Prince William", False),
        ("Reuters", "ORG", "Reuter", False),
    ],
    "no knowledge": [
        ("Britain", "GPE", "the UK", False),
        ("WHO", "ORG", "the World Health Organization", False),
        ("WHO", "ORG", "People who go", False),
    ],
}


@pytest.mark.parametrize(
    ("entity", "label", "text", "expected"),
    [case for cases in CASES.values() for case in cases],
)
def test_occurs(entity, label, text, expected):
    assert occurs(entity, label, text) is expected


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30), st.sampled_from(["PERSON", "DATE", "MONEY", "X"]))
def test_any_text_is_read(text, label):
    """Nothing breaks on odd characters; a text occurs in itself."""
    assert occurs(text, label, text)


@pytest.mark.parametrize("value", [*range(0, 130), 999, 1000, 1001, 2015, 70_000])
def test_numbers_in_words(value):
    """Digits and words of a number are one word, the same one."""
    (in_digits,) = occurrence.words(f"{value:,}")
    (in_words,) = occurrence.words(spelt(value))
    assert in_words.key == in_digits.key == str(value)


def spelt(value):
    units = list(occurrence._UNITS)
    tens = ["", "", *occurrence._TENS]
    if value < 20:
        return units[value]
    if value < 100:
        return tens[value // 10] + (f"-{units[value % 10]}" if value % 10 else "")
    size, name = (1000, "thousand") if value >= 1000 else (100, "hundred")
    rest = value % size
    return f"{spelt(value // size)} {name}" + (f" and {spelt(rest)}" if rest else "")
