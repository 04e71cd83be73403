"""Token-level objectives for targeted updates, as pure functions of logits.

Notation follows Targeted Negative Training (Zhang, Ranganath, Tafvizi, TMLR 2024,
arXiv 2406.13660): p_o is the frozen original model, p_m the model in training and,
at a position with unwanted tokens,

    p_new(x) ∝ p_o(x) · 1[x is not unwanted]        (eq. 2)

is the distribution closest to p_o that never produces them. A method is a pair of
terms, a row of `METHODS`; its loss is

    Σ_t  α · D_neg(p_new, p_m)  at unwanted tokens  +  D_pos(p_o, p_m)  elsewhere.

Everything is computed in float32 whatever the dtype of the logits, in log space:
p_new is a masked log-sum-exp, never 1 − p, which would cancel where p_o is nearly
certain of the unwanted token. No array of shape [batch, length, vocab] is kept
beside the logits themselves: the custom gradient below recomputes the softmaxes
where they are used, and XLA fuses them into the pass that writes the gradient.

Only jax and numpy are imported here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

# A vocabulary index that no token has: "nothing is masked here".
NO_TOKEN = -1
# Floor of p_new at unwanted tokens for the reverse KL, which is infinite at a zero.
EPSILON = 1e-6
# Log-probability below which NL leaves an unwanted token alone: about one in the
# 32,128 of T5's vocabulary.
THRESHOLD = -10.3


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
    for method in (
        Method("nl", "log_likelihood", "cross_entropy", frozen=False),
        Method("ul", "unlikelihood", "cross_entropy", frozen=False),
        Method("tnff", "forward_kl", "forward_kl", frozen=True),
        Method("tnrr", "reverse_kl", "reverse_kl", frozen=True),
        Method("tnrf", "reverse_kl", "forward_kl", frozen=True),
        Method("tnfll", "forward_kl", "cross_entropy", frozen=True),
        Method("tnrll", "reverse_kl", "cross_entropy", frozen=True),
    )
}


class _LogSum(NamedTuple):
    """log Σ exp over a vocabulary as max and log Σ exp(· − max), [...] each.

    log p = (logits − max) − log Σ is exact to the precision of the differences of
    the logits. Through log Z = max + log Σ it would be only to that of their size.
    """

    largest: Array
    log_total: Array

    @classmethod
    def of(cls, logits: Array) -> _LogSum:
        largest = jnp.max(logits, axis=-1)
        total = jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1)
        return cls(largest, jnp.log(total))

    def normalize(self, logits: Array) -> Array:
        return (logits - self.largest[..., None]) - self.log_total[..., None]


def _is_any(ids: Array, shape: tuple[int, ...]) -> Array:
    """Where the vocabulary index is one of `ids` [..., n]; by comparison, so it fuses.

    Returns bool of `shape`, [..., vocab].
    """
    vocabulary = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    found = (vocabulary == ids[..., i, None] for i in range(ids.shape[-1]))
    return functools.reduce(jnp.logical_or, found)


def _first_of_each(ids: Array) -> Array:
    """Bool [..., n]: a token, and not a repetition of one before it."""
    same = ids[..., :, None] == ids[..., None, :]
    earlier = jnp.tril(jnp.ones(same.shape[-2:], bool), -1)
    return (ids != NO_TOKEN) & ~jnp.any(same & earlier, axis=-1)


def _log_mass(logits: Array, total: _LogSum, ids: Array) -> Array:
    """log of the probability of the tokens `ids` [..., n] together, float32 [...]."""
    chosen = jnp.take_along_axis(logits, jnp.maximum(ids, 0), axis=-1)
    log_p = total.normalize(chosen.astype(jnp.float32))
    kept = jnp.where(_first_of_each(ids), log_p, -jnp.inf)
    return jax.nn.logsumexp(kept, axis=-1)


def target_log_probabilities(
    frozen_logits: Array, unwanted_ids: Array, epsilon: float = 0.0
) -> Array:
    """log p_new, with a floor for the reverse KL.

    Args:
      frozen_logits: [..., vocab] float, the logits of p_o.
      unwanted_ids: [..., n] int32, the unwanted tokens of each position in any order;
        `NO_TOKEN` for none.
      epsilon: the probability that each unwanted token keeps. The others share the
        rest in p_o's proportions, so that the whole sums to 1.

    Returns:
      float32 [..., vocab]: log epsilon (−inf for 0) at unwanted tokens.

    References:
      arXiv 2406.13660, eq. 2.
    """
    frozen = frozen_logits.astype(jnp.float32)
    unwanted = _is_any(unwanted_ids, frozen.shape)
    total = _LogSum.of(jnp.where(unwanted, -jnp.inf, frozen))
    return _log_target(frozen, unwanted, unwanted_ids, total, epsilon)


def _log_target(frozen, unwanted, unwanted_ids, total: _LogSum, epsilon: float):
    log_new = total.normalize(frozen)
    floor = jnp.log(jnp.float32(epsilon))
    if epsilon:
        count = jnp.sum(_first_of_each(unwanted_ids), axis=-1)
        log_new += jnp.log1p(-epsilon * count)[..., None]
    return jnp.where(unwanted, floor, log_new)


@dataclasses.dataclass(frozen=True)
class TokenTerms:
    """What a term of the loss gives for each token, float32 [batch, length].

    Attributes:
      loss: what is minimised.
      divergence: for a KL divergence, the divergence itself, 0 at its minimum (the
        loss of a forward one is its cross entropy); elsewhere the loss.
      log_z: log normaliser of the model's logits, for the z-loss.
    """

    loss: Array
    divergence: Array
    log_z: Array


@dataclasses.dataclass
class _View:
    """Both models at every position, as the terms see them.

    What has the vocabulary's axis is computed anew wherever it is used, inside the
    loop that XLA makes of its reduction; only sums over the vocabulary are kept.
    """

    logits: Array
    frozen_logits: Array | None
    targets: Array
    unwanted_ids: Array
    epsilon: float
    threshold: float

    @functools.cached_property
    def z(self) -> Array:
        return self.logits.astype(jnp.float32)

    @functools.cached_property
    def frozen(self) -> Array:
        assert self.frozen_logits is not None
        return self.frozen_logits.astype(jnp.float32)

    @property
    def unwanted(self) -> Array:
        return _is_any(self.unwanted_ids, self.logits.shape)

    # Sums over the vocabulary, [...].

    @functools.cached_property
    def total(self) -> _LogSum:
        return _LogSum.of(self.z)

    @functools.cached_property
    def rest(self) -> _LogSum:
        """Of the model's logits without the unwanted tokens."""
        return _LogSum.of(jnp.where(self.unwanted, -jnp.inf, self.z))

    @functools.cached_property
    def target_total(self) -> _LogSum:
        return _LogSum.of(jnp.where(self.unwanted, -jnp.inf, self.frozen))

    @functools.cached_property
    def log_mass(self) -> Array:
        """log p_m of the unwanted tokens together."""
        return _log_mass(self.logits, self.total, self.unwanted_ids)

    @functools.cached_property
    def log_rest(self) -> Array:
        """log p_m of all other tokens together; exact at both ends."""
        rest, total = self.rest, self.total
        small = jnp.log1p(-jnp.exp(self.log_mass))
        large = (rest.largest - total.largest) + (rest.log_total - total.log_total)
        return jnp.where(self.log_mass < jnp.log(0.5), small, large)

    # Distributions, [..., vocab].

    @property
    def log_p(self) -> Array:
        return self.total.normalize(self.z)

    def log_new(self, epsilon: float = 0.0) -> Array:
        return _log_target(
            self.frozen, self.unwanted, self.unwanted_ids, self.target_total, epsilon
        )

    def sums(self) -> dict[str, Any]:
        """Those sums over the vocabulary that are known."""
        names = ("total", "rest", "target_total", "log_mass", "log_rest")
        return {name: vars(self)[name] for name in names if name in vars(self)}

    def apart(self) -> _View:
        """The same view, which shares no array over the vocabulary with this one.

        XLA would compute such an array once for all its uses, and keep it till the
        last of them; to compute it again costs less than to write and read it. Apart
        from an `apart` view is another: from the same one, they would be merged.
        """
        logits, frozen_logits, sums = jax.lax.optimization_barrier(
            (self.logits, self.frozen_logits, self.sums())
        )
        view = dataclasses.replace(self, logits=logits, frozen_logits=frozen_logits)
        vars(view).update(sums)
        return view


