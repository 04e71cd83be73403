"""The losses against an independent float64 reference in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5patches import losses

TNFF = losses.METHODS["tnff"]


def reference_softmax(logits):
    logits = np.asarray(logits, np.float64)
    exps = np.exp(logits - logits.max(-1, keepdims=True))
    return exps / exps.sum(-1, keepdims=True)


def reference_p_new(frozen_logits, target, weight):
    """p_o, or p_o without `target` and renormalised, for one token."""
    frozen_logits = np.array(frozen_logits, np.float64)
    if weight < 0:
        frozen_logits[target] = -np.inf
    return reference_softmax(frozen_logits)


def reference_tnff(logits, frozen_logits, targets, weights, alpha, z_loss=0.0):
    """The loss, token by token, as the paper writes it."""
    total = 0.0
    for index in np.ndindex(targets.shape):
        weight = float(weights[index])
        if weight == 0:
            continue
        z = np.asarray(logits[index], np.float64)
        log_z = z.max() + np.log(np.exp(z - z.max()).sum())
        p_new = reference_p_new(frozen_logits[index], targets[index], weight)
        divergence = -(p_new * (z - log_z)).sum()
        total += (alpha if weight < 0 else 1.0) * abs(weight) * divergence
        total += z_loss * abs(weight) * log_z**2
    return total


def make_batch(seed, batch=3, length=5, vocab=11, scale=3.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(batch, length, vocab)) * scale
    frozen = rng.normal(size=(batch, length, vocab)) * scale
    targets = rng.integers(vocab, size=(batch, length)).astype(np.int32)
    weights = rng.integers(-1, 2, size=(batch, length)).astype(np.int32)
    return logits, frozen, targets, weights


def loss(logits, frozen, targets, weights, **kwargs):
    return losses.targeted_loss(
        TNFF,
        jnp.asarray(logits, jnp.float32),
        jnp.asarray(frozen, jnp.float32),
        jnp.asarray(targets),
        jnp.asarray(weights),
        **kwargs,
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    alpha=st.floats(0.0, 1e4),
    z_loss=st.sampled_from([0.0, 1e-4, 0.1]),
    scale=st.sampled_from([0.1, 3.0, 30.0]),
)
def test_loss_equals_float64_reference(seed, alpha, z_loss, scale):
    arrays = make_batch(seed, scale=scale)
    expected = reference_tnff(*arrays, alpha, z_loss)
    value, _ = loss(*arrays, alpha=alpha, z_loss=z_loss)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_gradient_equals_finite_differences_in_float64(seed):
    logits, frozen, targets, weights = make_batch(seed, batch=2, length=3, vocab=5)
    options = dict(alpha=2.5, z_loss=0.01)
    gradient = jax.grad(lambda z: loss(z, frozen, targets, weights, **options)[0])
    actual = gradient(jnp.asarray(logits, jnp.float32))
    expected = np.zeros_like(logits)
    step = 1e-6
    for index in np.ndindex(logits.shape):
        for sign in (1, -1):
            moved = logits.copy()
            moved[index] += sign * step
            value = reference_tnff(moved, frozen, targets, weights, *options.values())
            expected[index] += sign * value / (2 * step)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_no_gradient_reaches_the_frozen_logits():
    logits, frozen, targets, weights = make_batch(0)
    gradient = jax.grad(lambda f: loss(logits, f, targets, weights)[0])
    assert not np.any(gradient(jnp.asarray(frozen, jnp.float32)))


def test_bfloat16_logits_are_computed_in_float32():
    arrays = make_batch(1, vocab=500)
    low = [jnp.asarray(x, jnp.bfloat16) for x in arrays[:2]]
    value, _ = losses.targeted_loss(TNFF, *low, *map(jnp.asarray, arrays[2:]))
    assert value.dtype == jnp.float32
    exact = [np.asarray(x, np.float64) for x in low]
    np.testing.assert_allclose(
        value, reference_tnff(*exact, *arrays[2:], alpha=1.0), rtol=1e-5
    )
    gradient = jax.grad(
        lambda z: losses.targeted_loss(TNFF, z, low[1], *map(jnp.asarray, arrays[2:]))[
            0
        ]
    )(low[0])
    assert gradient.dtype == jnp.bfloat16


def test_minimum_is_the_target_distribution():
    """The gradient vanishes where p_m is p_new, here p_o without the token."""
    _, frozen, targets, weights = make_batch(2)
    at_target = frozen.copy()
    for index in np.ndindex(targets.shape):
        if weights[index] < 0:
            at_target[index][targets[index]] = -60.0
    gradient = jax.grad(lambda z: loss(z, frozen, targets, weights, alpha=100.0)[0])
    np.testing.assert_allclose(gradient(jnp.asarray(at_target)), 0, atol=2e-5)


@pytest.mark.parametrize("offset", [-1e4, -7.0, 1e3])
def test_invariant_to_a_constant_added_to_the_logits(offset):
    logits, frozen, targets, weights = make_batch(3)
    expected, _ = loss(logits, frozen, targets, weights)
    moved, _ = loss(logits + offset, frozen - offset, targets, weights)
    # The loss is as exact as the sums that it is given: near 1e4 they resolve 1e-3.
    rounded = [np.asarray(x, np.float32) for x in (logits + offset, frozen - offset)]
    exact = reference_tnff(*rounded, targets, weights, alpha=1.0)
    np.testing.assert_allclose(moved, exact, rtol=1e-6)
    np.testing.assert_allclose(moved, expected, rtol=1e-6 + 1e-7 * abs(offset))


def test_finite_when_the_original_is_certain_of_the_unwanted_token():
    """All but 1e-30 of p_o on the unwanted token: 1 − p would be 0."""
    frozen = np.array([[[0.0, -69.0, -69.7]]])
    logits = frozen.copy()
    targets, weights = np.array([[0]]), np.array([[-1]])
    value, _ = loss(logits, frozen, targets, weights)
    frozen = frozen.astype(np.float32)
    expected = reference_tnff(frozen, frozen, targets, weights, alpha=1.0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    gradient = jax.grad(lambda z: loss(z, frozen, targets, weights)[0])(
        jnp.asarray(logits, jnp.float32)
    )
    p_new = reference_p_new(frozen[0, 0], 0, -1)
    np.testing.assert_allclose(
        gradient[0, 0], reference_softmax(logits[0, 0]) - p_new, rtol=1e-5
    )


def test_parts_count_by_magnitude_with_more_unwanted_than_other_tokens():
    logits, frozen, targets, _ = make_batch(4, batch=1, length=5)
    weights = np.array([[-1, -1, -1, 1, 0]])
    value, parts = loss(logits, frozen, targets, weights, alpha=3.0)
    assert parts["unwanted/loss"][1] == 3
    assert parts["other/loss"][1] == 1
    np.testing.assert_allclose(
        value, 3 * parts["unwanted/loss"][0] + parts["other/loss"][0], rtol=1e-6
    )
    p_m = reference_softmax(logits)
    p_o = reference_softmax(frozen)
    np.testing.assert_allclose(
        parts["unwanted/probability"][0],
        sum(p_m[0, t, targets[0, t]] for t in range(3)),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        parts["other/kl"][0],
        (p_o[0, 3] * (np.log(p_o[0, 3]) - np.log(p_m[0, 3]))).sum(),
        rtol=1e-5,
    )


def test_normalizing_factor_divides_loss_and_z_loss():
    arrays = make_batch(5)
    plain, parts = loss(*arrays, z_loss=0.1)
    halved, half_parts = loss(*arrays, z_loss=0.1, loss_normalizing_factor=2.0)
    np.testing.assert_allclose(halved, plain / 2, rtol=1e-6)
    np.testing.assert_allclose(half_parts["z_loss"][0], parts["z_loss"][0] / 2)


@pytest.mark.parametrize("weights", [[[1, 1]], [[-1, -1]], [[0, 0]]])
def test_all_none_or_no_token_unwanted_is_finite(weights):
    logits, frozen, targets, _ = make_batch(6, batch=1, length=2, vocab=2)
    value, parts = loss(logits, frozen, targets, np.array(weights))
    assert np.isfinite(value)
    assert all(np.isfinite(total) for total, _ in parts.values())


def test_wrong_shapes_and_dtypes_are_refused():
    logits, frozen, targets, weights = make_batch(7)
    with pytest.raises(ValueError, match="same shape"):
        loss(logits, frozen[..., :-1], targets, weights)
    with pytest.raises(ValueError, match="targets must have shape"):
        loss(logits, frozen, targets[:, :-1], weights)
    with pytest.raises(ValueError, match="integer token ids"):
        loss(logits, frozen, targets.astype(np.float32), weights)
    with pytest.raises(ValueError, match="floating point"):
        losses.targeted_loss(
            TNFF,
            jnp.ones((1, 1, 3), jnp.int32),
            jnp.ones((1, 1, 3)),
            jnp.ones((1, 1), jnp.int32),
            jnp.ones((1, 1), jnp.int32),
        )
