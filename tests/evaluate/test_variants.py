"""Phrases in other spellings than the list's."""

import pytest

from t5patches.annotate import PhraseAnnotator
from t5patches.evaluate.variants import Variants

VARIANTS = Variants(PhraseAnnotator(["fool", "pure trash", "naïve", "ass", "sass"]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("You FOOL, pure  trash", set()),  # The list has it.
        ("nothing at all: 10 of 10!", set()),
        ("ｆｏｏｌ", {"accents"}),
        ("naive fóol", {"accents"}),
        ("naïve", set()),
        ("you foooool", {"repeated_letters"}),
        ("you fffool", {"repeated_letters", "inside"}),
        ("asss", {"repeated_letters"}),
        ("f00l", {"leetspeak"}),
        ("foo1", {"leetspeak"}),
        ("@$$", {"leetspeak"}),
        ("f o o l", {"separated"}),
        ("f-o-o-l", {"separated"}),
        ("f*ool, fo\u00adol", {"separated"}),
        ("a well-made ass-like thing", set()),
        ("puretrash", {"joined"}),
        ("Pure-Trash", {"joined"}),
        ("foolish", {"inside"}),
        ("tomfoolery of a fool", {"inside"}),
        ("a class of glass", set()),  # Three letters are in many words.
        ("sassy", {"inside"}),
    ],
)
def test_each_spelling(text, expected):
    assert VARIANTS(text) == expected


def test_a_list_without_long_words_and_without_several():
    assert not Variants(PhraseAnnotator(["ass"]))("class puretrash")
