"""The losses against an independent float64 reference in NumPy."""

import functools
import types

import jax
import jax.numpy as jnp
import loss_cases
import loss_reference
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loss_cases import ALL, METHODS, make_batch, value_and_grad

from benchmarks import loss_memory
from t5patches import losses

TARGETED = loss_reference.TARGETED


def one_token(logits, frozen=None, target=0, weight=-1, ids=None):
    """A batch of one position."""
    logits = np.asarray(logits, np.float32)
    frozen = logits if frozen is None else np.asarray(frozen, np.float32)
    return types.SimpleNamespace(
        logits=logits[None, None],
        frozen=frozen[None, None],
        targets=np.array([[target]], np.int32),
        weights=np.array([[weight]], np.int32),
        negative_token_ids=None if ids is None else np.array([[ids]], np.int32),
    )


def with_probability(p_others, vocab=5):
    """Logits of a token 0 whose probability is 1 − `p_others`."""
    logits = np.full(vocab, np.log(p_others / (vocab - 1)))
    logits[0] = np.log1p(-p_others)
    return logits


def test_the_table_is_the_papers():
    assert set(losses.METHODS) == set(loss_reference.TABLE)
    for name, terms in loss_reference.TABLE.items():
        method = losses.METHODS[name]
        assert method.name == name
        assert (method.negative, method.positive) == terms
        assert method.frozen == (name not in ("nl", "ul"))
    assert set(losses.TERMS) == {
        t for row in loss_reference.TABLE.values() for t in row
    }


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    alpha=st.sampled_from([0.0, 0.3, 1e4]),
    z_loss=st.sampled_from([0.0, 0.1]),
    scale=st.sampled_from([0.1, 3.0, 30.0]),
    more=st.sampled_from([{}, {"ids": 3}, {"sets": 0.3}, {"ids": 2, "sets": 0.3}]),
)
# The probability of a set is below the least of float32.
@example(seed=273, alpha=0.3, z_loss=0.0, scale=30.0, more={"sets": 0.3})
def test_loss_equals_the_float64_reference(name, seed, alpha, z_loss, scale, more):
    batch = make_batch(seed, scale=scale, **more)
    options = dict(alpha=alpha, z_loss=z_loss)
    value, _ = value_and_grad(name, batch, **options)
    expected, _ = loss_cases.reference(name, batch, **options)
    # Log-likelihoods of both signs cancel in NL's sum.
    size = abs(expected) + (alpha + 1) * (name == "nl")
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-5 * size + 1e-6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("more", [{}, {"ids": 2}, {"ids": 2, "sets": 0.4}])
def test_terms_of_every_token_equal_the_float64_reference(name, more):
    batch = make_batch(4, length=20, vocab=40, **more)
    options = dict(epsilon=1e-4, threshold=-3.0)
    terms = loss_cases.token_terms(name, batch, **options)
    arrays = batch.logits, batch.frozen, batch.targets, batch.weights
    options["negative_token_ids"] = batch.negative_token_ids
    options["unwanted_sets"] = batch.unwanted_sets
    expected = loss_reference.token_losses(name, *arrays, **options)
    assert len(expected) == np.count_nonzero(batch.weights)
    for index, (loss, _, log_z, _) in expected.items():
        np.testing.assert_allclose(terms.loss[index], loss, rtol=1e-5)
        np.testing.assert_allclose(terms.log_z[index], log_z, rtol=1e-5)
    for array in (terms.loss, terms.divergence, terms.log_z):
        assert array.dtype == jnp.float32 and array.shape == batch.targets.shape


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("more", [{}, {"ids": 2}, {"sets": 0.4}])
def test_gradient_equals_finite_differences_in_float64(name, more):
    batch = make_batch(1, batch=2, length=4, vocab=6, **more)
    options = dict(alpha=2.5, z_loss=0.01, epsilon=1e-3, loss_normalizing_factor=3.0)
    _, gradient = value_and_grad(name, batch, **options)
    expected = loss_reference.finite_differences(
        lambda z: loss_cases.reference(name, batch, logits=z, **options)[0],
        batch.logits,
    )
    loss_cases.assert_close_gradients(gradient, expected)
    _, exact = loss_cases.reference(name, batch, **options)
    np.testing.assert_allclose(exact, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("scale", [0.3, 3.0, 30.0])
def test_gradient_equals_the_float64_reference(name, scale):
    batch = make_batch(2, length=6, vocab=500, scale=scale, ids=3, sets=0.05)
    # A reverse KL's is p · (log p − log q − KL): a difference of numbers of KL's size,
    # here up to 10 times the logits' scale.
    noise = 7e-6 * scale if "reverse_kl" in loss_reference.TABLE[name] else 0.0
    options = dict(alpha=7.0, z_loss=1e-3, noise=noise)
    # The values' tolerance is the test's above.
    loss_cases.assert_equals_reference(name, batch, rtol=1e-4, **options)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("ids", [0, 2])
def test_bfloat16_logits(name, ids):
    """Computed in float32: what is lost is lost in the rounding of the logits."""
    batch = make_batch(3, length=16, vocab=500, ids=ids)
    options = dict(alpha=1.5, z_loss=1e-3)
    check = functools.partial(loss_cases.assert_equals_reference, dtype=jnp.bfloat16)
    check(name, batch, rtol=1e-2, tolerance=1e-1, **options)
    for field in ("logits", "frozen"):
        rounded = jnp.asarray(getattr(batch, field), jnp.bfloat16)
        setattr(batch, field, np.asarray(rounded, np.float32))
    check(name, batch, tolerance=1e-2, **options)


@pytest.mark.parametrize("name", TARGETED)
def test_no_gradient_reaches_the_frozen_logits(name):
    batch = make_batch(0, ids=2)

    def loss(frozen):
        arrays = jnp.asarray(batch.logits), frozen, batch.targets
        annotation = loss_cases.annotation(batch)
        return losses.targeted_loss(losses.METHODS[name], *arrays, annotation)[0]

    assert not np.any(jax.grad(loss)(jnp.asarray(batch.frozen)))


def test_weights_count_by_their_magnitude():
    batch = make_batch(8)
    batch.weights = np.array(batch.weights * [0.5, 1, 2, 3, 0.25], np.float32)
    for name in METHODS:
        loss_cases.assert_equals_reference(name, batch, alpha=3.0, z_loss=0.1)


# Several unwanted tokens at one position.


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "weight, ids, unwanted",
    [
        (-1, [0, 0, 0], [4]),
        (-1, [4, 4, 0], [4]),
        (-1, [2, 0, 6], [2, 4, 6]),
        (-1, [2, 2, 4], [2, 4]),
        (1, [2, 6, 2], [2, 6]),
        (1, [4, 0, 0], [4]),
        (1, [0, 0, 0], []),
        (0, [1, 2, 3], []),
    ],
)
def test_negative_ids_are_a_set(name, weight, ids, unwanted):
    rng = np.random.default_rng(0)
    logits, frozen = rng.normal(size=(2, 8))
    batch = one_token(logits, frozen, target=4, weight=weight, ids=ids)
    value, _ = value_and_grad(name, batch, alpha=10.0, epsilon=0.01)
    assert loss_reference.unwanted_tokens(4, weight, ids) == unwanted
    kind = loss_reference.TABLE[name][0 if weight < 0 else 1]
    arrays = (x[0, 0].astype(np.float64) for x in (batch.logits, batch.frozen))
    expected, _ = loss_reference.term(kind, *arrays, 4, unwanted, 0.01, -10.3)
    expected *= (10.0 if weight < 0 else 1.0) * abs(weight)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


