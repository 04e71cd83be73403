"""A decoder-only model by gin, on either engine: fine-tuned, updated, generating."""

import json
import pathlib

import numpy as np
import pytest
from flax import traverse_util

from t5patches.interchange import frozen_states, json_files
from t5patches.run import scripts
from t5x_embedded import checkpoints

ROOT = pathlib.Path(__file__).parents[1]


def arguments(name, *bindings):
    return [
        f"--gin_search_paths={ROOT}",
        f"--gin_file=tests/testdata/runs/decoder_only_{name}.gin",
        *(f"--gin.{binding}" for binding in bindings),
    ]


def generations(checkpoint, folder):
    bindings = (f"CHECKPOINT_PATH='{checkpoint}'", f"INFER_OUTPUT_DIR='{folder}'")
    scripts.run("infer", arguments("generate", *bindings))
    (path,) = folder.glob("*.jsonl")
    return [row for _, row in json_files.read_jsonl(path)]


def parameters(checkpoint):
    tree = checkpoints.load_t5x_checkpoint(checkpoint)
    return traverse_util.flatten_dict(tree["target"], sep="/")


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetuned")
    steps = ("TRAIN_STEPS_RELATIVE=2", "EVAL_PERIOD=2")
    scripts.run("train", arguments("finetune", f"MODEL_DIR='{folder}'", *steps))
    return folder / "checkpoint_2"


def test_generations_are_predictions(finetuned, tmp_path):
    rows = generations(finetuned, tmp_path)
    assert len(rows) == 24
    assert rows[3]["inputs"] == "row D" and rows[3]["id"] == "3"
    assert all(0 < len(row["target_tokens"]) <= 8 + 6 - 5 for row in rows)


def test_an_update_by_gin(finetuned, tmp_path):
    bindings = (
        f"MODEL_DIR='{tmp_path / 'updated'}'",
        f"INITIAL_CHECKPOINT_PATH='{finetuned}'",
        "TRAIN_STEPS_RELATIVE=2",
        "EVAL_PERIOD=2",
    )
    scripts.run("train", arguments("update", *bindings))
    updated = tmp_path / "updated" / "checkpoint_4"
    frozen = json.loads((tmp_path / "updated" / "frozen.json").read_text())
    assert frozen["checkpoint"] == str(finetuned)
    before, after = parameters(finetuned), parameters(updated)
    assert before.keys() == after.keys()
    assert any(np.any(after[name] != x) for name, x in before.items())
    assert len(generations(updated, tmp_path / "after")) == 24

    # With the frozen pass cached before, the numbers are the same.
    cached, folder = tmp_path / "cached", tmp_path / "cache"
    cache = (f"FROZEN_CACHE='{folder}'", "FROZEN_CACHE_DTYPE='float32'")
    again = (f"MODEL_DIR='{cached}'", *bindings[1:], *cache)
    scripts.run("cache", arguments("update", *again))
    assert len(frozen_states.Store(folder)) == 24 and not cached.exists()
    scripts.run("train", arguments("update", *again))
    for name, x in parameters(cached / "checkpoint_4").items():
        np.testing.assert_allclose(x, after[name], atol=1e-6, err_msg=name)
