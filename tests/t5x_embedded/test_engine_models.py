"""The engine's models on a tiny T5: against T5X's frozen numbers, and by definition."""

import functools

import decoder_only_cases
import engine_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_embedded import adafactor, decoding, models

RUN = functools.partial(engine_case.run, "t5x_embedded")  # Cached.


@functools.cache
def tiny():
    """(the model of `RUN`, which decodes greedily, parameters, batch)"""
    greedy = functools.partial(decoding.temperature_sample, temperature=0.0)
    model = engine_case.model(models, adafactor, greedy)
    return model, engine_case.variables(model)["params"], engine_case.batch()


@functools.cache
def log_probs():
    model, params, batch = tiny()
    return jax.nn.log_softmax(jax.jit(model._compute_logits)(params, batch))


def test_agrees_with_t5x():
    """Loss, metrics, gradients, train state after two steps, decodes, scores."""
    want = decoder_only_cases.frozen(engine_case.FROZEN)
    engine_case.assert_close(engine_case.digest(RUN()), want)


def test_greedy_decodes_are_the_argmax_of_each_step():
    """Reading back what was generated, every token is the most probable one."""
    model, params, batch = tiny()
    decodes = RUN()["greedy"]
    shifted = jnp.pad(decodes, ((0, 0), (1, 0)))[:, :-1]
    read_back = {
        **batch,
        "decoder_input_tokens": shifted,
        "decoder_target_tokens": jnp.ones_like(decodes),
    }
    best = jnp.argmax(jax.jit(model._compute_logits)(params, read_back), -1)
    ended = jnp.cumsum(shifted == engine_case.EOS, axis=1) > 0
    np.testing.assert_array_equal(decodes, jnp.where(ended, 0, best))
    assert jnp.any(ended), "no row ended early, so that was not tested"


def test_decoder_params_and_prompts():
    model, params, batch = tiny()
    sample = functools.partial(
        model.predict_batch_with_aux,
        decoder_params={"temperature": 1.0, "topk": 0},
        num_decodes=2,
        return_all_decodes=True,
        prompt_with_targets=True,
    )
    prompted, aux = jax.jit(sample)(params, batch, jax.random.PRNGKey(0))
    assert prompted.shape == (4, 2, 7) and aux["scores"].shape == (4, 2)
    prompt = batch["decoder_input_tokens"][:2, 1:]
    np.testing.assert_array_equal(
        prompted[:2, :, :6], jnp.repeat(prompt[:, None], 2, axis=1)
    )
    assert len({tuple(row) for row in prompted[3].tolist()}) == 2
    key = jax.random.PRNGKey(0)
    twice = functools.partial(
        model.predict_batch_with_aux, rng=key, decoder_params={"decode_rng": key}
    )
    with pytest.raises(ValueError, match="both `rng`"):
        jax.eval_shape(twice, params, batch)


def test_scores():
    model, params, batch = tiny()
    targets = batch["decoder_target_tokens"][..., None]
    picked = jnp.take_along_axis(log_probs(), targets, -1)[..., 0]
    expected = picked * batch["decoder_loss_weights"]
    np.testing.assert_allclose(RUN()["score"], expected.sum(-1), rtol=1e-5)
    with pytest.raises(NotImplementedError, match="return_intermediates.*T5X does"):
        model.score_batch(params, batch, return_intermediates=True)


def test_dropout_follows_its_key():
    model, params, batch = tiny()
    on, _ = jax.jit(model.loss_fn)(params, batch, jax.random.PRNGKey(0))
    off, _ = jax.jit(model.eval_fn)(params, batch)
    assert on != off
    np.testing.assert_allclose(off, RUN()["loss"], rtol=1e-6)


def test_beam_search_is_the_default():
    """As in T5X, which is why the model gin files bind temperature sampling."""
    model, *_ = tiny()
    vocabulary = model.input_vocabulary
    assert vocabulary is model.output_vocabulary
    made = models.EncoderDecoderModel(model.module, vocabulary, vocabulary, None)
    assert made.decode_fn is decoding.beam_search


def test_initial_variables_of_packed_features():
    model, params, _ = tiny()
    shapes = dict(engine_case.SHAPES)
    for side, length in (("encoder", 8), ("decoder", 7)):
        shapes[f"{side}_segment_ids"] = shapes[f"{side}_positions"] = (4, length)
    made = jax.eval_shape(
        lambda: model.get_initial_variables(
            jax.random.PRNGKey(0), shapes, {"encoder_input_tokens": jnp.int32}
        )
    )
    assert set(made) == {"params", "params_axes"}
    assert jax.tree.map(jnp.shape, made["params"]) == jax.tree.map(jnp.shape, params)


def test_metrics_of_packed_batches():
    ids = jnp.array([[1, 1, 2, 2, 0], [1, 2, 3, 4, 4], [0, 0, 0, 0, 0]])
    assert models.count_packed_examples(ids) == 6
    metrics = models.compute_base_metrics(
        logits=jnp.zeros((3, 5, 2)),
        targets=jnp.zeros((3, 5), jnp.int32),
        mask=None,
        loss=jnp.array(30.0),
        segment_ids={"encoder": ids, "decoder": None},
    )
    assert "z_loss" not in metrics
    value = lambda name: float(metrics[name].compute())
    assert value("loss_per_nonpadding_target_token") == 2
    assert value("effective_batch_size/encoder") == 6
    assert value("non_padding_fraction/encoder") == pytest.approx(0.6)
    assert value("non_padding_fraction/overall") == pytest.approx(0.6)
    assert value("accuracy") == 1