# NL and UL where upstream's are not what they say.


def test_nl_stops_below_its_threshold():
    above, below = -10.2, -10.4
    for log_p, moves in ((above, True), (below, False)):
        batch = one_token(with_probability(-np.expm1(log_p)))
        value, gradient = value_and_grad("nl", batch, alpha=100.0)
        np.testing.assert_allclose(value, 100 * max(log_p, -10.3), rtol=1e-5)
        assert np.any(gradient) == moves


def test_nl_trains_a_good_token_however_unlikely_it_is():
    logits = np.zeros(5)
    logits[0] = -50.0
    value, gradient = value_and_grad("nl", one_token(logits, weight=1))
    np.testing.assert_allclose(value, 50 + np.log(4), rtol=1e-6)
    np.testing.assert_allclose(gradient[0, 0], [-1, *[0.25] * 4], rtol=1e-6)


@pytest.mark.parametrize("p_others", [0.5, 1e-3, 1e-7, 1e-9, 1e-30])
def test_ul_has_value_and_gradient_at_a_certain_unwanted_token(p_others):
    batch = one_token(with_probability(p_others))
    value, gradient = value_and_grad("ul", batch)
    np.testing.assert_allclose(value, -np.log(p_others), rtol=1e-5)
    expected = (1 - p_others) * np.array([1, *[-0.25] * 4])
    np.testing.assert_allclose(gradient[0, 0], expected, rtol=1e-5)


