"""Schedules, data and inference helpers, the trainer's steps, gin's functions."""

import functools

import clu.metrics
import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from t5x_embedded import gin_utils, train_state, trainer, utils
from t5x_embedded import metrics as metrics_lib
from tests.t5x_embedded import toy

# factors, arguments, T5X's rates at the steps below (base learning rate 0.3)
STEPS = (0, 1, 9, 25, 900)
WARM = [1e-8, 9.486834e-06, 8.538150e-05, 2.3717084e-04, 8.5381502e-03]
FALLING = dict(warmup_steps=10, decay_factor=0.01)
LATER = dict(step_offset=20, warmup_steps=16)
SCHEDULES = [
    ("constant * linear_warmup * rsqrt_decay", {}, WARM),
    ("constant", {}, [0.3] * 5),
    ("linear_decay", FALLING, [1e-8, 0.03, 0.27, 0.255, 1e-8]),
    ("constant * linear_warmup", LATER, [1e-8, 1e-8, 1e-8, 0.09375, 0.3]),
]


@pytest.mark.parametrize(("factors", "arguments", "expected"), SCHEDULES)
def test_schedules_are_those_of_t5x(factors, arguments, expected):
    rate = utils.create_learning_rate_scheduler(
        factors, base_learning_rate=0.3, **arguments
    )
    rates = [rate(jnp.array(step)) for step in STEPS]
    assert {r.dtype for r in rates} == {jnp.dtype("float32")}
    np.testing.assert_allclose(rates, expected, rtol=2e-6)


# ---- Data ----


def test_training_data_repeats_itself_and_can_be_skipped():
    converter = toy.model().FEATURE_CONVERTER_CLS

    def rows(get, n):
        batches = get(toy.dataset(), 0, 1, converter).take(n).as_numpy_iterator()
        return [b["encoder_input_tokens"] for b in batches]

    first = rows(utils.get_dataset, 8)
    np.testing.assert_array_equal(first, rows(utils.get_dataset, 8))
    np.testing.assert_array_equal(first[5:], rows(toy.skipping(5), 3))


def test_evaluation_data_has_the_steps_asked_for():
    converter = toy.model().FEATURE_CONVERTER_CLS
    datasets = utils.get_training_eval_datasets(
        toy.dataset("validation", batch_size=8), 0, 2, 6, converter
    )
    assert list(datasets) == [toy.TASK]
    batches = list(datasets[toy.TASK].as_numpy_iterator())
    assert [len(b["encoder_input_tokens"]) for b in batches] == [4] * 6
    missing = toy.dataset("test")
    assert utils.get_training_eval_datasets(missing, 0, 1, 1, converter) == {}
    with pytest.raises(ValueError, match="not a multiple of 3"):
        utils.get_dataset(toy.dataset(), 0, 3, converter)


def test_batches_are_sharded_and_can_be_peeked_at():
    partitioner = toy.partitioner()
    data = tf.data.Dataset.range(12).batch(4).map(lambda x: {"x": x})
    data = data.map(lambda row: {"x": tf.ensure_shape(row["x"], [4])})
    batches = utils.prepare_train_iter(data, partitioner=partitioner)
    assert batches.element_spec["x"].shape == (4,)
    np.testing.assert_array_equal(batches.peek()["x"], np.arange(4))
    seen = [batch["x"] for batch in batches]
    assert all(isinstance(x, jax.Array) for x in seen)
    np.testing.assert_array_equal(np.concatenate(seen), np.arange(12))
    with pytest.raises(ValueError, match="returned a"):
        utils.prepare_train_iter([], partitioner=partitioner)


def test_inference_pads_the_last_batch_and_keeps_the_order():
    state = train_state.InferenceState(step=jnp.array(0), params={})
    axes = train_state.InferenceState(step=None, params={})

    def double(params, batch):
        return 2 * batch["x"], {"sum": batch["x"] + 0.5}

    data = tf.data.Dataset.from_tensor_slices({"x": np.arange(10) * 10}).enumerate()
    infer = utils.get_infer_fn(double, 4, axes, toy.partitioner())
    pairs, aux = infer(data, state)
    assert pairs == [(i, 20 * i) for i in range(10)]
    assert aux == {"sum": [10 * i + 0.5 for i in range(10)]}
    with pytest.raises(ValueError, match="no examples"):
        infer(data.take(0), state)

    def draw(params, batch, rng):
        return jax.random.uniform(rng, (4,))

    keyed = utils.get_infer_fn(draw, 4, axes, toy.partitioner())
    one, two = (keyed(data, state, jax.random.PRNGKey(s)) for s in (1, 1))
    assert one == two != keyed(data, state, jax.random.PRNGKey(2))
    # Another key for each batch.
    assert one[0][1] != one[4][1]


# ---- The trainer ----


def test_a_step_updates_the_state_and_adds_metrics(state):
    class Computer:
        def compute_metrics(self, gradients, old, new):
            moved = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), old, new)
            most = functools.reduce(jnp.maximum, jax.tree.leaves(moved.params))
            return {"moved": metrics_lib.AveragePerStep.from_model_output(most)}

    model, key = toy.model(), jax.random.PRNGKey(0)
    data = utils.get_dataset(toy.dataset(), 0, 1, model.FEATURE_CONVERTER_CLS)
    batch = jax.tree.map(jnp.asarray, next(data.as_numpy_iterator()))
    new, metrics = jax.jit(
        lambda state, batch: trainer.train_with_lr(
            state, batch, jnp.float32(0.25), key, model, None, Computer()
        )
    )(state, batch)
    assert int(new.step) == 1
    assert float(metrics["learning_rate/current"].compute()) == 0.25
    assert float(metrics["moved"].compute()) > 0
    with pytest.raises(AssertionError, match="3 microbatches"):
        trainer.accumulate_grads_microbatched(model, state, batch, key, 3)


def test_summaries_are_written_in_order_and_raise_what_went_wrong(tmp_path):
    manager = trainer.MetricsManager("train", str(tmp_path))
    with pytest.raises(ValueError, match="start_duration_timer"):
        manager.write_metrics_summary({}, 1, 1)
    manager.start_duration_timer()
    values = clu.metrics.Average.from_model_output(jnp.array([1.0, 2.0]))
    future = manager.write_metrics_summary({"a": values}, 1, 1)
    assert future.result()["a"].value == 1.5
    manager.start_duration_timer()
    broken = manager.write_metrics_summary({"a": object()}, 2, 1)
    with pytest.raises((AttributeError, TypeError)):
        broken.result()
    with pytest.raises((AttributeError, TypeError)):
        manager.close()
    manager.close()
    assert list((tmp_path / "train").glob("events.*"))


# ---- Gin ----


def test_own_imports_are_written_under_the_name_of_t5x(monkeypatch):
    text = "from t5x_embedded import utils\nX = 'from t5x_embedded import'\n"
    monkeypatch.setattr(gin, "config_str", lambda: text)
    assert gin_utils.get_gin_config_str() == (
        "from t5x import utils\nX = 'from t5x_embedded import'\n"
    )


def test_files_of_t5x_are_refused_by_name():
    with pytest.raises(OSError, match="T5X does"):
        gin_utils.parse_gin_flags([], ["t5x/examples/t5/base.gin"], [])
