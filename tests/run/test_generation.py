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


def write(path, made=None, ds=None, mode="predict", vocabulary=VOCABULARY):
    made, ds = made or inferences(), task_ds() if ds is None else ds
    generation.write_predictions(str(path), made, ds, mode, vocabulary)


def merge(folder):
    generation.merge_predictions(str(folder / "out"), NAME, str(folder), 3)


def test_predictions_are_readable_and_keep_the_ids(tmp_path):
    write(tmp_path / "p.jsonl")
    expected = [
        {
            "inputs": f"input é {i}",
            "prediction": text,
            "target_tokens": records.encode(VOCABULARY, text),
            "id": f"id {i}",
        }
        for i, text in enumerate(TEXTS)
    ]
    found = records.read_predictions(tmp_path / "p.jsonl", VOCABULARY)
    assert list(found) == expected


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
    cut = inferences(length=3)
    write(tmp_path / "p.jsonl", cut)
    rows = list(records.read_predictions(tmp_path / "p.jsonl", VOCABULARY))
    assert [row["target_tokens"] for row in rows] == cut[0].tolist()


def test_tasks_without_text_or_ids(tmp_path):
    inputs = [[*VOCABULARY.encode("you"), 1, 0, 0]] * 3
    ds = task_ds(inputs=inputs, inputs_pretokenized=None, id_pretokenized=None)
    for chunk in range(2):
        path = tmp_path / f"{NAME}-chunk{chunk:05d}"
        write(path, ds=ds)
        path.with_name(f"{path.name}.COMPLETED").touch()
    merge(tmp_path)
    rows = list(records.read_predictions(tmp_path / "out" / MERGED, VOCABULARY))
    ids = [f"comments-predict:00000:{i}" for i in range(6)]
    assert [row["id"] for row in rows] == ids
    assert {row["inputs"] for row in rows} == {"you"}
    assert os.listdir(tmp_path / "out") == [MERGED]


def test_merging_needs_every_chunk(tmp_path):
    with pytest.raises(UserError, match="nothing was generated"):
        merge(tmp_path)
    json_files.write_jsonl(tmp_path / f"{NAME}-chunk00001", [{"id": "a"}])
    with pytest.raises(UserError, match="chunk 0 is missing"):
        merge(tmp_path)


def test_wrong_use(tmp_path):
    with pytest.raises(UserError, match="infer.mode is 'score'"):
        write(tmp_path / "p.jsonl", mode="score")
    with pytest.raises(UserError, match="needs the vocabulary"):
        write(tmp_path / "p.jsonl", vocabulary=None)
    with pytest.raises(ValueError):
        write(tmp_path / "p.jsonl", ds=task_ds().take(2))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "place", ["model", "model/checkpoint_2", "link/checkpoint_2/x"]
)
def test_results_do_not_lie_in_a_models_folder(tmp_path, place):
    (tmp_path / "model/checkpoint_2").mkdir(parents=True)
    (tmp_path / "model/checkpoint_2/_CHECKPOINT_METADATA").write_text("{}")
    (tmp_path / "model/config.gin").write_text("")
    (tmp_path / "link").symlink_to("model")
    (tmp_path / "outputs/checkpoint_2").mkdir(parents=True)
    generation.check_place(f"{tmp_path}/outputs/checkpoint_2")
    generation.check_place(f"{tmp_path}/model/inference_eval")
    with pytest.raises(UserError, match="is a model's folder, or in a ch"):
        generation.check_place(f"{tmp_path}/{place}")
