"""The vocabulary of the quickstart."""

import pytest

from t5patches.errors import UserError
from t5patches.quickstart import vocabulary


def test_same_texts_same_vocabulary(tmp_path):
    texts = ["a small text", "another small text"] * 20
    for name in ("one", "two"):
        vocabulary.train(texts, tmp_path / name, 256 + 3 + 12)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_too_few_pieces(tmp_path):
    with pytest.raises(UserError, match="no vocabulary of 5000 pieces"):
        vocabulary.train(["a b"], tmp_path / "v", 5000)
