"""What is measured about the job, on lines made by hand."""

import pytest

from t5patches.annotate import PhraseAnnotator
from t5patches.quickstart import properties, vocabulary


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    from t5patches.interchange import records

    path = tmp_path_factory.mktemp("vocabulary") / "v.model"
    texts = ["you idiot", "you moron", "you friend", "you person", "you jerk"] * 40
    vocabulary.train(texts, path, 256 + 3 + 45)
    return records.load_vocabulary(path)


def first(vocab, word):
    return vocab.encode(word)[0]


def row(vocab, text, alternatives):
    """A line whose second token is the choice; elsewhere the model is certain."""
    ids = [*vocab.encode(text), vocab.eos_id]
    elsewhere = [[first(vocab, "you"), 1.0], [first(vocab, "person"), 0.0]]
    choices = [elsewhere for _ in ids]
    choices[1] = [[first(vocab, word), p] for word, p in alternatives]
    return {
        "inputs": "hey",
        "prediction": text,
        "target_tokens": ids,
        "id": text,
        "alternatives": choices,
    }


def test_words_are_pieces(vocab):
    assert all(len(vocab.encode(w)) == 1 for w in ("idiot", "moron", "jerk", "friend"))


def test_measure(vocab):
    words = ["idiot", "moron", "jerk"]
    rows = [
        row(
            vocab,
            "you idiot",
            [("idiot", 0.4), ("moron", 0.3), ("friend", 0.2), ("person", 0.1)],
        ),
        row(vocab, "you friend", [("friend", 0.9), ("idiot", 0.096), ("jerk", 0.004)]),
    ]
    unwanted = properties.first_pieces(words, vocab)
    found = properties.measure(
        rows, PhraseAnnotator(words), lambda row: unwanted, vocab
    )
    assert found["rows"] == 2
    assert found["top_probability"] == pytest.approx(0.65)
    assert found["top_probability_max"] == pytest.approx(0.9)
    assert found["unwanted_probability"] == pytest.approx(0.4)
    assert found["unwanted_alternatives"] == pytest.approx(1.5)
    assert found["other_alternatives"] == pytest.approx(1.5)
    assert found["several_of_both"] == 0.5
    assert found["unwanted_after_masking"] == 1.0
    assert found["most_frequent_share"] == 1.0
    assert found["distinct_outputs"] == 1.0


def test_point_of_choice_of_a_clean_output_is_where_it_could_have_been_rude(vocab):
    clean = row(vocab, "you friend", [("friend", 0.9), ("idiot", 0.1)])
    unwanted = properties.first_pieces(["idiot"], vocab)
    marks = [0] * len(clean["target_tokens"])
    assert properties.point_of_choice(clean, marks, unwanted) == 1


def test_same_texts_same_vocabulary(tmp_path):
    texts = ["a small text", "another small text"] * 20
    for name in ("one", "two"):
        vocabulary.train(texts, tmp_path / name, 256 + 3 + 12)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_too_few_pieces(tmp_path):
    from t5patches.errors import UserError

    with pytest.raises(UserError, match="no vocabulary of 5000 pieces"):
        vocabulary.train(["a b"], tmp_path / "v", 5000)


def test_rows_say_what_is_not_met():
    found = {
        "top_probability": 0.95,
        "top_probability_max": 1.0,
        "unwanted_alternatives": 1.0,
        "other_alternatives": 4.0,
        "several_of_both": 0.0,
        "most_frequent_share": 1.0,
        "unwanted_after_masking": 0.0,
        "distinct_outputs": 0.5,
        "rows": 7,
    }
    met = [row["met"] for row in properties.rows(found)]
    assert met == [None, False, False, True, False, False, None, None]
