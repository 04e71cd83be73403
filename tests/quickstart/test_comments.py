"""The made-up corpus keeps its promises before any model sees it."""

import collections
import random

import pytest

from t5patches.quickstart import comments

SIZES = {"train": 3000, "validation": 100, "test": 200}


@pytest.fixture(scope="module")
def splits():
    return comments.make(0, SIZES)


def test_length_of_continuations(splits):
    lengths = [len(row["targets"].split()) for row in splits["train"]]
    assert min(lengths) >= 8 and max(lengths) <= 22


def test_every_rude_word_is_used_and_none_prevails(splits):
    rude = set(comments.rude_words())
    texts = " ".join(row["targets"] for row in splits["train"]).replace(",", " ")
    counts = collections.Counter(word for word in texts.split() if word in rude)
    assert set(counts) == rude
    assert max(counts.values()) < 0.2 * sum(counts.values())


def words_said(slot, mood, group, seed):
    said = comments.Context(mood, "", group, "the driver", "x", "y", "z")
    rng = random.Random(seed)
    return collections.Counter(comments.fill_slot(slot, said, rng) for _ in range(2000))


@pytest.mark.parametrize("mood", comments.WORDS["moods"])
def test_every_mood_admits_several_rude_and_several_clean_words(mood):
    said = words_said("noun", mood, "trade", 0)
    for words in comments.WORDS["slots"]["noun"].values():
        assert sum(said[word] >= 0.005 * 2000 for word in words) >= 3
    assert said.most_common(1)[0][1] < 0.9 * 2000


def test_favourite_word_turns_with_the_person():
    groups = comments.WORDS["people"]
    said = [words_said("adjective", "furious", group, 1) for group in groups]
    assert len({words.most_common(1)[0][0] for words in said}) == len(groups)


def test_corrections_are_clean_and_keep_the_rest():
    text = "that Idiot never asks first, what crap"
    spans = [(5, 10, "idiot"), (34, 38, "crap")]
    assert comments.correct(text, spans) == "that person never asks first, what work"
    rude = set(comments.rude_words())
    for word in rude:
        assert comments.correct(word, [(0, len(word), word)]) not in rude
