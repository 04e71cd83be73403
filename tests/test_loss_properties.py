"""What must hold of the losses whatever the numbers: aims, invariances, extremes."""

import types

import jax
import jax.numpy as jnp
import loss_cases
import loss_reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import METHODS, make_batch, value_and_grad
from loss_reference import TARGETED, total_variation

from t5patches import losses

SEEDS = st.integers(0, 2**32 - 1)
EPSILON = 1e-6
# Vocabularies of T5 and of mT5.
T5, MT5 = 32_128, 250_112


def is_reverse(name, weight):
    return loss_reference.TABLE[name][0 if weight < 0 else 1] == "reverse_kl"


def has_distribution_for_target(name, weight):
    return loss_reference.TABLE[name][0 if weight < 0 else 1] in (
        "forward_kl",
        "reverse_kl",
    )


def target_of(name, batch, index, epsilon=EPSILON):
    """The distribution at which a targeted loss is smallest, and the unwanted set."""
    ids = batch.negative_token_ids
    unwanted = loss_reference.unwanted_tokens(
        batch.targets[index], batch.weights[index], () if ids is None else ids[index]
    )
    floor = epsilon if is_reverse(name, batch.weights[index]) else 0.0
    return loss_reference.p_new(batch.frozen[index], unwanted, floor), unwanted


def logits_of(probabilities):
    """float32 logits; of an exact zero, low enough to be one in float32."""
    return np.log(np.maximum(probabilities, 1e-60)).astype(np.float32)


# Invariance.


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, ids=st.sampled_from([0, 2]))
def test_a_constant_added_to_the_logits_changes_nothing(name, seed, ids):
    """To either model's; multiples of 1/64, so that float32 adds them exactly."""
    batch = make_batch(seed, ids=ids)
    rng = np.random.default_rng(seed)
    moved = types.SimpleNamespace(**vars(batch))
    for field in ("logits", "frozen"):
        exact = np.round(getattr(batch, field) * 64) / 64
        constant = rng.integers(-8192, 8192, size=(*batch.targets.shape, 1))
        setattr(batch, field, exact.astype(np.float32))
        setattr(moved, field, (exact + constant).astype(np.float32))
    value, gradient = value_and_grad(name, batch, alpha=2.0)
    moved_value, moved_gradient = value_and_grad(name, moved, alpha=2.0)
    np.testing.assert_allclose(moved_value, value, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(moved_gradient, gradient, rtol=1e-6, atol=1e-6)


# The minimum.


@pytest.mark.parametrize("name", TARGETED)
@settings(max_examples=20, deadline=None)
@given(
    seed=SEEDS,
    ids=st.sampled_from([0, 2]),
    step=st.sampled_from([0.01, 0.3, 3.0]),
    epsilon=st.sampled_from([1e-6, 1e-2]),
)
def test_the_minimum_is_at_the_target(name, seed, ids, step, epsilon):
    """Zero gradient and divergence there, more loss in every other place."""
    batch = make_batch(seed, ids=ids)
    indices = []
    for index in np.ndindex(batch.targets.shape):
        weight = batch.weights[index]
        if weight and has_distribution_for_target(name, weight):
            target, _ = target_of(name, batch, index, epsilon)
            batch.logits[index] = logits_of(target)
            indices.append(index)
        else:
            batch.weights[index] = 0
    _, gradient = value_and_grad(name, batch, epsilon=epsilon)
    np.testing.assert_allclose(gradient, 0, atol=2e-6)
    terms = loss_cases.token_terms(name, batch, epsilon=epsilon)
    moves = np.random.default_rng(seed).normal(size=batch.logits.shape) * step
    # A constant is no move.
    moves -= moves.mean(-1, keepdims=True)
    batch.logits = batch.logits + moves.astype(np.float32)
    moved = loss_cases.token_terms(name, batch, epsilon=epsilon)
    for index in indices:
        np.testing.assert_allclose(terms.divergence[index], 0, atol=2e-5)
        assert moved.loss[index] > terms.loss[index] - 1e-5
        assert moved.divergence[index] > -1e-5
        # The loss and the divergence differ by a constant of the target.
        np.testing.assert_allclose(
            moved.loss[index] - terms.loss[index],
            moved.divergence[index] - terms.divergence[index],
            rtol=1e-5,
            atol=2e-5,
        )


@settings(max_examples=50, deadline=None)
@given(
    seed=SEEDS,
    size=st.integers(1, 4),
    scale=st.sampled_from([0.1, 3.0, 100.0]),
    epsilon=st.sampled_from([0.0, 1e-6, 1e-2]),
)
def test_p_new_sums_to_1_with_nothing_but_the_floor_at_unwanted_tokens(
    seed, size, scale, epsilon
):
    rng = np.random.default_rng(seed)
    frozen = (rng.normal(size=(3, 50)) * scale).astype(np.float32)
    unwanted = rng.integers(50, size=(3, size)).astype(np.int32)
    unwanted[0] = losses.NO_TOKEN
    log_new = loss_cases.log_p_new(frozen, unwanted, epsilon)
    p_new = np.exp(np.asarray(log_new, np.float64))
    for row, ids in enumerate(unwanted):
        ids = sorted({*ids} - {losses.NO_TOKEN})
        at_unwanted = np.asarray(log_new[row])[ids]
        if epsilon:
            np.testing.assert_allclose(at_unwanted, np.log(epsilon), rtol=1e-6)
        else:
            assert np.all(at_unwanted == -np.inf)
        expected = loss_reference.p_new(frozen[row], ids, epsilon)
        # float32 logits of 300 have steps of 3e-5.
        rtol = 1e-5 if scale < 100 else 1e-4
        np.testing.assert_allclose(p_new[row], expected, rtol=rtol, atol=1e-37)
    np.testing.assert_allclose(p_new.sum(-1), 1, rtol=1e-6)


# Extremes: finite, and equal to the reference.


def assert_exact_and_finite(name, batch, **options):
    # A reverse KL's is p · (log p − log q − KL): to the rounding of its difference.
    tokens = loss_cases.token_terms(name, batch)
    noise = 1e-7 * np.abs(tokens.loss)[..., None] * is_reverse(name, -1)
    options |= dict(atol=1e-5, tolerance=2e-5, noise=options.get("alpha", 1.0) * noise)
    value, gradient = loss_cases.assert_equals_reference(name, batch, **options)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))
    assert not np.any(gradient[batch.weights == 0])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("rest", [1e-3, 1e-9, 1e-30])
