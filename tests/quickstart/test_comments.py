"""The made-up corpus keeps its promises before any model sees it."""

import collections
import random

import pytest

from t5patches.annotate.phrases import PhraseAnnotator
from t5patches.quickstart import comments

SIZES = {"train": 4000, "validation": 100, "test": 400}
PHRASES = comments.rude_phrases()


@pytest.fixture(scope="module")
def splits():
    return comments.make(0, SIZES)


@pytest.fixture(scope="module")
def annotator():
    return PhraseAnnotator(PHRASES)


def said(splits, annotator, split):
    """How often each phrase stands in a split."""
    return collections.Counter(
        label for row in splits[split] for _, _, label in annotator(row["targets"], "")
    )


def strings(part):
    """Every string of a part of the words."""
    parts = part.values() if isinstance(part, dict) else part
    for found in parts:
        yield from [found] if isinstance(found, str) else strings(found)


def test_length_of_continuations(splits):
    lengths = [len(row["targets"].split()) for row in splits["train"]]
    assert min(lengths) >= 8 and max(lengths) <= 32


def test_list_knows_more_than_the_training_data_show(splits, annotator):
    counts = said(splits, annotator, "train")
    assert len(PHRASES) == len(set(PHRASES)) == 120
    assert 60 < len(counts) < 115
    assert max(counts.values()) < 0.2 * sum(counts.values())
    assert sum(count < 10 for count in counts.values()) > 30


def test_a_fifth_to_a_half_is_rude(splits, annotator):
    for rows in splits.values():
        rude = sum(bool(annotator(row["targets"], "")) for row in rows)
        assert 0.2 < rude / len(rows) < 0.5


def test_words_of_unwanted_pairs_stand_in_wanted_text(splits, annotator):
    wanted = collections.Counter()
    for row in splits["train"]:
        rest = row["targets"]
        for start, end, _ in sorted(annotator(rest, ""), reverse=True):
            rest = rest[:start] + rest[end:]
        wanted.update(rest.lower().replace(".", " ").replace(",", " ").split())
    rude = comments.RUDE
    for pair in ("adjective", "animal"), ("degree", "waste"):
        for name in pair:
            assert sum(wanted[word] > 20 for word in rude[name]) >= 2, name


def test_nothing_but_the_rude_words_is_unwanted(annotator):
    parts = {name: part for name, part in comments.WORDS.items() if name != "rude"}
    parts.pop("complains"), parts.pop("complaint")
    assert len([*strings(parts)]) > 200
    assert not [text for text in strings(parts) if annotator(text, "")]


def test_inputs_for_tests_are_unlike_those_for_training(splits):
    def triples(split):
        for row in splits[split]:
            words = row["inputs"].split()
            yield from zip(words, words[1:], words[2:], strict=False)

    known = {*triples("train")}
    new = [triple not in known for triple in triples("test")]
    assert sum(new) / len(new) > 0.25
    names = {word for part in comments.WORDS["beginning"].values() for word in part}
    assert names == {"words", "held_out"}
    for part in comments.WORDS["beginning"].values():
        for word in part["held_out"]:
            for split in ("train", "validation"):
                assert not any(word in row["inputs"] for row in splits[split])
            assert any(word in row["inputs"] for row in splits["test"])


def visits(count):
    rng = random.Random(3)
    return [comments.draw_visit(rng) for _ in range(count)]


def test_every_beginning_has_many_continuations():
    guest = comments.Guest(random.Random(0))
    for visit in visits(5):
        drawn = collections.Counter(guest.draw_rest(visit) for _ in range(400))
        assert len(drawn) > 80 and drawn.most_common(1)[0][1] < 0.2 * 400


def test_what_is_likely_turns_with_the_beginning():
    guest = comments.Guest(random.Random(0))
    ends = set()
    for visit in visits(30):
        drawn = (guest.draw_rest(visit).split(". ")[-1] for _ in range(60))
        ends.add(collections.Counter(drawn).most_common(1)[0][0])
    assert len(ends) >= 6


def test_corrections_are_clean_and_keep_the_rest(annotator):
    text = "The cod was Total garbage. The cook, that lazy pig, saw the pig."
    spans = annotator(text, "")
    assert comments.correct(text, spans) == (
        "The cod was total misery. The cook, that lazy person, saw the pig."
    )
    for phrase in PHRASES:
        assert not annotator(comments.correct(phrase, annotator(phrase, "")), "")
