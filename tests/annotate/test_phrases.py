"""The phrase annotator: whole words, any case, any script, longest match."""

import collections
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5patches.annotate import phrases
from t5patches.errors import UserError


def found(text, *listed):
    return [text[s:e] for s, e, _ in phrases.PhraseAnnotator(listed)(text, "")]


@pytest.mark.parametrize(
    ("text", "listed", "expected"),
    [
        ("You IDIOT!", ["idiot"], ["IDIOT"]),
        ("idiots, idiotic, _idiot_, idiot's", ["idiot"], ["idiot"]),
        ("a gun shot", ["gun", "gun shot", "shot"], ["gun shot"]),
        ("a gun shot", ["a gun", "gun shot"], ["a gun", "gun shot"]),
        ("son  of\na gun", ["son of a gun"], ["son  of\na gun"]),
        ("gun shots", ["gun shot", "gun"], ["gun"]),
        ("a.s.s, axsxs", ["a.s.s"], ["a.s.s"]),
        ("don’t you don't", ["don't"], ["don’t", "don't"]),
        ("cafe\u0301 CAFÉ cafe", ["café"], ["cafe\u0301", "CAFÉ"]),
        ("cafe\u0301", ["cafe"], []),
        ("ДУРАК дурака", ["дурак"], ["ДУРАК"]),
        ("हिन्दी हिन्", ["हिन्"], ["हिन्"]),
        ("fool fool", ["fool", "FOOL", " fool "], ["fool", "fool"]),
        ("STRASSE Straße", ["straße"], ["STRASSE", "Straße"]),
        ("STRASSE Straße", ["strasse", "straße"], ["STRASSE", "Straße"]),
        ("İstanbul I\u0307STANBUL", ["İstanbul"], ["İstanbul", "I\u0307STANBUL"]),
        ("e\u2011mail e‐Mail", ["e-mail"], ["e\u2011mail", "e‐Mail"]),
        ("", ["fool"], []),
        ("f*** off [x]", ["f***", "[x]"], ["f***", "[x]"]),
    ],
)
def test_matches(text, listed, expected):
    assert found(text, *listed) == expected


def test_label_is_the_phrase_of_the_list():
    annotator = phrases.PhraseAnnotator(["Son of a Gun"])
    assert annotator("a SON  of a gun", "input") == [(2, 15, "Son of a Gun")]


def test_latin_letters_match_in_every_case_and_form_with_the_label_of_the_list():
    # Lists without two letters that are cases of one.
    lists = collections.defaultdict(list)
    for letter in filter(str.isalpha, map(chr, range(0x41, 0x250))):
        kind = letter if letter in "ſıİ" else unicodedata.category(letter)
        lists[kind].append(f"a{letter}b")
    for listed in lists.values():
        annotator = phrases.PhraseAnnotator(listed)
        for phrase in listed:
            for text in (phrase, phrase.lower(), phrase.upper(), phrase.casefold()):
                for form in ("NFC", "NFD"):
                    found = unicodedata.normalize(form, text)
                    assert annotator(found) == [(0, len(found), phrase)]


@settings(max_examples=80, deadline=None)
@given(
    st.text(alphabet="ab c", max_size=20),
    st.lists(st.text(alphabet="ab c", min_size=1, max_size=4), min_size=1, max_size=6),
)
def test_against_search_of_every_span(text, listed):
    """Every pair of positions, tried; the longest at a start, none inside another."""
    wanted = {" ".join(p.split()) for p in listed} - {""}
    if not wanted:
        return
    boundary = lambda i: i in (0, len(text)) or not text[i - 1 : i + 1].isalpha()
    expected, covered = [], 0
    for start in range(len(text)):
        ends = [
            end
            for end in range(start + 1, len(text) + 1)
            if " ".join(text[start:end].split()) in wanted
            and text[start] != " "
            and text[end - 1] != " "
            and boundary(start)
            and boundary(end)
        ]
        if ends and max(ends) > covered:
            covered = max(ends)
            expected.append((start, covered))
    spans = phrases.PhraseAnnotator(wanted)(text)
    assert [(start, end) for start, end, _ in spans] == expected


def test_phrase_file(tmp_path):
    path = tmp_path / "rude.txt"
    text = "# mild\nfool\n\n  silly goose \n#Fool\n\\#MeToo\n"
    path.write_text(text, encoding="utf-8")
    # With a backslash '#' begins a phrase.
    assert phrases.load(path).phrases == ["fool", "silly goose", "#MeToo"]


@pytest.mark.parametrize("text", ["❤️damn", "👍damn", "damn❤️", "damn 1️"])
def test_words_beside_emoji(text):
    start = text.index("damn")
    found = phrases.PhraseAnnotator(["damn"])(text)
    assert found == [(start, start + 4, "damn")]
    assert phrases.PhraseAnnotator(["❤"])("❤️") == [(0, 1, "❤")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": no phrases in it"),
        (b"# only a comment\n", ": no phrases in it"),
        (b"\n \n", ": no phrases in it"),
        (b"fool\ncaf\xe9\n", ":2: not UTF-8"),
        (None, ".*no such file"),
    ],
)
def test_wrong_phrase_files(tmp_path, content, message):
    if content is not None:
        (tmp_path / "rude.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"rude\.txt{message}"):
        phrases.load(tmp_path / "rude.txt")


def test_long_phrases_and_many():
    words = [f"word{i} " * 400 for i in range(3)] + [f"w{i}" for i in range(5000)]
    annotator = phrases.PhraseAnnotator(words)
    text = "some words of a usual post, w17 among them, " * 3
    start = time.perf_counter()
    for _ in range(500):
        assert len(annotator(text)) == 3
    # Tens of thousands a second when the machine is idle; here only: no blow-up.
    assert time.perf_counter() - start < 2