@pytest.mark.parametrize("updated", [False, True])
def test_the_original_is_all_but_certain_of_the_unwanted_token(name, rest, updated):
    """From there, as an update starts, and where the model has changed its mind."""
    batch = make_batch(0, vocab=7)
    batch.weights[:] = -1
    spread = loss_reference.softmax(batch.frozen)
    for index in np.ndindex(batch.targets.shape):
        spread[index][batch.targets[index]] = 0
        spread[index] *= rest / spread[index].sum()
        spread[index][batch.targets[index]] = 1 - rest
    batch.frozen = np.log(spread).astype(np.float32)
    if not updated:
        batch.logits = batch.frozen.copy()
    assert_exact_and_finite(name, batch)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, ids=st.sampled_from([0, 2]))
def test_logits_of_ten_thousand(name, seed, ids):
    batch = make_batch(seed, ids=ids)
    rng = np.random.default_rng(seed)
    for field in ("logits", "frozen"):
        extremes = rng.choice([-1e4, 0.0, 1e4], size=batch.logits.shape)
        setattr(batch, field, extremes.astype(np.float32))
    value, gradient = value_and_grad(name, batch, alpha=100.0)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))
    expected, _ = loss_cases.reference(name, batch, alpha=100.0)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("weight", [-1, 0, 1])
@pytest.mark.parametrize("vocab", [2, 11])
def test_every_token_unwanted_or_none_or_padding(name, weight, vocab):
    batch = make_batch(1, vocab=vocab)
    batch.weights[:] = weight
    assert_exact_and_finite(name, batch, alpha=3.0, z_loss=0.1)
    if weight == 0:
        value, gradient = value_and_grad(name, batch, z_loss=0.1)
        assert value == 0 and not np.any(gradient)


@pytest.mark.parametrize("name", METHODS)
def test_targets_of_length_0(name):
    value, gradient = value_and_grad(name, make_batch(0, length=0, ids=2), z_loss=0.1)
    assert value == 0 and gradient.shape == (2, 0, 11)


