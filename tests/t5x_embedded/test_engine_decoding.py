"""Decoding from a table of logits: greedy, sampled, and beam search."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_embedded import decoding

EOS = 1
TABLE = 2 * np.random.default_rng(3).standard_normal((6, 6))
TABLE[:, 0] = -20  # Padding is never generated.


def log_softmax(table):
    return np.asarray(jax.nn.log_softmax(jnp.asarray(table)))


LOG_PROBS = log_softmax(TABLE)


def markov(state, table=TABLE):
    """Logits by the last token; the cache counts the steps."""
    logits = jnp.asarray(table, jnp.float32)[state.cur_token[:, 0]]
    return logits, {"steps": state.cache["steps"] + 1}


def inputs(rows=2, length=6, prompt=()):
    tokens = np.zeros((rows, length), np.int32)
    tokens[:, 1 : 1 + len(prompt)] = prompt
    return jnp.asarray(tokens)


def cache(rows=2):
    return {"steps": jnp.zeros((rows, 1), jnp.int32)}


def sample(tokens, model=markov, **options):
    return decoding.temperature_sample(
        tokens, cache(tokens.shape[0]), model, EOS, **options
    )


def by_hand(length, start=(), log_probs=LOG_PROBS):
    """Greedy decoding in a loop, and its log probability."""
    tokens, total = list(start), 0.0
    while len(tokens) < length and EOS not in tokens:
        last = tokens[-1] if tokens else 0
        tokens.append(int(np.argmax(log_probs[last])))
        total += log_probs[last, tokens[-1]]
    return tokens + [0] * (length - len(tokens)), total


@pytest.mark.parametrize("prompt", [(), (4,), (2, 5, 3)])
def test_greedy_is_the_argmax_of_each_step(prompt):
    decodes, log_probs = sample(
        inputs(prompt=prompt), temperature=0.0, rescale_log_probs=False
    )
    expected, log_prob = by_hand(6, prompt)
    assert decodes.shape == (2, 1, 6) and log_probs.shape == (2, 1)
    assert decodes[0, 0].tolist() == decodes[1, 0].tolist() == expected
    np.testing.assert_allclose(log_probs, log_prob, rtol=1e-5)
    np.testing.assert_array_equal(sample(inputs(), temperature=0.0)[1], 0.0)


def chain(state):
    """Token t is followed by t - 1, down to EOS, then padding."""
    logits = jax.nn.one_hot(state.cur_token[:, 0] - 1, 10)
    return logits, {"steps": state.cache["steps"] + 1}


def test_decoding_stops_when_every_row_has_ended():
    steps = []

    def counted(state):
        jax.debug.callback(lambda index: steps.append(index), state.cur_index)
        return chain(state)

    tokens = inputs(length=9, prompt=(4,)).at[1, 1].set(3)
    decodes, _ = sample(tokens, counted, temperature=0.0)
    jax.effects_barrier()
    assert decodes[:, 0].tolist() == [
        [4, 3, 2, 1, 0, 0, 0, 0, 0],
        [3, 2, 1, 0, 0, 0, 0, 0, 0],
    ]
    assert len(steps) == 4


def test_maximum_of_steps_counts_after_each_prompt():
    tokens = inputs(length=9, prompt=(9,)).at[1, 2].set(9)
    decodes, _ = sample(tokens, chain, temperature=0.0, max_decode_steps=2)
    assert decodes[:, 0].tolist() == [
        [9, 8, 7, 0, 0, 0, 0, 0, 0],
        [9, 9, 8, 7, 0, 0, 0, 0, 0],
    ]
    with pytest.raises(ValueError, match="max_decode_steps is 10, the length only 9"):
        sample(tokens, chain, max_decode_steps=10)


def test_samples_follow_the_distribution():

    def shares(**options):
        key = jax.random.PRNGKey(1)
        options = {"topk": 0, "num_decodes": 2000, "decode_rng": key, **options}
        draw = jax.jit(lambda: sample(inputs(1, 1), **options)[0])
        return np.bincount(draw().ravel(), minlength=6) / 2000

    probs = np.exp(LOG_PROBS[0])
    np.testing.assert_allclose(shares(), probs, atol=0.04)
    order = np.argsort(-probs)
    two = shares(topk=2)
    assert set(np.flatnonzero(two)) == set(order[:2])
    np.testing.assert_allclose(
        two[order[0]], probs[order[0]] / probs[order[:2]].sum(), atol=0.04
    )
    needed = 1 + int(np.searchsorted(np.cumsum(probs[order]), 0.8))
    assert set(np.flatnonzero(shares(topp=0.8))) == set(order[:needed])


def test_decodes_are_sorted_by_log_probability():
    decodes, log_probs = sample(
        inputs(), num_decodes=5, topk=0, decode_rng=jax.random.PRNGKey(2)
    )
    assert jnp.all(jnp.diff(log_probs, axis=1) >= 0)
    for row, log_prob in zip(decodes[0], log_probs[0], strict=True):
        pairs = itertools.pairwise([0, *row[row != 0].tolist()])
        expected = sum(LOG_PROBS[a, b] for a, b in pairs)
        np.testing.assert_allclose(log_prob, expected, rtol=1e-4)


def test_top_k_and_top_p_exclude_each_other():
    with pytest.raises(ValueError, match="only one of topk"):
        sample(inputs(), topk=2, topp=0.5)


def every_sequence(length, alpha):
    """All decodes of at most `length` tokens by score, the best first."""
    found = {}
    for n in range(1, length + 1):
        for body in itertools.product(range(2, 6), repeat=n - 1):
            tokens = (*body, EOS)
            log_prob = sum(LOG_PROBS[p] for p in itertools.pairwise((0, *tokens)))
            score = log_prob / ((5 + n) / 6) ** alpha
            found[tokens + (0,) * (length - n)] = score
    return sorted(found.items(), key=lambda item: -item[1])


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_a_wide_beam_finds_the_best_sequences(alpha):
    # 2 * 64 candidates hold every prefix of three tokens.
    decodes, scores = decoding.beam_search(
        inputs(1, 3), cache(1), markov, EOS, num_decodes=21, alpha=alpha
    )
    best = every_sequence(3, alpha)[:5]
    got = [tuple(row.tolist()) for row in decodes[0, ::-1][:5]]
    assert got == [tokens for tokens, _ in best]
    np.testing.assert_allclose(scores[0, ::-1][:5], [s for _, s in best], rtol=1e-5)


def test_a_beam_of_one_without_an_end_is_greedy():
    table = TABLE.copy()
    table[:, EOS] = -30
    decodes, scores = decoding.beam_search(
        inputs(), cache(), functools.partial(markov, table=table), EOS, num_decodes=1
    )
    expected, total = by_hand(6, log_probs=log_softmax(table))
    assert decodes[1, 0].tolist() == expected and EOS not in expected
    np.testing.assert_allclose(scores[:, 0], total, rtol=1e-5)


def test_beams_keep_a_prompt():
    decodes, scores = decoding.beam_search(
        inputs(prompt=(4, 2)), cache(), markov, EOS, num_decodes=3
    )
    ended = [row.tolist() for row in decodes[0][scores[0] > -1e6]]
    assert len(ended) > 1 and len(set(map(tuple, ended))) == len(ended)
    assert all(row[:2] == [4, 2] and EOS in row for row in ended)


def test_caches_follow_their_beams():
    """A cache that carries each row's history."""
    start = {"past": jnp.zeros((2, 6), jnp.int32), "cache_index": jnp.array(0)}
    table = jnp.asarray(TABLE, jnp.float32)

    def model(state):
        kept = state.cache["past"]
        kept = jnp.roll(kept, 1, axis=1).at[:, 0].set(state.cur_token[:, 0])
        # The second last token matters: a cache of the wrong beam would show.
        logits = table[kept[:, 0]] + 0.7 * table[kept[:, 1]]
        index = state.cache["cache_index"] + 1
        return logits, {"past": kept, "cache_index": index}

    def plain(state):
        past = state.sequences  # The history itself, right by construction.
        at = state.cur_index
        before = jnp.where(at > 0, past[:, jnp.maximum(at - 1, 0)], 0)
        return table[state.cur_token[:, 0]] + 0.7 * table[before], state.cache

    got, want = (
        decoding.beam_search(inputs(), start, read, EOS, num_decodes=3)
        for read in (model, plain)
    )
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_allclose(got[1], want[1], rtol=1e-6)


def test_beam_dimensions():
    x = jnp.arange(12).reshape(2, 3, 2)
    assert decoding.flat_batch_beam_expand(x, 2)[:, 0, 0].tolist() == [0, 0, 6, 6]
    flat = decoding.flatten_beam_dim(x)
    np.testing.assert_array_equal(decoding.unflatten_beam_dim(flat, 2, 3), x)
    cached = {"a": {"key": x, "cache_index": x, "cached_bias": x}}
    mapped = decoding.cache_map(jnp.negative, cached)["a"]
    assert [bool(jnp.any(v < 0)) for v in mapped.values()] == [False, False, True]
    mapped = decoding.cache_map(jnp.negative, cached, apply_to_index=True)["a"]
    assert {k for k, v in mapped.items() if jnp.any(v < 0)} == {"cache_index", "key"}
