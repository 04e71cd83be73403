"""Token-level objectives for targeted updates, as pure functions of logits.

Notation follows Targeted Negative Training (Zhang, Ranganath, Tafvizi, TMLR 2024,
arXiv 2406.13660): p_o is the frozen original model, p_m the model in training and,
at a token annotated as unwanted,

    p_new(x) ∝ p_o(x) · 1[x is not the unwanted token]        (eq. 2)

is the distribution closest to p_o that never produces it. A method is a pair of
divergences (D_neg, D_pos), a row of `METHODS`; its loss is

    Σ_t  α · D_neg(p_new, p_m)  at unwanted tokens  +  D_pos(p_o, p_m)  elsewhere.

Everything is computed in float32 whatever the dtype of the logits, in log space:
p_new is a masked log-sum-exp, never 1 − p, which would cancel where p_o is nearly
certain of the unwanted token. No array of shape [batch, length, vocab] is kept
beside the logits themselves: the custom gradients below recompute the two softmaxes
where they are used, and XLA fuses them into the pass that writes the gradient.

Only jax and numpy are imported here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

Array = jax.Array

# A vocabulary index that no token has: "nothing is masked at this position".
NO_TOKEN = -1


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of the method family.

    Attributes:
      name: the paper's abbreviation, in lower case.
      negative: the term at unwanted tokens, a key of `TERMS`.
      positive: the term at all other tokens, a key of `TERMS`.
      frozen: whether the loss needs the frozen model's logits.
    """

    name: str
    negative: str
    positive: str
    frozen: bool


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (Method("tnff", "forward_kl", "forward_kl", frozen=True),)
}


def _log_softmax_parts(logits: Array) -> tuple[Array, Array]:
    """max and log Σ exp(logits − max), [...] each.

    log p = (logits − max) − log Σ is exact to the precision of the differences of
    the logits. Through log Z = max + log Σ it would be only to that of their size.
    """
    largest = jnp.max(logits, axis=-1)
    total = jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1)
    return largest, jnp.log(total)


def _log_probability(logits: Array, parts: tuple[Array, Array]) -> Array:
    largest, log_total = parts
    return (logits - largest[..., None]) - log_total[..., None]


def _mask(logits: Array, masked_ids: Array) -> Array:
    """Logits with −inf at `masked_ids`; compared by index, so it fuses."""
    vocabulary = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    return jnp.where(vocabulary == masked_ids[..., None], -jnp.inf, logits)


@jax.custom_vjp
def forward_cross_entropy(
    logits: Array, frozen_logits: Array, masked_ids: Array
) -> tuple[Array, Array, Array]:
    """Cross entropy of p_m under p_new, or under p_o where nothing is masked.

    The gradient is that of the forward KL divergence KL(p_new ‖ p_m), which differs
    from it by the entropy of p_new, a constant. Nothing flows to `frozen_logits`.

    Args:
      logits: [..., vocab] float, the logits of p_m.
      frozen_logits: [..., vocab] float, the logits of p_o.
      masked_ids: [...] int32, the token without which p_o is renormalised, or
        `NO_TOKEN`.

    Returns:
      Three float32 arrays of shape [...]: the cross entropy −Σ p_new log p_m, the
      entropy of p_new, and log Z, the log normaliser of `logits`. Gradients flow
      through the first and the last.

    References:
      arXiv 2406.13660, eq. 2 (p_new) and the loss of TNFF in section 4.
    """
    return _forward_cross_entropy_fwd(logits, frozen_logits, masked_ids)[0]


def _forward_cross_entropy_fwd(logits, frozen_logits, masked_ids):
    z = logits.astype(jnp.float32)
    frozen = frozen_logits.astype(jnp.float32)
    masked = _mask(frozen, masked_ids)
    model_parts = _log_softmax_parts(z)
    target_parts = _log_softmax_parts(masked)
    target = jnp.exp(_log_probability(masked, target_parts))
    cross_entropy = -jnp.sum(target * _log_probability(z, model_parts), axis=-1)
    # From the unmasked logits: 0 · −∞ is not 0.
    entropy = -jnp.sum(target * _log_probability(frozen, target_parts), axis=-1)
    log_z = model_parts[0] + model_parts[1]
    residuals = (logits, frozen_logits, masked_ids, model_parts, target_parts)
    return (cross_entropy, entropy, log_z), residuals


def _forward_cross_entropy_bwd(residuals, cotangents):
    logits, frozen_logits, masked_ids, model_parts, target_parts = residuals
    d_cross_entropy, _, d_log_z = (g[..., None] for g in cotangents)
    masked = _mask(frozen_logits.astype(jnp.float32), masked_ids)
    model = jnp.exp(_log_probability(logits.astype(jnp.float32), model_parts))
    target = jnp.exp(_log_probability(masked, target_parts))
    gradient = (d_cross_entropy + d_log_z) * model - d_cross_entropy * target
    return gradient.astype(logits.dtype), None, None


forward_cross_entropy.defvjp(_forward_cross_entropy_fwd, _forward_cross_entropy_bwd)


@dataclasses.dataclass(frozen=True)
class TokenTerms:
    """What a term of the loss gives for each token, float32 [batch, length].

    Attributes:
      loss: what is minimised.
      divergence: the divergence from the target distribution, 0 at its minimum.
      log_z: log normaliser of the model's logits, for the z-loss.
    """

    loss: Array
    divergence: Array
    log_z: Array


