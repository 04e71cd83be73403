"""Our networks against T5X's, on the same parameters, through T5X's own model class."""

import functools
import itertools
import json
import pathlib

import decoder_only_cases
import jax
import jax.numpy as jnp
import network_cases as cases
import numpy as np
import pytest
import seqio
from t5x import adafactor, decoding, models
from t5x.examples.decoder_only import network as t5x_decoder_only
from t5x.examples.t5 import network as t5x_network

from t5patches import decoder_only, network

FROZEN = pathlib.Path(__file__).parents[1] / "testdata" / "network.json"
CASES = dict.fromkeys(cases.CONFIGS, cases)
CASES |= dict.fromkeys(decoder_only_cases.CONFIGS, decoder_only_cases)
# Name, what is in the batch, dropout.
PASSES = [
    *itertools.product(cases.CONFIGS, ({}, {"packed": True}), (False, True)),
    ("gated", {}, True),
    ("gated", {"packed": True, "prefix": True}, False),
    ("tied", {"packed": True}, False),
    ("tied", {"prefix": True}, True),
]


def both(name, **overrides):
    """(T5X's network, ours)"""
    fields = CASES[name].CONFIGS[name] | overrides
    if name in decoder_only_cases.CONFIGS:
        return tuple(
            module.DecoderWrapper(module.TransformerConfig(**fields))
            for module in (t5x_decoder_only, decoder_only)
        )
    theirs = t5x_network.Transformer(t5x_network.T5Config(**fields))
    return theirs, network.Transformer(network.T5Config(**fields))


@functools.cache
def variables(name):
    return CASES[name].init(both(name)[0])


@pytest.mark.parametrize("name", CASES)
def test_initial_variables_are_t5x_s(name):
    _, ours = both(name)
    expected, got = variables(name), CASES[name].init(ours)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    assert got["params_axes"] == expected["params_axes"]
    jax.tree.map(np.testing.assert_array_equal, got["params"], expected["params"])


@pytest.mark.parametrize(("name", "features", "dropout"), PASSES)
def test_forward_and_gradients(name, features, dropout):
    params, batch = variables(name)["params"], CASES[name].batch(**features)
    results = [cases.evaluate(module, params, batch, dropout) for module in both(name)]
    (loss, logits, gradients), (our_loss, our_logits, our_gradients) = results
    assert cases.relative_error(our_loss, loss) < 1e-5
    assert cases.relative_error(our_logits, logits) < 1e-5
    assert cases.worst_error(our_gradients, gradients) < 1e-5


@pytest.mark.parametrize("float32_logits", [False, True])
def test_bfloat16_is_as_close_to_float32_as_t5x(float32_logits):
    params = variables("t5_1_1")["params"]
    exact = cases.evaluate(both("t5_1_1")[0], params, cases.batch())
    errors = []
    for module in both(
        "t5_1_1", dtype="bfloat16", float32_attention_logits=float32_logits
    ):
        loss, logits, gradients = cases.evaluate(module, params, cases.batch())
        assert logits.dtype == jnp.float32
        errors.append(
            [cases.relative_error(logits, exact[1])]
            + jax.tree.leaves(jax.tree.map(cases.relative_error, gradients, exact[2]))
        )
    theirs, ours = np.mean(errors, axis=1)
    assert ours < 1.2 * theirs


@pytest.mark.parametrize("name", cases.CONFIGS)
def test_cached_decoding(name):
    params = variables(name)["params"]
    (expected, t5x_cache), (got, cache) = (
        cases.decode_by_steps(module, params, cases.batch()) for module in both(name)
    )
    assert cases.relative_error(got, expected) < 1e-5
    assert jax.tree.structure(cache) == jax.tree.structure(t5x_cache)
    assert cases.worst_error(cache, t5x_cache) < 1e-5


@pytest.mark.parametrize("name", cases.CONFIGS)
@pytest.mark.parametrize(
    "decode_fn", [decoding.temperature_sample, decoding.beam_search]
)
def test_t5x_model_decodes(name, decode_fn):
    if decode_fn is decoding.temperature_sample:
        decode_fn = functools.partial(decode_fn, temperature=0.0)
    params, vocabulary = variables(name)["params"], seqio.PassThroughVocabulary(40, 1)
    results = []
    for module in both(name):
        model = models.EncoderDecoderModel(
            module,
            vocabulary,
            vocabulary,
            optimizer_def=adafactor.Adafactor(),
            decode_fn=decode_fn,
        )
        predict = functools.partial(
            model.predict_batch_with_aux, num_decodes=3, return_all_decodes=True
        )
        results.append(jax.jit(predict)(params, cases.batch()))
    (expected, expected_aux), (got, aux) = results
    np.testing.assert_array_equal(got, expected)
    assert cases.relative_error(aux["scores"], expected_aux["scores"]) < 1e-5


@pytest.mark.parametrize("name", cases.CONFIGS)
def test_frozen_numbers_are_t5x_s(name):
    """The numbers of the tests that always run; rewrite the file if T5X changes."""
    frozen = json.loads(FROZEN.read_text())[name]
    expected = cases.summary(both(name)[0])
    assert frozen.keys() == expected.keys()
    assert cases.worst_error(frozen, expected) < 1e-6
