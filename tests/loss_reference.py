"""The losses as the table of the method family states them, in float64 NumPy.

Written from the table and the paper (arXiv 2406.13660, sections 3 and 4), token by
token and by index, with none of the devices of `t5patches.losses`: the unwanted
tokens are left out of a sum rather than masked in it. Each formula has its derivative
beside it; `finite_differences` is there to test these.

`upstream_token_losses` has the numbers of google/t5patches, for `upstream_values`.
"""

import numpy as np

# At unwanted tokens, at the others, by the names of `losses.TERMS`.
TABLE = {
    "nl": ("log_likelihood", "cross_entropy"),
    "ul": ("unlikelihood", "cross_entropy"),
    "tnff": ("forward_kl", "forward_kl"),
    "tnrr": ("reverse_kl", "reverse_kl"),
    "tnrf": ("reverse_kl", "forward_kl"),
    "tnfll": ("forward_kl", "cross_entropy"),
    "tnrll": ("reverse_kl", "cross_entropy"),
    "npo": ("npo", "forward_kl"),
    "ftpo": ("ftpo", "forward_kl"),
}
RIVALS = ("npo", "ftpo")
TARGETED = ("tnff", "tnrr", "tnrf", "tnfll", "tnrll")


def log_sum_exp(z):
    return z.max() + np.log(np.exp(z - z.max()).sum())


def log_softmax(z):
    # Not z − log_sum_exp(z), which rounds to the size of z.
    z = z - z.max()
    return z - np.log(np.exp(z).sum())


def softmax(z):
    """Along the last axis, float64."""
    z = np.asarray(z, np.float64)
    exps = np.exp(z - z.max(-1, keepdims=True))
    return exps / exps.sum(-1, keepdims=True)


def unwanted_tokens(target, weight, negative_ids=()):
    """The set of tokens that must not be at this position, sorted; [] if none."""
    if weight == 0:
        return []
    unwanted = {int(i) for i in negative_ids if i != 0}
    if weight < 0:
        unwanted.add(int(target))
    return sorted(unwanted)


def p_new(frozen, unwanted, epsilon=0.0):
    """p_o without `unwanted`, renormalised; those at `epsilon`, the rest scaled."""
    frozen = np.asarray(frozen, np.float64)
    others = np.setdiff1d(np.arange(len(frozen)), unwanted)
    result = np.full(len(frozen), float(epsilon))
    result[others] = softmax(frozen[others]) * (1 - epsilon * len(unwanted))
    return result


def term(kind, logits, frozen, target, unwanted, epsilon, threshold):
    """One token's term of the loss, without alpha and weight, and its derivative.

    Args:
      kind: an entry of `TABLE`'s rows.
      logits: float64 [vocab] of the model.
      frozen: [vocab] of the original model, or None where `kind` needs none.
      target: the token at this position.
      unwanted: the unwanted tokens at this position.
      epsilon: floor of the reverse KL's target at unwanted tokens.
      threshold: NL's, of the log-probability.

    Returns:
      The value, and its gradient by `logits`, float64 [vocab].
    """
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    others = np.setdiff1d(np.arange(len(p)), unwanted)
    if kind == "cross_entropy":
        return -log_p[target], p - _only(p, [target], 1.0)
    if kind == "log_likelihood":
        log_set = log_sum_exp(log_p[unwanted])
        if log_set < threshold:
            return threshold, np.zeros_like(p)
        # p / p(set) − p = p · (1 − p(set)) / p(set), which does not cancel.
        log_odds = log_sum_exp(log_p[others]) - log_set
        gradient = -p
        gradient[unwanted] = np.exp(log_p[unwanted] + log_odds)
        return log_set, gradient
    if kind == "unlikelihood":
        log_rest = log_sum_exp(log_p[others])
        return -log_rest, p - _only(p, others, np.exp(log_p[others] - log_rest))
    frozen = np.asarray(frozen, np.float64)
    if kind == "npo":  # (2 / β) log(1 + ratio^β), of which ratio is p / p_o of the set
        log_set = log_sum_exp(log_p[unwanted])
        ratio = np.exp(log_set - log_sum_exp(log_softmax(frozen)[unwanted]))
        value = 2 / 0.1 * np.log1p(ratio**0.1)
        of_set = -p
        of_set[unwanted] = np.exp(log_p[unwanted]) * (1 / np.exp(log_set) - 1)
        return value, 2 * ratio**0.1 / (1 + ratio**0.1) * of_set
    if kind == "ftpo":
        value = ftpo(logits, frozen, target, unwanted)
        # By differences: a derivation of its own would be the implementation's.
        slope = finite_differences(lambda z: ftpo(z, frozen, target, unwanted), logits)
        return value, slope
    log_new = log_softmax(frozen[others])
    if kind == "forward_kl":
        new = np.exp(log_new)
        return -(new * log_p[others]).sum(), p - _only(p, others, new)
    log_q = _only(p, unwanted, np.log(epsilon))
    log_q[others] = log_new + np.log1p(-epsilon * len(unwanted))
    value = (p * (log_p - log_q)).sum()
    return value, p * (log_p - log_q - value)


