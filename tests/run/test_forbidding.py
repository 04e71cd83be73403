"""Decoding without phrases: the same sets as annotation has, on a device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_vocabulary import small_vocabulary
from t5x import decoding

from t5patches.annotate import phrases
from t5patches.errors import UserError
from t5patches.run import forbidding

PHRASES = ["fool", "fool you", "stup", "café", "🎉", "ü", "the day, what"]
VOCABULARIES = {
    "byte_fallback": small_vocabulary(),
    "no_byte_fallback": small_vocabulary(byte_fallback=False),
    "bytes": seqio.ByteVocabulary(),
}
SETS = {
    name: phrases.PhraseAnnotator(PHRASES).unwanted_sets(vocabulary)
    for name, vocabulary in VOCABULARIES.items()
}
TABLES = {name: jax.tree.map(jnp.asarray, s.tables()) for name, s in SETS.items()}
TEXTS = st.lists(
    st.sampled_from([*PHRASES, "s", "cafe\u0301", "é", " ", ", ", "ly", "€", "🎈"]),
    max_size=5,
).map("".join)
rows_of = jax.jit(forbidding.rows)


@pytest.mark.parametrize("name", VOCABULARIES)
@settings(max_examples=10, deadline=None)
@example(text="fool", more=[248, 131, 131, 131])  # No lead byte of UTF-8.
@example(text="", more=[227, 131, 131, 240, 163, 131])  # Too long, a surrogate.
@given(text=TEXTS, more=st.lists(st.integers(2, 258), max_size=6))
def test_rows_are_those_of_annotation(name, text, more):
    vocabulary = VOCABULARIES[name]
    ids = [*vocabulary.encode(text), *(i % vocabulary.vocab_size for i in more)][:40]
    expected = SETS[name].of([*ids, 1])
    places = np.arange(len(expected))
    sequences = np.zeros((41, 48), np.int32)
    sequences[:, 1:4] = 7  # A prompt, which is not read.
    sequences[:, 4 : 4 + len(ids)] = ids
    stops = np.zeros(41, np.int32) + 3
    stops[places] += places
    found = rows_of(TABLES[name], sequences, np.full(41, 3, np.int32), stops)
    assert found[places].tolist() == expected


@pytest.mark.parametrize("search", ["greedy", "sampling", "beams"])
def test_no_phrase_is_decoded(search, tmp_path):
    """The model's first choices are a phrase; what is left keeps its proportions."""
    vocabulary, file = VOCABULARIES["byte_fallback"], tmp_path / "phrases.txt"
    file.write_text("stupid\n")
    ids = [*vocabulary.encode("you stupid"), 1]
    other = vocabulary.encode("fool")[-1]
    logits = np.full((len(ids) + 1, vocabulary.vocab_size), -30.0, np.float32)
    logits[range(len(ids)), ids] = 0.0
    logits[:, other] = -1.0
    logits[-1, 1] = 0.0

    def tokens_to_logits(state):
        return jnp.asarray(logits)[state.cur_index], state.cache

    options = {
        "greedy": {"temperature": 0.0},
        "sampling": {"temperature": 1.0, "topk": 0},
        "beams": {"num_decodes": 2},
    }[search]
    decode_fn = (
        decoding.beam_search if search == "beams" else decoding.temperature_sample
    )
    decode = forbidding.without(decode_fn, vocabulary, str(file))
    inputs = np.zeros((3, len(ids) + 1), np.int32)
    decodes, scores = decode(
        inputs=inputs, cache={}, tokens_to_logits=tokens_to_logits, eos_id=1, **options
    )
    best = np.asarray(decodes)[:, -1].tolist()
    assert all("stupid" not in vocabulary.decode(row) for row in best)
    if search == "greedy":
        assert best[0][: len(ids)] == [*ids[:-2], other, 1]
    assert forbidding.without(decode_fn, vocabulary) is decode_fn
    assert decode.forbidden == phrases.load(file).settings


@pytest.mark.parametrize("name", VOCABULARIES)
def test_phrases_that_leave_nothing_to_say(name, tmp_path):
    vocabulary, file = VOCABULARIES[name], tmp_path / "phrases.txt"
    every = [vocabulary.decode([i]).strip() for i in range(3, vocabulary.vocab_size)]
    signs = sorted({text for text in every if text.isprintable()} - {""})
    lines = [f"\\{text}" if text[0] == "#" else text for text in signs]
    file.write_text("\n".join(lines))
    with pytest.raises(UserError, match="phrases.txt: .* leave nothing to say"):
        forbidding.without(decoding.temperature_sample, vocabulary, str(file))
    file.write_text("\n".join(text for text in lines if text.lower() != "w"))
    forbidding.without(decoding.temperature_sample, vocabulary, str(file))
