"""Token-by-token decoding through a cache: greedy, sampled, and beam search.

The model is a function from a `DecodingState` to (logits of the next token, cache).
Several decodes of one input lie next to each other along the batch axis:
[input 0 decode 0, input 0 decode 1, input 1 decode 0, …].
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from t5x_embedded import _absent, losses

__getattr__ = _absent.module_getattr(__name__)

Array = jax.Array
NEG_INF_VALUE = -1.0e7
# At and below this temperature sampling is greedy.
MIN_TEMPERATURE = np.array(1e-4)
# Cache entries that have no batch axis; the first has one after a prefill.
_UNBATCHED = ("cache_index", "cached_bias", "position_embedder_index")


@flax.struct.dataclass
class DecodingState:
    """What a model needs for its next step.

    Attributes:
        cur_index: int32 [batch] (scalar in beam search), the position being read.
        sequences: int32 [batch, length], what was decoded so far.
        cur_token: int32 [batch, 1], the token being read.
        cache: the model's cache.
    """

    cur_index: Array
    sequences: Array
    cur_token: Array
    cache: Mapping[str, Array]


@flax.struct.dataclass
class _Sampling(DecodingState):
    """What `temperature_sample` carries from step to step.

    Its `sequences` are [batch, length + 2]: the start token, the decoded tokens, and a
    place to write to for rows that are full before others.

    Attributes:
        ended: bool [batch].
        rng: the key of the next step.
        log_prob: float32 [batch].
    """

    ended: Array
    rng: Array
    log_prob: Array


TokensToLogits = Callable[[DecodingState], tuple[Array, Mapping[str, Array]]]


@dataclasses.dataclass
class Queue:
    """Rows that are decoded in the places of a smaller batch, as these get free.

    Attributes:
        size: places for results.
        rows: int32 scalar, how many of them are rows to decode, the first ones.
        at_once: how many rows begin together.
        begin: (cache, places int32 [at_once], rows int32 [at_once]) -> the cache with
            these rows, of which nothing is decoded yet, in these places.
    """

    size: int
    rows: Array
    at_once: int
    begin: Callable[[Any, Array, Array], Any]


# Rows of the batch and the decodes of each.


def flat_batch_beam_expand(x: Array, beam_size: int) -> Array:
    """Repeats every row: [batch, …] → [batch * beam_size, …]."""
    return jnp.repeat(x, beam_size, axis=0)


def flatten_beam_dim(x: Array) -> Array:
    """[batch, beam, …] → [batch * beam, …]."""
    return lax.collapse(x, 0, 2)


def unflatten_beam_dim(x: Array, batch_size: int, beam_size: int) -> Array:
    """[batch * beam, …] → [batch, beam, …]."""
    return x.reshape(batch_size, beam_size, *x.shape[1:])


def cache_map(
    fn: Callable[[Array], Array], cache: Any, apply_to_index: bool = False
) -> Any:
    """Applies `fn` to the entries of a cache that have a batch axis.

    Args:
        fn: from array to array.
        cache: nested dictionaries; entries are told apart by name.
        apply_to_index: whether `cache_index` has a batch axis, too (after a prefill).
    """
    left = _UNBATCHED[apply_to_index:]
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x if path[-1].key in left else fn(x), cache
    )


# Sampling.


def _keep_top_k(logits: Array, k: int) -> Array:
    """Masks all but the k best (more where they tie)."""
    # Behind a barrier, since where the places are not used XLA on a CPU makes a sort of
    # it, which takes 80 times as long.
    best, _ = lax.optimization_barrier(lax.top_k(logits, min(k, logits.shape[-1])))
    return jnp.where(logits >= best[..., -1:], logits, NEG_INF_VALUE)


def _keep_top_p(logits: Array, p: float) -> Array:
    """Masks all but the fewest tokens whose probabilities add up to p.

    Looks for the least probability kept by bisection, since XLA on a CPU takes long to
    sort; numbers from 0 are in the order of their bits.
    """
    probs = jax.nn.softmax(logits, axis=-1)
    bits = lax.bitcast_convert_type(probs, jnp.int32)

    def halve(_, ends):
        low, high = ends
        middle = low + (high - low) // 2
        above = jnp.sum(jnp.where(bits > middle, probs, 0), axis=-1, keepdims=True)
        return jnp.where(above < p, low, middle), jnp.where(above < p, middle, high)

    high = jnp.max(bits, axis=-1, keepdims=True)
    _, least = lax.fori_loop(0, 31, halve, (jnp.full_like(high, -1), high))
    return jnp.where(bits >= least, logits, NEG_INF_VALUE)


def _choose(logits, rng, temperature, topk, topp, rescale_log_probs):
    """Takes the next token.

    Returns:
        (tokens int32 [batch], their log probabilities float32 [batch]).
    """
    if temperature > MIN_TEMPERATURE:
        scaled = logits / jnp.float32(temperature)
        scaled = _keep_top_k(scaled, topk) if topk else scaled
        scaled = _keep_top_p(scaled, topp) if topp else scaled
        # As jax.random.categorical, but for its argmax.
        token = losses.argmax(
            scaled + jax.random.gumbel(rng, scaled.shape, scaled.dtype)
        )
        logits = scaled if rescale_log_probs else logits
    else:
        token = losses.argmax(logits)
        if rescale_log_probs:  # All probability is on the one token.
            return token, jnp.zeros(token.shape, jnp.float32)
    log_probs = jax.nn.log_softmax(logits)
    return token, jnp.take_along_axis(log_probs, token[..., None], axis=-1)[..., 0]


def temperature_sample(
    inputs: Array,
    cache: Mapping[str, Array],
    tokens_to_logits: TokensToLogits,
    eos_id: int,
    decode_rng: Array | None = None,
    num_decodes: int = 1,
    temperature: float = 1.0,
    topk: int = 1,
    topp: float = 0.0,
    cache_offset: int = 0,
    initial_index: Array | None = None,
    max_decode_steps: int | None = None,
    rescale_log_probs: bool = True,
    queue: Queue | None = None,
) -> tuple[Array, Array]:
    """Decodes by sampling; at temperature 0 greedily, the argmax of each step.

    Runs until every row has ended with `eos_id` or is full. Tokens of `inputs` other
    than 0 are kept (a prompt), each at its place. A row reads, step by step:

        inputs   0 5 6 0 0
        reads    0 5 6 a b
        decodes  5 6 a b c      (a: the first sampled token)

    Args:
        inputs: int32 [batch, length], shifted right: 0, then the prompt, then 0s.
        cache: the model's cache, for [batch] rows.
        tokens_to_logits: the model.
        eos_id: the token that ends a row; 0s follow it.
        decode_rng: a key; None is `jax.random.PRNGKey(0)`.
        num_decodes: decodes per row.
        temperature: divides the logits; a number, not an array.
        topk: sample among this many best tokens; 0 is all.
        topp: sample among the best tokens with at least this probability together;
            0 is all. Not together with `topk`.
        cache_offset: not supported (scanned layers).
        initial_index: int32 [batch], where the cache already holds the prompt: the
            position of `inputs` that each row reads first, its prompt's last.
        max_decode_steps: at most this many tokens after the prompt.
        rescale_log_probs: whether the log probabilities returned are those after
            temperature, `topk` and `topp` (greedy: 0) or the model's own.
        queue: what is decoded, in place of `inputs`, which are then zeros: of as many
            rows as have a place at a time. Not with other `num_decodes` than 1, nor
            with `initial_index`. T5X's function has no such argument.

    Returns:
        (decodes int32 [batch, num_decodes, length], log probabilities float32
        [batch, num_decodes]), the most probable last.

    Raises:
        NotImplementedError: an argument that only T5X has.
        ValueError: both `topk` and `topp` are set, or `max_decode_steps` is more
            than the length.
    """
    name = "decoding.temperature_sample"
    if np.ndim(temperature):
        _absent.option(name, "temperature", temperature)
    _absent.refuse(name, locals(), "cache_offset")
    if topk and topp:
        raise ValueError(f"only one of topk ({topk}) and topp ({topp}) can be set")
    batch, length = inputs.shape
    rows = batch * num_decodes
    prefilled = initial_index is not None
    start = initial_index if prefilled else jnp.zeros((batch,), jnp.int32)
    if num_decodes > 1:
        expand = functools.partial(flat_batch_beam_expand, beam_size=num_decodes)
        cache = cache_map(expand, cache, apply_to_index=prefilled)
        inputs, start = expand(inputs), expand(start)
    last = jnp.full((rows,), length)
    if max_decode_steps is not None:
        if max_decode_steps > length:
            raise ValueError(
                f"max_decode_steps is {max_decode_steps}, the length only {length}"
            )
        last = jnp.minimum(length, jnp.sum(inputs != 0, axis=1) + max_decode_steps)
    position = jnp.arange(length + 2)

    def step(state: _Sampling) -> _Sampling:
        rng, next_rng = jax.random.split(state.rng)
        seen = state.replace(sequences=state.sequences[:, :length])
        logits, cache = tokens_to_logits(seen)
        new, log_prob = _choose(logits, rng, temperature, topk, topp, rescale_log_probs)

        # A full row goes on writing 0s behind its last token.
        here = jnp.minimum(state.cur_index, last)
        is_next = position == here[:, None] + 1
        given = jnp.sum(jnp.where(is_next, state.sequences, 0), axis=1)
        free = given == 0
        live = ~state.ended
        new = jnp.where(live, jnp.where(free, new, given), 0)
        ended = ~live | (free & (new == eos_id)) | (here >= last - 1)
        return _Sampling(
            cur_index=here + 1,
            sequences=jnp.where(is_next, new[:, None], state.sequences),
            cache=flax.core.unfreeze(cache),
            cur_token=new[:, None],
            ended=ended,
            rng=next_rng,
            log_prob=state.log_prob + jnp.where(free & live, log_prob, 0.0),
        )

    # Without a prefill the first token is 0, whatever the inputs begin with.
    token = jnp.take_along_axis(inputs, start[:, None], axis=1)
    state = _Sampling(
        cur_index=start.astype(jnp.int32),
        sequences=jnp.pad(inputs, ((0, 0), (0, 2))),
        cache=flax.core.unfreeze(cache),
        cur_token=token if prefilled else jnp.zeros_like(token),
        ended=jnp.zeros((rows,), bool),
        rng=jax.random.PRNGKey(0) if decode_rng is None else decode_rng,
        log_prob=jnp.zeros((rows,), jnp.float32),
    )
    if queue is not None:
        return _decode_queue(queue, state, step)
    state = lax.while_loop(lambda s: ~jnp.all(s.ended), step, state)
    decodes = unflatten_beam_dim(state.sequences[:, 1:-1], batch, num_decodes)
    log_probs = unflatten_beam_dim(state.log_prob, batch, num_decodes)
    order = jnp.argsort(log_probs, axis=-1)
    return (
        jnp.take_along_axis(decodes, order[..., None], axis=1),
        jnp.take_along_axis(log_probs, order, axis=1),
    )


@flax.struct.dataclass
class _Queued:
    """What `_decode_queue` carries from one beginning of rows to the next.

    Attributes:
        places: the state of the rows that are being decoded.
        row: int32 [places], which row each is; `size` is none.
        begun: int32 scalar, how many rows were begun.
        decodes: int32 [size + 1, length], what the last row has is not read.
        log_probs: float32 [size + 1].
    """

    places: _Sampling
    row: Array
    begun: Array
    decodes: Array
    log_probs: Array


def _decode_queue(
    queue: Queue, empty: _Sampling, step: Callable[[_Sampling], _Sampling]
) -> tuple[Array, Array]:
    """Decodes all rows of a queue.

    Args:
        queue: the rows.
        empty: the state of rows of which nothing is decoded.
        step: decodes a token of each.

    Returns:
        As `temperature_sample`, of [size] rows.
    """
    count, length = empty.sequences.shape

    def wait(s: _Queued, places: _Sampling) -> Array:
        """Whether to go on without new rows."""
        free = jnp.sum(places.ended)
        return (free < count) & ((free < queue.at_once) | (s.begun >= queue.rows))

    def results(s: _Queued) -> _Queued:
        decodes = s.decodes.at[s.row].set(s.places.sequences[:, 1:-1])
        return s.replace(
            decodes=decodes, log_probs=s.log_probs.at[s.row].set(s.places.log_prob)
        )

    def begin(s: _Queued) -> _Queued:
        s = results(s)
        free = jnp.argsort(~s.places.ended)[: queue.at_once]
        rows = s.begun + jnp.arange(queue.at_once)
        begins = rows < queue.rows
        rows = jnp.where(begins, rows, queue.size)
        cache = queue.begin(s.places.cache, free, jnp.minimum(rows, queue.rows - 1))
        fresh = jax.tree.map(
            lambda x, new: x.at[free].set(new[free]),
            s.places.replace(cache=(), rng=()),
            empty.replace(cache=(), rng=()),
        )
        places = fresh.replace(
            cache=cache, rng=s.places.rng, ended=s.places.ended.at[free].set(~begins)
        )
        s = s.replace(
            row=s.row.at[free].set(rows),
            begun=jnp.minimum(s.begun + queue.at_once, queue.rows),
        )
        go_on = functools.partial(wait, s)
        return s.replace(places=lax.while_loop(go_on, step, places))

    start = _Queued(
        places=empty.replace(ended=jnp.ones((count,), bool)),
        row=jnp.full((count,), queue.size),
        begun=jnp.zeros((), jnp.int32),
        decodes=jnp.zeros((queue.size + 1, length - 2), jnp.int32),
        log_probs=jnp.zeros((queue.size + 1,), jnp.float32),
    )
    # A beginning of rows is followed by the steps until the next one.
    end = results(lax.while_loop(lambda s: s.begun < queue.rows, begin, start))
    return end.decodes[:-1, None], end.log_probs[:-1, None]


# Beam search.


def brevity_penalty(alpha: float, length: int | Array) -> Array:
    """What to divide a log probability by to compare lengths: ((5 + n) / 6) ** alpha.

    References:
        Wu et al., Google's Neural Machine Translation System, 2016, equation 14.
    """
    return jnp.power((5.0 + length) / 6.0, alpha)


@flax.struct.dataclass
class _Beams:
    """Beam search's state; [batch, beam, …], the best beam last.

    Attributes:
        index: int32 scalar, the position being read.
        log_probs: float32 [batch, beam], of the beams that go on.
        tokens: int32 [batch, beam, length], theirs.
        done_scores: float32 [batch, beam], of the beams that ended.
        done_tokens: int32 [batch, beam, length], theirs.
        done: bool [batch, beam], whether the place is taken.
        cache: the model's cache for batch * beam rows.
    """

    index: Array
    log_probs: Array
    tokens: Array
    done_scores: Array
    done_tokens: Array
    done: Array
    cache: Any


def _pick(x: Array, beams: Array) -> Array:
    """Takes beams of each row: x[b, beams[b, i]].

    Args:
        x: [batch, old beams, …].
        beams: int [batch, new beams].
    """
    return jax.vmap(lambda row, i: jnp.take(row, i, axis=0, mode="clip"))(x, beams)


def _best(scores: Array, k: int, *others: Array) -> tuple[Array, ...]:
    """The k best beams of each row by score, ascending, and what belongs to them."""
    places = jnp.flip(lax.top_k(scores, k)[1], axis=1)
    return tuple(_pick(x, places) for x in (scores, *others))


def beam_search(
    inputs: Array,
    cache: Mapping[str, Array],
    tokens_to_logits: TokensToLogits,
    eos_id: int,
    num_decodes: int = 4,
    alpha: float = 0.6,
    max_decode_len: int | None = None,
    decode_rng: Array | None = None,
    cache_offset: int = 0,
    initial_index: Array | None = None,
) -> tuple[Array, Array]:
    """Looks for the most probable decodes, `num_decodes` beams wide.

    Ends when every row's worst ended beam is better than any other can still become.
    A prompt in `inputs` (tokens other than 0) is kept.

    Args:
        inputs: int32 [batch, length], shifted right: 0, then the prompt, then 0s.
        cache: the model's cache, for [batch] rows.
        tokens_to_logits: the model.
        eos_id: the token that ends a beam.
        num_decodes: the number of beams, all of which are returned.
        alpha: strength of the brevity penalty; 0 favours short decodes most.
        max_decode_len: the length of a decode; None is the inputs' length.
        decode_rng: not used; here for the signature that decoding functions share.
        cache_offset: not supported.
        initial_index: not supported.

    Returns:
        (decodes int32 [batch, num_decodes, max_decode_len], scores float32
        [batch, num_decodes]: log probability over brevity penalty), the best last. A
        row of which no beam ended gets the beams that did not, and their log
        probabilities.

    Raises:
        NotImplementedError: an argument that only T5X has.
    """
    absent = ("cache_offset", "initial_index")
    _absent.refuse("decoding.beam_search", locals(), *absent)
    batch, k = inputs.shape[0], num_decodes
    length = (max_decode_len or inputs.shape[1]) + 1  # The start token is kept.

    def goes_on(s: _Beams) -> Array:
        hope = s.log_probs[:, -1:] / brevity_penalty(alpha, length)
        worst = jnp.min(s.done_scores, axis=1, keepdims=True)
        settled = jnp.all(jnp.where(s.done, worst, NEG_INF_VALUE) > hope)
        return (s.index < length - 1) & ~settled

    def candidates(s: _Beams, logits: Array) -> tuple[Array, Array, Array]:
        """The 2k best continuations: (log probability, beam, token), [batch, 2k] each.

        Twice as many as beams, so that k of them go on even if k of them end.
        """
        log_probs = jax.nn.log_softmax(unflatten_beam_dim(logits, batch, k))
        total = (log_probs + s.log_probs[..., None]).reshape(batch, -1)
        score, place = lax.top_k(total, 2 * k)
        beam, token = jnp.divmod(place, log_probs.shape[-1])
        # In a prompt all beams would be the same, so but one stays alive. (Beyond the
        # inputs their last token counts: T5X's scores of a full prompt have that.)
        given = lax.dynamic_index_in_dim(inputs, s.index + 1, axis=1)
        lone = jnp.where(jnp.arange(2 * k) == 0, 0.0, NEG_INF_VALUE)
        score = jnp.where(given == 0, score, lone)
        return score, beam, jnp.where(given == 0, token, given)

    def step(s: _Beams) -> _Beams:
        so_far = flatten_beam_dim(s.tokens)
        last = lax.dynamic_slice_in_dim(so_far, s.index, 1, axis=1)
        logits, cache = tokens_to_logits(DecodingState(s.index, so_far, last, s.cache))
        score, beam, token = candidates(s, logits)
        tokens = lax.dynamic_update_slice_in_dim(
            _pick(s.tokens, beam), token[..., None], s.index + 1, axis=2
        )
        ends = token == eos_id
        log_probs, tokens_on, kept = _best(
            score + jnp.where(ends, NEG_INF_VALUE, 0.0), k, tokens, beam
        )
        scores = score / brevity_penalty(alpha, s.index + 1)
        scores += jnp.where(ends, 0.0, NEG_INF_VALUE)
        done_scores, done_tokens, done = _best(
            jnp.concatenate([s.done_scores, scores], axis=1),
            k,
            jnp.concatenate([s.done_tokens, tokens], axis=1),
            jnp.concatenate([s.done, ends], axis=1),
        )
        cache = cache_map(
            lambda x: flatten_beam_dim(_pick(unflatten_beam_dim(x, batch, k), kept)),
            flax.core.unfreeze(cache),
        )
        index = s.index + 1
        return _Beams(
            index, log_probs, tokens_on, done_scores, done_tokens, done, cache
        )

    empty = jnp.zeros((batch, k, length), jnp.int32)
    # One beam to start with: k equal ones would stay equal.
    first = jnp.where(jnp.arange(k) == 0, 0.0, NEG_INF_VALUE)
    cache = cache_map(lambda x: flat_batch_beam_expand(x, k), flax.core.unfreeze(cache))
    live = (jnp.zeros((), jnp.int32), jnp.broadcast_to(first, (batch, k)), empty)
    over = (jnp.full((batch, k), NEG_INF_VALUE), empty, jnp.zeros((batch, k), bool))
    end = lax.while_loop(goes_on, step, _Beams(*live, *over, cache))
    some = jnp.any(end.done, axis=1)
    decodes = jnp.where(some[:, None, None], end.done_tokens, end.tokens)
    scores = jnp.where(some[:, None], end.done_scores, end.log_probs)
    return decodes[:, :, 1:], scores
