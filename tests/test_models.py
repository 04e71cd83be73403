"""The model class of TNFF over a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from t5x import models as t5x_models

from t5patches import losses


@pytest.fixture(scope="module")
def states():
    """Parameters in training and frozen ones, of two seeds."""
    model = tiny.make_model()
    return [tiny.make_state(model, seed)[1].params for seed in (0, 1)]


def logits_of(model, params, batch):
    return model.module.apply(
        {"params": params},
        batch["encoder_input_tokens"],
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        enable_dropout=False,
    )


def test_loss_is_the_targeted_loss_of_the_two_networks(states):
    params, frozen = states
    batch = tiny.make_batch()
    model = tiny.make_model(alpha=2.0, z_loss=0.01)
    loss, metrics = model.eval_fn(params, batch, frozen)
    expected, parts = losses.targeted_loss(
        losses.METHODS["tnff"],
        logits_of(model, params, batch),
        logits_of(model, frozen, batch),
        jnp.asarray(batch["decoder_target_tokens"]),
        jnp.asarray(batch["decoder_loss_weights"]),
        alpha=2.0,
        z_loss=0.01,
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for name in ("unwanted/loss", "unwanted/probability", "other/loss", "other/kl"):
        total, count = parts[name]
        np.testing.assert_allclose(metrics[name].compute(), total / count, rtol=1e-5)


def test_normalizers_and_metrics_count_magnitudes(states):
    """T5X would sum −1 and 1; with as many of both it would divide by nothing."""
    params, frozen = states
    batch = tiny.make_batch()
    signs = np.where(np.arange(tiny.TARGETS) % 2, -1, 1)
    weights = (batch["decoder_target_tokens"] != 0) * signs
    batch["decoder_loss_weights"] = weights.astype(np.int32)
    plain, _ = tiny.make_model().eval_fn(params, batch, frozen)
    model = tiny.make_model(loss_normalizing_factor="NUM_REAL_TARGET_TOKENS")
    loss, metrics = model.eval_fn(params, batch, frozen)
    tokens = np.abs(weights).sum()
    np.testing.assert_allclose(loss, plain / tokens, rtol=1e-5)
    hits = logits_of(model, params, batch).argmax(-1) == batch["decoder_target_tokens"]
    np.testing.assert_allclose(
        metrics["accuracy"].compute(), (hits & (weights != 0)).sum() / tokens, rtol=1e-5
    )


def test_score_is_the_negative_loss_of_each_sequence(states):
    params, frozen = states
    batch = tiny.make_batch()
    model = tiny.make_model(alpha=3.0, z_loss=0.1)
    scores, intermediates = model.score_batch(
        params, batch, return_intermediates=True, orig_params=frozen
    )
    assert scores.shape == (tiny.BATCH,)
    loss, _ = tiny.make_model(alpha=3.0).eval_fn(params, batch, frozen)
    np.testing.assert_allclose(-scores.sum(), loss, rtol=1e-5)
    np.testing.assert_array_equal(
        intermediates["decoder"]["loss_weights"][0], batch["decoder_loss_weights"]
    )
    np.testing.assert_allclose(
        model.score_batch(params, batch, orig_params=frozen), scores, rtol=1e-6
    )


def test_frozen_parameters_get_no_gradient(states):
    params, frozen = states
    model = tiny.make_model()
    gradient = jax.grad(lambda f: model.loss_fn(params, tiny.make_batch(), None, f)[0])(
        frozen
    )
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_loss_without_the_frozen_model_is_refused(states):
    with pytest.raises(ValueError, match="pass its parameters as orig_params"):
        tiny.make_model().eval_fn(states[0], tiny.make_batch())


def test_label_smoothing_is_refused():
    with pytest.raises(ValueError, match="set LABEL_SMOOTHING = 0.0"):
        tiny.make_model(label_smoothing=0.1)


def test_greedy_generation_is_the_argmax_of_each_step(states):
    """Through the KV cache, against the whole prefix at every step."""
    params, _ = states
    batch = tiny.make_batch()
    model = tiny.make_model(t5x_models.EncoderDecoderModel)
    length = 12
    batch["decoder_input_tokens"] = np.zeros((tiny.BATCH, length), np.int32)
    model._decode_fn = lambda **kwargs: tiny.decoding.temperature_sample(
        **kwargs, temperature=0.0
    )
    actual = np.asarray(model.predict_batch(params, batch))
    expected = np.zeros((tiny.BATCH, length), np.int32)
    ended = np.zeros(tiny.BATCH, bool)
    for t in range(length):
        batch["decoder_input_tokens"] = np.pad(expected, ((0, 0), (1, 0)))[:, :-1]
        batch["decoder_target_tokens"] = np.ones_like(expected)
        choice = logits_of(model, params, batch)[:, t].argmax(-1)
        expected[:, t] = np.where(ended, 0, choice)
        ended |= expected[:, t] == model.output_vocabulary.eos_id
    np.testing.assert_array_equal(actual, expected)
