"""The trainer that carries the frozen model, on whichever engine is there."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from t5x import checkpoints
from t5x import models as t5x_models

from t5patches import frozen, models
from t5patches import trainer as trainer_lib
from t5patches.errors import UserError
from t5x_embedded import trainer as embedded_trainer

LEARNING_RATE = 3e-2
ALPHA = 10.0  # The same for all: equal steps are compiled once.


def make_trainer(
    model,
    model_dir=None,
    *,
    seed=0,
    num_microbatches=None,
    num_partitions=1,
    parts=None,
    rng=None,
    rate=LEARNING_RATE,
    **kwargs,
):
    partitioner, state, axes = parts or tiny.make_state(model, seed, num_partitions)
    return trainer_lib.SelfDistillationTrainer(
        model=model,
        train_state=state,
        partitioner=partitioner,
        eval_names=["validation"],
        summary_dir=None if model_dir is None else str(model_dir),
        train_state_axes=axes,
        rng=jax.random.PRNGKey(7) if rng is None else rng,
        learning_rate_fn=lambda step: jnp.asarray(rate),
        num_microbatches=num_microbatches,
        **kwargs,
    )


def train(trainer, steps):
    """Trains on one batch; the metrics of each step."""
    start = int(trainer.train_state.step)
    return [
        {
            name: float(value.value)
            for name, value in trainer.train(
                iter([tiny.make_batch()]), 1, start_step=step
            )
            .result()
            .items()
            if getattr(value, "value", None) is not None
        }
        for step in range(start, start + steps)
    ]


def to_numpy(tree):
    return jax.tree.map(np.asarray, tree)


def assert_trees_equal(actual, expected, **tolerance):
    compare = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
    jax.tree.map(lambda a, b: compare(a, b, **tolerance), actual, expected)


def save_checkpoint(trainer, model_dir):
    model_dir.mkdir(exist_ok=True)
    manager = checkpoints.OrbaxCheckpointManagerInterface(
        str(model_dir), trainer.train_state, trainer._partitioner, period=1
    )
    manager.save(trainer.train_state)
    manager.wait_until_finished()
    manager.close()
    return model_dir / f"checkpoint_{int(trainer.train_state.step)}"


def test_update_removes_unwanted_tokens_and_leaves_the_others():
    trainer = make_trainer(tiny.make_model(alpha=ALPHA))
    before = to_numpy(trainer.frozen_params)
    metrics = train(trainer, 60)
    # At the start the model is its original: nothing to regain at other tokens.
    assert abs(metrics[0]["other/kl"]) < 1e-6
    assert metrics[-1]["unwanted/loss"] < metrics[0]["unwanted/loss"]
    probability = [m["unwanted/probability"] for m in metrics]
    assert probability[-1] < 0.35 * probability[0]
    assert metrics[-1]["other/kl"] < 0.05
    # The step donates the train state's buffers; the frozen ones are others.
    assert_trees_equal(to_numpy(trainer.frozen_params), before)
    trainer.close()


@pytest.mark.parametrize("frozen_dropout", [True, False])
def test_frozen_dropout(frozen_dropout):
    """With the same masks the two passes are one function of the parameters."""
    model = tiny.make_model(dropout_rate=0.3, frozen_dropout=frozen_dropout)
    _, state, _ = tiny.make_state(model)
    _, metrics = jax.jit(model.loss_fn)(
        state.params, tiny.make_batch(), jax.random.PRNGKey(0), state.params
    )
    kl = float(metrics["other/kl"].compute())
    assert (abs(kl) < 1e-6) == frozen_dropout


def test_alpha_rate_and_seed_are_no_constants_of_the_compiled_steps():
    """A sweep compiles its steps once, and a step has its own run's numbers."""
    batch, programs, found = tiny.make_batch(), [], []
    for alpha, rate, seed in ((ALPHA, LEARNING_RATE, 7), (0.5, 1e-3, 8)):
        model = tiny.make_model(alpha=alpha, dropout_rate=0.1)
        trainer = make_trainer(model, rng=jax.random.PRNGKey(seed), rate=rate)
        steps = trainer._partitioned_train_step, trainer._partitioned_eval_step
        lowered = [step.lower(trainer.train_state, batch)._step for step in steps]
        programs.append([program.as_text() for program in lowered])
        (metrics,) = train(trainer, 1)
        assert metrics["learning_rate"] == np.float32(rate)
        found.append(metrics["unwanted/loss"])
        expected, _ = jax.jit(model.loss_fn)(
            tiny.make_state(model)[1].params,
            batch,
            jax.random.fold_in(jax.random.PRNGKey(seed), 0),
            trainer.frozen_params,
        )
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
        trainer.close()
    assert programs[0] == programs[1]
    assert found[0] != found[1]  # Other dropout masks.


