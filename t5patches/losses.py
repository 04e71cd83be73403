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
import numpy as np

Array = jax.Array

# A vocabulary index that no token has: "nothing is masked here".
NO_TOKEN = -1
# Floor of p_new at unwanted tokens for the reverse KL, which is infinite at a zero.
EPSILON = 1e-6
# Log-probability below which NL leaves an unwanted token alone: about one in the
# 32,128 of T5's vocabulary.
THRESHOLD = -10.3
# NPO's inverse temperature, the paper's.
BETA = 0.1
# FTPO's numbers, those of its authors: the margin in logits by which a chosen token is
# to lead, how far the logits of the tokens in question may move at no cost, and what
# moving them further, and all others, costs. It is told what to choose; here that is
# what p_new thinks likely: so many tokens, each at least so likely as the likeliest.
MARGIN, FREE, TETHER_TARGETS, TETHER_OTHERS = 2.0, 1.0, 0.05, 0.4
CHOSEN, CHOSEN_RATIO = 8, 0.1


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
        Method("npo", "npo", "forward_kl", frozen=True),
        Method("ftpo", "ftpo", "forward_kl", frozen=True),
    )
}
# What is used instead elsewhere; not of the paper, and not in google/t5patches.
RIVALS = ("npo", "ftpo")


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


class Unwanted(NamedTuple):
    """The unwanted tokens of every position.

    Attributes:
      ids: int32 [..., n]; the first is the position's own token, if it is unwanted, the
        others in any order; `NO_TOKEN` for none.
      bits: further ones, uint32 [..., vocab / 32], of which bit i of word j is token
        32 j + i; or None. However many they are, a logit looks at one bit.
    """

    ids: Array
    bits: Array | None = None

    def mask(self, shape: tuple[int, ...]) -> Array:
        """Bool of `shape`, [..., vocab]; XLA computes it where it is used."""
        found = _is_any(self.ids, shape)
        if self.bits is None:
            return found
        each = jnp.right_shift(self.bits[..., None], jnp.arange(32, dtype=jnp.uint32))
        each = each.reshape(*self.bits.shape[:-1], -1)[..., : shape[-1]]
        missing = shape[-1] - each.shape[-1]  # Rows of the embedding without a token.
        each = jnp.pad(each, [(0, 0)] * (each.ndim - 1) + [(0, missing)])
        return found | (each & 1).astype(bool)

    def count(self) -> Array:
        """How many there are, int32 [...]."""
        single = _first_of_each(self.ids)
        if self.bits is None:
            return jnp.sum(single, axis=-1)
        known = _in_bits(self.bits, jnp.maximum(self.ids, 0))
        several = jnp.sum(jax.lax.population_count(self.bits), axis=-1)
        return several.astype(jnp.int32) + jnp.sum(single & ~known, axis=-1)

    def log_mass(self, logits: Array, total: _LogSum) -> Array:
        """Computes the log-probability of all of them together, float32 [...]."""
        if self.bits is None:
            return _log_mass(logits, total, self.ids)
        log_p = total.normalize(logits.astype(jnp.float32))
        # By their own largest: a probability below float32's has a logarithm, too.
        return jax.nn.logsumexp(log_p, axis=-1, where=self.mask(logits.shape))

    def mass(self, logits: Array, total: _LogSum) -> Array:
        """Computes the probability of all of them together, float32 [...]."""
        if self.bits is None:
            return jnp.exp(_log_mass(logits, total, self.ids))
        p = jnp.exp(total.normalize(logits.astype(jnp.float32)))
        return jnp.sum(p, axis=-1, where=self.mask(logits.shape))


