"""The layers against the textbook formulas, forwards and backwards."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from t5patches import layers


def normal(seed, *shape):
    return jax.random.normal(jax.random.PRNGKey(seed), shape)


def check_gradients(function, reference, *arguments):
    """Values and gradients by every argument agree to 1e-5."""
    numbers = tuple(range(len(arguments)))

    def run(f, *arguments):
        weigh = lambda *a: jnp.sum(f(*a) * normal(99, *f(*a).shape))
        return f(*arguments), jax.grad(weigh, numbers)(*arguments)

    got, expected = (
        jax.tree.leaves(jax.jit(functools.partial(run, f))(*arguments))
        for f in (function, reference)
    )
    for value, target in zip(got, expected, strict=True):
        scale = max(1.0, float(jnp.abs(target).max()))
        np.testing.assert_allclose(value, target, atol=1e-5 * scale)


def test_product():
    x, weight = normal(0, 2, 5, 7), normal(1, 7, 3)
    check_gradients(layers.product, jnp.matmul, x, weight)


@pytest.mark.parametrize("multiplied", [False, True])
@pytest.mark.parametrize("self_attention", [False, True])
def test_attend(multiplied, self_attention):
    batch, heads, size, queries = 2, 3, 4, 5
    keys = queries if self_attention else 6
    query = normal(0, batch, queries, heads, size)
    key, value = (normal(seed, batch, keys, heads, size) for seed in (1, 2))
    bias = normal(3, 1, heads, queries, keys)
    mask = normal(4, batch, 1, queries, keys) > -0.5
    multiplier = None
    if multiplied:
        shape, key_of = (batch, heads, keys, 1), jax.random.PRNGKey(5)
        multiplier = layers.keep_multiplier(key_of, 0.3, shape, jnp.float32)

    def reference(query, key, value, bias):
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) + bias
        weights = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf))
        if multiplied:
            weights *= multiplier[..., 0][:, :, None, :]
        return jnp.einsum("bhqk,bkhd->bqhd", weights, value)

    check_gradients(
        lambda q, k, v, b: layers.attend(q, k, v, b, mask, multiplier),
        reference,
        *(query, key, value, bias),
    )


def test_a_query_that_sees_nothing_gets_an_average():
    value = normal(0, 1, 4, 2, 3)
    got = layers.attend(value, value, value, mask=jnp.zeros((1, 1, 4, 4), bool))
    expected = jnp.broadcast_to(value.mean(1, keepdims=True), value.shape)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_distance_buckets_are_t5s():
    # Computed by T5X for num_buckets=32, max_distance=128.
    ahead = np.array([-200, -127, -64, -20, -16, -8, -1, 0, 1, 7, 8, 12, 50, 127, 200])
    index = ahead + 299
    both_ways = [15, 15, 14, 10, 10, 8, 1, 0, 17, 23, 24, 25, 29, 31, 31]
    backwards = [31, 31, 26, 17, 16, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    for bidirectional, expected in ((True, both_ways), (False, backwards)):
        got = layers.distance_buckets(300, bidirectional)[index]
        np.testing.assert_array_equal(got, expected)


def looked_up(table, length, bidirectional):
    """The bias of every pair of positions."""
    buckets = np.asarray(layers.distance_buckets(length, bidirectional))
    ahead = np.arange(length)[None, :] - np.arange(length)[:, None]
    return table[:, buckets[ahead + length - 1]][None]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("length", [1, 2, 31, 129, 150])
def test_position_bias_looks_up_every_pair(length, bidirectional):
    table = normal(0, 2, layers.NUM_BUCKETS)
    bias = layers.position_bias(table, length, bidirectional)
    expected = looked_up(np.asarray(table), length, bidirectional)
    np.testing.assert_array_equal(bias, expected)


def test_gradient_of_position_bias():
    bias, expected = (
        lambda table, function=function: function(table, 9, True)
        for function in (layers.position_bias, looked_up)
    )
    check_gradients(bias, expected, normal(0, 2, layers.NUM_BUCKETS))


@pytest.mark.parametrize("shared_axes", [(-2,), ()])
def test_dropout_draws_the_mask_of_flax(shared_axes):
    x, rngs = normal(0, 4, 6, 50), {"dropout": jax.random.PRNGKey(1)}

    class Outer(nn.Module):
        make: Callable

        @nn.compact
        def __call__(self, x, deterministic):
            return self.make(name="inner")(x, deterministic)

    flax_dropout = functools.partial(nn.Dropout, 0.3, broadcast_dims=shared_axes)
    dropout = functools.partial(layers.Dropout, 0.3, shared_axes)
    expected = Outer(flax_dropout).apply({}, x, False, rngs=rngs)
    got = Outer(dropout).apply({}, x, False, rngs=rngs)
    assert 0.2 < float(jnp.mean(got == 0)) < 0.4
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_array_equal(Outer(dropout).apply({}, x, True), x)


def test_embed_gives_zeros_outside_the_table(monkeypatch):
    table = normal(0, 10, 4)
    ids = jnp.array([[0, 3, 9], [-1, 10, 5]])
    gathered = layers.embed(table, ids, jnp.float32)
    np.testing.assert_array_equal(gathered[0], table[np.array([0, 3, 9])])
    np.testing.assert_array_equal(gathered[1, :2], np.zeros((2, 4)))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    np.testing.assert_allclose(layers.embed(table, ids, jnp.float32), gathered)


def test_pair_mask_of_packed_causal_sequences():
    segments = jnp.array([[1, 1, 2, 2, 0]])
    mask = layers.pair_mask(segments > 0, segments > 0, segments, segments, causal=True)
    expected = ["10000", "11000", "00100", "00110", "00000"]
    assert ["".join("01"[i] for i in row.astype(int)) for row in mask[0, 0]] == expected


def test_unknown_activation_is_named():
    with pytest.raises(ValueError, match="'gellu'"):
        layers.activation("gellu")


def test_a_cache_takes_one_position_at_a_time():
    attention = layers.Attention(num_heads=2, head_dim=3)
    x, bias = normal(0, 1, 4, 6), jnp.zeros((1, 2, 4, 4))
    call = {"deterministic": True, "decode": True}
    variables = attention.init(jax.random.PRNGKey(0), x, x, bias, **call)
    with pytest.raises(ValueError, match="one position"):
        attention.apply(variables, x[:, :2], x[:, :2], bias, mutable=["cache"], **call)
    x = x[:, :1]
    with pytest.raises(ValueError, match="max_decode_length"):
        attention.apply(variables, x, x, bias[..., :1, :1], mutable=["cache"], **call)
