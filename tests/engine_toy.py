"""A model and a task that train in seconds, on either engine; also for gin files."""

import functools
import importlib

import seqio
import tensorflow as tf

from t5patches import network

VOCABULARY = seqio.ByteVocabulary()
LENGTHS = {"inputs": 12, "targets": 8}
TASK = "toy_copy"


def _examples(split, shuffle_files=False, seed=None, num_rows=20):
    del shuffle_files, seed, split
    texts = [f"row {i} {'abcdefg'[i % 7]}" for i in range(num_rows)]
    return tf.data.Dataset.from_tensor_slices(
        {"inputs": texts, "targets": [t[::-1][:6] for t in texts]}
    )


def _accuracy(targets, predictions):
    hits = [t == p for t, p in zip(targets, predictions, strict=True)]
    return {"accuracy": sum(hits) / len(hits)}


def register() -> str:
    """Registers the task once; returns its name."""
    if TASK not in seqio.TaskRegistry.names():
        feature = seqio.Feature(VOCABULARY)
        seqio.TaskRegistry.add(
            TASK,
            source=seqio.FunctionDataSource(_examples, splits=["train", "validation"]),
            preprocessors=[
                seqio.preprocessors.tokenize,
                seqio.preprocessors.append_eos,
            ],
            output_features={"inputs": feature, "targets": feature},
            metric_fns=[_accuracy],
        )
    return TASK


def config(**kwargs) -> network.T5Config:
    sizes = dict(vocab_size=384, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24)
    layers = dict(num_encoder_layers=1, num_decoder_layers=1)
    return network.T5Config(**{**sizes, **layers, "dropout_rate": 0.1, **kwargs})


def modules(engine: str, *names: str) -> list:
    """Modules of 't5x', whichever that is, or of 't5x_embedded'."""
    return [importlib.import_module(f"{engine}.{name}") for name in names]


def model(engine: str = "t5x", **kwargs):
    """An encoder-decoder model of `engine`, trained by Adafactor, decoding greedily.

    Args:
        engine: see `modules`.
        **kwargs: of `network.T5Config`.
    """
    adafactor, decoding, models = modules(engine, "adafactor", "decoding", "models")
    return models.EncoderDecoderModel(
        module=network.Transformer(config(**kwargs)),
        input_vocabulary=VOCABULARY,
        output_vocabulary=VOCABULARY,
        optimizer_def=adafactor.Adafactor(
            decay_rate=0.8,
            step_offset=0,
            logical_factor_rules=adafactor.standard_logical_factor_rules(),
        ),
        decode_fn=functools.partial(decoding.temperature_sample, temperature=0.0),
    )