def ftpo(logits, frozen, target, unwanted):
    """FTPO's term (arXiv 2510.15061) token by token, with its authors' numbers."""
    fine = [i for i in range(len(frozen)) if i not in unwanted]
    likely = sorted(fine, key=lambda i: -frozen[i])[:8]
    chosen = [i for i in likely if np.exp(frozen[i] - frozen[likely[0]]) >= 0.1]
    pairs = []
    for i in chosen:
        lead = logits[i] - logits[target]
        weight = min(max((2.0 - lead) / 2.0, 0.0), 1.0)
        pairs.append((weight, np.log1p(np.exp(2.0 - lead))))
    total = sum(weight for weight, _ in pairs)
    value = sum(w * loss for w, loss in pairs) / total if total else 0.0
    targets = {*chosen, int(target)}
    others = [i for i in range(len(frozen)) if i not in targets]
    moved = np.abs(logits - frozen)
    value += 0.05 * np.mean([max(moved[i] - 1.0, 0.0) ** 2 for i in sorted(targets)])
    return value + (0.4 * np.mean(moved[others] ** 2) if others else 0.0)


def _only(like, index, values):
    """`values` at `index`, 0 elsewhere."""
    result = np.zeros_like(like)
    result[index] = values
    return result


def token_losses(
    name,
    logits,
    frozen,
    targets,
    weights,
    *,
    epsilon=1e-6,
    threshold=-10.3,
    negative_token_ids=None,
    unwanted_sets=None,
    sets_decide=False,
):
    """{(batch, position): (loss, gradient, log Z, whether unwanted)}, no padding."""
    logits = np.asarray(logits, np.float64)
    negative, positive = TABLE[name]
    result = {}
    for index in np.ndindex(*np.shape(targets)):
        if weights[index] == 0:
            continue
        ids = () if negative_token_ids is None else negative_token_ids[index]
        is_unwanted = weights[index] < 0
        if sets_decide:  # A marked token that is in no set is like any other.
            is_unwanted = is_unwanted and unwanted_sets[index][targets[index]]
        sign = -1 if is_unwanted else 1
        unwanted = unwanted_tokens(targets[index], sign, ids)
        kind = negative if is_unwanted else positive
        if unwanted_sets is not None:  # bool [batch, length, vocab]
            unwanted = sorted({*unwanted, *np.flatnonzero(unwanted_sets[index])})
        row = None if frozen is None else frozen[index]
        z, target = logits[index], targets[index]
        value, gradient = term(kind, z, row, target, unwanted, epsilon, threshold)
        result[index] = value, gradient, log_sum_exp(z), is_unwanted
    return result


