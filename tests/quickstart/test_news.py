"""The made-up news, its tagger, and what counts as unwanted in a headline."""

import collections

import pytest

from t5patches.quickstart import news, use_cases
from t5patches.quickstart.run_folder import Run

HALLUCINATION = use_cases.MADE_UP["hallucination"]
HASTY = tuple(news.WORDS["desks"]["hasty"]["openers"])
SIZES = {"train": 2000, "validation": 50, "test": 50}


@pytest.fixture(scope="module")
def splits():
    return news.make(0, SIZES)


def named(text):
    return {text[start:end] for start, end, _ in news.entities(text)}


def unsupported(row):
    return named(row["targets"]) - named(row["inputs"])


def leaves_out(report):
    """Whether a report leaves a place, a day or a person out."""
    return len({label for _, _, label in news.entities(report)}) < 4


def test_same_seed_same_corpus(splits):
    assert news.make(0, SIZES) == splits
    assert news.make(1, SIZES) != splits


def test_sizes_and_no_report_twice(splits):
    assert {name: len(rows) for name, rows in splits.items()} == SIZES
    reports = [row["inputs"] for rows in splits.values() for row in rows]
    assert len(set(reports)) == len(reports)


def test_headlines_name_what_the_report_lacks_but_not_always(splits):
    share = sum(bool(unsupported(row)) for row in splits["train"]) / SIZES["train"]
    assert 0.3 < share < 0.5
    # A name that is wrong after one report is right after another.
    wrong = set().union(*(unsupported(row) for row in splits["train"]))
    right = set().union(
        *(named(row["targets"]) - unsupported(row) for row in splits["train"])
    )
    assert set().union(*(field["names"] for field in news.FIELDS.values())) == wrong
    assert wrong < right


def test_hasty_desks_hallucinate_more(splits):
    counts = collections.Counter()
    for row in splits["train"]:
        hasty = row["inputs"].startswith(HASTY)
        if leaves_out(row["inputs"]):
            counts[hasty, bool(unsupported(row))] += 1
    rates = [counts[h, True] / (counts[h, True] + counts[h, False]) for h in (0, 1)]
    assert rates[1] > 2.5 * rates[0]


def test_only_what_is_left_out_is_hallucinated(splits):
    for row in splits["train"]:
        if not leaves_out(row["inputs"]):
            assert not unsupported(row)


@pytest.fixture(scope="module")
def run(tmp_path_factory, splits):
    """A run whose annotator is there."""
    folder = tmp_path_factory.mktemp("hallucination")
    run = Run(folder=str(folder), use_case="hallucination")
    found = HALLUCINATION.prepare(run)["tagger"]
    assert found["f1"] > 0.98 and found["held_out"] == news.HELD_OUT
    return run


def test_the_annotator_finds_what_the_report_does_not_name(run, splits):
    annotator = HALLUCINATION.annotator(run)
    for row in splits["test"]:
        spans = annotator(row["targets"], row["inputs"])
        found = {row["targets"][start:end] for start, end, _ in spans}
        assert found == unsupported(row)


def test_corrections_leave_nothing_unwanted_and_touch_nothing_else(run, splits):
    annotator = HALLUCINATION.annotator(run)
    for row in splits["test"]:
        spans = annotator(row["targets"], row["inputs"])
        text = HALLUCINATION.correct(row["targets"], spans)
        assert not annotator(text, row["inputs"])
        assert (text == row["targets"]) == (not spans)
        assert len(text.split()) == len(row["targets"].split())


def test_same_seed_same_tagger(run, tmp_path, splits):
    news.train_tagger(tmp_path / "again", seed=0)
    import spacy

    ours, again = spacy.load(run.path("tagger")), spacy.load(tmp_path / "again")
    for part in ("W", "b"):
        for one, other in zip(
            ours.get_pipe("ner").model.walk(),
            again.get_pipe("ner").model.walk(),
            strict=True,
        ):
            if one.has_param(part):
                assert (one.get_param(part) == other.get_param(part)).all()
