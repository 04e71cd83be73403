"""Alternatives tried: every one is what plain greedy decoding would have said."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import tiny
from small_vocabulary import small_vocabulary
from t5x import models as t5x_models

from t5patches import network
from t5patches.errors import UserError
from t5patches.run import alternatives

VOCABULARY = small_vocabulary()
OPTIONS = dict(count=3, least_probability=0.0025, unsure_below=0.003, words=2, pieces=3)


@pytest.fixture(scope="module")
def model():
    made = tiny.make_model(t5x_models.EncoderDecoderModel)
    config = made.module.config.replace(vocab_size=384)
    made.module = network.Transformer(config=config)
    made._input_vocabulary = made._output_vocabulary = VOCABULARY
    return made


@pytest.fixture(scope="module")
def params(model):
    shapes = {name: (1, 5) for name in tiny.SHAPES}

    @jax.jit
    def init(key):
        found = model.get_initial_variables(key, shapes, tiny.TYPES)["params"]
        # Sharp enough for the tokens to differ in what follows them.
        return jax.tree.map(lambda x: 3 * x, found)

    return init(jax.random.PRNGKey(0))


def make_batch():
    rng = np.random.default_rng(0)
    targets = rng.integers(3, VOCABULARY.vocab_size, (4, 5)).astype(np.int32)
    targets[:, 3] = 1
    targets[:, 4] = 0
    weights = np.where(rng.random(targets.shape) < 0.4, -1, 1) * (targets != 0)
    weights[:, 3] = 1
    inputs = rng.integers(3, 384, (4, 6)).astype(np.int32)
    return {
        "encoder_input_tokens": inputs,
        "decoder_target_tokens": targets,
        "decoder_loss_weights": weights.astype(np.int32),
    }


def p_after(model, params):
    """Returns what gives p of the id after a prefix, for inputs [6]."""

    @jax.jit
    def p_of(inputs, ids):
        batch = {
            "encoder_input_tokens": inputs[None],
            "decoder_input_tokens": jnp.pad(ids[None], [(0, 0), (1, 0)])[:, :-1],
            "decoder_target_tokens": jnp.ones_like(ids)[None],
        }
        return jax.nn.softmax(model._compute_logits(params, batch)[0])

    def p_next(inputs, prefix):
        ids = np.zeros(10, np.int32)
        ids[: len(prefix)] = prefix
        return np.asarray(p_of(inputs, ids)[len(prefix)])

    return p_next


def greedily(p_next, ids, words, pieces):
    """Goes on from ids, of which the last is the first of an alternative."""
    first = len(ids)
    while len(ids) < first + pieces:
        after = int(np.argmax(p_next(ids)))
        if not 3 <= after < VOCABULARY.vocab_size:
            break
        words -= VOCABULARY.tokenizer.id_to_piece(after).startswith("▁")
        if not words:
            break
        ids = [*ids, after]
    return ids[first - 1 :]


def test_alternatives_are_what_greedy_decoding_says(model, params):
    batch, kinds = make_batch(), set()
    trying = alternatives.trying(model, **OPTIONS)
    found, aux = jax.jit(trying.predict_batch_with_aux)(params, batch)
    assert found.shape == (4, 5, 3, 4) and aux["probability"].shape == (4, 5, 3)
    p_next = p_after(model, params)
    for row, position in np.ndindex(4, 5):
        weight = batch["decoder_loss_weights"][row, position]
        own = batch["decoder_target_tokens"][row, position]
        prefix = batch["decoder_target_tokens"][row, :position].tolist()
        after = functools.partial(p_next, batch["encoder_input_tokens"][row])
        p = after(prefix)
        chosen = weight < 0 or (weight > 0 and own != 1 and p[own] < 0.003)
        kinds.add((int(weight), bool(chosen)))
        likely = [t for t in np.argsort(-p) if 3 <= t < VOCABULARY.vocab_size]
        likely = [int(t) for t in likely if t != own][: 3 if chosen else 0]
        likely = [t for t in likely if p[t] >= OPTIONS["least_probability"]]
        expected = [(p[t], greedily(after, [*prefix, t], 2, 3)) for t in likely]
        lines = [[int(i) for i in ids if i] for ids in np.asarray(found[row, position])]
        assert [ids for ids in lines if ids] == [ids for _, ids in expected]
        np.testing.assert_allclose(
            aux["probability"][row, position][: len(expected)],
            [p for p, _ in expected],
            rtol=1e-4,
        )
    assert {(1, True), (1, False), (-1, True)} <= kinds


def test_lines(tmp_path):
    ids = VOCABULARY.encode("you fool")
    tokens = np.zeros((2, 3, 2, 3), np.int32)
    tokens[1, 2, 0, : len(ids[-2:])] = ids[-2:]
    probability = np.zeros((2, 3, 2))
    probability[1, 2, 0] = 0.25
    ds = tf.data.Dataset.from_tensor_slices(
        {"id_pretokenized": ["a", "b"], "prediction_pretokenized": ["", "the é"]}
    )
    made = tokens.tolist(), {"probability": probability.tolist()}
    path = tmp_path / "made.jsonl"
    alternatives.write_alternatives(str(path), made, ds, "any", VOCABULARY)
    (line,) = map(json.loads, path.read_text().splitlines())
    assert line["id"] == "b" and line["prediction"] == "the é"
    (found,) = line["alternatives"]
    assert (found["position"], found["tokens"]) == (2, ids[-2:])
    assert found["probability"] == 0.25


def test_encoder_decoders_alone():
    with pytest.raises(UserError, match="not with object"):
        alternatives.trying(object(), **OPTIONS)
