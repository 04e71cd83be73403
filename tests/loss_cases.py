"""Batches, and the compiled losses, that the tests of the losses share."""

import functools
import types

import jax
import jax.numpy as jnp
import loss_reference
import numpy as np

from t5patches import losses

# Options of the losses that are Python numbers when they are traced.
STATIC = ("epsilon", "threshold")
ALL = tuple(loss_reference.TABLE)
# The paper's.
METHODS = tuple(name for name in ALL if name not in loss_reference.RIVALS)


def make_batch(seed, batch=2, length=5, vocab=11, scale=3.0, ids=0, sets=0.0):
    """Random logits, targets and annotation.

    Args:
      seed: of the random numbers.
      batch: examples.
      length: positions.
      vocab: tokens.
      scale: standard deviation of the logits.
      ids: k of `negative_token_ids`, about half of which are 0.
      sets: the share of the tokens that are in the position's set.

    Returns:
      logits, frozen: float32 [batch, length, vocab]; targets: int32 [batch, length];
      weights: int32 [batch, length] of −1, 0 and 1; negative_token_ids: int32
      [batch, length, k], or None without `ids`; unwanted_sets: bool [batch, length,
      vocab], or None without `sets`. The last token is always fine.
    """
    rng = np.random.default_rng(seed)
    shape = batch, length
    logits, frozen = rng.normal(size=(2, *shape, vocab)).astype(np.float32) * scale
    targets = rng.integers(vocab, size=shape).astype(np.int32)
    weights = rng.integers(-1, 2, size=shape).astype(np.int32)
    drawn = np.prod([rng.integers(n, size=(*shape, ids)) for n in (vocab, 2)], axis=0)
    return types.SimpleNamespace(
        logits=logits,
        frozen=frozen,
        targets=targets,
        weights=weights,
        negative_token_ids=drawn.astype(np.int32) if ids else None,
        unwanted_sets=_fine_at_last(rng.random((*shape, vocab)) < sets)
        if sets
        else None,
    )


def _fine_at_last(sets):
    sets[..., -1] = False
    return sets


def bits(sets):
    """bool [..., vocab] as the losses take it: uint32 [..., vocab / 32]."""
    if sets is None:
        return None
    padded = np.pad(sets, [(0, 0)] * (sets.ndim - 1) + [(0, -sets.shape[-1] % 32)])
    return np.packbits(padded, axis=-1, bitorder="little").view("<u4")


def value_and_grad(name, batch, dtype=jnp.float32, **options):
    """The loss and its gradient with respect to the logits, as NumPy arrays.

    Args:
      name: of the method.
      batch: as `make_batch` gives it.
      dtype: of both models' logits.
      **options: numbers, of `losses.targeted_loss`.

    Returns:
      The loss, a float, and its gradient, float64 [batch, length, vocab].
    """
    frozen = jnp.asarray(batch.frozen, dtype) if losses.METHODS[name].frozen else None
    # Compiled once for all values of the others.
    static = {key: options.pop(key) for key in STATIC if key in options}
    arrays = jnp.asarray(batch.logits, dtype), frozen, *_given(batch)
    value, gradient = _value_and_grad(name, tuple(static.items()), options, *arrays)
    assert value.dtype == jnp.float32 and gradient.dtype == dtype
    return float(value), np.asarray(gradient, np.float64)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _value_and_grad(name, static, options, logits, frozen, targets, *given):
    def loss(logits):
        annotation = losses.read_annotation(targets, *given)
        arrays = logits, frozen, targets, annotation
        method = losses.METHODS[name]
        return losses.targeted_loss(method, *arrays, **dict(static), **options)[0]

    return jax.value_and_grad(loss)(logits)


def token_terms(name, batch, **options):
    """`losses.token_terms` of a batch, float32."""
    arrays = batch.logits, batch.frozen, batch.targets
    arrays = (*jax.tree.map(jnp.asarray, arrays), annotation(batch).tokens)
    terms = losses.token_terms(losses.METHODS[name], *arrays, **options)
    return jax.tree.map(np.asarray, terms)


def annotation(batch):
    """`losses.read_annotation` of a batch."""
    return losses.read_annotation(*jax.tree.map(jnp.asarray, _given(batch)))


def _given(batch):
    sets = bits(getattr(batch, "unwanted_sets", None))
    return batch.targets, batch.weights, batch.negative_token_ids, sets


def log_p_new(frozen, unwanted_ids, epsilon):
    """log p_new as the terms compute it, float32 [..., vocab]."""
    unwanted = losses.Unwanted(unwanted_ids)
    target = losses._log_sum_of_others(frozen, unwanted)
    sums = losses._Sums(total=target, target=target, split=None)
    view = losses._View(frozen, frozen, None, unwanted, sums, epsilon, 0.0)
    return view.log_p_new(epsilon)


def reference(name, batch, logits=None, **options):
    """The loss and its gradient by `loss_reference`, float64."""
    logits = batch.logits if logits is None else logits
    arrays = logits, batch.frozen, batch.targets, batch.weights
    options["negative_token_ids"] = batch.negative_token_ids
    options["unwanted_sets"] = getattr(batch, "unwanted_sets", None)
    return loss_reference.loss(name, *arrays, **options)


def assert_equals_reference(
    name, batch, rtol=1e-5, atol=0.0, tolerance=1e-5, noise=0.0, **options
):
    """Value and gradient are those of `reference`; returns them."""
    value, gradient = value_and_grad(name, batch, **options)
    options.pop("dtype", None)
    expected, exact = reference(name, batch, **options)
    np.testing.assert_allclose(value, expected, rtol=rtol, atol=atol)
    assert_close_gradients(gradient, exact, tolerance, noise)
    return value, gradient


def assert_close_gradients(actual, expected, tolerance=1e-5, noise=0.0):
    """Every entry within `tolerance` of the largest of its position, and `noise`."""
    allowed = tolerance * np.abs(expected).max(-1, keepdims=True) + noise
    excess = np.abs(actual - expected) - allowed
    assert np.all(excess <= 0), f"beyond the tolerance by up to {excess.max():.3g}"
