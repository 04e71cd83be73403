"""Texts by split, and what counts as unwanted where only marks are known."""

import hashlib

import pytest

from t5patches.interchange import json_files
from t5patches.patch import inputs


def test_texts_are_split_by_what_they_are(tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = [{"body": f"text {i % 80}", "id": i} for i in range(100)]
    json_files.write_jsonl(path, [*rows, {"body": " ", "id": 100}])
    found = inputs.read(str(path), "body")
    every = [row for split in found.values() for row in split]
    assert sorted(int(row["id"]) for row in every) == list(range(80))  # The first.
    for split, some in found.items():
        for row in some:
            last = int(hashlib.sha256(row["inputs"].encode()).hexdigest(), 16) % 10
            assert split == {8: "validation", 9: "test"}.get(last, "train")


@pytest.mark.parametrize("columns", ["inputs,text", "text,inputs", "inputs,more"])
def test_a_row_without_id_is_called_by_its_number(tmp_path, columns):
    path = tmp_path / "texts.csv"
    both = ((f"a {i}", f"b {i}") for i in range(60))
    lines = [columns, *(",".join(pair) for pair in both)]
    path.write_text("\n".join(lines))
    found = inputs.read(str(path))
    letter = "ab"[columns.split(",").index("inputs")]
    for row in (row for split in found.values() for row in split):
        assert row["inputs"] == f"{letter} {int(row['id']) - 1}"


def test_marks_are_found_again():
    row = {"id": "7", "prediction": "a silly goose, silly", "inputs": "?"}
    find = inputs.MarkedBefore(
        [
            {**row, "annotations": [{"start": 2, "end": 7, "label": "rude"}]},
            {**row, "id": "8", "annotations": []},
        ]
    )
    assert find(row["prediction"], "?", row) == [(2, 7, "rude")]  # As it was marked.
    assert find("Silly, sillier", "?", row) == [(0, 5, "silly")]
    assert find("a silly goose", "?", {**row, "id": "8"}) == []
