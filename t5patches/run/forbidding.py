"""Decoding without what is unwanted: the exact token-level update of a model.

At each step the ids that would complete a phrase have no probability, and the others
keep their proportions: p_new of the model itself, which training can at best reach. It
is no model conditioned on never saying the phrase: what was said before stays as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from t5patches import losses
from t5patches.annotate import phrases, unwanted_sets
from t5patches.errors import UserError

Array = jax.Array
# As logits know it: no token of this is chosen.
_NEVER = -1e30


def without(
    decode_fn: Callable[..., Any],
    vocabulary: Any,
    phrase_file: str | None = None,
    word_end: str = "piece",
) -> Callable[..., Any]:
    """Returns a decoding function that never completes a phrase.

    Args:
      decode_fn: T5X's `temperature_sample` or `beam_search`, or any that calls
        `tokens_to_logits` with a `DecodingState`.
      vocabulary: of the outputs.
      phrase_file: one phrase a line; None: `decode_fn` as it is.
      word_end: see `unwanted_sets.PhraseSets`.

    Returns:
      The function; what it forbids, as the annotator's settings, is its `forbidden`.

    Raises:
      UserError: the file is missing or empty, the vocabulary of another kind, or its
        phrases leave nothing to say.
    """
    if phrase_file is None:
        return decode_fn
    annotator = phrases.load(phrase_file, word_end)
    sets = annotator.unwanted_sets(vocabulary)
    if sets.leave_nothing():
        raise UserError(
            f"{phrase_file}: its phrases leave nothing to say: somewhere every piece "
            "of the vocabulary would complete one; take out single letters, signs and "
            "common words"
        )
    tables = jax.tree.map(jnp.asarray, sets.tables())

    @functools.wraps(decode_fn)
    def decode(
        inputs: Array, cache: Any, tokens_to_logits: Any, *args: Any, **kwargs: Any
    ) -> Any:
        start = kwargs.get("initial_index")
        start = jnp.zeros(len(inputs), jnp.int32) if start is None else start

        def masked(state: Any) -> tuple[Array, Any]:
            logits, new_cache = tokens_to_logits(state)
            behind = jnp.repeat(start, len(state.sequences) // len(start))
            found = tables.bits[rows(tables, state.sequences, behind, state.cur_index)]
            none = jnp.full((len(found), 1), losses.NO_TOKEN)
            unwanted = losses.Unwanted(none, found).mask(logits.shape)
            return jnp.where(unwanted, _NEVER, logits), new_cache

        return decode_fn(inputs, cache, masked, *args, **kwargs)

    vars(decode)["forbidden"] = annotator.settings
    return decode


def rows(
    tables: unwanted_sets.Tables, sequences: Array, start: Array, stop: Array
) -> Array:
    """Returns the row of what is unwanted after each sequence, int32 [batch].

    Args:
      tables: of the automaton.
      sequences: int32 [batch, length]; what is read of each are the tokens behind the
        position `start` and up to `stop`.
      start: int32 [batch].
      stop: int32 [batch].
    """

    def step(place: Array, seen: _Seen) -> _Seen:
        new = _read(tables, seen, sequences[:, place])
        active = (start < place) & (place <= stop)
        return jax.tree.map(functools.partial(jnp.where, active), new, seen)

    first = _Seen(*[jnp.zeros(len(sequences), jnp.int32)] * 3)
    seen = lax.fori_loop(1, jnp.max(stop) + 1, step, first)
    broken = tables.next[seen.state, tables.broken]
    found = tables.rows[jnp.where(seen.missing > 0, broken, seen.state)]
    state, point, missing, row = tables.begun.T[..., None]
    same = (state == seen.state) & (point == seen.point) & (missing == seen.missing)
    return jnp.where(jnp.any(same, 0), jnp.max(jnp.where(same, row, 0), 0), found)


class _Seen(NamedTuple):
    """How far the automaton has read, int32 [batch] each.

    Attributes:
      state: of the automaton.
      point: of a character that has begun, the bits so far.
      missing: how many bytes it still needs; 0 where none has begun.
    """

    state: Array
    point: Array
    missing: Array


def _read(tables: unwanted_sets.Tables, seen: _Seen, token: Array) -> _Seen:
    """Reads a token of each sequence, as `PhraseSets.of` does."""
    state, point, missing = seen
    byte, classes = tables.bytes[token], tables.classes[token]
    leads = [byte >= 0xF5, byte >= 0xF0, byte >= 0xE0, byte >= 0xC2]
    begins = jnp.select(leads, [0, 3, 2, 1], 0)
    # A second byte must not make a code point that is shorter otherwise, a surrogate or
    # beyond the last; a third of four finds at least 16 before it.
    both = jnp.left_shift(point, 6) | byte & 0x3F
    second = (missing == 2) & (point < 0x10)
    wrong = second & ((both < 0x20) | (both >> 5 == 0x1B))
    wrong |= (missing == 3) & ((both < 0x10) | (both > 0x10F))
    goes_on = (byte > 0) & (byte < 0xC0) & (missing > 0) & ~wrong
    read = (byte > 0) | (classes[:, 0] < tables.next.shape[1] - 1)
    lost = ((missing > 0) & read & ~goes_on) | ((byte > 0) & ~goes_on & (begins == 0))
    state = jnp.where(lost, tables.next[state, tables.broken], state)
    # A loop: XLA would fuse a chain of lookups, each a part of the next several times.
    state = lax.fori_loop(
        0, classes.shape[1], lambda i, state: tables.next[state, classes[:, i]], state
    )
    # A leading byte has its own bits below those that say how many follow.
    bits = byte & jnp.right_shift(0x3F, begins)
    point = jnp.where(goes_on, both, jnp.where(read, bits, point))
    missing = jnp.where(goes_on, missing - 1, jnp.where(read, begins, missing))
    whole = tables.next[
        state, tables.points[jnp.minimum(point, len(tables.points) - 1)]
    ]
    return _Seen(jnp.where(goes_on & (missing == 0), whole, state), point, missing)
