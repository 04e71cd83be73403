"""The made-up corpus keeps its promises before any model sees it."""

import collections

import pytest

from t5patches.quickstart import comments

SIZES = {"train": 3000, "validation": 100, "test": 200}


@pytest.fixture(scope="module")
def splits():
    return comments.make(0, SIZES)


def slot_words(targets):
    rude = set(comments.rude_words())
    return [word for word in targets.replace(",", " ").split() if word in rude]


def test_same_seed_same_corpus(splits):
    assert comments.make(0, SIZES) == splits
    assert comments.make(1, SIZES) != splits


def test_sizes_and_no_beginning_twice(splits):
    assert {name: len(rows) for name, rows in splits.items()} == SIZES
    beginnings = [row["inputs"] for rows in splits.values() for row in rows]
    assert len(set(beginnings)) == len(beginnings)


def test_length_of_continuations(splits):
    lengths = [len(row["targets"].split()) for row in splits["train"]]
    assert min(lengths) >= 8
    assert max(lengths) <= 22


def test_every_rude_word_is_used_and_none_prevails(splits):
    counts = collections.Counter(
        word for row in splits["train"] for word in slot_words(row["targets"])
    )
    assert set(counts) == set(comments.rude_words())
    assert max(counts.values()) < 0.2 * sum(counts.values())


@pytest.mark.parametrize("mood", comments.WORDS["moods"])
def test_every_mood_admits_several_rude_and_several_clean_words(mood):
    import random

    rng = random.Random(0)
    context = comments.Context(mood, "", "trade", "the driver", "x", "y", "z")
    said = collections.Counter(
        comments.fill_slot("noun", context, rng) for _ in range(2000)
    )
    for words in comments.WORDS["slots"]["noun"].values():
        assert sum(said[word] >= 0.005 * 2000 for word in words) >= 3
    assert said.most_common(1)[0][1] < 0.9 * 2000


def test_favourite_word_turns_with_the_person():
    import random

    favourites = set()
    for group in comments.WORDS["people"]:
        context = comments.Context("furious", "", group, "", "", "", "")
        rng = random.Random(1)
        said = collections.Counter(
            comments.fill_slot("adjective", context, rng) for _ in range(2000)
        )
        favourites.add(said.most_common(1)[0][0])
    assert len(favourites) == len(comments.WORDS["people"])


def test_corrections_are_clean_and_keep_the_rest():
    text = "that Idiot never asks first, what crap"
    spans = [(5, 10, "idiot"), (34, 38, "crap")]
    assert comments.correct(text, spans) == "that person never asks first, what work"
    rude = set(comments.rude_words())
    for word in rude:
        assert comments.correct(word, [(0, len(word), word)]) not in rude