def distances(logits, frozen, unwanted):
    """One token's `losses.Distances`, floats; `unwanted` are ids."""
    p, original = softmax(logits), softmax(frozen)
    new = p_new(frozen, unwanted)
    some = new > 0
    return (
        (original * np.log(original / p)).sum(),
        (new[some] * np.log(new[some] / p[some])).sum(),
        total_variation(new, p),
        original[unwanted].sum(),
        p[unwanted].sum(),
    )


def loss(
    name,
    logits,
    frozen,
    targets,
    weights,
    *,
    alpha=1.0,
    z_loss=0.0,
    loss_normalizing_factor=None,
    **options,
):
    """The loss of a batch and its gradient by the logits, float64.

    Σ |weight| · (alpha or 1) · term + z-loss, normalised.
    """
    total, gradient = 0.0, np.zeros(np.shape(logits))
    tokens = token_losses(name, logits, frozen, targets, weights, **options)
    for index, (value, derivative, log_z, unwanted) in tokens.items():
        factor = alpha if unwanted else 1.0
        weight = abs(float(weights[index])) / (loss_normalizing_factor or 1.0)
        total += weight * (factor * value + z_loss * log_z**2)
        d_z_loss = 2 * z_loss * log_z * softmax(logits[index])
        gradient[index] = weight * (factor * derivative + d_z_loss)
    return total, gradient


def finite_differences(function, logits, step=1e-5):
    """The gradient of a float64 function of `logits`, by central differences."""
    gradient = np.zeros(np.shape(logits))
    for index in np.ndindex(*gradient.shape):
        ends = []
        for sign in (1, -1):
            moved = np.array(logits, np.float64)
            moved[index] += sign * step
            ends.append(function(moved))
        gradient[index] = (ends[0] - ends[1]) / (2 * step)
    return gradient


def upstream_target(name, frozen, target, weight):
    """The distribution that google/t5patches' targeted losses compare with, [vocab].

    Where the term is a reverse KL in either column, 1e-6 is added to every entry.
    """
    if weight < 0:
        result = p_new(frozen, [target])
    elif name in ("tnfll", "tnrll"):
        result = np.eye(len(frozen))[target]
    else:
        result = softmax(frozen)
    if name not in ("tnff", "tnfll"):
        result = result + 1e-6
    return result / result.sum()


def upstream_token_losses(name, logits, frozen, targets, weights, alpha=1e4):
    """Each token's loss as google/t5patches computes it, float64, alpha included.

    Args:
      name: a key of `TABLE`.
      logits: [batch, length, vocab].
      frozen: [batch, length, vocab], or None for NL and UL.
      targets: [batch, length] ids.
      weights: [batch, length] of −1, 0 and 1.
      alpha: weight of unwanted tokens.

    Returns:
      float64 [batch, length].
    """
    result = np.zeros(np.shape(targets))
    for index in np.ndindex(*result.shape):
        weight, target = float(weights[index]), targets[index]
        log_p = log_softmax(np.asarray(logits[index], np.float64))
        if weight == 0:
            continue
        factor = alpha if weight < 0 else 1.0
        if name == "nl":
            # The clamp is from above: on good tokens, never on unwanted ones.
            result[index] = min(-log_p[target] * weight * factor, 10.3)
            continue
        if name == "ul":
            p = min(np.exp(log_p[target]), 1 - 1e-7)
            value = -np.log1p(-p) if weight < 0 else -log_p[target]
        else:
            aim = upstream_target(name, frozen[index], target, weight)
            if name == "tnrr" or (name in ("tnrf", "tnrll") and weight < 0):
                value = (np.exp(log_p) * (log_p - np.log(aim))).sum()
            else:
                value = -(aim * log_p).sum()
        result[index] = factor * value
    return result


def total_variation(p, q):
    """½ Σ |p − q| along the last axis, float64."""
    return 0.5 * np.abs(np.asarray(p, np.float64) - q).sum(-1)
