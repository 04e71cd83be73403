"""What T5X's inference hands over becomes predictions with the generated ids."""

import os

import numpy as np
import pytest
import tensorflow as tf
from small_vocabulary import small_vocabulary

from t5patches.errors import UserError
from t5patches.interchange import json_files, records
from t5patches.run import generation

VOCABULARY = small_vocabulary()
NAME = "comments-predict.jsonl-00000-of-00001"
MERGED = "comments-predict-00000-of-00001.jsonl"
TEXTS = ["you fool", "a café 🎉", "the day"]


def inferences(texts=TEXTS, length=24):
    """Padded ids, as a decoder returns them, something after EOS included."""
    tokens = np.zeros([len(texts), length], np.int32)
    for row, text in zip(tokens, texts, strict=True):
        ids = records.encode(VOCABULARY, text)[:length]
        row[: len(ids)] = ids
    return tokens, {}


def task_ds(count=3, **features):
    features = {
        "inputs": tf.zeros([count, 4], tf.int32),
        "inputs_pretokenized": [f"input é {i}" for i in range(count)],
        "id_pretokenized": [f"id {i}" for i in range(count)],
        **features,
    }
    kept = {name: value for name, value in features.items() if value is not None}
    return tf.data.Dataset.from_tensor_slices(kept)


def test_predictions_are_readable_and_keep_the_ids(tmp_path):
    path = str(tmp_path / "p.jsonl")
    generation.write_predictions(path, inferences(), task_ds(), "predict", VOCABULARY)
    rows = list(records.read_predictions(path, VOCABULARY))
    assert [row["prediction"] for row in rows] == TEXTS
    assert [row["inputs"] for row in rows] == ["input é 0", "input é 1", "input é 2"]
    assert [row["id"] for row in rows] == ["id 0", "id 1", "id 2"]
    assert [row["target_tokens"] for row in rows] == [
        records.encode(VOCABULARY, text) for text in TEXTS
    ]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([5, 6, 1, 0, 0], [5, 6, 1]),
        ([5, 1, 7, 1], [5, 1]),
        ([5, 0, 6, 1, 0], [5, 0, 6, 1]),
        ([5, 0, 6, 0], [5, 0, 6]),
        ([1, 0], [1]),
        ([0, 0], []),
    ],
)
def test_generated_ids(tokens, expected):
    assert records.generated_ids(tokens, 1) == expected


def test_a_length_limit_without_eos(tmp_path):
    path = str(tmp_path / "p.jsonl")
    cut = inferences(length=3)
    generation.write_predictions(path, cut, task_ds(), "predict", VOCABULARY)
    rows = list(records.read_predictions(path, VOCABULARY))
    assert [row["target_tokens"] for row in rows] == cut[0].tolist()


def test_tasks_without_text_or_ids(tmp_path):
    ids = [[*VOCABULARY.encode("you"), 1, 0, 0]] * 3
    width = max(map(len, ids))
    ds = task_ds(
        inputs=[row + [0] * (width - len(row)) for row in ids],
        inputs_pretokenized=None,
        id_pretokenized=None,
    )
    for chunk in range(2):
        path = str(tmp_path / f"{NAME}-chunk{chunk:05d}")
        generation.write_predictions(path, inferences(), ds, "predict", VOCABULARY)
        open(path + ".COMPLETED", "w").close()
    generation.merge_predictions(str(tmp_path / "out"), NAME, str(tmp_path), 3)
    rows = list(records.read_predictions(tmp_path / "out" / MERGED, VOCABULARY))
    assert [row["id"] for row in rows] == [
        f"comments-predict:00000:{i}" for i in range(6)
    ]
    assert {row["inputs"] for row in rows} == {"you"}
    assert os.listdir(tmp_path / "out") == [MERGED]


def test_merging_needs_every_chunk(tmp_path):
    with pytest.raises(UserError, match="nothing was generated"):
        generation.merge_predictions(str(tmp_path / "out"), NAME, str(tmp_path), None)
    json_files.write_jsonl(tmp_path / f"{NAME}-chunk00001", [{"id": "a"}])
    with pytest.raises(UserError, match="chunk 0 is missing"):
        generation.merge_predictions(str(tmp_path / "out"), NAME, str(tmp_path), None)


def test_wrong_use(tmp_path):
    path = str(tmp_path / "p.jsonl")
    with pytest.raises(UserError, match="infer.mode is 'score'"):
        generation.write_predictions(path, inferences(), task_ds(), "score", VOCABULARY)
    with pytest.raises(UserError, match="needs the vocabulary"):
        generation.write_predictions(path, inferences(), task_ds(), "predict")
    with pytest.raises(ValueError):
        generation.write_predictions(
            path, inferences(), task_ds().take(2), "predict", VOCABULARY
        )
    assert os.listdir(tmp_path) == []
