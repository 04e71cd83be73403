"""The made-up news, its tagger, and what counts as unwanted in a headline."""

import collections

import pytest
import spacy

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


def test_headlines_name_what_the_report_lacks_but_not_always(splits):
    share = sum(bool(unsupported(row)) for row in splits["train"]) / SIZES["train"]
    assert 0.3 < share < 0.5
    # A name that is wrong after one report is right after another.
    rows = splits["train"]
    wrong = set().union(*(unsupported(row) for row in rows))
    right = set().union(*(named(row["targets"]) - unsupported(row) for row in rows))
    assert set().union(*(field["names"] for field in news.FIELDS.values())) == wrong
    assert wrong < right


def test_only_what_is_left_out_is_hallucinated_and_by_hasty_desks_more(splits):
    counts = collections.Counter()
    for row in splits["train"]:
        hasty = row["inputs"].startswith(HASTY)
        if leaves_out(row["inputs"]):
            counts[hasty, bool(unsupported(row))] += 1
        else:
            assert not unsupported(row)
    rates = [counts[h, True] / (counts[h, True] + counts[h, False]) for h in (0, 1)]
    assert rates[1] > 2.5 * rates[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory, splits):
    """A run whose annotator is there."""
    folder = tmp_path_factory.mktemp("hallucination")
    run = Run(folder=str(folder), use_case="hallucination")
    found = HALLUCINATION.prepare(run)["tagger"]
    assert found["f1"] > 0.98 and found["held_out"] == news.HELD_OUT
    return run


def test_what_is_found_and_how_it_is_corrected(run, splits):
    annotator = HALLUCINATION.annotator(run)
    for row in splits["test"]:
        spans = annotator(row["targets"], row["inputs"])
        found = {row["targets"][start:end] for start, end, _ in spans}
        assert found == unsupported(row)
        text = HALLUCINATION.correct(row["targets"], spans)
        assert not annotator(text, row["inputs"])
        assert (text == row["targets"]) == (not spans)
        assert len(text.split()) == len(row["targets"].split())


def test_same_seed_same_tagger(tmp_path, monkeypatch):
    monkeypatch.setattr(news, "TEXTS", 40)
    monkeypatch.setattr(news, "HELD_OUT", 4)
    walks = []
    for name in ("one", "other"):
        news.train_tagger(tmp_path / name, seed=0)
        walks.append(spacy.load(tmp_path / name).get_pipe("ner").model.walk())
    for one, other in zip(*walks, strict=True):
        for part in ("W", "b"):
            if one.has_param(part):
                assert (one.get_param(part) == other.get_param(part)).all()
