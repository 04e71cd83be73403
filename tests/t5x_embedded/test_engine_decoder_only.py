"""The engine's DecoderOnlyModel: T5X's frozen numbers, and by definition."""

import functools

import decoder_only_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5patches import decoder_only
from t5x_embedded import adafactor, decoding, models


@functools.cache
def make(prefix=True):
    """(model, parameters, batch)."""
    module = decoder_only.DecoderWrapper(
        decoder_only.TransformerConfig(**cases.CONFIGS["gated"])
    )
    model = cases.make_model(
        models,
        adafactor,
        module,
        functools.partial(decoding.temperature_sample, temperature=0.0),
        inputs_bidirectional_attention=prefix,
    )
    return model, cases.init(module)["params"], cases.batch(prefix=True)


@functools.cache
def decodes_of(prefix):
    model, params, batch = make(prefix)
    return np.asarray(jax.jit(model.predict_batch)(params, batch))


def test_agrees_with_t5x():
    """Loss, metrics, gradients, decodes of both kinds, scores."""
    got = cases.flat(cases.run("t5x_embedded"))
    cases.assert_same(got, cases.frozen())


@pytest.mark.parametrize("prefix", [False, True])
def test_greedy_decodes_are_the_argmax_of_the_forward_pass(prefix):
    """Prompts of different lengths, one of them empty, the cache filled at once."""
    model, params, batch = make(prefix)
    decodes = decodes_of(prefix)
    length = decodes.shape[1]
    for row, prompt in zip(decodes, cases.PROMPTS, strict=True):
        assert not row[length - prompt :].any()
    # The prompts with what was generated behind them, read back.
    full = np.asarray(batch["decoder_target_tokens"]).copy()
    for row, new, prompt in zip(full, decodes, cases.PROMPTS, strict=True):
        row[prompt:] = new[: length - prompt]
    read_back = batch | {
        "decoder_input_tokens": jnp.asarray(np.pad(full, ((0, 0), (1, 0)))[:, :-1]),
        "decoder_target_tokens": jnp.ones_like(full),
    }
    logits = jax.jit(model._compute_logits)(params, read_back)
    best = np.asarray(logits.argmax(-1))
    checked = 0
    for row, expected, prompt in zip(full, best, cases.PROMPTS, strict=True):
        ends = np.flatnonzero(row[prompt:] == 1)
        stop = prompt + ends[0] + 1 if ends.size else length
        np.testing.assert_array_equal(row[prompt:stop], expected[prompt:stop])
        checked += stop - prompt
    assert checked > 20


def test_targets_in_the_batch_are_not_looked_at():
    model, params, batch = make()
    hidden = {name: x * batch["decoder_causal_attention"] for name, x in batch.items()}
    predicted = jax.jit(model.predict_batch)(params, hidden)
    np.testing.assert_array_equal(predicted, decodes_of(True))


def test_a_prefix_sees_itself_in_both_directions():
    """The first token's state depends on the prompt's last one only with a prefix."""
    for prefix in (False, True):
        model, params, batch = make(prefix)
        changed = dict(batch)
        changed["decoder_input_tokens"] = batch["decoder_input_tokens"].at[0, 5].add(1)
        logits = jax.jit(model._compute_logits)
        before, after = (logits(params, rows)[0, 0] for rows in (batch, changed))
        assert bool(jnp.any(before != after)) == prefix


def test_what_is_missing_is_said():
    model, params, batch = make()
    batch = {k: v for k, v in batch.items() if k != "decoder_causal_attention"}
    with pytest.raises(ValueError, match="needs inputs and targets"):
        model.predict_batch(params, batch)
    with pytest.raises(ValueError, match="decoder_causal_attention"):
        model.eval_fn(params, batch)


def test_remove_prefix():
    rows = jnp.array([[5, 6, 7, 8], [5, 6, 7, 0]])
    got = models.remove_prefix(rows, jnp.array([1, 3]))
    np.testing.assert_array_equal(got, [[6, 7, 8, 0], [0, 0, 0, 0]])