@pytest.mark.parametrize("num_microbatches", [None, 2])
def test_frozen_parameters_are_an_argument_of_the_compiled_steps(num_microbatches):
    """And no constant: each program has room for them among its arguments."""
    trainer = make_trainer(
        tiny.make_model(alpha=ALPHA), num_microbatches=num_microbatches
    )
    batch = tiny.make_batch()
    frozen_bytes = sum(x.nbytes for x in jax.tree.leaves(trainer.frozen_params))
    state_bytes = sum(x.nbytes for x in jax.tree.leaves(trainer.train_state))
    trained_bytes = sum(x.nbytes for x in jax.tree.leaves(trainer.train_state.params))
    for step, least in (
        (trainer._partitioned_train_step, state_bytes + frozen_bytes),
        (trainer._partitioned_eval_step, trained_bytes + frozen_bytes),
    ):
        compiled = step.lower(trainer.train_state, batch).compile()._step
        assert compiled.memory_analysis().argument_size_in_bytes >= least
    trainer.close()


def test_every_microbatch_has_the_dropout_of_the_embedded_engine():
    model = tiny.make_model(dropout_rate=0.3, alpha=ALPHA)
    _, state, _ = tiny.make_state(model)
    _, other, _ = tiny.make_state(model, seed=1)
    bound = types.SimpleNamespace(
        loss_fn=lambda *args: model.loss_fn(*args, other.params)
    )
    step = tiny.make_batch(), jax.random.PRNGKey(0), 2
    want, metrics, _ = jax.jit(
        lambda state: embedded_trainer.accumulate_grads_microbatched(
            bound, state, *step
        )
    )(state)
    got, our_metrics, _ = jax.jit(
        lambda state: trainer_lib.accumulate_grads_microbatched(
            model, state, *step, orig_train_state=other
        )
    )(state)
    assert_trees_equal(got, want, rtol=1e-5, atol=1e-5)
    for name in ("loss", "other/kl"):
        np.testing.assert_allclose(
            our_metrics[name].compute(), metrics[name].compute(), rtol=1e-5
        )


def test_microbatches_give_the_update_of_the_batch():
    model = tiny.make_model(alpha=ALPHA, z_loss=1e-4)
    one, four = (make_trainer(model, num_microbatches=n) for n in (None, 4))
    metrics = [train(trainer, 1)[0] for trainer in (one, four)]
    assert_trees_equal(
        to_numpy(four.train_state.params),
        to_numpy(one.train_state.params),
        rtol=1e-6,
        atol=1e-6,
    )
    for name in ("loss", "unwanted/loss", "other/loss", "accuracy"):
        np.testing.assert_allclose(metrics[1][name], metrics[0][name], rtol=1e-5)
    one.close()
    four.close()


@pytest.mark.parametrize(
    "cls", [models.EncoderDecoderModelNL, t5x_models.EncoderDecoderModel]
)
def test_models_without_frozen_parameters(cls, tmp_path):
    """`frozen_checkpoint` is set by runs/update.gin, whatever the method."""
    teacher = make_trainer(tiny.make_model(alpha=ALPHA))
    checkpoint = save_checkpoint(teacher, tmp_path / "teacher")
    run = tmp_path / "run"
    trainer = make_trainer(
        tiny.make_model(cls), run, frozen_checkpoint=str(checkpoint), num_microbatches=2
    )
    assert trainer.frozen_params is None and trainer.orig_train_state is None
    assert np.isfinite(train(trainer, 1)[0]["loss"])
    assert (
        "loss" in trainer.eval({"validation": iter([tiny.make_batch()])})["validation"]
    )
    save_checkpoint(trainer, run)
    make_trainer(tiny.make_model(cls), run).close()
    assert not (run / frozen.RECORD).exists() and not (run / frozen.COPY).exists()
    trainer.close()
    teacher.close()


