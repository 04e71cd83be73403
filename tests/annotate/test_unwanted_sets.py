"""Whole sets of unwanted ids, against the annotator itself, id by id."""

import pytest
import seqio
from hypothesis import given, settings
from hypothesis import strategies as st
from small_vocabulary import small_vocabulary

from t5patches.annotate import alignment, phrases

VOCABULARIES = {
    "byte_fallback": small_vocabulary(),
    "no_byte_fallback": small_vocabulary(byte_fallback=False),
    "extra_ids": small_vocabulary(extra_ids=10),
    "whitespace_suffix": small_vocabulary(treat_whitespace_as_suffix=True),
    "bytes": seqio.ByteVocabulary(),
}
# Begun in one another, in several words, with what has two forms, marks, an emoji.
PHRASES = ["fool", "silly fool", "fool you", "you", "stup", "café", "straße", "don't",
           "a-b", "e", "🎉", "the day, what", "it is", "was it i"]  # fmt: skip
ANNOTATOR = phrases.PhraseAnnotator(PHRASES)
SETS = {
    (name, end): phrases.PhraseAnnotator(PHRASES, end).unwanted_sets(vocabulary)
    for name, vocabulary in VOCABULARIES.items()
    for end in ("piece", "next")
}


def marked(prefix, token, vocabulary):
    """Whether the annotator marks an id behind a prefix."""
    ids = [*prefix, token]
    text = vocabulary.decode(ids)
    return alignment.align(ids, text, ANNOTATOR(text), vocabulary)[-1] == 1


def ends_a_match(prefix, token, vocabulary):
    """Whether an id makes certain that a phrase has ended; "a" would go on with it.

    A byte that may be of a wider character does not.
    """
    wide = alignment.Pieces(vocabulary).byte_of(token)
    if wide is not None and wide >= 128:
        return False
    before = vocabulary.decode(prefix) if prefix else ""
    after = vocabulary.decode([*prefix, token])
    sure = {span[:2] for span in ANNOTATOR(before + "a")}
    now = ANNOTATOR(after + ("" if token == vocabulary.eos_id else "a"))
    return any(end > start and (start, end) not in sure for start, end, _ in now)


TEXTS = st.one_of(
    st.lists(st.sampled_from([*PHRASES, "s", "ly", " ", "  ", ", ", "cafe\u0301",
                              "STRASSE", "don’t", "ſtup", "a‑b"])).map("".join),
    st.text("fol youstp 'é🎉,", max_size=12),
)  # fmt: skip


@pytest.mark.parametrize("name", VOCABULARIES)
@settings(max_examples=10, deadline=None)
@given(text=TEXTS, more=st.lists(st.integers(2, 300), max_size=6))
def test_sets_hold_what_the_annotator_marks(name, text, more):
    vocabulary = VOCABULARIES[name]
    prefix = [*vocabulary.encode(text), *(i for i in more if i < vocabulary.vocab_size)]
    for end, wrong in (("piece", marked), ("next", ends_a_match)):
        sets = SETS[name, end]
        row = sets.rows[sets.of([*prefix, vocabulary.eos_id])[-1]]
        for token in range(vocabulary.vocab_size):
            told = wrong(prefix, token, vocabulary)
            assert (token in row) == told, (
                end,
                prefix,
                token,
                vocabulary.decode(prefix),
            )
