"""Resumed input: the step, not an iterator's state, says where to go on."""

import dataclasses
import json

import numpy as np
import pytest
import seqio
import tensorflow as tf
from t5x import utils

from t5patches import feature_converters, tasks
from t5patches.checkpoints import finding
from t5patches.errors import UserError
from t5patches.run import resumable_input
from tests import engine_toy, run_toy


def config(task=None, lengths=engine_toy.LENGTHS, **kwargs):
    settings = dict(split="train", batch_size=4, shuffle=True, seed=0)
    return utils.DatasetConfig(
        mixture_or_task_name=task or engine_toy.register(),
        task_feature_lengths=lengths,
        **{**settings, **kwargs},
    )


def make_folder(path, *names):
    for name in names:
        (path / name).mkdir(parents=True)
    return path


def test_only_complete_checkpoints_count(tmp_path):
    half = "checkpoint_300.orbax-checkpoint-tmp-123"
    folder = make_folder(tmp_path, "checkpoint_20", "checkpoint_100", half, "train")
    assert finding.steps(folder) == [20, 100]
    assert finding.steps(tmp_path / "missing") == []
    assert finding.step_of(folder) == 100
    assert finding.step_of(folder / "checkpoint_20") == 20
    with pytest.raises(UserError, match="neither a checkpoint"):
        finding.step_of(folder / "train")


def test_total_steps_do_not_grow_when_a_run_resumes(tmp_path):
    initial = make_folder(tmp_path, "checkpoint_600") / "checkpoint_600"
    assert resumable_input.total_steps(str(initial), 50) == 650
    assert resumable_input.total_steps(None, 50) == 50


def test_the_rate_of_a_run_from_step_0(tmp_path):
    """As of a converted checkpoint: T5X would divide by the first step."""
    initial = make_folder(tmp_path, "checkpoint_0") / "checkpoint_0"
    rate = utils.create_learning_rate_scheduler(
        factors="linear_decay",
        base_learning_rate=2.0,
        warmup_steps=resumable_input.first_step(str(initial)),
        decay_factor=resumable_input.decay_factor(10, 0.5),
    )
    found = [float(rate(step)) for step in (0, 1, 2, 10)]
    assert found == pytest.approx([0.0, 2.0, 1.9, 1.1], abs=1e-7)


def first_batch(cfg, converter, folder, initial=None):
    dataset = resumable_input.get_dataset(
        cfg, 0, 1, converter, model_dir=folder, initial_checkpoint_path=initial
    )
    return next(dataset.as_numpy_iterator())


@pytest.mark.parametrize("initial_step", [0, 600])
def test_input_is_skipped_to_where_the_run_goes_on(tmp_path, monkeypatch, initial_step):
    monkeypatch.setattr(utils, "get_dataset", lambda *_: tf.data.Dataset.range(100))
    cfg, converter = config(), feature_converters.TargetAnnotationsFeatureConverter
    initial = f"some/checkpoint_{initial_step}" if initial_step else None
    assert first_batch(cfg, converter, tmp_path, initial) == 0
    for steps in (0, 7):
        make_folder(tmp_path, f"checkpoint_{initial_step + steps}")
        assert first_batch(cfg, converter, tmp_path, initial) == steps
    with pytest.raises(UserError, match="it is another run's"):
        first_batch(cfg, converter, tmp_path, "some/checkpoint_800")


def rows(cfg, folder, batches, shard=(0, 1)):
    """The first column of the inputs of so many batches."""
    dataset = resumable_input.get_dataset(
        cfg, *shard, seqio.EncDecFeatureConverter, model_dir=folder
    )
    found = [batch["encoder_input_tokens"][:, 0] for batch in dataset.take(batches)]
    return np.stack(found).tolist()


def test_examples_are_made_once_and_come_as_seqio_gives_them(tmp_path, monkeypatch):
    """Every epoch in another order, the same on every machine, and after a stop."""
    lines = [{"inputs": chr(97 + i), "targets": "x"} for i in range(12)]
    file = tmp_path / "some.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    task = tasks.text_task("held", {"train": str(file)}, engine_toy.VOCABULARY)
    cfg = config(task, {"inputs": 4, "targets": 4})
    made = []
    encode = engine_toy.VOCABULARY.encode_tf
    monkeypatch.setattr(
        type(engine_toy.VOCABULARY),
        "encode_tf",
        lambda self, text: (
            tf.py_function(lambda: made.append(1), [], []) and encode(text)
        ),
    )
    held = rows(cfg, tmp_path, 9)
    assert len(made) == 2 * len(lines)
    epochs = [sum(held[start : start + 3], []) for start in (0, 3, 6)]
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len(set(epochs[0])) == len(lines)
    halves = [rows(cfg, tmp_path, 6, (shard, 2)) for shard in (0, 1)]
    assert {*sum(halves[0], [])}.isdisjoint(sum(halves[1], []))

    with monkeypatch.context() as patch:
        patch.setattr(resumable_input, "HELD_BYTES", 12 * (4 * 4 * 4) - 1)
        made.clear()
        assert rows(cfg, tmp_path, 9) == held
        assert len(made) > 4 * len(lines)
    with pytest.raises((ValueError, AssertionError), match="(?i)batch"):
        rows(cfg, tmp_path, 1, (0, 3))
    # Packed rows are others in every epoch.
    packed = dataclasses.replace(
        cfg, pack=True, batch_size=1, task_feature_lengths={"inputs": 8, "targets": 8}
    )
    found = rows(packed, tmp_path, 12)
    assert found[:3] != found[3:6]

    make_folder(tmp_path, "checkpoint_4")
    assert rows(cfg, tmp_path, 5) == held[4:]


def test_input_without_a_seed_is_refused(tmp_path):
    cfg = config(seed=None)
    with pytest.raises(ValueError, match="toy_copy: .*seed must be a number"):
        first_batch(cfg, None, tmp_path)


def test_ids_of_a_task_reach_the_batch(tmp_path):
    lengths = {"inputs": 8, "targets": 6}
    converter = feature_converters.TargetAnnotationsFeatureConverter
    cfg = config(run_toy.register(), lengths)
    batch = first_batch(cfg, converter, tmp_path)
    assert batch["id"].shape == (4, 1)
    # The last letter of a row's input is its id.
    letters = [tokens[tokens > 0][-1] for tokens in batch["encoder_input_tokens"]]
    assert [letter - 68 for letter in letters] == batch["id"][:, 0].tolist()
    assert cfg.task_feature_lengths == lengths
    # T5X's own converter lets them through as well; a packed row has none.
    plain = seqio.EncDecFeatureConverter
    assert "id" in first_batch(cfg, plain, tmp_path)
    packed = config(run_toy.TASK, {"inputs": 16, "targets": 16}, pack=True)
    assert "id" not in first_batch(packed, converter, tmp_path)
    without = config()
    assert "id" not in first_batch(without, plain, tmp_path)
