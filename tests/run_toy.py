"""An annotated task that gin/runs can train on in seconds; for gin files, too."""

import pathlib

import seqio
import tensorflow as tf
from flax import traverse_util

from t5patches import models
from t5x_embedded import checkpoints
from tests import engine_toy

ROOT = pathlib.Path(__file__).parents[1]

TASK = "toy_annotated"
ROWS = 24


def arguments(name: str, folder, *more: str) -> list[str]:
    """Returns the arguments of a training run of tests/testdata/runs."""
    return [
        f"--gin_search_paths={ROOT}",
        f"--gin_file=tests/testdata/runs/{name}.gin",
        f"--gin.MODEL_DIR='{folder}'",
        *more,
    ]


def arrays(checkpoint) -> dict:
    """Returns the arrays of a checkpoint by '/'-separated names."""
    tree = checkpoints.load_t5x_checkpoint(checkpoint)
    return traverse_util.flatten_dict(tree, sep="/")


def register() -> str:
    """Registers the task once; returns its name."""
    if TASK not in seqio.TaskRegistry.names():
        text = seqio.Feature(engine_toy.VOCABULARY, add_eos=False)
        plain = seqio.Feature(seqio.PassThroughVocabulary(ROWS), add_eos=False)
        seqio.TaskRegistry.add(
            TASK,
            source=seqio.FunctionDataSource(_examples, splits=["train", "validation"]),
            preprocessors=[],
            output_features={
                "inputs": text,
                "targets": text,
                "target_annotations": plain,
                "id": plain,
            },
        )
    return TASK


def from_scratch() -> None:
    """What an update of random weights gives for its checkpoint, on purpose."""


def _examples(split, shuffle_files=False, seed=None):
    del split, shuffle_files, seed

    def example(i):
        inputs = tf.concat([engine_toy.VOCABULARY.encode_tf(b"row "), [i + 68]], 0)
        targets = tf.concat([inputs[::-1], [1]], 0)
        return {
            "inputs": tf.cast(inputs, tf.int32),
            "targets": tf.cast(targets, tf.int32),
            # The second token is unwanted in every third row.
            "target_annotations": tf.cast(tf.range(6) == 1, tf.int32)
            * tf.cast(i % 3 == 0, tf.int32),
            "id": [tf.cast(i, tf.int32)],
        }

    return tf.data.Dataset.range(ROWS).map(example)


class PoisonedModel(models.EncoderDecoderModelTNFF):
    """The loss of a batch with row `POISON` is not a number."""

    POISON = 17

    def loss_fn(self, params, batch, dropout_rng, orig_params=None):
        loss, metrics = super().loss_fn(params, batch, dropout_rng, orig_params)
        bad = (batch["encoder_input_tokens"] == self.POISON + 68).any()
        loss = loss / (1 - bad)
        return loss, {**metrics, "loss": metrics["loss"].replace(total=loss)}


def poisoned_model(**kwargs) -> PoisonedModel:
    """Makes the model; gin cannot register the class where a beam search ran before.

    For the number of beams gin has registered a method that the class inherits.
    """
    return PoisonedModel(**kwargs)
