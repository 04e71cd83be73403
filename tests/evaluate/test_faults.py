"""What else can be wrong with outputs."""

import random

import pytest

from t5patches.evaluate import faults


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the man said the man said", True),
        ("So: one two three FOUR, one two three four!", True),
        ("no no no no no no", True),
        ("no no no no no", False),
        ("on and on and on and on and", True),
        ("again and again and again", False),
        ("a b c x a b c y a b c x a b c y", True),
        ("a b c x a b c y a b c x a b", False),
        ("New York, New York, so good they named it twice", False),
        ("to be or not to be, that is the question", False),
        ("ещё один день ещё один день", True),
        ("", False),
    ],
)
def test_repeats(text, expected):
    assert faults.repeats(text) == expected


def test_repeats_are_those_of_a_search_for_every_stretch():
    drawn = random.Random(0)
    seen = set()
    for _ in range(2000):
        words = drawn.choices("abc", k=drawn.randrange(14))
        expected = any(
            words[at : at + n] == words[at + n : at + 2 * n]
            for n in range(3, len(words))
            for at in range(len(words) - 2 * n + 1)
        )
        assert faults.repeats(" ".join(words)) == expected, words
        seen.add(expected)
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("text", "ids", "expected"),
    [
        ("fine", [5, 1], set()),
        ("fine", None, set()),
        (" \n", [1], {"empty"}),
        ("fine", [5], {"cut"}),
        ("", [], {"empty", "cut"}),
        ("what ⁇ is", None, {"lost_characters"}),
        ("what \ufffd is", [5, 1], {"lost_characters"}),
        ("what is", [5, 2, 1], {"lost_characters"}),
    ],
)
def test_faults_of_an_output(text, ids, expected):
    assert faults.of_output(text, False, ids) == expected
    assert faults.of_output(text, True, ids) == {*expected, "unwanted"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("a b", "a b c d", set()),
        ("a b", "a b c d e", {"longer"}),
        ("a b c d", "a b", set()),
        ("a b c d e", "a b", {"shorter"}),
        ("a", "", {"shorter"}),
        ("", "a", {"longer"}),
    ],
)
def test_length_beside_the_old_output(old, new, expected):
    assert faults.beside(old, new, [7, 8, 1], {7, 8, 1}) == expected


def test_ids_that_no_old_output_has():
    assert faults.beside("a", "b", [7, 9, 1], {7, 8, 1}) == {"unseen_tokens"}
    assert not faults.beside("a", "b", [7, 9, 1], None)
    assert not faults.beside("a", "b", None, {7})