@pytest.mark.parametrize("name", METHODS)
def test_the_smallest_and_the_largest_vocabulary(name):
    for vocab in (2, MT5):
        batch = make_batch(2, batch=1, length=3, vocab=vocab)
        batch.weights[:] = [[-1, 1, 0]]
        assert_exact_and_finite(name, batch, alpha=3.0, z_loss=1e-4)


# The proof that the losses aim where the paper says.


def original_logits(vocab, seed=0):
    """Two positions of an original model: peaked, with a long tail, as T5's are."""
    rng = np.random.default_rng(seed)
    ranks = np.stack([rng.permutation(vocab) for _ in range(2)])
    log_p = -2.0 * np.log1p(ranks) + rng.normal(size=(2, vocab))
    log_p[ranks == 0] += 3.0
    return log_p.astype(np.float32), ranks.argmin(-1)


def unwanted_and_other(logits, frozen, targets):
    """A batch of two positions."""
    return types.SimpleNamespace(
        logits=logits[None],
        frozen=frozen[None],
        targets=targets[None].astype(np.int32),
        weights=np.array([[-1, 1]], np.int32),
        negative_token_ids=None,
    )


def minimise(name, batch, steps=80):
    """Free logits by natural gradient: the loss's own, divided by p_m, in steps ≤ 1.

    Plain descent would take as many steps as the rarest token is rare.
    """
    method = losses.METHODS[name]
    given = jnp.asarray(batch.frozen), batch.targets, loss_cases.annotation(batch)

    def loss(logits):
        return losses.targeted_loss(method, logits, *given, epsilon=EPSILON)[0]

    def step(_, logits):
        p_m = jnp.maximum(jax.nn.softmax(logits), 1e-35)
        return logits - jnp.clip(jax.grad(loss)(logits) / p_m, -1, 1)

    run = jax.jit(lambda logits: jax.lax.fori_loop(0, steps, step, logits))
    return loss_reference.softmax(run(jnp.asarray(batch.logits)))


@pytest.mark.parametrize("name", TARGETED)
@pytest.mark.parametrize("start", ["original", "random"])
def test_minimising_over_free_logits_reaches_the_target(name, start):
    frozen, top = original_logits(T5)
    p_o = loss_reference.softmax(frozen)
    assert p_o[0, top[0]] > 0.5
    logits = frozen
    if start == "random":
        logits = np.random.default_rng(1).normal(size=frozen.shape).astype(np.float32)
    batch = unwanted_and_other(logits, frozen, top)
    unwanted, other = minimise(name, batch)[0]
    p_new, _ = target_of(name, batch, (0, 0), epsilon=0.0)
    assert total_variation(p_o[0], p_new) > 0.5
    assert total_variation(unwanted, p_new) < 1e-3 + EPSILON
    if is_reverse(name, weight=-1):
        np.testing.assert_allclose(unwanted[top[0]], EPSILON, rtol=1e-2)
    else:
        assert unwanted[top[0]] < EPSILON
    if has_distribution_for_target(name, weight=1):
        assert total_variation(other, p_o[1]) < 1e-3
    else:
        assert other[top[1]] > 1 - 1e-3


@pytest.mark.parametrize("vocab, missed", [(T5, 0.03), (MT5, 0.19)])
def test_upstreams_smoothing_aims_elsewhere(vocab, missed):
    """1e-6 on every entry: why the default is a floor at the unwanted tokens."""
    frozen, top = original_logits(vocab)
    batch = unwanted_and_other(frozen, frozen, top)
    for position, weight in enumerate((-1, 1)):
        p_new, unwanted = target_of("tnrr", batch, (0, position), epsilon=0.0)
        theirs = loss_reference.upstream_target(
            "tnrr", frozen[position], top[position], weight
        )
        ids = np.array(unwanted or [-1], np.int32)
        log_ours = loss_cases.log_p_new(frozen[position], ids, EPSILON)
        ours = np.exp(np.asarray(log_ours, np.float64))
        assert total_variation(theirs, p_new) > missed
        assert total_variation(ours, p_new) < 2 * EPSILON
