"""What both made-up corpora promise."""

import pytest

from t5patches.quickstart import comments, news

SIZES = {"train": 500, "validation": 50, "test": 50}


@pytest.mark.parametrize("corpus", [comments, news])
def test_seed_sizes_and_no_beginning_twice(corpus):
    splits = corpus.make(0, SIZES)
    assert corpus.make(0, SIZES) == splits != corpus.make(1, SIZES)
    assert {name: len(rows) for name, rows in splits.items()} == SIZES
    beginnings = [row["inputs"] for rows in splits.values() for row in rows]
    assert len(set(beginnings)) == len(beginnings)