# What is returned beside the loss.


@pytest.mark.parametrize("name", METHODS)
def test_parts_count_by_magnitude_with_more_unwanted_than_other_tokens(name):
    batch = make_batch(4, batch=1, length=5)
    batch.weights = np.array([[-1, -1, -1, 1, 0]])
    arrays = map(jnp.asarray, (batch.logits, batch.frozen, batch.targets))
    options = dict(alpha=3.0, z_loss=0.1, loss_normalizing_factor=4.0)
    value, parts = losses.targeted_loss(
        losses.METHODS[name], *arrays, loss_cases.annotation(batch), **options
    )
    assert parts["unwanted/loss"][1] == 3
    assert parts["other/loss"][1] == 1
    weighted = 3 * parts["unwanted/loss"][0] + parts["other/loss"][0]
    np.testing.assert_allclose(value, weighted / 4 + parts["z_loss"][0], rtol=1e-6)
    expected, _ = loss_cases.reference(name, batch, **options)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    p_m = loss_reference.softmax(batch.logits)
    unwanted = sum(p_m[0, t, batch.targets[0, t]] for t in range(3))
    np.testing.assert_allclose(parts["unwanted/probability"][0], unwanted, rtol=1e-5)


def shorter(array):
    return array[:, :-1]


def as_float(array):
    return array.astype(np.float32)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("same shape", {"frozen": lambda x: x[..., :-1]}),
        ("targets must have shape", {"targets": shorter, "weights": shorter}),
        ("weights must have shape", {"weights": shorter}),
        ("integer token ids", {"targets": as_float}),
        ("floating point", {"logits": lambda x: x.astype(np.int32)}),
        ("negative_token_ids", {"negative_token_ids": shorter}),
        ("negative_token_ids", {"negative_token_ids": as_float}),
        ("frozen", {"frozen": lambda x: None}),
    ],
)
def test_wrong_shapes_and_dtypes_are_refused(message, changes):
    batch = make_batch(7, ids=2)
    for name, change in changes.items():
        setattr(batch, name, change(getattr(batch, name)))
    if message == "targets must have shape":
        batch.negative_token_ids = None
    with pytest.raises(ValueError, match=message):
        loss_cases.token_terms("tnrf", batch)


# Memory, by XLA's own account, and the benchmark that prints it.