class _Term(NamedTuple):
    """A term of the loss.

    Attributes:
      value: view -> [...]; or, for a sum over the vocabulary, its summand:
        view -> [..., vocab], so that two of them can share one loop.
      slope: (view, value) -> its gradient by the logits, [..., vocab].
      sums: the sums over the vocabulary that these need beside `total`.
      summed: whether `value` is a summand.
    """

    value: Callable[[_View], Array]
    slope: Callable[[_View, Array], Array]
    sums: tuple[str, ...] = ()
    summed: bool = False


def _forward_kl_summand(v: _View) -> Array:
    return -jnp.exp(v.log_new()) * v.log_p


def _forward_kl_slope(v: _View, _) -> Array:
    return jnp.exp(v.log_p) - jnp.exp(v.log_new())


def _entropy(v: _View) -> Array:
    """Of p_new. From the unmasked logits: 0 · −∞ is not 0."""
    log_new = v.target_total.normalize(v.frozen)
    return -jnp.sum(jnp.where(v.unwanted, 0, jnp.exp(log_new) * log_new), axis=-1)


def _reverse_kl_summand(v: _View) -> Array:
    return jnp.exp(v.log_p) * (v.log_p - v.log_new(v.epsilon))


def _reverse_kl_slope(v: _View, value: Array) -> Array:
    return jnp.exp(v.log_p) * (v.log_p - v.log_new(v.epsilon) - value[..., None])


