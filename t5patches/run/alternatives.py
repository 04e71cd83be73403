"""Alternatives tried: what a model would nearly have said, for annotators to judge.

An output shows one token of each position. Beside it stand the other tokens that the
model thought likely, some of them as unwanted; `t5patches annotate --alternatives` says
which. A token alone is no text to judge, so the model goes on from it, greedily, to the
end of the word.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from t5x import models as t5x_models

from t5patches import feature_converters
from t5patches.annotate import alignment
from t5patches.errors import UserError
from t5patches.interchange import json_files, shards

Array = jax.Array


def trying(
    model: Any,
    count: int,
    least_probability: float,
    unsure_below: float,
    words: int,
    pieces: int,
) -> Any:
    """Returns a model whose prediction is what it would nearly have said.

    Its batches are annotated outputs; `predict_batch_with_aux` returns int32 [batch,
    length, count, 1 + pieces], the alternatives of each position, likeliest first, each
    with what follows it, 0 where there is nothing; and their float32 `probability`
    [batch, length, count].

    Args:
      model: T5X's, an encoder-decoder.
      count: how many tokens are tried at a position, at most.
      least_probability: of a token that is tried.
      unsure_below: beside the unwanted positions, those are tried whose own token is
        less probable than this.
      words: after so many an alternative ends, its own included.
      pieces: or after so many pieces behind the first.

    Raises:
      UserError: the model is no encoder-decoder.
    """
    if not isinstance(model, t5x_models.EncoderDecoderModel):
        raise UserError(
            "alternatives are tried with encoder-decoder models, not with "
            f"{type(model).__name__}"
        )
    vocabulary = model.output_vocabulary
    texts = alignment.Pieces(vocabulary)
    ids = range(len(texts.texts))
    special = {0, vocabulary.eos_id, vocabulary.unk_id}
    says = [i not in special and bool(texts.texts[i] or texts.byte_of(i)) for i in ids]
    begins = [text.startswith(" ") for text in texts.texts]

    def predict(params: Any, batch: Mapping[str, Array]) -> tuple[Array, Any]:
        targets = batch["decoder_target_tokens"]
        weights = batch["decoder_loss_weights"]
        log_p = _LogP(model.module, params, batch["encoder_input_tokens"])
        tokens = jnp.pad(targets, [(0, 0), (0, pieces)])
        rows, length = targets.shape
        own = log_p(jnp.arange(rows), tokens)[:, :length]
        missing = own.shape[-1] - len(says)  # Rows of the embedding without a token.
        says_text, begins_word = (
            jnp.pad(jnp.array(flags), (0, missing)) for flags in (says, begins)
        )
        other = jnp.arange(own.shape[-1]) != targets[..., None]
        likely = jnp.where(says_text & other, own, -jnp.inf)
        best, first = lax.top_k(likely, count)
        said = jnp.take_along_axis(own, targets[..., None], axis=-1)[..., 0]
        unsure = (weights > 0) & (said < jnp.log(unsure_below))
        tried = (best >= jnp.log(least_probability)) & (
            (weights < 0) | unsure & says_text[targets]
        )[..., None]
        places = jnp.nonzero(tried.ravel(), size=tried.size, fill_value=tried.size)[0]

        def goes_on(state):  # One alternative in each row of a batch.
            start, found = state
            place = lax.dynamic_slice(places, [start], [rows])
            row, position, rank = jnp.unravel_index(place, tried.shape)
            at = jnp.arange(tokens.shape[1]) - position[:, None]
            one = first[row, position, rank]
            given = jnp.where(at < 0, tokens[row], jnp.where(at == 0, one[:, None], 0))

            def step(state):
                i, given, left = state
                last = jnp.argmax(at == i, axis=1)[:, None, None]
                likeliest = jnp.argmax(
                    jnp.take_along_axis(log_p(row, given), last + 1, axis=1)[:, 0], -1
                )
                left -= begins_word[likeliest]
                left = jnp.where(says_text[likeliest], left, 0)
                new = jnp.where(left > 0, likeliest, 0)[:, None]
                return i + 1, jnp.where(at == i + 1, new, given), left

            _, given, _ = lax.while_loop(
                lambda state: (state[0] < pieces) & jnp.any(state[2] > 0),
                step,
                (0, given, jnp.where(place < tried.size, words, 0)),
            )
            behind = position[:, None] + jnp.arange(1 + pieces)
            text = jnp.take_along_axis(given, behind, axis=1)
            return start + rows, found.at[place].set(text, mode="drop")

        _, found = lax.while_loop(
            lambda state: state[0] < jnp.sum(tried),
            goes_on,
            (0, jnp.zeros((tried.size, 1 + pieces), jnp.int32)),
        )
        found = found.reshape(*tried.shape, -1)
        return found, {"probability": jnp.where(tried, jnp.exp(best), 0)}

    model = copy.copy(model)
    model.FEATURE_CONVERTER_CLS = feature_converters.TargetAnnotationsFeatureConverter
    model.predict_batch_with_aux = predict
    return model


class _LogP:
    """log p of every token at every position, given the inputs, which it encodes."""

    def __init__(self, module: Any, params: Any, inputs: Array):
        apply = functools.partial(module.apply, {"params": params})
        self._inputs = inputs
        self._encoded = apply(inputs, enable_dropout=False, method=module.encode)
        self._decode = functools.partial(
            apply, enable_dropout=False, decode=False, method=module.decode
        )

    def __call__(self, rows: Array, tokens: Array) -> Array:
        """Returns float32 [rows, length, vocab].

        Args:
          rows: int32 [rows], of the inputs.
          tokens: int32 [rows, length]; what stands behind a position does not matter.
        """
        before = jnp.pad(tokens, [(0, 0), (1, 0)])[:, :-1]
        logits = self._decode(
            self._encoded[rows], self._inputs[rows], before, jnp.ones_like(tokens)
        )
        return jax.nn.log_softmax(logits.astype(jnp.float32))


def write_alternatives(
    path: str,
    inferences: tuple[Sequence[Any], Mapping[str, Any]],
    task_ds: Any,
    mode: str,
    vocabulary: Any = None,
) -> None:
    """Writes what `trying` predicts, a JSON line for each output (a T5X `write_fn`).

    A line has the output's `id` and `prediction`, and its `alternatives`: `position`,
    the index of the id that was said, `tokens`, what might have been from there on,
    `text` and `probability`, of the first of the tokens. Outputs without alternatives
    have no line.

    Args:
      path: the file to write; it appears when it is whole.
      inferences: in the order of `task_ds`.
      task_ds: the examples of `tasks.outputs_task`.
      mode: 'predict_with_aux'.
      vocabulary: the vocabulary of the targets.
    """
    del mode
    tokens, aux = inferences
    rows = _rows(tokens, aux["probability"], task_ds, vocabulary)
    json_files.write_jsonl(path, rows)


def _rows(
    tokens: Sequence[Any], probabilities: Sequence[Any], task_ds: Any, vocabulary: Any
) -> Iterator[shards.Row]:
    examples = task_ds.as_numpy_iterator()
    for ids, p, example in zip(tokens, probabilities, examples, strict=True):
        ids, p = np.asarray(ids), np.asarray(p)
        alternatives = []
        for position, rank in np.argwhere(ids[..., 0]).tolist():
            found = ids[position, rank]
            found = found[found != 0].tolist()
            alternatives.append(
                {
                    "position": position,
                    "tokens": found,
                    "text": vocabulary.decode(found),
                    "probability": round(float(p[position, rank]), 6),
                }
            )
        if alternatives:
            yield {
                "id": example["id_pretokenized"].decode(),
                "prediction": example["prediction_pretokenized"].decode(),
                "alternatives": alternatives,
            }
