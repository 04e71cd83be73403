"""What it means that an entity occurs in a text."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5patches.annotate.occurrence import Text

LABELS = "PERSON NORP ORG GPE DATE TIME MONEY PERCENT CARDINAL ORDINAL X".split()


def occurs(entity, label, text):
    return Text(text).has(entity, label)


# (entity, label, text, whether it occurs), by the rules of `occurrence`.
CASES = {
    "case": [
        ("paris", "GPE", "In PARIS today", True),
        ("Paris", "GPE", "in paris today", True),
        ("Paris", "GPE", "In Parisian style", False),
        ("US", "GPE", "They told us so", False),
        ("US", "GPE", "The U.S. told them", True),
        ("US", "GPE", "all of it is lower case and tells us", True),
        ("BBC", "ORG", "the BBC's reporter", True),
        ("Will", "PERSON", "She will go", False),
        ("May", "PERSON", "Mrs May may go", True),
        ("March", "DATE", "They march in", False),
    ],
    "accents": [
        ("Beyoncé", "PERSON", "Beyonce sang", True),
        ("Beyoncé", "PERSON", "Beyonce\u0301 sang", True),
        ("Ｐａｒｉｓ", "GPE", "Paris", True),
        ("Lukasz Fabianski", "PERSON", "Łukasz Fabiański saved", True),
        ("Straße", "FAC", "the Strasse", True),
    ],
    "punctuation": [
        ("Jean‑Claude Juncker", "PERSON", "Jean Claude Juncker", True),
        ("Washington, D.C.", "GPE", "in Washington DC", True),
        ("J.K. Rowling", "PERSON", "JK Rowling", True),
        ("O'Neill", "PERSON", "Martin O‘Neill has", True),
        ("Marks & Spencer", "ORG", "Marks and Spencer", True),
        ("St. Louis", "GPE", "St Louis", True),
        ("“The Wire”", "WORK_OF_ART", "watched The Wire", True),
        ("–", "ORG", "anything", True),
    ],
    "articles, titles, possessives": [
        ("The Hague", "GPE", "Hague, a city", True),
        ("the", "ORG", "on the way", True),
        ("Britain's", "GPE", "Britain voted", True),
        ("Bank of England", "ORG", "the Bank of England’s rate", True),
        ("St James's Park", "FAC", "St James' Park", True),
        ("Mr Smith", "PERSON", "John Smith said", True),
        ("President", "PERSON", "The president", True),
    ],
    "numbers": [
        ("25", "CARDINAL", "twenty-five people", True),
        ("2,500", "CARDINAL", "2500 of them", True),
        ("200,000", "CARDINAL", "two hundred thousand", True),
        ("a million", "CARDINAL", "1,000,000", True),
        ("1 million", "CARDINAL", "half a million", False),
        ("500,000", "CARDINAL", "Half a million", True),
        ("5", "CARDINAL", "25 or 52", False),
        ("3", "CARDINAL", "3.5 or 10:3", False),
        ("1.50", "CARDINAL", "1.5 of", True),
        ("1", "CARDINAL", "£1m", False),
        ("£1.5m", "MONEY", "£1,500,000", True),
        ("£100K", "MONEY", "£100,000", True),
        ("£5", "MONEY", "$5", False),
        ("£5", "MONEY", "£5.50", False),
        ("$3 million", "MONEY", "US$3m", True),
        ("US$3m", "MONEY", "$3m", True),
        ("20%", "PERCENT", "Twenty Per Cent", True),
        ("20 percent", "PERCENT", "20% of", True),
        ("first", "ORDINAL", "the 1st", True),
        ("twenty-first", "ORDINAL", "the 21st", True),
        ("21st", "ORDINAL", "21 people", False),
        ("one", "CARDINAL", "the first", False),
        ("3-1", "CARDINAL", "won 3-1", True),
        ("3-1", "CARDINAL", "won 1-3", False),
        ("10:30", "TIME", "10.30am", True),
        ("the 1990s", "DATE", "in the 1990's", True),
        ("World War Two", "EVENT", "World War II", True),
        ("million", "CARDINAL", "a million people", True),
    ],
    "quantities": [
        ("more than 100", "CARDINAL", "100 people", True),
        ("up to six months", "DATE", "the best part of six months", True),
        ("about 50 miles", "QUANTITY", "almost 50 miles", True),
        ("five years", "DATE", "a 5-year plan", True),
        ("nearly two weeks", "DATE", "in the last two weeks", True),
        ("last week", "DATE", "in the last two weeks", False),
        ("more than a month", "DATE", "this month", False),
        ("more than", "CARDINAL", "no more than that", True),
        ("25-year-old", "DATE", "aged 25", True),
        ("25-year-old", "DATE", "John Smith, 25, from Leeds", True),
        ("25-year-old", "DATE", "on 25 May", False),
    ],
    "dates and money": [
        ("5 May 2015", "DATE", "on May 5th, 2015", True),
        ("May 5", "DATE", "the 5th of May 2015", True),
        ("the fifth of May", "DATE", "on 5 May", True),
        ("5 May 2015", "DATE", "on 5 May", False),
        ("6 May", "DATE", "on 5 May, with 6 people", False),
        ("Sept 11", "DATE", "on 11 September", True),
        ("Monday 5 May", "DATE", "5 May, a Monday", True),
        ("Monday 5 May", "DATE", "on 5 May", False),
        ("early May", "DATE", "on 5 May", True),
        ("5 May", "DATE", "It may take 5", False),
        ("£5", "MONEY", "5 pounds", True),
        ("three million dollars", "MONEY", "$3m", True),
    ],
    "names": [
        ("Smith's", "PERSON", "John Smith said", True),
        ("Smith", "PERSON", "the blacksmith", False),
        ("John Smith", "PERSON", "Mr Smith said", False),
        ("Smith John", "PERSON", "John Smith", False),
        ("Boris Johnson", "PERSON", "Boris said no. Mr Johnson went", True),
        ("Salford Red Devils", "ORG", "the Red Devils. Salford won", True),
        ("Jane Smith", "PERSON", "John Smith and Jane Doe", False),
        ("Anna Brown", "PERSON", "Anna Smith, Tom Brown", False),
        ("Manchester City", "ORG", "Manchester United won", False),
        ("Hull City", "ORG", "the city of Hull", False),
        ("Williams", "PERSON", "Prince William", False),
    ],
    "places and peoples": [
        ("Germans", "NORP", "a German man", True),
        ("Tories", "NORP", "a Tory MP", True),
        ("Rwandan", "NORP", "from Rwanda", True),
        ("Pakistan", "GPE", "the Pakistani army", True),
        ("British", "NORP", "in Britain", True),
        ("Britain", "GPE", "a Briton was hurt", True),
        ("Turkey", "GPE", "Turkish troops", True),
        ("Germany", "GPE", "many Germans", True),
        ("Austria", "GPE", "in Australia", False),
        ("Niger", "GPE", "in Nigeria", False),
        ("London", "GPE", "a Londoner", False),
        ("Wales", "GPE", "the Welsh", False),
        ("Virginia", "PERSON", "the Virginian", False),
    ],
    "no knowledge": [
        ("Britain", "GPE", "the UK", False),
        ("20%", "PERCENT", "a fifth", False),
    ],
}


CASES["unknown"] = [
    ("O ⁇ Brien", "PERSON", "Mr O’Brien said", True),
    ("Caf ⁇", "ORG", "in the Café Paris", True),
    ("⁇ nchen", "GPE", "in München", True),
    ("M⁇nchen", "GPE", "in München", True),
    ("M⁇nchen", "GPE", "in Manheim", False),
    ("⁇ 5", "CARDINAL", "about £5", True),
    ("⁇ 5", "CARDINAL", "25 of 2.5", False),
    ("⁇", "ORG", "nothing", True),
]


@pytest.mark.parametrize("rule", CASES)
def test_occurs(rule):
    wrong = [case for case in CASES[rule] if occurs(*case[:3]) is not case[3]]
    assert not wrong


@pytest.mark.parametrize("label", ["CARDINAL", "ORG"])
def test_long_numbers(label):
    """Longer than Python reads as a number (4,300 digits) and than decimals hold."""
    for number in ("9" * 5000, "9" * 5000 + "th", "9," * 5000, "0" * 10**4 + ".5"):
        text = f"{number} May, {number} million"
        assert occurs(text, label, f"({text})")
    assert not occurs("9" * 20, label, "9" * 21)


# Phrases and characters that the reading looks at.
PHRASES = (
    "John Smith|J. K. Rowling|O‘Neill|Zoë’s|the|US|us|Mr|May|5 May 2015|25-year-old|"
    "aged|the 1990s|1990's|Tories|M&S|1,500|£1.5m|US$3m|20 per cent|10:30pm|21st|3-1|"
    ".5%|½|two hundred and three|half a million|more than|to|...|–|ß"
).split("|")
PIECES = st.lists(
    st.sampled_from(PHRASES) | st.text("015.,:;'’s mMJ£$%&-–/()é፩²\u0301", max_size=8),
    min_size=1,
    max_size=12,
)
GAPS = st.sampled_from([" ", ", ", ". ", " - ", "\n", " ("])


@settings(max_examples=150, deadline=None)
@given(PIECES, GAPS, st.data(), st.sampled_from(LABELS))
def test_what_is_copied_occurs(pieces, gap, data, label):
    start = data.draw(st.integers(0, len(pieces) - 1))
    end = data.draw(st.integers(start + 1, len(pieces)))
    copied, text = gap.join(pieces[start:end]), gap.join(pieces)
    assert occurs(copied, label, text)
    assert occurs("".join(pieces), label, copied) in (True, False)


def test_time_is_linear():
    """Four times the text takes about four times as long; a square would take 16."""
    entities = [("John Paul", "PERSON"), ("5 May 2015", "DATE"), ("Lima", "GPE")]
    units = "1,|111,111,|1|0s|1:11:|a.|''|US|é|one hundred |May 5 |John |John Smith |. "

    def seconds(unit, size):
        text = unit * (size // len(unit))
        start = time.process_time()
        read = Text(text)
        for entity, label in entities:
            read.has(entity, label)
        return time.process_time() - start

    for unit in units.split("|"):
        small, large = (
            min(seconds(unit, n) for _ in range(2)) for n in (2_500, 10_000)
        )
        assert large < 10 * small + 0.02, unit
