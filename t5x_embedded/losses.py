"""Token cross entropy with label smoothing and z-loss, and what to divide it by.

The targets stay integers: the smoothed target distribution is never written out,
neither forwards nor backwards, so a [batch, length, vocab] array beside the logits
exists only while their gradient is being formed. Everything is computed in float32.
"""

import enum
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.scipy import special

from t5x_embedded import _absent

__getattr__ = _absent.module_getattr(__name__)

Array = jax.Array


def _smoothing(vocab_size: int, label_smoothing: float) -> tuple[float, float]:
    """Probabilities (of the target, of each other token) of a smoothed target."""
    return 1.0 - label_smoothing, label_smoothing / max(vocab_size - 1, 1)


def _is_target(logits: Array, targets: Array) -> Array:
    """Where the vocabulary index is the target; a comparison, which XLA fuses away.

    Unlike a gather it stays local when the vocabulary is split over devices.
    """
    index = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    return index == targets[..., None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _token_loss(logits, targets, label_smoothing, z_loss):
    """Smoothed cross entropy and z-loss of every token.

    Hand-differentiated, since autodiff would keep the exponentials of all logits
    until the backward pass; here the logits themselves and one float per token do.

    Args:
        logits: [..., vocab] float.
        targets: [...] int.
        label_smoothing: mass that the target gives to all other tokens together;
            a Python number, the arguments around it may be traced.
        z_loss: coefficient of log(Z)^2.

    Returns:
        (cross entropy, z-loss): float32 [...] each.
    """
    return _token_loss_fwd(logits, targets, label_smoothing, z_loss)[0]


def _token_loss_fwd(logits, targets, label_smoothing, z_loss):
    x = logits.astype(jnp.float32)
    on, off = _smoothing(x.shape[-1], label_smoothing)
    log_z = special.logsumexp(x, axis=-1)
    # -log p of the target, and of all tokens summed: all a smoothed loss needs.
    surprise = log_z[..., None] - x
    entropy = (on - off) * jnp.where(_is_target(x, targets), surprise, 0.0).sum(-1)
    if label_smoothing:
        entropy += off * surprise.sum(-1)
    kept = (logits, targets, z_loss, log_z)
    return (entropy, z_loss * jnp.square(log_z)), kept


def _token_loss_bwd(label_smoothing, kept, cotangents):
    logits, targets, z_loss, log_z = kept
    d_entropy, d_z_loss = cotangents
    on, off = _smoothing(logits.shape[-1], label_smoothing)
    probs = jnp.exp(logits.astype(jnp.float32) - log_z[..., None])
    soft = jnp.where(_is_target(logits, targets), on, off)
    grad = d_entropy[..., None] * (probs - soft)
    grad += (2.0 * z_loss * log_z * d_z_loss)[..., None] * probs
    return grad.astype(logits.dtype), None, None


_token_loss.defvjp(_token_loss_fwd, _token_loss_bwd)


def argmax(logits: Array) -> Array:
    """The first of the best tokens, [..., vocab] -> int32 [...].

    XLA on a CPU takes six times as long for a reduction that carries indices along.
    """
    best = jnp.max(logits, axis=-1, keepdims=True)
    tokens = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    first = jnp.min(jnp.where(logits == best, tokens, logits.shape[-1]), axis=-1)
    return jnp.minimum(first, logits.shape[-1] - 1)  # NaN equals nothing.


def token_log_likelihood(logits: Array, targets: Array) -> Array:
    """log p(target) of every token.

    Args:
        logits: [..., vocab] float.
        targets: [...] int.

    Returns:
        float32 [...].
    """
    return -_token_loss(logits, targets, 0.0, 0.0)[0]


def compute_weighted_cross_entropy(
    logits: Array,
    targets: Array,
    weights: Array | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    loss_normalizing_factor: float | None = None,
) -> tuple[Array, Array, Array | int]:
    """Summed cross entropy of integer targets.

    The smoothed target's own entropy is subtracted, so that a perfect model has loss
    zero whatever the smoothing.

    Args:
        logits: [batch, length, vocab] float.
        targets: [batch, length] int.
        weights: [batch, length], or None for ones.
        label_smoothing: share of probability moved from the target to other tokens.
        z_loss: coefficient of log(Z)^2.
        loss_normalizing_factor: a number to divide both losses by, or None.

    Returns:
        (loss with z-loss, z-loss, sum of the weights): float32 scalars; without
        weights the last is the number of targets.

    Raises:
        ValueError: logits are not targets' shape plus the vocabulary.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"logits must be targets' shape plus [vocab]; got logits {logits.shape} "
            f"and targets {targets.shape}"
        )
    vocab_size = logits.shape[-1]
    on, off = _smoothing(vocab_size, label_smoothing)
    floor = -(special.xlogy(on, on) + (vocab_size - 1) * special.xlogy(off, off))
    entropy, penalty = _token_loss(logits, targets, label_smoothing, z_loss)
    scale = 1.0 if weights is None else weights
    if loss_normalizing_factor is not None:
        scale = scale / loss_normalizing_factor
    count = targets.size if weights is None else jnp.sum(weights)
    total_z_loss = jnp.sum(penalty * scale)
    loss = jnp.sum((entropy - floor) * scale) + total_z_loss
    return loss, jax.lax.stop_gradient(total_z_loss), count


@enum.unique
class SpecialLossNormalizingFactor(enum.Enum):
    """Normalisers that depend on the batch.

    NUM_REAL_TARGET_TOKENS: the sum of the loss weights (the number of tokens that are
        not padding, where the batch has no weights).
    NUM_TOTAL_TARGET_TOKENS: batch times length, padding included.
    AVERAGE_PER_SEQUENCE: not supported.
    """

    NUM_REAL_TARGET_TOKENS = 1
    NUM_TOTAL_TARGET_TOKENS = 2
    AVERAGE_PER_SEQUENCE = 3


def convert_special_loss_normalizing_factor_to_enum(
    x: str,
) -> SpecialLossNormalizingFactor:
    """The member whose name is `x` in any case (gin files have no enums).

    Raises:
        ValueError: there is none.
    """
    try:
        return SpecialLossNormalizingFactor[x.upper()]
    except KeyError:
        names = ", ".join(m.name for m in SpecialLossNormalizingFactor)
        raise ValueError(
            f"loss_normalizing_factor is {x!r}; it must be one of {names}"
        ) from None


def get_loss_normalizing_factor_and_weights(
    loss_normalizing_factor: float | str | SpecialLossNormalizingFactor | None,
    batch: Mapping[str, Array],
) -> tuple[float | Array | None, Array | None]:
    """Resolves a normaliser against a batch.

    Args:
        loss_normalizing_factor: a number or None (kept as they are), or a special one.
        batch: has 'decoder_target_tokens' and perhaps 'decoder_loss_weights',
            [batch, length] each.

    Returns:
        (number to divide by or None, loss weights or None).

    Raises:
        NotImplementedError: AVERAGE_PER_SEQUENCE, which only T5X has.
    """
    weights = batch.get("decoder_loss_weights")
    if isinstance(loss_normalizing_factor, str):
        loss_normalizing_factor = convert_special_loss_normalizing_factor_to_enum(
            loss_normalizing_factor
        )
    if not isinstance(loss_normalizing_factor, SpecialLossNormalizingFactor):
        return loss_normalizing_factor, weights

    tokens = batch["decoder_target_tokens"]
    if weights is None:
        weights = (tokens > 0).astype(jnp.float32)
    match loss_normalizing_factor:
        case SpecialLossNormalizingFactor.NUM_REAL_TARGET_TOKENS:
            return jnp.sum(weights), weights
        case SpecialLossNormalizingFactor.NUM_TOTAL_TARGET_TOKENS:
            return tokens.size, weights
    raise NotImplementedError(_absent.message(str(loss_normalizing_factor)))
