"""Resumed input: the step, not an iterator's state, says where to go on."""

import types

import pytest
import tensorflow as tf
from t5x import utils

from t5patches import checks, data
from t5patches.errors import UserError


def make_folder(path, *names):
    for name in names:
        (path / name).mkdir(parents=True)
    return path


def test_only_complete_checkpoints_count(tmp_path):
    folder = make_folder(
        tmp_path,
        "checkpoint_20",
        "checkpoint_100",
        "checkpoint_300.orbax-checkpoint-tmp-123",
        "train",
    )
    assert checks.checkpoint_steps(folder) == [20, 100]
    assert checks.checkpoint_steps(tmp_path / "missing") == []
    assert checks.checkpoint_step(folder) == 100
    assert checks.checkpoint_step(folder / "checkpoint_20") == 20
    with pytest.raises(UserError, match="neither a checkpoint"):
        checks.checkpoint_step(folder / "train")


def test_total_steps_do_not_grow_when_a_run_resumes(tmp_path):
    initial = make_folder(tmp_path, "checkpoint_600") / "checkpoint_600"
    assert data.total_steps(str(initial), 50) == 650
    assert data.total_steps(None, 50) == 50


@pytest.mark.parametrize("initial_step", [0, 600])
def test_input_is_skipped_to_where_the_run_goes_on(tmp_path, monkeypatch, initial_step):
    monkeypatch.setattr(utils, "get_dataset", lambda *_: tf.data.Dataset.range(100))
    cfg = types.SimpleNamespace(seed=0, mixture_or_task_name="task")
    initial = f"some/checkpoint_{initial_step}" if initial_step else None

    def first_batch():
        dataset = data.get_dataset(
            cfg, 0, 1, None, model_dir=tmp_path, initial_checkpoint_path=initial
        )
        return next(dataset.as_numpy_iterator())

    assert first_batch() == 0
    make_folder(tmp_path, f"checkpoint_{initial_step}")
    assert first_batch() == 0
    make_folder(tmp_path, f"checkpoint_{initial_step + 7}")
    assert first_batch() == 7


def test_input_without_a_seed_is_refused(tmp_path):
    cfg = types.SimpleNamespace(seed=None, mixture_or_task_name="my_task")
    with pytest.raises(ValueError, match="my_task: .*seed must be a number"):
        data.get_dataset(cfg, 0, 1, None, model_dir=tmp_path)
