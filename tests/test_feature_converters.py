"""Annotated generations → model features; packed and not."""

import pytest
import seqio
import tensorflow as tf

from t5patches.feature_converters import TargetAnnotationsFeatureConverter

EXAMPLES = [
    {"inputs": [7, 8, 5, 1], "targets": [3, 9, 1], "target_annotations": [0, 1, 0]},
    {"inputs": [8, 4, 9, 3, 1], "targets": [4, 1], "target_annotations": [1, 0]},
]
LENGTHS = {"inputs": 10, "targets": 7}


def dataset(examples=EXAMPLES, dtype=tf.int32):
    signature = {k: tf.TensorSpec([None], dtype) for k in examples[0]}
    return tf.data.Dataset.from_generator(lambda: examples, output_signature=signature)


def convert(examples=EXAMPLES, lengths=LENGTHS, **options):
    ds = TargetAnnotationsFeatureConverter(**options)(dataset(examples), lengths)
    return [{k: v.tolist() for k, v in ex.items()} for ex in ds.as_numpy_iterator()]


def test_worked_example_of_the_docstring():
    first, second = convert(pack=False)
    assert first == {
        "encoder_input_tokens": [7, 8, 5, 1, 0, 0, 0, 0, 0, 0],
        "decoder_target_tokens": [3, 9, 1, 0, 0, 0, 0],
        "decoder_input_tokens": [0, 3, 9, 1, 0, 0, 0],
        "decoder_loss_weights": [1, -1, 1, 0, 0, 0, 0],
    }
    assert second["decoder_loss_weights"] == [-1, 1, 0, 0, 0, 0, 0]


def test_packed_example_of_the_docstring():
    assert convert(pack=True) == [
        {
            "encoder_input_tokens": [7, 8, 5, 1, 8, 4, 9, 3, 1, 0],
            "encoder_segment_ids": [1, 1, 1, 1, 2, 2, 2, 2, 2, 0],
            "encoder_positions": [0, 1, 2, 3, 0, 1, 2, 3, 4, 0],
            "decoder_target_tokens": [3, 9, 1, 4, 1, 0, 0],
            "decoder_input_tokens": [0, 3, 9, 0, 4, 0, 0],
            "decoder_loss_weights": [1, -1, 1, -1, 1, 0, 0],
            "decoder_segment_ids": [1, 1, 1, 2, 2, 0, 0],
            "decoder_positions": [0, 1, 2, 0, 1, 0, 0],
        }
    ]


def test_but_for_weights_it_is_seqios_converter():
    ds = seqio.EncDecFeatureConverter(pack=True)(dataset(), LENGTHS)
    (expected,) = (
        {k: v.tolist() for k, v in e.items()} for e in ds.as_numpy_iterator()
    )
    (packed,) = convert(pack=True)
    expected.pop("decoder_loss_weights")
    packed.pop("decoder_loss_weights")
    assert packed == expected


def test_packing_keeps_every_example_and_its_weights():
    examples = [
        {
            "inputs": [5] * (i % 4 + 1),
            "targets": [*range(2, 2 + i % 3), 1],
            "target_annotations": [*([i % 2] * (i % 3)), 0],
        }
        for i in range(23)
    ]
    found = []
    for row in convert(examples, pack=True):
        for segment in range(1, max(row["decoder_segment_ids"]) + 1):
            decoder = [
                i for i, s in enumerate(row["decoder_segment_ids"]) if s == segment
            ]
            encoder = [
                i for i, s in enumerate(row["encoder_segment_ids"]) if s == segment
            ]
            weights = [row["decoder_loss_weights"][i] for i in decoder]
            found.append(
                {
                    "inputs": [row["encoder_input_tokens"][i] for i in encoder],
                    "targets": [row["decoder_target_tokens"][i] for i in decoder],
                    "target_annotations": [int(weight < 0) for weight in weights],
                }
            )
            assert row["decoder_input_tokens"][decoder[0]] == 0
            assert set(weights) <= {-1, 1}
    assert found == examples


@pytest.mark.parametrize("pack", [False, True])
def test_an_empty_example_shifts_nobody(pack):
    empty = {"inputs": [6, 1], "targets": [], "target_annotations": []}
    rows = convert(
        [EXAMPLES[0], empty, EXAMPLES[1]], {"inputs": 20, "targets": 7}, pack=pack
    )
    packed = {"encoder_segment_ids", "decoder_segment_ids"} & set(rows[0])
    assert len(rows) == (1 if pack else 3)
    assert all(max(rows[0][name]) == 2 for name in packed)


def test_targets_that_the_task_has_trimmed():
    example = {"inputs": [7, 1], "targets": [3, 9], "target_annotations": [0, 1, 1, 0]}
    (row,) = convert([example], {"inputs": 3, "targets": 2}, pack=False)
    assert row["decoder_loss_weights"] == [1, -1]


def test_padding_inside_targets_has_no_weight():
    example = {"inputs": [7, 1], "targets": [3, 0, 1], "target_annotations": [1, 1, 0]}
    (row,) = convert([example], pack=False)
    assert row["decoder_loss_weights"] == [-1, 0, 1, 0, 0, 0, 0]


def test_lengths_may_name_the_annotations_if_equal():
    assert convert(lengths={**LENGTHS, "target_annotations": 7}) == convert()
    with pytest.raises(
        ValueError, match="target_annotations has length 5 and targets 7"
    ):
        convert(lengths={**LENGTHS, "target_annotations": 5})


def test_too_few_annotations():
    example = {"inputs": [7, 1], "targets": [3, 9, 1], "target_annotations": [0, 1]}
    with pytest.raises(tf.errors.InvalidArgumentError, match="one value per id"):
        convert([example])


def test_missing_annotations():
    with pytest.raises(ValueError, match="target_annotations"):
        convert([{"inputs": [7, 1], "targets": [3, 1]}])