@pytest.mark.parametrize(
    "dtype, methods", [("float32", METHODS), ("bfloat16", ("tnff", "tnrf"))]
)
def test_a_loss_keeps_little_beside_the_logits(dtype, methods, monkeypatch):
    """No one-hot, no second softmax; no method costs more than TNFF."""
    # The other tests' programs are compiled fast, which takes memory.
    default = {"xla_cpu_opt_preset": "CPU_OPT_PRESET_DEFAULT"}
    compiles = functools.partialmethod(jax.stages.Lowered.compile, default)
    monkeypatch.setattr(jax.stages.Lowered, "compile", compiles)
    shape = (4, 32, 2048)
    memory = loss_memory.measure(shape, methods, dtype)["temporary"]
    in_float32 = 4 * np.prod(shape)
    small = 0.02 * in_float32  # what has no vocabulary's axis
    for name in methods:
        assert memory[f"ours/{name}"] <= memory["ours/tnff"] + small
        assert memory[f"ours/{name}"] <= memory[f"upstream/{name}"] + small
    assert memory["ours/tnff"] <= 2 * in_float32 + small
    if dtype == "float32":
        # Not even one: XLA's scratch is the gradient itself.
        for name in ("nl", "ul", "tnrr", "tnrll"):
            assert memory[f"ours/{name}"] <= small


def test_the_benchmark_of_memory(capsys):
    """Upstream's formulas in it are upstream's, and it prints a row per method."""
    batch = make_batch(0, vocab=500)
    arrays = batch.logits, batch.frozen, batch.targets, batch.weights
    for name in METHODS:
        value, _ = loss_memory.upstream(name)(*map(jnp.asarray, arrays))
        expected = loss_reference.upstream_token_losses(name, *arrays, alpha=1.0)
        np.testing.assert_allclose(value, expected.sum(), rtol=1e-5)
    loss_memory.main(
        ["--shapes", "--time", "2x3x11", "--steps", "1", "--methods", "nl", "tnrf"]
    )
    printed = capsys.readouterr().out
    assert all(f"\n{name} " in printed for name in ("CE", "nl", "tnrf"))


@pytest.mark.parametrize("scale", [0.1, 3.0, 20.0])
@pytest.mark.parametrize("more", [{}, {"ids": 2, "sets": 0.4}])
def test_distances_equal_the_float64_reference(scale, more):
    batch = make_batch(5, length=20, vocab=40, scale=scale, **more)
    tokens = loss_cases.annotation(batch).tokens
    found = losses.distances(batch.logits, batch.frozen, tokens)
    found = jax.tree.map(np.asarray, found)
    assert all(array.dtype == jnp.float32 for array in found)
    masks, kinds = np.asarray(tokens.mask(batch.logits.shape)), set()
    for index in np.ndindex(batch.targets.shape):
        unwanted = np.flatnonzero(masks[index])
        kinds.add((int(batch.weights[index]), len(unwanted) > 0))
        arrays = batch.logits[index], batch.frozen[index]
        expected = loss_reference.distances(*arrays, unwanted)
        actual = [array[index] for array in found]
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6)
    assert {(-1, True), (1, bool(more))} <= kinds


def test_distances_of_a_model_that_is_the_original_one():
    """It is as far from p_new as p_o gives the unwanted; p_new itself is not."""
    batch = make_batch(6, ids=2, sets=0.4)
    tokens = loss_cases.annotation(batch).tokens
    found = losses.distances(batch.frozen, batch.frozen, tokens)
    assert not np.any(found.kl_original)
    np.testing.assert_array_equal(found.before, found.after)
    np.testing.assert_allclose(found.total_variation, found.before, atol=1e-6)
    np.testing.assert_allclose(found.kl_exact, -np.log1p(-found.before), rtol=1e-4)
    masked = jnp.where(tokens.mask(batch.frozen.shape), -1e9, batch.frozen)
    exact = losses.distances(masked, batch.frozen, tokens)
    for zero in (exact.kl_exact, exact.total_variation, exact.after):
        np.testing.assert_allclose(zero, 0, atol=1e-6)
