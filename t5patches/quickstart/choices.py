"""What else the model could have said: its likeliest next tokens, position by position.

Bound in `gin/experiments/quickstart/choices.gin`: T5X's inference in mode 'score' over
given texts, with a model that also returns the likeliest tokens.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from t5x import models

from t5patches.interchange import json_files, shards
from t5patches.run import generation


class ChoiceModel(models.EncoderDecoderModel):
    """An encoder-decoder whose scores come with the alternatives.

    `score_batch` returns, beside T5X's scores, `ids` int32 and `probabilities` float32,
    both [batch, length, ALTERNATIVES]: the likeliest tokens at each position of the
    target, given the target up to there, the likeliest first.
    """

    ALTERNATIVES = 24

    def score_batch(self, params, batch, return_intermediates=False) -> Any:
        """T5X's scores, float32 [batch], and the alternatives."""
        scores = super().score_batch(params, batch)
        logits = self._compute_logits(params, batch)
        probabilities, ids = jax.lax.top_k(jax.nn.softmax(logits), self.ALTERNATIVES)
        return scores, {"ids": ids, "probabilities": probabilities}


def write_choices(
    path: str,
    inferences: tuple[Sequence[Any], Mapping[str, Any]],
    task_ds: Iterable[Any],
    mode: str,
    vocabulary: Any = None,
) -> None:
    """Writes a line per example (a T5X `write_fn`).

    A line has `inputs`, `prediction` (texts), `target_tokens` (the ids that were
    scored, EOS included), and per id `alternatives`: the ids and probabilities of
    `ChoiceModel`, `[[id, probability], ...]`.
    """
    del mode
    _, choices = inferences
    json_files.write_jsonl(path, _lines(choices, task_ds, vocabulary))


def _lines(choices, task_ds, vocabulary) -> Iterator[shards.Row]:
    examples = task_ds.as_numpy_iterator()
    for example, ids, probabilities in zip(
        examples, choices["ids"], choices["probabilities"], strict=True
    ):
        targets = generation.generated_ids(example["targets"], vocabulary.eos_id)
        yield {
            "inputs": example["inputs_pretokenized"].decode(),
            "prediction": vocabulary.decode(targets),
            "target_tokens": targets,
            "id": example["id_pretokenized"].decode(),
            "alternatives": [
                [[int(i), float(p)] for i, p in zip(*position, strict=True)]
                for position in list(zip(ids, probabilities, strict=True))[
                    : len(targets)
                ]
            ],
        }