def _cross_entropy(v: _View) -> Array:
    return -_log_mass(v.logits, v.total, v.targets[..., None])


def _cross_entropy_slope(v: _View, _) -> Array:
    return jnp.exp(v.log_p) - _is_any(v.targets[..., None], v.logits.shape)


def _log_likelihood(v: _View) -> Array:
    return jnp.maximum(v.log_mass, v.threshold)


def _log_likelihood_slope(v: _View, _) -> Array:
    # (1 − p) as the mass of the rest, which does not cancel where p is nearly 1.
    upwards = jnp.exp(v.log_p + (v.log_rest - v.log_mass)[..., None])
    slope = jnp.where(v.unwanted, upwards, -jnp.exp(v.log_p))
    return jnp.where((v.log_mass > v.threshold)[..., None], slope, 0)


def _unlikelihood(v: _View) -> Array:
    return -v.log_rest


def _unlikelihood_slope(v: _View, _) -> Array:
    others = jnp.exp(v.rest.normalize(v.z) + v.log_mass[..., None])
    return jnp.where(v.unwanted, jnp.exp(v.log_p), -others)


TERMS: Mapping[str, _Term] = {
    "log_likelihood": _Term(_log_likelihood, _log_likelihood_slope, ("log_rest",)),
    "unlikelihood": _Term(_unlikelihood, _unlikelihood_slope, ("log_rest",)),
    "forward_kl": _Term(
        _forward_kl_summand, _forward_kl_slope, ("target_total",), summed=True
    ),
    "reverse_kl": _Term(
        _reverse_kl_summand, _reverse_kl_slope, ("target_total",), summed=True
    ),
    "cross_entropy": _Term(_cross_entropy, _cross_entropy_slope),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _terms(
    method: Method,
    epsilon: float,
    threshold: float,
    logits: Array,
    frozen_logits: Array | None,
    targets: Array,
    unwanted_ids: Array,
) -> tuple[Array, Array, Array]:
    """Loss, divergence and log Z of every token; see `token_terms`.

    A token is unwanted where `unwanted_ids` has an id. Gradients flow from the loss
    and log Z to `logits` alone.
    """
    return _terms_fwd(
        method, epsilon, threshold, logits, frozen_logits, targets, unwanted_ids
    )[0]


def _values(terms: tuple[_Term, _Term], view: _View, negative: Array) -> Array:
    """The first term where `negative`, the second elsewhere; one loop for two sums."""
    below, above = (term.value(view) for term in terms)
    if terms[0] is terms[1]:
        return jnp.sum(below, axis=-1) if terms[0].summed else below
    if terms[0].summed and terms[1].summed:
        return jnp.sum(jnp.where(negative[..., None], below, above), axis=-1)
    below, above = (
        jnp.sum(value, axis=-1) if term.summed else value
        for term, value in zip(terms, (below, above), strict=True)
    )
    return jnp.where(negative, below, above)


def _terms_fwd(method, epsilon, threshold, *arrays):
    view = _View(*arrays, epsilon=epsilon, threshold=threshold)
    negative = jnp.any(view.unwanted_ids != NO_TOKEN, axis=-1)
    names = {method.negative, method.positive}
    terms = TERMS[method.negative], TERMS[method.positive]
    for name in ("total", *terms[0].sums, *terms[1].sums):
        getattr(view, name)
    view = view.apart()
    loss = _values(terms, view, negative)
    divergence = loss
    if "forward_kl" in names:
        forward = jnp.where(
            negative, method.negative == "forward_kl", method.positive == "forward_kl"
        )
        view = view.apart()
        divergence = loss - jnp.where(forward, _entropy(view), 0)
    log_z = view.total.largest + view.total.log_total
    arrays = (view.logits, view.frozen_logits, *arrays[2:])
    return (loss, divergence, log_z), (arrays, negative, loss, view.sums())


def _terms_bwd(method, epsilon, threshold, residuals, cotangents):
    arrays, negative, loss, sums = residuals
    d_loss, _, d_log_z = (g[..., None] for g in cotangents)
    view = _View(*arrays, epsilon=epsilon, threshold=threshold)
    vars(view).update(sums)
    view = view.apart()
    slope = TERMS[method.positive].slope(view, loss)
    if method.negative != method.positive:
        at_unwanted = TERMS[method.negative].slope(view, loss)
        slope = jnp.where(negative[..., None], at_unwanted, slope)
    gradient = d_loss * slope + d_log_z * jnp.exp(view.log_p)
    return gradient.astype(view.logits.dtype), None, None, None


_terms.defvjp(_terms_fwd, _terms_bwd)


def unwanted_ids(
    targets: Array, weights: Array, negative_token_ids: Array | None = None
) -> Array:
    """The unwanted tokens of every position.

    Args:
      targets: [batch, length] integer token ids.
      weights: [batch, length]; < 0 where the target is unwanted, 0 at padding.
      negative_token_ids: [batch, length, k] integer, further unwanted tokens of a
        position whatever the sign of its weight; 0 for none.

    Returns:
      int32 [batch, length, 1 + k]; `NO_TOKEN` for none.
    """
    ids = jnp.where(weights < 0, targets, NO_TOKEN)[..., None]
    if negative_token_ids is not None:
        given = (negative_token_ids != 0) & (weights != 0)[..., None]
        more = jnp.where(given, negative_token_ids, NO_TOKEN)
        ids = jnp.concatenate([ids, more], axis=-1)
    return ids.astype(jnp.int32)


def is_unwanted(weights: Array, negative_token_ids: Array | None = None) -> Array:
    """Bool [batch, length]: where alpha counts; see `unwanted_ids`."""
    ids = unwanted_ids(jnp.zeros_like(weights), weights, negative_token_ids)
    return jnp.any(ids != NO_TOKEN, axis=-1)


def token_terms(
    method: Method,
    logits: Array,
    frozen_logits: Array | None,
    targets: Array,
    weights: Array,
    *,
    epsilon: float = EPSILON,
    threshold: float = THRESHOLD,
    negative_token_ids: Array | None = None,
) -> TokenTerms:
    """The terms of `method` at every token, unweighted: neither alpha nor |weight|.

    forward_kl: −Σ p_new log p_m, whose gradient is that of KL(p_new ‖ p_m).
    reverse_kl: KL(p_m ‖ q), q being p_new with the floor `epsilon`.
    cross_entropy: −log p_m(target).
    log_likelihood: max(log p_m(unwanted), threshold).
    unlikelihood: −log(1 − p_m(unwanted)).

    Args:
      method: a row of `METHODS`.
      logits: [batch, length, vocab] float, the model's.
      frozen_logits: [batch, length, vocab] float, the frozen original model's; None
        for a method without one.
      targets: [batch, length] integer token ids.
      weights: [batch, length]; < 0 at unwanted tokens, > 0 at others, 0 at padding.
      epsilon: floor of p_new's probability at each unwanted token in a reverse KL.
      threshold: NL's log-probability below which an unwanted token is left alone.
      negative_token_ids: [batch, length, k] integer, several unwanted tokens of one
        position, see `unwanted_ids`. A position with any is an unwanted position.

    Returns:
      A `TokenTerms`.

    Raises:
      ValueError: if shapes, dtypes or `epsilon` do not fit.

    References:
      arXiv 2406.13660, section 4 (the targeted losses) and section 5 (NL, UL).
    """
    frozen_logits = frozen_logits if method.frozen else None
    _check(method, logits, frozen_logits, targets, weights, negative_token_ids)
    if "reverse_kl" in (method.negative, method.positive) and not 0 < epsilon < 1:
        raise ValueError(
            f"epsilon = {epsilon}: the reverse KL needs a probability above 0 and"
            " below 1 for the unwanted tokens of p_new"
        )
    ids = unwanted_ids(targets, weights, negative_token_ids)
    arrays = logits, frozen_logits, targets.astype(jnp.int32), ids
    terms: Any = _terms(method, epsilon, threshold, *arrays)
    return TokenTerms(*terms)


def targeted_loss(
    method: Method,
    logits: Array,
    frozen_logits: Array | None,
    targets: Array,
    weights: Array,
    *,
    alpha: float = 1.0,
    epsilon: float = EPSILON,
    threshold: float = THRESHOLD,
    negative_token_ids: Array | None = None,
    z_loss: float = 0.0,
    loss_normalizing_factor: float | Array | None = None,
) -> tuple[Array, dict[str, tuple[Array, Array]]]:
    """The loss of a targeted update over a batch, and its parts.

    Args:
      method: a row of `METHODS`.
      logits: [batch, length, vocab] float, the model's.
      frozen_logits: [batch, length, vocab] float, the frozen original model's; None
        for a method without one.
      targets: [batch, length] integer token ids.
      weights: [batch, length] number; its sign says unwanted (−), other (+) or
        padding (0), its magnitude weighs the token.
      alpha: weight of the unwanted tokens.
      epsilon: see `token_terms`.
      threshold: see `token_terms`.
      negative_token_ids: see `token_terms`.
      z_loss: coefficient of T5X's z-loss, z · (log Z)², at every token; it is a
        regulariser of the logits' scale and not weighted by alpha.
      loss_normalizing_factor: divides the loss, as in T5X; None for a plain sum.

    Returns:
      The loss, a float32 scalar, and a dictionary of (sum, count) pairs, float32
      scalars, each weighed by |weights|:
        z_loss: the z-loss part of the loss (normalised as the loss is).
        unwanted/loss: D_neg at unwanted tokens, without alpha.
        unwanted/probability: p_m of the unwanted tokens.
        other/loss: D_pos at other tokens.
        other/kl: if D_pos is a KL divergence, that divergence at other tokens.

    Raises:
      ValueError: if shapes, dtypes or `epsilon` do not fit.

    References:
      arXiv 2406.13660, section 4; z-loss as in T5X's cross_entropy_with_logits.
    """
    terms = token_terms(
        method,
        logits,
        frozen_logits,
        targets,
        weights,
        epsilon=epsilon,
        threshold=threshold,
        negative_token_ids=negative_token_ids,
    )
    ids = unwanted_ids(targets, weights, negative_token_ids)
    negative = is_unwanted(weights, negative_token_ids)
    magnitude = jnp.abs(weights).astype(jnp.float32)
    unwanted = jnp.where(negative, magnitude, 0)
    other = jnp.where(negative, 0, magnitude)
    count = jnp.sum(unwanted), jnp.sum(other)
    regulariser = z_loss * jnp.sum(magnitude * jnp.square(terms.log_z))
    loss = jnp.sum((alpha * unwanted + other) * terms.loss) + regulariser
    if loss_normalizing_factor is not None:
        loss = loss / loss_normalizing_factor
        regulariser = regulariser / loss_normalizing_factor
    total = _LogSum(terms.log_z, jnp.zeros_like(terms.log_z))
    probability = jnp.exp(_log_mass(logits, total, ids))
    parts = {
        "z_loss": (regulariser, count[0] + count[1]),
        "unwanted/loss": (jnp.sum(unwanted * terms.loss), count[0]),
        "unwanted/probability": (jnp.sum(unwanted * probability), count[0]),
        "other/loss": (jnp.sum(other * terms.loss), count[1]),
    }
    if method.positive in ("forward_kl", "reverse_kl"):
        parts["other/kl"] = (jnp.sum(other * terms.divergence), count[1])
    return loss, jax.lax.stop_gradient(parts)


def _check(method, logits, frozen_logits, targets, weights, negative_token_ids):
    if method.frozen and frozen_logits is None:
        raise ValueError(f"{method.name} needs frozen_logits, the original model's")
    if method.frozen and logits.shape != frozen_logits.shape:
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
        if array is not None and not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} must be floating point, got {array.dtype}")
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(f"targets must be integer token ids, got {targets.dtype}")
    if negative_token_ids is not None and (
        negative_token_ids.shape[:-1] != targets.shape
        or not jnp.issubdtype(negative_token_ids.dtype, jnp.integer)
    ):
        raise ValueError(
            f"negative_token_ids must be integers of shape {targets.shape} and one"
            f" axis more, got {negative_token_ids.dtype} {negative_token_ids.shape}"
        )