def _in_bits(bits: Array, ids: Array) -> Array:
    """Bool [..., n]: whether each of `ids`, none negative, is among `bits`."""
    words = jnp.take_along_axis(bits, ids // 32, axis=-1, mode="clip")
    return (jnp.right_shift(words, (ids % 32).astype(jnp.uint32)) & 1).astype(bool)


def _first_of_each(ids: Array) -> Array:
    """Bool [..., n]: a token, and not a repetition of one before it."""
    same = ids[..., :, None] == ids[..., None, :]
    earlier = jnp.tril(jnp.ones(same.shape[-2:], bool), -1)
    return (ids != NO_TOKEN) & ~jnp.any(same & earlier, axis=-1)


def _log_mass(logits: Array, total: _LogSum, ids: Array) -> Array:
    """Computes the log-probability of `ids` [..., n] together, float32 [...]."""
    chosen = jnp.take_along_axis(logits, jnp.maximum(ids, 0), axis=-1)
    log_p = total.normalize(chosen.astype(jnp.float32))
    kept = jnp.where(_first_of_each(ids), log_p, -jnp.inf)
    return jax.nn.logsumexp(kept, axis=-1)


class TokenTerms(NamedTuple):
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


def _log_sum_of_others(logits: Array, unwanted: Unwanted) -> _LogSum:
    mask = unwanted.mask(logits.shape)
    return _LogSum.of(jnp.where(mask, -jnp.inf, logits.astype(jnp.float32)))


class _Split(NamedTuple):
    """The model's probability, split between the unwanted tokens and all others.

    Attributes:
      others: log-sum of the others' logits.
      log_unwanted: log p_m of the unwanted tokens together.
      log_others: log p_m of the others together; exact at both ends.
    """

    others: _LogSum
    log_unwanted: Array
    log_others: Array

    @classmethod
    def of(cls, logits: Array, total: _LogSum, unwanted: Unwanted) -> _Split:
        others = _log_sum_of_others(logits, unwanted)
        log_unwanted = unwanted.log_mass(logits, total)
        small = jnp.log1p(-jnp.exp(log_unwanted))
        large = others.largest - total.largest + (others.log_total - total.log_total)
        log_others = jnp.where(log_unwanted < jnp.log(0.5), small, large)
        return cls(others, log_unwanted, log_others)


class _Sums(NamedTuple):
    """The sums over the vocabulary that the terms share, [...] each.

    Attributes:
      total: of the model's logits.
      target: of the frozen model's logits without the unwanted tokens, if there is one.
      split: of the model's probability, where a term asks for it.
      frozen_unwanted: log p_o of the unwanted tokens together, for NPO.
    """

    total: _LogSum
    target: _LogSum | None
    split: _Split | None
    frozen_unwanted: Array | None = None


class _View(NamedTuple):
    """Both models at every position, as the terms see them.

    What has the vocabulary's axis is computed anew wherever it is used, inside the
    loop that XLA makes of its reduction; only sums over the vocabulary are kept.
    """

    logits: Array
    frozen_logits: Array | None
    targets: Array
    all_unwanted: Unwanted
    sums: _Sums
    epsilon: float
    threshold: float

    @property
    def unwanted(self) -> Array:
        return self.all_unwanted.mask(self.logits.shape)

    @property
    def split(self) -> _Split:
        assert self.sums.split is not None
        return self.sums.split

    @property
    def log_p(self) -> Array:
        """log p_m, [..., vocab]."""
        return self.sums.total.normalize(self.logits.astype(jnp.float32))

    @property
    def log_p_new_unmasked(self) -> Array:
        """log p_new at the tokens that are not unwanted, [..., vocab]."""
        assert self.frozen_logits is not None and self.sums.target is not None
        return self.sums.target.normalize(self.frozen_logits.astype(jnp.float32))

    def log_p_new(self, epsilon: float = 0.0) -> Array:
        """log p_new, [..., vocab]; each unwanted token has the probability `epsilon`.

        The others share the rest in p_o's proportions, so that the whole sums to 1.
        """
        log_new = self.log_p_new_unmasked
        if epsilon:
            log_new += jnp.log1p(-epsilon * self.all_unwanted.count())[..., None]
        return jnp.where(self.unwanted, jnp.log(jnp.float32(epsilon)), log_new)

    def apart(self) -> _View:
        """Returns a view that shares no array over the vocabulary with this one.

        XLA would compute such an array once for all its uses, and keep it till the
        last of them; to compute it again costs less than to write and read it. For a
        third view call `apart` on the second: XLA merges two that come of the first.
        """
        logits, frozen_logits, sums = jax.lax.optimization_barrier(
            (self.logits, self.frozen_logits, self.sums)
        )
        return self._replace(logits=logits, frozen_logits=frozen_logits, sums=sums)


class _Term(NamedTuple):
    """A term of the loss.

    Attributes:
      value: view -> [...]; or, for a sum over the vocabulary, its summand:
        view -> [..., vocab], so that two of them can share one loop.
      slope: (view, value) -> its gradient by the logits, [..., vocab].
      summed: whether `value` is a summand.
    """

    value: Callable[[_View], Array]
    slope: Callable[[_View, Array], Array]
    summed: bool = False


def _forward_kl_summand(v: _View) -> Array:
    return -jnp.exp(v.log_p_new()) * v.log_p


def _forward_kl_slope(v: _View, _) -> Array:
    return jnp.exp(v.log_p) - jnp.exp(v.log_p_new())


def _entropy(v: _View) -> Array:
    """Computes p_new's entropy, from the unmasked logits: 0 · −∞ is not 0."""
    log_new = v.log_p_new_unmasked
    return -jnp.sum(jnp.where(v.unwanted, 0, jnp.exp(log_new) * log_new), axis=-1)


def _reverse_kl_summand(v: _View) -> Array:
    return jnp.exp(v.log_p) * (v.log_p - v.log_p_new(v.epsilon))


def _reverse_kl_slope(v: _View, value: Array) -> Array:
    return jnp.exp(v.log_p) * (v.log_p - v.log_p_new(v.epsilon) - value[..., None])


def _cross_entropy(v: _View) -> Array:
    return -_log_mass(v.logits, v.sums.total, v.targets[..., None])


def _cross_entropy_slope(v: _View, _) -> Array:
    return jnp.exp(v.log_p) - _is_any(v.targets[..., None], v.logits.shape)


def _log_likelihood(v: _View) -> Array:
    return jnp.maximum(v.split.log_unwanted, v.threshold)


def _log_likelihood_slope(v: _View, _) -> Array:
    counts = v.split.log_unwanted > v.threshold
    return jnp.where(counts[..., None], _log_unwanted_slope(v), 0)


def _log_unwanted_slope(v: _View) -> Array:
    """Of the log-probability of the unwanted tokens together, [..., vocab]."""
    # (1 − p) as the mass of the others, which does not cancel where p is nearly 1.
    odds = v.split.log_others - v.split.log_unwanted
    return jnp.where(v.unwanted, jnp.exp(v.log_p + odds[..., None]), -jnp.exp(v.log_p))


def _unlikelihood(v: _View) -> Array:
    return -v.split.log_others


def _unlikelihood_slope(v: _View, _) -> Array:
    log_others = v.split.others.normalize(v.logits.astype(jnp.float32))
    others = jnp.exp(log_others + v.split.log_unwanted[..., None])
    return jnp.where(v.unwanted, jnp.exp(v.log_p), -others)


def _npo(v: _View) -> Array:
    return 2 / BETA * jax.nn.softplus(BETA * _log_ratio(v))


def _npo_slope(v: _View, _) -> Array:
    factor = 2 * jax.nn.sigmoid(BETA * _log_ratio(v))
    return factor[..., None] * _log_unwanted_slope(v)


def _log_ratio(v: _View) -> Array:
    assert v.sums.frozen_unwanted is not None
    return v.split.log_unwanted - v.sums.frozen_unwanted


class _Preferences(NamedTuple):
    """What FTPO's two parts need, each [..., vocab] but for `rejected`'s logit.

    Attributes:
      gap: how much of the margin each token lacks.
      weights: of the chosen tokens, 0 where the margin is reached.
      moved: the logits' distance from the frozen model's.
      is_target: chosen or rejected.
      rejected: the unwanted token that was said.
    """

    gap: Array
    weights: Array
    moved: Array
    is_target: Array
    rejected: Array

    @classmethod
    def of(cls, v: _View) -> _Preferences:
        assert v.frozen_logits is not None
        logits, frozen = v.logits.astype(jnp.float32), v.frozen_logits
        likely = jnp.where(v.unwanted, -jnp.inf, frozen.astype(jnp.float32))
        ratio = jnp.max(likely, axis=-1) + jnp.log(CHOSEN_RATIO)
        least = jnp.maximum(_kth_largest(likely, CHOSEN), ratio)
        chosen = likely >= jnp.where(least == -jnp.inf, jnp.inf, least)[..., None]
        own = jnp.take_along_axis(logits, v.targets[..., None], axis=-1)
        gap = MARGIN - (logits - own)
        rejected = _is_any(v.targets[..., None], logits.shape)
        weights = chosen * jnp.clip(gap / MARGIN, 0, 1)
        moved = logits - frozen.astype(jnp.float32)
        return cls(gap, weights, moved, chosen | rejected, rejected)

    def tether(self) -> tuple[Array, Array]:
        """The distance that costs, and what its square does, each [..., vocab]."""
        beyond = jnp.maximum(jnp.abs(self.moved) - FREE, 0) * jnp.sign(self.moved)
        several = jnp.sum(self.is_target, axis=-1, keepdims=True)
        others = jnp.maximum(self.moved.shape[-1] - several, 1)
        cost = jnp.where(
            self.is_target, TETHER_TARGETS / several, TETHER_OTHERS / others
        )
        return jnp.where(self.is_target, beyond, self.moved), cost


def _kth_largest(x: Array, k: int) -> Array:
    """Of the different values along the last axis, −∞ where there are fewer.

    On a CPU XLA sorts all of them for its own top_k.
    """

    def next_largest(_, above):
        return jnp.max(jnp.where(x < above[..., None], x, -jnp.inf), axis=-1)

    return jax.lax.fori_loop(1, k, next_largest, jnp.max(x, axis=-1))


def _ftpo(v: _View) -> Array:
    found = _Preferences.of(v)
    weight = jnp.sum(found.weights, axis=-1)
    lacking = jnp.sum(found.weights * jax.nn.softplus(found.gap), axis=-1)
    distance, cost = found.tether()
    held = jnp.sum(cost * jnp.square(distance), axis=-1)
    return lacking / jnp.where(weight > 0, weight, 1) + held


def _ftpo_slope(v: _View, _) -> Array:
    found = _Preferences.of(v)
    weight = jnp.sum(found.weights, axis=-1, keepdims=True)
    each = jax.nn.softplus(found.gap)
    mean = jnp.sum(found.weights * each, axis=-1, keepdims=True) / weight
    falls = (found.weights > 0) & (found.weights < 1)
    by_logit = jnp.where(falls, (mean - each) / MARGIN, 0)
    by_logit -= found.weights * jax.nn.sigmoid(found.gap)
    by_logit = jnp.where(weight > 0, by_logit / weight, 0)
    total = jnp.sum(by_logit, axis=-1, keepdims=True)
    distance, cost = found.tether()
    return by_logit - jnp.where(found.rejected, total, 0) + 2 * cost * distance


TERMS: Mapping[str, _Term] = {
    "log_likelihood": _Term(_log_likelihood, _log_likelihood_slope),
    "unlikelihood": _Term(_unlikelihood, _unlikelihood_slope),
    "forward_kl": _Term(_forward_kl_summand, _forward_kl_slope, summed=True),
    "reverse_kl": _Term(_reverse_kl_summand, _reverse_kl_slope, summed=True),
    "cross_entropy": _Term(_cross_entropy, _cross_entropy_slope),
    "npo": _Term(_npo, _npo_slope),
    "ftpo": _Term(_ftpo, _ftpo_slope),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _terms(
    method: Method, epsilon: float, threshold: float, logits: Array, *others: Any
) -> TokenTerms:
    """Computes the terms of every token; see `token_terms`.

    Gradients flow from the loss and log Z to `logits` alone; `others` are
    frozen_logits, targets and unwanted.
    """
    return _terms_fwd(method, epsilon, threshold, logits, *others)[0]


def _values(terms: tuple[_Term, _Term], view: _View, negative: Array) -> Array:
    """Picks the first term where `negative`, else the second; one loop for two sums."""
    values = [term.value(view) for term in terms]
    if terms[0].summed and terms[1].summed:
        return jnp.sum(jnp.where(negative[..., None], *values), axis=-1)
    for i, term in enumerate(terms):
        values[i] = jnp.sum(values[i], axis=-1) if term.summed else values[i]
    return jnp.where(negative, *values)


def _terms_fwd(method, epsilon, threshold, logits, frozen_logits, targets, unwanted):
    terms = TERMS[method.negative], TERMS[method.positive]
    total = _LogSum.of(logits.astype(jnp.float32))
    target = split = frozen_unwanted = None
    if frozen_logits is not None:
        target = _log_sum_of_others(frozen_logits, unwanted)
        if method.negative == "npo":
            original = _LogSum.of(frozen_logits.astype(jnp.float32))
            split = _Split.of(frozen_logits, original, unwanted)
            frozen_unwanted = split.log_unwanted
    if method.negative in ("log_likelihood", "unlikelihood", "npo"):
        split = _Split.of(logits, total, unwanted)
    sums = _Sums(total, target, split, frozen_unwanted)
    given = logits, frozen_logits, targets, unwanted
    view = _View(*given, sums, epsilon, threshold).apart()
    negative = _own_is_unwanted(unwanted)
    loss = _values(terms, view, negative)
    divergence = loss
    forward = [kind == "forward_kl" for kind in (method.negative, method.positive)]
    if any(forward):
        forward = jnp.where(negative, *forward)
        view = view.apart()
        divergence = loss - jnp.where(forward, _entropy(view), 0)
    total = view.sums.total
    result = TokenTerms(loss, divergence, total.largest + total.log_total)
    arrays = view.logits, view.frozen_logits, targets, unwanted, view.sums
    return result, (arrays, negative, loss)


def _terms_bwd(method, epsilon, threshold, residuals, cotangents):
    arrays, negative, loss = residuals
    d_loss, _, d_log_z = (g[..., None] for g in cotangents)
    view = _View._make((*arrays, epsilon, threshold)).apart()
    slope = TERMS[method.positive].slope(view, loss)
    if method.negative != method.positive:
        at_unwanted = TERMS[method.negative].slope(view, loss)
        slope = jnp.where(negative[..., None], at_unwanted, slope)
    gradient = d_loss * slope + d_log_z * jnp.exp(view.log_p)
    return gradient.astype(view.logits.dtype), None, None, None


_terms.defvjp(_terms_fwd, _terms_bwd)


def _own_is_unwanted(tokens: Unwanted) -> Array:
    """Bool [...]."""
    return tokens.ids[..., 0] != NO_TOKEN


class Merged(NamedTuple):
    """A distribution of which all tokens but some are taken as one, the last.

    Two distributions whose logits differ at these tokens alone have the same KL
    divergences so, and the same gradients: given that it is one of the others, a token
    is as likely under both.

    Attributes:
      logits: float32 [..., n + 1], the last being log Σ exp of the others'.
      largest: the largest of the others' logits, float32 [...].
      entropy: of a token, given that it is one of the others, in nats, float32 [...].
    """

    logits: Array
    largest: Array
    entropy: Array

    @classmethod
    def of(cls, logits: Array, ids: np.ndarray) -> Merged:
        """Merges the tokens of logits [..., vocab] but `ids`, int [n], not all."""
        is_other = np.ones(logits.shape[-1], bool)
        is_other[ids] = False
        logits = logits.astype(jnp.float32)
        total = _LogSum.of(jnp.where(is_other, logits, -jnp.inf))
        log_p = total.normalize(logits)
        each = jnp.where(is_other, jnp.exp(log_p) * log_p, 0)
        others = (total.largest + total.log_total)[..., None]
        merged = jnp.concatenate([logits[..., ids], others], axis=-1)
        return cls(merged, total.largest, -jnp.sum(each, axis=-1))


class Annotation(NamedTuple):
    """What a batch says of every position: the tokens unwanted there, and its weight.

    Attributes:
      tokens: the unwanted ones, [batch, length, ...]. Where the position's own is among
        them is an unwanted position; the others only say what else p_new leaves out
        there, and at the other positions.
      magnitude: float32 [batch, length], what the position counts; 0 at padding.
    """

    tokens: Unwanted
    magnitude: Array

    @property
    def unwanted(self) -> Array:
        """Bool [batch, length]: where alpha counts."""
        return _own_is_unwanted(self.tokens)


def read_annotation(
    targets: Array,
    weights: Array,
    negative_token_ids: Array | None = None,
    unwanted_bits: Array | None = None,
    sets_decide: bool = False,
) -> Annotation:
    """Takes the signs off the weights of a batch.

    Args:
      targets: [batch, length] integer token ids.
      weights: [batch, length] number; its sign says unwanted (−), other (+) or
        padding (0), its magnitude weighs the token.
      negative_token_ids: [batch, length, k] integer, further unwanted tokens of a
        position, whatever the sign of its weight, which they leave; 0 for none.
      unwanted_bits: [batch, length, vocab / 32] uint32, see `Unwanted`.
      sets_decide: whether a position's own token is unwanted only where its bit says
        so. A phrase's first tokens have the sign of the whole, but p_new without its
        last ones does not have to do without them.

    Returns:
      An `Annotation` with 1 + k unwanted ids at each position.

    Raises:
      ValueError: if shapes or dtypes do not fit.
    """
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(f"targets must be integer token ids, got {targets.dtype}")
    if weights.shape != targets.shape:
        raise ValueError(
            f"weights must have shape {targets.shape}, that of targets,"
            f" got {weights.shape}"
        )
    unwanted = weights < 0
    if sets_decide and unwanted_bits is not None:
        unwanted &= _in_bits(unwanted_bits, targets[..., None])[..., 0]
    ids = jnp.where(unwanted, targets, NO_TOKEN)[..., None]
    if negative_token_ids is not None:
        integers = jnp.issubdtype(negative_token_ids.dtype, jnp.integer)
        if not integers or negative_token_ids.shape[:-1] != targets.shape:
            raise ValueError(
                f"negative_token_ids must be integers of shape {targets.shape} and one"
                f" axis more, got {negative_token_ids.dtype} {negative_token_ids.shape}"
            )
        given = (negative_token_ids != 0) & (weights != 0)[..., None]
        more = jnp.where(given, negative_token_ids, NO_TOKEN)
        ids = jnp.concatenate([ids, more], axis=-1)
    if unwanted_bits is not None:
        unwanted_bits = jnp.where((weights != 0)[..., None], unwanted_bits, 0)
    tokens = Unwanted(ids.astype(jnp.int32), unwanted_bits)
    return Annotation(tokens, jnp.abs(weights).astype(jnp.float32))


def token_terms(
    method: Method,
    logits: Array,
    frozen_logits: Array | None,
    targets: Array,
    unwanted: Unwanted,
    *,
    epsilon: float = EPSILON,
    threshold: float = THRESHOLD,
) -> TokenTerms:
    """Computes the terms of `method` at every token: neither alpha nor weight.

    forward_kl: −Σ p_new log p_m, whose gradient is that of KL(p_new ‖ p_m).
    reverse_kl: KL(p_m ‖ q), q being p_new with the floor `epsilon`.
    cross_entropy: −log p_m(target).
    log_likelihood: max(log p_m(unwanted), threshold).
    unlikelihood: −log(1 − p_m(unwanted)).
    npo: (2 / β) log(1 + (p_m(unwanted) / p_o(unwanted))^β), with β = `BETA`.
    ftpo: the mean, weighed by w = clip((m − Δ) / m, 0, 1), of softplus(m − Δ), where Δ
      is a chosen token's lead over the target in logits and m = `MARGIN`; and the mean
      squares of what the logits moved from p_o's, the targets' beyond `FREE`.

    Args:
      method: a row of `METHODS`.
      logits: [batch, length, vocab] float, the model's.
      frozen_logits: [batch, length, vocab] float, the frozen original model's; None
        for a method without one.
      targets: [batch, length] integer token ids.
      unwanted: see `Annotation`.
      epsilon: floor of p_new's probability at each unwanted token in a reverse KL.
      threshold: NL's log-probability below which an unwanted token is left alone.

    Raises:
      ValueError: if shapes, dtypes or `epsilon` do not fit.

    References:
      arXiv 2406.13660, section 4 (the targeted losses) and section 5 (NL, UL).
      NPO: Zhang et al., arXiv 2404.05868, here for each token, with the KL divergence
      at the others. FTPO: Paech et al., arXiv 2510.15061 (Antislop), which trains the
      unwanted tokens alone; here, too, the others are held by a KL divergence.
    """
    frozen_logits = frozen_logits if method.frozen else None
    if method.frozen and frozen_logits is None:
        raise ValueError(f"{method.name} needs frozen_logits, the original model's")
    if frozen_logits is not None and logits.shape != frozen_logits.shape:
        raise ValueError(
            f"logits {logits.shape} and frozen_logits {frozen_logits.shape} must have"
            " the same shape: the frozen model must be the same network"
        )
    if targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"targets must have shape {logits.shape[:-1]} (logits without the"
            f" vocabulary axis), got {targets.shape}"
        )
    for name, array in (("logits", logits), ("frozen_logits", frozen_logits)):
        if array is not None and not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} must be floating point, got {array.dtype}")
    if "reverse_kl" in (method.negative, method.positive) and not 0 < epsilon < 1:
        raise ValueError(
            f"epsilon = {epsilon}: the reverse KL needs a probability above 0 and"
            " below 1 for the unwanted tokens of p_new"
        )
    arrays = logits, frozen_logits, targets.astype(jnp.int32), unwanted
    return _terms(method, epsilon, threshold, *arrays)


