"""Alignment of character spans to generated ids: exact for every vocabulary."""

import pytest
import seqio
from hypothesis import given, settings
from hypothesis import strategies as st
from small_vocabulary import small_vocabulary

from t5patches.annotate import alignment
from t5patches.errors import UserError

VOCABULARIES = {
    "byte_fallback": small_vocabulary(),
    "no_byte_fallback": small_vocabulary(byte_fallback=False),
    "extra_ids": small_vocabulary(extra_ids=100),
    "identity_spaces_kept": small_vocabulary(
        normalization_rule_name="identity", remove_extra_whitespaces=False
    ),
    "no_dummy_prefix": small_vocabulary(add_dummy_prefix=False),
    "whitespace_suffix": small_vocabulary(treat_whitespace_as_suffix=True),
    "char": small_vocabulary(model_type="char"),
    "bytes": seqio.ByteVocabulary(),
}
each_vocabulary = pytest.mark.parametrize("name", VOCABULARIES)

# Letters of the vocabulary and what it has only bytes for: emoji, combining marks,
# joined emoji, tabs, newlines, wide spaces, right-to-left, half of no character.
TEXTS = st.one_of(
    st.text(alphabet="helostupid wrd,fa'\t\n ", max_size=40),
    st.text(
        alphabet="a é e\u0301 ï🎉👩\u200d👧️ \t\n\u00a0\u3000אش€\x00\ufffd▁⁇",
        max_size=30,
    ),
    st.text(max_size=20),
)


def covered(marks, ids, vocabulary):
    """The characters of all marked ids together, by decoding them in their places."""
    ranges, _ = alignment.token_ranges(ids, vocabulary)
    marked = (at for mark, at in zip(marks, ranges, strict=True) if mark)
    return {character for start, end in marked for character in range(start, end)}


def spans_of(data, text):
    """Draws spans of a text, also such as begin or end inside a token."""
    place = st.integers(0, len(text))
    pairs = st.lists(st.tuples(place, place), max_size=3)
    return [(*sorted(pair), "x") for pair in data.draw(pairs) if len({*pair}) == 2]


def check(ids, spans, vocabulary):
    text = vocabulary.decode(ids)
    marks = alignment.align(ids, text, spans, vocabulary)
    ranges, decoded = alignment.token_ranges(ids, vocabulary)
    assert decoded == text
    assert len(marks) == len(ids)
    annotated = {i for start, end, _ in spans for i in range(start, end)}
    owned = {i for start, end in ranges for i in range(start, end)}
    # Every annotated character is covered, but for spaces that begin a token.
    assert annotated & owned <= covered(marks, ids, vocabulary)
    assert all(text[i] == " " for i in range(len(text)) if i not in owned)
    for mark, (start, end) in zip(marks, ranges, strict=True):
        assert bool(mark) == bool(annotated & set(range(start, end)))
    if vocabulary.eos_id in ids:
        assert not any(marks[ids.index(vocabulary.eos_id) :])


@each_vocabulary
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_encoded_text(name, data):
    vocabulary = VOCABULARIES[name]
    ids = list(vocabulary.encode(data.draw(TEXTS)))
    text = vocabulary.decode(ids)
    check([*ids, vocabulary.eos_id], spans_of(data, text), vocabulary)
    # Independent of how ranges are found: the ids up to one decode to its end.
    ranges, _ = alignment.token_ranges(ids, vocabulary)
    for count, (start, end) in enumerate(ranges, start=1):
        ends_a_character = count == len(ids) or ranges[count] != (start, end)
        if end > start and ends_a_character and "\ufffd" not in text:
            assert vocabulary.decode(ids[:count]) == text[:end]


@each_vocabulary
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_ids_that_no_text_encodes_to(name, data):
    """A model generates what it likes: broken bytes, padding, ids of its padding."""
    vocabulary = VOCABULARIES[name]
    ids = data.draw(st.lists(st.integers(0, vocabulary.vocab_size + 20), max_size=15))
    check(ids, spans_of(data, vocabulary.decode(ids)), vocabulary)


@each_vocabulary
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_marked_ids_decoded_alone_hold_the_span(name, data):
    """By decoding alone: from the first to the last marked id all of the span is said.

    And no less would do: without its first or its last id something is missing.
    """
    vocabulary = VOCABULARIES[name]
    ids = [*vocabulary.encode(data.draw(TEXTS)), vocabulary.eos_id]
    text = vocabulary.decode(ids)
    if not text or "\ufffd" in text:  # A broken character has no id of its own.
        return
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    marks = alignment.align(ids, text, [(start, end, "x")], vocabulary)
    marked = [place for place, mark in enumerate(marks) if mark]
    if not marked:  # Only spaces that begin a token.
        assert not text[start:end].strip(" ")
        return
    first, last = marked[0], marked[-1]
    alone = vocabulary.decode(ids[first : last + 1])
    assert text[start:end].strip(" ") in alone
    # The ids before the first say nothing of the span but spaces, nor those after.
    before = len(vocabulary.decode(ids[:first]).rstrip("\ufffd"))
    assert not text[start:before].strip(" ")
    assert len(vocabulary.decode(ids[:last]).rstrip("\ufffd")) < end
    for place, mark in enumerate(marks):
        if first < place < last and not mark:  # Inside, only ids that say no character.
            assert not vocabulary.decode([ids[place]]).strip(" \ufffd")


