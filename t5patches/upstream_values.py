"""The token losses of google/t5patches, where a comparison needs its very numbers.

They differ from `losses` as docs/methods.md lists. They are written with arrays of
[batch, length, vocab], as plainly as they are meant: to compare with, not to train.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from t5patches import losses

Array = jax.Array

SMOOTHING = 1e-6  # added to every entry of a reverse KL's target
HIGHEST_P = 1 - 1e-7  # UL's clip of the unwanted token's probability


def token_losses(
    method: losses.Method,
    logits: Array,
    frozen_logits: Array | None,
    targets: Array,
    weights: Array,
    alpha: float,
) -> Array:
    """Each token's loss, alpha included.

    Args:
      method: a row of `losses.METHODS`.
      logits: [batch, length, vocab] float.
      frozen_logits: [batch, length, vocab] float; None for NL and UL.
      targets: [batch, length] integer token ids.
      weights: [batch, length] of −1 (unwanted), 1 and 0 (padding).
      alpha: weight of the unwanted tokens.

    Returns:
      float32 [batch, length]; its sum is the loss.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    likelihood = jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    factor = jnp.where(weights < 0, alpha, 1.0) * (weights != 0)
    if method.name == "nl":
        # The bound holds good tokens back, and no unwanted one.
        return jnp.minimum(-likelihood * weights * factor, -losses.THRESHOLD)
    if method.name == "ul":
        unlikelihood = -jnp.log(1 - jnp.minimum(jnp.exp(likelihood), HIGHEST_P))
        return factor * jnp.where(weights < 0, unlikelihood, -likelihood)

    target = _target(method, frozen_logits, targets, weights)
    forward = -jnp.sum(target * log_p, axis=-1)
    if "reverse_kl" not in (method.negative, method.positive):
        return factor * forward
    reverse = jnp.sum(jnp.exp(log_p) * (log_p - jnp.log(target)), axis=-1)
    if method.positive == "reverse_kl":
        return factor * reverse
    return factor * jnp.where(weights < 0, reverse, forward)


def _target(method, frozen_logits, targets, weights) -> Array:
    p_o = jax.nn.softmax(frozen_logits.astype(jnp.float32))
    vocabulary = jax.lax.broadcasted_iota(jnp.int32, p_o.shape, p_o.ndim - 1)
    label = vocabulary == targets[..., None]
    wanted = label if method.positive == "cross_entropy" else p_o
    target = jnp.where(weights[..., None] > 0, wanted, jnp.where(label, 0, p_o))
    target = target / jnp.sum(target, axis=-1, keepdims=True)
    if method.negative == "reverse_kl":
        target = target + SMOOTHING
        target = target / jnp.sum(target, axis=-1, keepdims=True)
    return target