def targeted_loss(
    method: Method,
    logits: Array,
    frozen_logits: Array | None,
    targets: Array,
    annotation: Annotation,
    *,
    alpha: float = 1.0,
    epsilon: float = EPSILON,
    threshold: float = THRESHOLD,
    z_loss: float = 0.0,
    loss_normalizing_factor: float | Array | None = None,
    others_entropy: Array | None = None,
) -> tuple[Array, dict[str, tuple[Array, Array]]]:
    """Computes the loss of a targeted update over a batch, and its parts.

    Args:
      method: a row of `METHODS`.
      logits: [batch, length, vocab] float, the model's.
      frozen_logits: [batch, length, vocab] float, the frozen original model's; None
        for a method without one.
      targets: [batch, length] integer token ids.
      annotation: see `read_annotation`.
      alpha: weight of the unwanted positions.
      epsilon: see `token_terms`.
      threshold: see `token_terms`.
      z_loss: coefficient of T5X's z-loss, z · (log Z)², at every token; it is a
        regulariser of the logits' scale and not weighted by alpha.
      loss_normalizing_factor: divides the loss, as in T5X; None for a plain sum.
      others_entropy: [batch, length], the frozen model's, of `Merged` logits: a forward
        KL's loss, its cross entropy, has it beside; None where none are merged.

    Returns:
      The loss, a float32 scalar, and a dictionary of (sum, count) pairs, float32
      scalars, each weighed by the magnitudes:
        z_loss: the z-loss part of the loss (normalised as the loss is).
        unwanted/loss: D_neg at unwanted tokens, without alpha.
        unwanted/probability: p_m of the unwanted tokens, at unwanted positions.
        other/loss: D_pos at other tokens.
        other/kl: if D_pos is a KL divergence, that divergence at other tokens.

    Raises:
      ValueError: if shapes, dtypes or `epsilon` do not fit.

    References:
      arXiv 2406.13660, section 4; z-loss as in T5X's cross_entropy_with_logits.
    """
    tokens, magnitude = annotation
    options = {"epsilon": epsilon, "threshold": threshold}
    terms = token_terms(method, logits, frozen_logits, targets, tokens, **options)
    if others_entropy is not None and frozen_logits is not None:
        target = _log_sum_of_others(frozen_logits, tokens)
        p_new = jnp.exp(target.normalize(frozen_logits)[..., -1])
        forward = (x == "forward_kl" for x in (method.negative, method.positive))
        forward = jnp.where(annotation.unwanted, *forward)
        constant = jnp.where(forward, p_new * others_entropy, 0)
        terms = terms._replace(loss=terms.loss + jax.lax.stop_gradient(constant))
    unwanted = jnp.where(annotation.unwanted, magnitude, 0)
    other = jnp.where(annotation.unwanted, 0, magnitude)
    count = jnp.sum(unwanted), jnp.sum(other)
    regulariser = z_loss * jnp.sum(magnitude * jnp.square(terms.log_z))
    loss = jnp.sum((alpha * unwanted + other) * terms.loss) + regulariser
    if loss_normalizing_factor is not None:
        loss, regulariser = (x / loss_normalizing_factor for x in (loss, regulariser))
    total = _LogSum(terms.log_z, jnp.zeros_like(terms.log_z))
    probability = tokens.mass(logits, total)
    parts = {
        "z_loss": (regulariser, count[0] + count[1]),
        "unwanted/loss": (jnp.sum(unwanted * terms.loss), count[0]),
        "unwanted/probability": (jnp.sum(unwanted * probability), count[0]),
        "other/loss": (jnp.sum(other * terms.loss), count[1]),
    }
    if method.positive in ("forward_kl", "reverse_kl"):
        parts["other/kl"] = (jnp.sum(other * terms.divergence), count[1])
    return loss, jax.lax.stop_gradient(parts)


