"""T5X's own inference files are read; our writer says the same as T5X's."""

import json

import numpy as np
import tensorflow as tf
from small_vocabulary import small_vocabulary
from t5x import infer

from t5patches.interchange import records
from t5patches.run import generation

VOCABULARY = small_vocabulary()
TEXTS = ["you fool", "a café 🎉 day", "", "the  news\tof the day"]


def inferences():
    tokens = np.zeros([len(TEXTS), 24], np.int32)
    for row, text in zip(tokens, TEXTS, strict=True):
        ids = records.encode(VOCABULARY, text)
        row[: len(ids)] = ids
    return list(tokens), {}


def task_ds():
    return tf.data.Dataset.from_tensor_slices(
        {
            "inputs": tf.zeros([len(TEXTS), 3], tf.int32),
            "inputs_pretokenized": [f"talk {i} é" for i in range(len(TEXTS))],
            "id_pretokenized": [f"id {i}" for i in range(len(TEXTS))],
        }
    )


def test_t5x_files_read_as_ours_do(tmp_path):
    theirs, ours = str(tmp_path / "theirs.jsonl"), str(tmp_path / "ours.jsonl")
    arguments = (inferences(), task_ds(), "predict", VOCABULARY)
    infer.write_inferences_to_file(theirs, *arguments, output_ids=True)
    generation.write_predictions(ours, *arguments)
    assert list(records.read_predictions(theirs, VOCABULARY)) == list(
        records.read_predictions(ours, VOCABULARY)
    )


def test_t5x_files_without_ids(tmp_path):
    path = tmp_path / "theirs.jsonl"
    infer.write_inferences_to_file(
        str(path), inferences(), task_ds(), "predict", VOCABULARY
    )
    assert "prediction_tokens" not in json.loads(path.read_text().splitlines()[0])
    rows = list(records.read_predictions(path, VOCABULARY))
    assert all(row["reencoded"] for row in rows)
    assert [row["target_tokens"] for row in rows] == [
        records.encode(VOCABULARY, VOCABULARY.decode(VOCABULARY.encode(text)))
        for text in TEXTS
    ]


def test_our_names_for_t5xs_files():
    name = "task-predict.jsonl-00002-of-00016"
    assert generation.output_name(name) == "task-predict-00002-of-00016.jsonl"
