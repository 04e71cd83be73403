"""The engine's losses against formulas written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_embedded import losses


def written_out(logits, targets, smoothing, z_loss):
    """Per-token loss and z-loss in float64, with the soft targets as an array."""
    logits = np.asarray(logits, np.float64)
    vocab = logits.shape[-1]
    soft = np.full(logits.shape, smoothing / (vocab - 1))
    np.put_along_axis(soft, np.asarray(targets)[..., None], 1 - smoothing, -1)
    log_z = np.log(np.exp(logits).sum(-1))
    divergence = (soft * (np.log(soft + 1e-300) - logits + log_z[..., None])).sum(-1)
    penalty = z_loss * log_z**2
    return divergence + penalty, penalty


def data(seed=0, shape=(2, 5), vocab=7):
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(3 * rng.standard_normal((*shape, vocab)), jnp.float32)
    return logits, jnp.asarray(rng.integers(0, vocab, shape)), rng


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_weighted_cross_entropy(smoothing, z_loss):
    logits, targets, rng = data()
    weights = jnp.asarray(rng.integers(-1, 2, targets.shape))
    tokens, penalties = written_out(logits, targets, smoothing, z_loss)
    loss, penalty, count = losses.compute_weighted_cross_entropy(
        logits, targets, weights, smoothing, z_loss, loss_normalizing_factor=4.0
    )
    np.testing.assert_allclose(loss, (tokens * weights).sum() / 4, rtol=1e-5)
    np.testing.assert_allclose(penalty, (penalties * weights).sum() / 4, rtol=1e-5)
    assert count == weights.sum()
    loss, _, count = losses.compute_weighted_cross_entropy(
        logits, targets, label_smoothing=smoothing, z_loss=z_loss
    )
    np.testing.assert_allclose(loss, tokens.sum(), rtol=1e-5)
    assert count == targets.size


def test_gradient_is_that_of_the_dense_formula():
    logits, targets, _ = data(1)
    soft = 0.8 * jax.nn.one_hot(targets, 7) + 0.2 / 6 * (1 - jax.nn.one_hot(targets, 7))
    ours = jax.grad(
        lambda x: losses.compute_weighted_cross_entropy(x, targets, None, 0.2, 0.1)[0]
    )

    def dense(x):
        log_z = jax.nn.logsumexp(x, axis=-1, keepdims=True)
        return jnp.sum(soft * (log_z - x)) + 0.1 * jnp.sum(log_z**2)

    np.testing.assert_allclose(ours(logits), jax.grad(dense)(logits), atol=1e-5)


def test_the_reported_z_loss_has_no_gradient():
    logits, targets, _ = data()
    report = lambda x: losses.compute_weighted_cross_entropy(x, targets, z_loss=0.1)[1]
    assert report(logits) > 0
    assert not jnp.any(jax.grad(report)(logits))


def test_bfloat16_logits_are_computed_in_float32():
    logits, targets, _ = data()
    rough = logits.astype(jnp.bfloat16)
    loss = lambda x: losses.compute_weighted_cross_entropy(x, targets)[0]
    value, grad = jax.value_and_grad(loss)(rough)
    assert value.dtype == jnp.float32 and grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, loss(rough.astype(jnp.float32)), rtol=1e-6)


def test_huge_logits():
    logits = jnp.asarray([[[1e4, -1e4, 0.0]]])
    for target, expected in ((0, 0.0), (1, 2e4)):
        loss, *_ = losses.compute_weighted_cross_entropy(logits, jnp.array([[target]]))
        assert loss == expected


def test_backward_pass_needs_one_array_of_the_logits_size():
    logits = jnp.zeros((4, 16, 4096))
    targets = jnp.zeros((4, 16), jnp.int32)
    loss = lambda x: losses.compute_weighted_cross_entropy(x, targets, None, 0.1, 0.1)[
        0
    ]
    compiled = jax.jit(jax.grad(loss)).lower(logits).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.1 * logits.nbytes


def test_shapes_are_checked():
    logits, targets, _ = data()
    with pytest.raises(ValueError, match=r"logits \(2, 5, 7\) and targets \(2, 4\)"):
        losses.compute_weighted_cross_entropy(logits, targets[:, 1:])


def test_names_of_normalizing_factors():
    convert = losses.convert_special_loss_normalizing_factor_to_enum
    for factor in losses.SpecialLossNormalizingFactor:
        assert convert(factor.name.lower()) is factor
    with pytest.raises(ValueError, match="'per_word'; it must be one of NUM_REAL"):
        convert("per_word")


def test_normalizing_factors():
    get = losses.get_loss_normalizing_factor_and_weights
    tokens = jnp.array([[5, 6, 7, 0], [8, 0, 0, 0], [0, 0, 0, 0]])
    plain = {"decoder_target_tokens": tokens}
    weighted = {**plain, "decoder_loss_weights": tokens * 0.5}
    assert get(None, plain) == (None, None)
    assert get(7, weighted)[0] == 7
    assert get("NUM_REAL_TARGET_TOKENS", plain)[0] == 4
    assert get("NUM_REAL_TARGET_TOKENS", weighted)[0] == 13
    assert get("num_total_target_tokens", weighted)[0] == 12
    with pytest.raises(NotImplementedError, match="AVERAGE_PER_SEQUENCE; T5X does"):
        get("AVERAGE_PER_SEQUENCE", plain)