def argmax(logits: Array) -> Array:
    """Returns the first of the likeliest tokens, [..., vocab] -> int32 [...].

    On a CPU XLA takes six times as long for a reduction that carries indices along.
    """
    tokens = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    best = logits == jnp.max(logits, axis=-1, keepdims=True)
    return jnp.min(jnp.where(best, tokens, logits.shape[-1]), axis=-1)


def in_chunks(function: Callable[..., tuple[Array, Any]], size: int) -> Callable:
    """Sums a function of some positions over all, `size` of each row at a time.

    For a loss that is a sum over tokens and makes logits, so that only those of a chunk
    are ever there. Its gradient is taken in the same pass, chunk by chunk, and kept: no
    logits are made twice, and there is one gradient of the weights, not one a chunk.

    Args:
      function: (states, weights, tokens, constants) -> (float32 scalar, a tree of
        them): `states` is [batch, size, features], `tokens` a tree of
        [batch, size, ...].
      size: positions of a row in a chunk. The last chunk is filled up with zeros: they
        must add nothing.

    Returns:
      A function of the same arguments, of the whole length, and results. Gradients flow
      from the scalar to `states` and `weights` alone.
    """

    def chunks_of(tree, length):
        def split(x):
            x = jnp.pad(x, [(0, 0), (0, -length % size)] + [(0, 0)] * (x.ndim - 2))
            return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)

        return jax.tree.map(split, tree)

    def scan(step, states, weights, tokens, constants):
        """Adds up what `step` gives of each chunk, and stacks its second results."""

        def body(sums, chunk):
            more, stacked = step(chunk[0], weights, chunk[1], constants)
            return jax.tree.map(jnp.add, sums, more), stacked

        chunks = chunks_of((states, tokens), states.shape[1])
        first = jax.tree.map(lambda x: x[0], chunks)
        shapes = jax.eval_shape(step, first[0], weights, first[1], constants)[0]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(body, zeros, chunks)

    @jax.custom_vjp
    def total(*arguments):
        return scan(lambda *chunk: (function(*chunk), None), *arguments)[0]

    def forward(states, *others):
        gradients = jax.value_and_grad(function, argnums=(0, 1), has_aux=True)

        def step(*chunk):
            value, (of_states, of_weights) = gradients(*chunk)
            return (value, of_weights), of_states

        (value, of_weights), of_states = scan(step, states, *others)
        of_states = jnp.moveaxis(of_states, 0, 1)
        of_states = of_states.reshape(states.shape[0], -1, *states.shape[2:])
        return value, (of_states[:, : states.shape[1]], of_weights)

    def backward(gradients, cotangents):
        scaled = jax.tree.map(lambda g: (g * cotangents[0]).astype(g.dtype), gradients)
        return *scaled, None, None

    total.defvjp(forward, backward)
    return total