def test_frozen_parameters_in_bfloat16(tmp_path):
    model = tiny.make_model(alpha=ALPHA)
    full = make_trainer(model, tmp_path)
    bfloat16 = jnp.dtype("bfloat16")
    copied = make_trainer(model, frozen_dtype="bfloat16")
    save_checkpoint(full, tmp_path)
    restored = make_trainer(model, tmp_path, seed=1, frozen_dtype="bfloat16")
    for half in (copied, restored):
        assert {x.dtype for x in jax.tree.leaves(half.frozen_params)} == {bfloat16}
        rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), full.frozen_params)
        assert_trees_equal(to_numpy(half.frozen_params), to_numpy(rounded))
    assert all(x.dtype == "float32" for x in jax.tree.leaves(full.train_state.params))
    # p_o is a little off, and so is the loss.
    np.testing.assert_allclose(
        train(copied, 1)[0]["loss"], train(full, 1)[0]["loss"], rtol=1e-2
    )
    for trainer in (full, copied, restored):
        trainer.close()
    for wrong in ("int8", "half a float"):
        with pytest.raises(UserError, match="frozen_dtype = .*expected 'bfloat16'"):
            make_trainer(model, frozen_dtype=wrong)


def test_upstreams_functions():
    """Under their names, with the frozen parameters in microbatches, too."""
    model = tiny.make_model(alpha=ALPHA)
    _, state, _ = tiny.make_state(model)
    _, other, _ = tiny.make_state(model, seed=1)
    batch, rng = tiny.make_batch(), jax.random.PRNGKey(0)

    @jax.jit
    def compute(state, other):
        gradients = jax.grad(model.loss_fn, has_aux=True)
        expected, _ = gradients(state.params, batch, rng, other.params)
        accumulated, metrics, mutables = trainer_lib.accumulate_grads_microbatched(
            model, state, batch, rng, 2, orig_train_state=other
        )
        assert mutables is None
        evaluated = trainer_lib.eval_step(model, state, batch, other)
        stepped, more = trainer_lib.train_with_lr(
            state, batch, jnp.float32(0.01), rng, model, None, orig_train_state=other
        )
        assert "learning_rate" in more
        return expected, accumulated, (metrics, evaluated), stepped.step

    expected, accumulated, metrics, step = compute(state, other)
    assert_trees_equal(to_numpy(accumulated), to_numpy(expected), rtol=1e-4, atol=1e-5)
    for name in ("loss", "other/kl"):
        got, want = (m[name].total for m in metrics)
        np.testing.assert_allclose(got, want, rtol=1e-5)
    assert int(step) == 1


def test_compiled_train_and_eval_as_the_train_loop_calls_them():
    trainer = make_trainer(tiny.make_model(alpha=ALPHA))
    batch = tiny.make_batch()
    trainer.compile_train(batch)
    trainer.compile_eval({"validation": batch})
    before = trainer.eval({"validation": iter([batch])})["validation"]
    train(trainer, 15)
    after = trainer.eval({"validation": iter([batch])})["validation"]
    assert float(before["other/kl"].value) < 1e-6
    name = "unwanted/probability"
    assert float(after[name].value) < float(before[name].value)
    trainer.close()


def test_fresh_run_records_its_own_start(tmp_path):
    model = tiny.make_model(alpha=ALPHA)
    trainer = make_trainer(model, tmp_path)
    original = to_numpy(trainer.frozen_params)
    record = json.loads((tmp_path / frozen.RECORD).read_text())
    assert record["checkpoint"] == "frozen/checkpoint_0" and record["step"] == 0
    train(trainer, 2)
    save_checkpoint(trainer, tmp_path)
    trainer.close()
    # Resumed with the state of step 2; the folder may have moved meanwhile.
    moved = tmp_path.rename(tmp_path.parent / "moved")
    resumed = make_trainer(model, moved, seed=1)
    assert_trees_equal(to_numpy(resumed.frozen_params), original)
    resumed.close()


def test_frozen_checkpoint_is_loaded_and_recorded(tmp_path):
    model = tiny.make_model(alpha=ALPHA)
    teacher = make_trainer(model, seed=3)
    original = to_numpy(teacher.frozen_params)
    checkpoint = save_checkpoint(teacher, tmp_path / "teacher")
    run = tmp_path / "run"
    for given in (checkpoint, checkpoint.parent):
        trainer = make_trainer(model, run, frozen_checkpoint=str(given))
        assert_trees_equal(to_numpy(trainer.frozen_params), original)
        record = json.loads((run / frozen.RECORD).read_text())
        assert record["checkpoint"] == str(checkpoint) and record["step"] == 0
        trainer.close()
    teacher.close()


def test_resumed_run_without_record_is_refused(tmp_path):
    model = tiny.make_model(alpha=ALPHA)
    trainer = make_trainer(model, tmp_path)
    save_checkpoint(trainer, tmp_path)
    (tmp_path / frozen.RECORD).unlink()
    with pytest.raises(UserError, match=r"no frozen\.json"):
        make_trainer(model, tmp_path)
    trainer.close()


