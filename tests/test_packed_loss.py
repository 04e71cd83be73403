"""A packed batch of the same examples has the same loss, whatever the converter."""

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf
import tiny
from t5x import adafactor

from t5patches import decoder_only, models
from t5patches import feature_converters as fcs

LENGTHS = {"inputs": 12, "targets": 11}


def examples(count=9):
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(count):
        draw = lambda low, high: rng.integers(
            2, tiny.VOCAB_SIZE, rng.integers(low, high)
        )
        inputs, negative, corrected = (
            [*draw(1, 6).tolist(), 1] for _ in ("inputs", "negative", "corrected")
        )
        corrected[:2] = negative[: len(corrected[:2])]
        marks = rng.integers(0, 2, len(negative)).tolist()
        rows.append(
            {
                "inputs": inputs,
                "targets": negative,
                "target_annotations": marks,
                "negative_targets": negative,
                "corrected_targets": corrected,
            }
        )
    return rows


def batches(converter_cls):
    """The same examples, a row each and packed."""
    rows = examples()
    signature = {name: tf.TensorSpec([None], tf.int32) for name in rows[0]}
    ds = tf.data.Dataset.from_generator(lambda: rows, output_signature=signature)
    names = converter_cls.TASK_FEATURES
    lengths = {name: LENGTHS.get(name, LENGTHS["targets"]) for name in names}
    for pack in (False, True):
        converted = list(converter_cls(pack=pack)(ds, lengths).as_numpy_iterator())
        yield {k: np.stack([row[k] for row in converted]) for k in converted[0]}


def decoder_only_model(cls):
    config = decoder_only.TransformerConfig(
        vocab_size=tiny.VOCAB_SIZE,
        emb_dim=16,
        num_heads=4,
        num_layers=1,
        head_dim=8,
        mlp_dim=32,
    )
    return cls(
        module=decoder_only.DecoderWrapper(config),
        vocabulary=seqio.PassThroughVocabulary(tiny.VOCAB_SIZE, eos_id=1),
        optimizer_def=adafactor.Adafactor(),
        inputs_bidirectional_attention=True,
        alpha=2.0,
    )


@pytest.mark.parametrize(
    ("method", "converter"),
    [
        ("EncoderDecoderModelTNFF", "TargetAnnotationsFeatureConverter"),
        ("EncoderDecoderModelTNFF", "NegativeTrainingFirstFeatureConverter"),
        ("EncoderDecoderModelNL", "CorrectiveTrainingDiffFeatureConverter"),
        ("EncoderDecoderModelNL", "NegativeAndPositiveTrainingDiffFeatureConverter"),
        ("DecoderOnlyModelTNFF", "DecoderOnlyTargetAnnotationsFeatureConverter"),
    ],
)
def test_packed_and_unpacked_losses_are_equal(method, converter):
    cls = getattr(models, method)
    if method.startswith("DecoderOnly"):
        model = decoder_only_model(cls)
    else:
        model = tiny.make_model(cls, alpha=2.0)
    plain, packed = batches(getattr(fcs, converter))
    assert len(packed["decoder_target_tokens"]) < len(plain["decoder_target_tokens"])
    shapes = {name: x.shape for name, x in plain.items()}
    like = jax.eval_shape(
        lambda: model.get_initial_variables(jax.random.PRNGKey(0), shapes)["params"]
    )
    rng = np.random.default_rng(0)
    draw = lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32)
    params, frozen = (jax.tree.map(draw, like) for _ in range(2))
    orig = () if "NL" in method else (frozen,)
    expected, got = (
        float(jax.jit(model.loss_fn)(params, batch, None, *orig)[0])
        for batch in (plain, packed)
    )
    assert expected != 0.0
    np.testing.assert_allclose(got, expected, rtol=1e-5)