class Distances(NamedTuple):
    """How far a model is from the original one, float32 [batch, length] each.

    Attributes:
      kl_original: KL(p_o ‖ p_m), in nats.
      kl_exact: KL(p_new ‖ p_m), in nats.
      total_variation: of p_new and p_m, ½ Σ |p_new − p_m|.
      before: p_o of the unwanted tokens together.
      after: p_m of them.
    """

    kl_original: Array
    kl_exact: Array
    total_variation: Array
    before: Array
    after: Array


def distances(logits: Array, frozen_logits: Array, unwanted: Unwanted) -> Distances:
    """Computes the distances at every position, whatever it weighs.

    Args:
      logits: [batch, length, vocab] float, the model's.
      frozen_logits: [batch, length, vocab] float, the frozen original model's.
      unwanted: see `Annotation`.

    References:
      arXiv 2406.13660, section 3 (p_new, and the divergences from it).
    """
    logits, frozen_logits = (x.astype(jnp.float32) for x in (logits, frozen_logits))
    sums = _LogSum.of(logits), _LogSum.of(frozen_logits)
    target = _log_sum_of_others(frozen_logits, unwanted)
    given = logits, frozen_logits, (*sums, target)
    mask = unwanted.mask(logits.shape)
    summands: dict[str, Callable[..., Array]] = dict(
        # Not a cross entropy less an entropy: 0, exactly, where the two are equal.
        kl_original=lambda mask, m, o, new: jnp.exp(o) * (o - m),
        kl_exact=lambda mask, m, o, new: jnp.where(mask, 0, jnp.exp(new) * (new - m)),
        total_variation=lambda mask, m, o, new: (
            jnp.abs(jnp.where(mask, 0, jnp.exp(new)) - jnp.exp(m)) / 2
        ),
        before=lambda mask, m, o, new: jnp.where(mask, jnp.exp(o), 0),
        after=lambda mask, m, o, new: jnp.where(mask, jnp.exp(m), 0),
    )
    found = {}
    for name, summand in summands.items():
        # Each computes the softmaxes anew: see `_View.apart`.
        model, frozen, sums = given = jax.lax.optimization_barrier(given)
        arrays = zip(sums, (model, frozen, frozen), strict=True)
        log_p = (each.normalize(array) for each, array in arrays)
        found[name] = jnp.sum(summand(mask, *log_p), axis=-1)
    return Distances(**found)