def test_resumed_run_with_another_frozen_checkpoint_is_refused(tmp_path):
    model = tiny.make_model(alpha=ALPHA)
    trainer = make_trainer(model, tmp_path / "run")
    save_checkpoint(trainer, tmp_path / "run")
    other = save_checkpoint(trainer, tmp_path / "other")
    with pytest.raises(UserError, match="use another MODEL_DIR"):
        make_trainer(model, tmp_path / "run", frozen_checkpoint=str(other))
    trainer.close()


def test_the_frozen_checkpoint_is_known_by_its_content(tmp_path, monkeypatch):
    model, run = tiny.make_model(), tmp_path / "run"
    trainer = make_trainer(model)
    one, two = (save_checkpoint(trainer, tmp_path / name) for name in ("one", "two"))

    def resume(checkpoint=None):
        given = checkpoint and str(checkpoint)
        make_trainer(model, run, frozen_checkpoint=given).close()
        return json.loads((run / frozen.RECORD).read_text())

    record = resume(one)
    save_checkpoint(trainer, run)
    trainer.close()
    copy = tmp_path / "copy" / one.name
    shutil.copytree(one, copy)
    assert resume(copy) == {**record, "checkpoint": str(copy)}
    assert resume(one) == resume() == record
    monkeypatch.setattr(frozen, "check_cache", lambda *paths: None)
    cached = tiny.make_model(frozen_cache="cache")
    starts = [
        make_trainer(
            cached, frozen_checkpoint=str(one), initial_checkpoint=path and str(path)
        )._model.starts_frozen
        for path in (one, copy, two, None, tmp_path / "none")
    ]
    assert starts == [True, True, False, False, False] and not cached.starts_frozen
    shutil.rmtree(one)
    shutil.copytree(two, one)
    for given in (None, one):
        with pytest.raises(UserError, match="another one lies there now"):
            resume(given)


def test_missing_frozen_checkpoint_and_broken_record(tmp_path):
    model = tiny.make_model(alpha=ALPHA)
    with pytest.raises(UserError, match="the original model: .*neither a checkpoint"):
        make_trainer(model, tmp_path / "a", frozen_checkpoint=str(tmp_path / "no"))
    missing = tmp_path / "checkpoint_5"
    with pytest.raises(UserError, match="there is no checkpoint"):
        make_trainer(model, tmp_path / "b", frozen_checkpoint=str(missing))
    deeper = tiny.make_model(num_layers=2)
    checkpoint = save_checkpoint(make_trainer(deeper), tmp_path / "deeper")
    with pytest.raises(UserError, match="another architecture: .*layers_1"):
        make_trainer(model, tmp_path / "d", frozen_checkpoint=str(checkpoint))
    trainer = make_trainer(model, tmp_path / "c")
    save_checkpoint(trainer, tmp_path / "c")
    (tmp_path / "c" / frozen.RECORD).write_text("{}")
    with pytest.raises(UserError, match="frozen.json: 'checkpoint' is missing"):
        make_trainer(model, tmp_path / "c")
    trainer.close()


def test_run_killed_before_its_first_checkpoint_starts_afresh(tmp_path):
    model = tiny.make_model(alpha=ALPHA)
    make_trainer(model, tmp_path, seed=0).close()
    trainer = make_trainer(model, tmp_path, seed=1)
    assert_trees_equal(
        to_numpy(trainer.frozen_params), to_numpy(trainer.train_state.params)
    )
    trainer.close()


def losses_on_mesh(num_partitions):
    """Of three steps; the frozen parameters are split as the others are."""
    trainer = make_trainer(
        tiny.make_model(alpha=ALPHA),
        num_partitions=num_partitions,
        frozen_dtype="bfloat16",
    )
    losses = [metrics["loss"] for metrics in train(trainer, 3)]
    leaves = jax.tree.leaves(trainer.frozen_params)
    split = [not x.sharding.is_fully_replicated for x in leaves]
    assert any(split) == (num_partitions > 1), split
    trainer.close()
    return losses


MESH_PROGRAM = """
import gc; gc.disable()
import t5patches
import test_trainer
assert test_trainer.jax.device_count() == 4
print(test_trainer.losses_on_mesh(2))
"""


def test_a_mesh_of_four_devices_gives_the_loss_of_one():
    """(data 2, model 2), in a process of its own."""
    tests = pathlib.Path(__file__).parent
    path = [str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", MESH_PROGRAM],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")
            + " --xla_force_host_platform_device_count=4",
        },
    )
    got = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(got, losses_on_mesh(1), rtol=1e-5)