def mark_pieces(vocabulary, text, *spans):
    ids = [*vocabulary.encode(text), 1]
    marks = alignment.align(ids, text, [(s, e, "x") for s, e in spans], vocabulary)
    pieces = [vocabulary.tokenizer.id_to_piece(i) for i in ids]
    return "".join(p for p, mark in zip(pieces, marks, strict=True) if mark)


def test_leading_space_does_not_count():
    vocabulary = VOCABULARIES["byte_fallback"]
    # "the café ": the span ends in the space that begins the next word's token.
    assert "▁i" not in mark_pieces(vocabulary, "the dumb is", (4, 9))
    assert mark_pieces(vocabulary, "hello stupid fool", (6, 12)).strip("▁") == "stupid"


def test_all_bytes_of_a_character_are_marked():
    vocabulary = VOCABULARIES["byte_fallback"]
    marked = mark_pieces(vocabulary, "you 🎉€ fool", (4, 5))
    assert marked == "<0xF0><0x9F><0x8E><0x89>"
    byte = VOCABULARIES["bytes"]
    ids = [*byte.encode("é!"), 1]
    assert alignment.align(ids, "é!", [(0, 1, "x")], byte) == [1, 1, 0, 0]


@pytest.mark.parametrize("name", ["byte_fallback", "bytes"])
@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("so 👩\u200d👧 now", "👩"),  # Part of joined emoji.
        ("so 👩\u200d👧 now", "\u200d"),
        ("cafe\u0301 bar", "\u0301"),  # A combining mark without its letter.
        ("cafe\u0301 bar", "e"),
        ("one\ttwo\nthree", "\t"),
        ("one\ttwo\nthree", "two\nth"),
        ("stupid", "upi"),
        ("a  stupid", "  stu"),
        ("\u05d0\u05e9 \u20ac", "\u05e9 \u20ac"),
    ],
)
def test_characters_of_several_ids_and_ids_of_several_characters(name, text, span):
    """The bytes that are marked are those of the span, widened to whole pieces."""
    vocabulary = seqio.ByteVocabulary()
    if name == "byte_fallback":
        vocabulary = VOCABULARIES["identity_spaces_kept"]
    ids = [*vocabulary.encode(text), 1]
    assert vocabulary.decode(ids) == text
    start = text.index(span)
    marks = alignment.align(ids, text, [(start, start + len(span), "x")], vocabulary)
    if name == "bytes":
        first = len(text[:start].encode())
        expected = range(first, first + len(span.encode()))
        assert [i for i, mark in enumerate(marks) if mark] == [*expected]
    else:
        marked = [i for i, mark in zip(ids, marks, strict=True) if mark]
        assert span.strip(" ") in vocabulary.decode(marked)


def test_ids_that_decode_to_nothing_are_never_marked():
    vocabulary = VOCABULARIES["byte_fallback"]
    ids = [0, *vocabulary.encode("fool"), 0, 1, 0, *vocabulary.encode("you")]
    text = vocabulary.decode(ids)
    marks = alignment.align(ids, text, [(0, len(text), "x")], vocabulary)
    stop = ids.index(1)
    silent = [i for i, token in enumerate(ids) if token in (0, 1) or i > stop]
    assert text == "fool" and not any(marks[i] for i in silent)
    # The piece "▁" at the start of a text is silent, too.
    said = [i for i in vocabulary.encode("fool") if vocabulary.decode([i])]
    assert sum(marks) == len(said)


def test_broken_bytes_of_a_byte_vocabulary_are_not_marked():
    byte = VOCABULARIES["bytes"]
    # 0xE2 breaks off before "a"; padding inside a character does not break it.
    ids = [0xE2 + 3, ord("a") + 3, 0xC3 + 3, 0, 0xA9 + 3, 1]
    assert byte.decode(ids) == "aé"
    assert alignment.align(ids, "aé", [(0, 2, "x")], byte) == [0, 1, 1, 0, 1, 0]


def test_ids_beyond_the_vocabulary_are_unknown():
    vocabulary = VOCABULARIES["byte_fallback"]
    ids = [*vocabulary.encode("you"), vocabulary.vocab_size + 3, 1]
    assert alignment.token_ranges(ids, vocabulary)[1] == vocabulary.decode(ids)


def test_text_that_is_not_the_ids():
    with pytest.raises(UserError, match="decode to 'fool', not to 'cool'"):
        ids = [*VOCABULARIES["byte_fallback"].encode("fool"), 1]
        alignment.align(ids, "cool", [], VOCABULARIES["byte_fallback"])


def test_other_vocabularies_are_refused():
    with pytest.raises(UserError, match="PassThroughVocabulary"):
        alignment.align([1], "", [], seqio.PassThroughVocabulary(8, eos_id=1))