def _forward_kl(logits, frozen_logits, masked_ids) -> TokenTerms:
    cross_entropy, entropy, log_z = forward_cross_entropy(
        logits, frozen_logits, masked_ids
    )
    # The loss is the cross entropy (as in T5X and upstream t5patches).
    return TokenTerms(cross_entropy, cross_entropy - entropy, log_z)


TERMS: Mapping[str, Callable[[Array, Array, Array], TokenTerms]] = {
    "forward_kl": _forward_kl,
}


def token_terms(
    method: Method,
    logits: Array,
    frozen_logits: Array,
    targets: Array,
    weights: Array,
) -> TokenTerms:
    """The terms of `method` at every token, unweighted: neither alpha nor |weight|.

    Args:
      method: a row of `METHODS`.
      logits: [batch, length, vocab] float, the model's.
      frozen_logits: [batch, length, vocab] float, the frozen original model's.
      targets: [batch, length] integer token ids.
      weights: [batch, length]; < 0 at unwanted tokens, > 0 at others, 0 at padding.

    Returns:
      A `TokenTerms`.

    Raises:
      ValueError: if shapes or dtypes do not fit.
    """
    _check(logits, frozen_logits, targets, weights)
    masked_ids = jnp.where(weights < 0, targets, NO_TOKEN).astype(jnp.int32)
    positive = TERMS[method.positive](logits, frozen_logits, masked_ids)
    if method.negative == method.positive:
        return positive
    negative = TERMS[method.negative](logits, frozen_logits, masked_ids)
    choose = lambda n, p: jnp.where(weights < 0, n, p)
    return TokenTerms(
        loss=choose(negative.loss, positive.loss),
        divergence=choose(negative.divergence, positive.divergence),
        log_z=positive.log_z,
    )


def targeted_loss(
    method: Method,
    logits: Array,
    frozen_logits: Array,
    targets: Array,
    weights: Array,
    *,
    alpha: float = 1.0,
    z_loss: float = 0.0,
    loss_normalizing_factor: float | Array | None = None,
) -> tuple[Array, dict[str, tuple[Array, Array]]]:
    """The loss of a targeted update over a batch, and its parts.

    Args:
      method: a row of `METHODS`.
      logits: [batch, length, vocab] float, the model's.
      frozen_logits: [batch, length, vocab] float, the frozen original model's.
      targets: [batch, length] integer token ids.
      weights: [batch, length] number; its sign says unwanted (−), other (+) or
        padding (0), its magnitude weighs the token.
      alpha: weight of the unwanted tokens.
      z_loss: coefficient of T5X's z-loss, z · (log Z)², at every token; it is a
        regulariser of the logits' scale and not weighted by alpha.
      loss_normalizing_factor: divides the loss, as in T5X; None for a plain sum.

    Returns:
      The loss, a float32 scalar, and a dictionary of (sum, count) pairs, float32
      scalars, each weighed by |weights|:
        z_loss: the z-loss part of the loss (normalised as the loss is).
        unwanted/loss: D_neg at unwanted tokens, without alpha.
        unwanted/probability: p_m of the unwanted token.
        other/loss: D_pos at other tokens.
        other/kl: for the forward KL, KL(p_o ‖ p_m) at other tokens.

    Raises:
      ValueError: if shapes or dtypes do not fit.

    References:
      arXiv 2406.13660, section 4; z-loss as in T5X's cross_entropy_with_logits.
    """
    terms = token_terms(method, logits, frozen_logits, targets, weights)
    unwanted = jnp.where(weights < 0, -weights, 0).astype(jnp.float32)
    other = jnp.where(weights > 0, weights, 0).astype(jnp.float32)
    count = jnp.sum(unwanted), jnp.sum(other)
    regulariser = z_loss * jnp.sum((unwanted + other) * jnp.square(terms.log_z))
    loss = jnp.sum((alpha * unwanted + other) * terms.loss) + regulariser
    if loss_normalizing_factor is not None:
        loss = loss / loss_normalizing_factor
        regulariser = regulariser / loss_normalizing_factor
    parts = {
        "z_loss": (regulariser, count[0] + count[1]),
        "unwanted/loss": (jnp.sum(unwanted * terms.loss), count[0]),
        "unwanted/probability": (
            jnp.sum(unwanted * target_probability(logits, targets, terms.log_z)),
            count[0],
        ),
        "other/loss": (jnp.sum(other * terms.loss), count[1]),
        "other/kl": (jnp.sum(other * terms.divergence), count[1]),
    }
    return loss, jax.lax.stop_gradient(parts)


def target_probability(logits: Array, targets: Array, log_z: Array) -> Array:
    """p_m of the target token, float32 [batch, length]; a gather, not a softmax."""
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.exp(chosen.astype(jnp.float32) - log_z)


def _check(logits: Array, frozen_logits: Array, targets: Array, weights: Array):
    if logits.shape != frozen_logits.shape:
        raise ValueError(
            f"logits {logits.shape} and frozen_logits {frozen_logits.shape} must have"
            " the same shape: the frozen model must be the same network"
        )
    for name, array in (("targets", targets), ("weights", weights)):
        if array.shape != logits.shape[:-1]:
            raise ValueError(
                f"{name} must have shape {logits.shape[:-1]} (logits without the"
                f" vocabulary axis), got {array.shape}"
            )
    for name, array in (("logits", logits), ("frozen_logits", frozen_logits)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} must be floating point, got {array.dtype}")
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(f"targets must be integer token ids, got {targets.dtype}")
