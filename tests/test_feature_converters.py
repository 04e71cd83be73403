"""Task features → model features, packed and not: annotations, corrections, gin."""

import copy
import random

import gin
import pytest
import seqio
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from t5patches import feature_converters as fcs
from t5patches import feature_converters_utils as utils

EXAMPLES = [
    {
        "inputs": [21, 34, 1],
        "targets": [52, 60, 47, 1],
        "target_annotations": [0, 0, 1, 0],
    },
    {"inputs": [18, 1], "targets": [60, 1], "target_annotations": [1, 0]},
]
LENGTHS = {"inputs": 6, "targets": 8}
CORRECTION = {
    "inputs": [31, 1],
    "negative_targets": [44, 70, 25, 1],
    "corrected_targets": [44, 29, 36, 1],
}
CORRECTION_LENGTHS = {"inputs": 6, "negative_targets": 7, "corrected_targets": 7}
KINDS = ("First", "Diff", "Full")
FAMILIES = ("NegativeTraining", "CorrectiveTraining", "NegativeAndPositiveTraining")
NINE = [f"{family}{kind}FeatureConverter" for family in FAMILIES for kind in KINDS]
PACKED = [f"{f}{k}FeatureConverter" for f, k in zip(FAMILIES, KINDS, strict=True)]
DECODER_ONLY = fcs.DecoderOnlyTargetAnnotationsFeatureConverter
# What `convert` has made: TensorFlow takes a second or two for each.
CONVERTED = {}


def dataset(examples=EXAMPLES, dtype=tf.int32, k=2):
    signature = {name: tf.TensorSpec([None], dtype) for name in examples[0]}
    if "negative_token_ids" in signature:
        signature["negative_token_ids"] = tf.TensorSpec([None, k], dtype)
    return tf.data.Dataset.from_generator(lambda: examples, output_signature=signature)


def convert(
    examples=EXAMPLES,
    lengths=LENGTHS,
    cls=fcs.TargetAnnotationsFeatureConverter,
    **options,
):
    # SeqIO's own look at what it has trimmed is a quarter of that.
    options = {"apply_length_check": False, **options}
    key = repr((examples, lengths, cls, options))
    if key not in CONVERTED:
        ds = cls(**options)(dataset(examples), lengths)
        rows = ds.as_numpy_iterator()
        CONVERTED[key] = [{k: v.tolist() for k, v in ex.items()} for ex in rows]
    return copy.deepcopy(CONVERTED[key])


def segments(rows):
    """The examples of packed rows: features without padding, inputs first."""
    found = []
    for row in rows:
        for segment in range(1, max(row["decoder_segment_ids"]) + 1):
            example = {}
            for side in ("encoder", "decoder"):
                ids = row.get(f"{side}_segment_ids", [])
                where = [i for i, s in enumerate(ids) if s == segment]
                for name, values in row.items():
                    if name.startswith(side):
                        example[name] = [values[i] for i in where]
                if where:
                    assert example[f"{side}_positions"] == [*range(len(where))]
            found.append(example)
    return found


def unpadded(row):
    """The features of an unpacked row without padding."""
    sizes = {}
    for side, tokens in (("encoder", "input"), ("decoder", "target")):
        if f"{side}_{tokens}_tokens" in row:
            ids = row[f"{side}_{tokens}_tokens"]
            sizes[side] = max([i + 1 for i, x in enumerate(ids) if x], default=0)
    return {name: values[: sizes[name[:7]]] for name, values in row.items()}


def assert_packed_alike(packed, rows):
    """Packing loses, reorders and changes nothing but empty examples."""
    rows = [unpadded(row) for row in rows]
    rows = [row for row in rows if all(row.values())]
    found = segments(packed)
    found = [{name: example[name] for name in rows[0]} for example in found]
    assert found == rows


# ---- A model's own generations ----------------------------------------------------


def test_worked_example_of_the_docstring():
    first, second = convert(pack=False)
    assert first == {
        "encoder_input_tokens": [21, 34, 1, 0, 0, 0],
        "decoder_target_tokens": [52, 60, 47, 1, 0, 0, 0, 0],
        "decoder_input_tokens": [0, 52, 60, 47, 1, 0, 0, 0],
        "decoder_loss_weights": [1, 1, -1, 1, 0, 0, 0, 0],
    }
    assert second["decoder_loss_weights"] == [-1, 1, 0, 0, 0, 0, 0, 0]


def test_packed_example_of_the_docstring():
    assert convert(pack=True) == [
        {
            "encoder_input_tokens": [21, 34, 1, 18, 1, 0],
            "encoder_segment_ids": [1, 1, 1, 2, 2, 0],
            "encoder_positions": [0, 1, 2, 0, 1, 0],
            "decoder_target_tokens": [52, 60, 47, 1, 60, 1, 0, 0],
            "decoder_input_tokens": [0, 52, 60, 47, 0, 60, 0, 0],
            "decoder_loss_weights": [1, 1, -1, 1, -1, 1, 0, 0],
            "decoder_segment_ids": [1, 1, 1, 1, 2, 2, 0, 0],
            "decoder_positions": [0, 1, 2, 3, 0, 1, 0, 0],
        }
    ]


def test_packing_keeps_every_example_and_its_weights():
    examples = [
        {
            "inputs": [5] * (i % 4 + 1),
            "targets": [*range(2, 2 + i % 3), 1],
            "target_annotations": [*([i % 2] * (i % 3)), 0],
        }
        for i in range(23)
    ]
    packed = convert(examples, pack=True)
    assert len(packed) < len(examples)
    assert_packed_alike(packed, convert(examples, pack=False))
    for example, segment in zip(examples, segments(packed), strict=True):
        weights = [1 - 2 * mark for mark in example["target_annotations"]]
        assert segment["decoder_loss_weights"] == weights


# What a task may give, too: no targets, and padding between them.
ODD = [
    {"inputs": [6, 1], "targets": [], "target_annotations": []},
    {"inputs": [7, 1], "targets": [3, 0, 1], "target_annotations": [1, 1, 0]},
    {"inputs": [5, 1], "targets": [4, 1], "target_annotations": [0, 0]},
]


def test_empty_targets_shift_nobody_and_padding_inside_has_no_weight():
    (row,) = convert(ODD, pack=True)
    assert row["encoder_input_tokens"] == [7, 1, 5, 1, 0, 0]
    assert row["encoder_segment_ids"] == [1, 1, 2, 2, 0, 0]
    assert row["decoder_segment_ids"] == [1, 1, 1, 2, 2, 0, 0, 0]
    assert row["decoder_target_tokens"] == [3, 0, 1, 4, 1, 0, 0, 0]
    assert row["decoder_loss_weights"] == [-1, 0, 1, 1, 1, 0, 0, 0]


def test_odd_targets_unpacked():
    """The last has been trimmed by the task, which leaves annotations."""
    trimmed = {"inputs": [7, 1], "targets": [3, 9], "target_annotations": [0, 1, 1, 0]}
    empty, padded, _, last = convert([*ODD, trimmed], pack=False)
    assert not any(empty["decoder_loss_weights"])
    assert padded["decoder_target_tokens"] == [3, 0, 1, 0, 0, 0, 0, 0]
    assert padded["decoder_loss_weights"] == [-1, 0, 1, 0, 0, 0, 0, 0]
    assert last["decoder_loss_weights"] == [1, -1, 0, 0, 0, 0, 0, 0]


def test_lengths_may_name_the_annotations_if_equal():
    named = {**LENGTHS, "target_annotations": 8}
    assert convert(lengths=named, pack=False) == convert(pack=False)
    with pytest.raises(ValueError, match="annotations has length 5 and targets 8"):
        convert(lengths={**LENGTHS, "target_annotations": 5})


def test_too_few_annotations():
    example = {"inputs": [7, 1], "targets": [3, 9, 1], "target_annotations": [0, 1]}
    with pytest.raises(tf.errors.InvalidArgumentError, match="one value per id"):
        convert([example], pack=False)


def test_missing_annotations():
    with pytest.raises(ValueError, match="target_annotations"):
        convert([{"inputs": [7, 1], "targets": [3, 1]}])


WITH_IDS = [
    {**EXAMPLES[0], "negative_token_ids": [[0, 0], [0, 0], [47, 46], [0, 0]]},
    {**EXAMPLES[1], "negative_token_ids": [[60, 55], [0, 0]]},
]


@pytest.mark.parametrize("decoder_only", [False, True])
def test_negative_token_ids_and_rows_of_sets_go_along(decoder_only):
    cls = DECODER_ONLY if decoder_only else fcs.TargetAnnotationsFeatureConverter
    sets = [[1, 0, 7, 2], [0, 3]]
    examples = [{**e, "unwanted_sets": r} for e, r in zip(WITH_IDS, sets, strict=True)]
    before = [len(e["inputs"]) if decoder_only else 0 for e in examples]
    length = 14 if decoder_only else 8
    unpacked = convert(examples, cls=cls, pack=False)
    (packed,) = convert(examples, cls=cls, pack=True)
    for name, none in (("negative_token_ids", [0, 0]), ("unwanted_sets", 0)):
        found = [
            [none] * n + example[name]
            for n, example in zip(before, examples, strict=True)
        ]
        padded = lambda row, none=none: row + [none] * (length - len(row))
        assert [row.pop(name) for row in unpacked] == [padded(x) for x in found]
        assert packed.pop(name) == padded(found[0] + found[1])
    assert unpacked == convert(cls=cls, pack=False)
    assert [packed] == convert(cls=cls, pack=True)


def test_rows_of_sets_go_along_alone():
    rows = convert([{**EXAMPLES[0], "unwanted_sets": [1, 0, 7, 2]}], pack=False)
    assert rows[0].pop("unwanted_sets") == [1, 0, 7, 2, 0, 0, 0, 0]
    assert rows == convert(pack=False)[:1]


def test_lengths_of_negative_token_ids():
    with_length = {**LENGTHS, "negative_token_ids": 8}
    named = convert(WITH_IDS, with_length, pack=False)
    assert named == convert(WITH_IDS, pack=False)
    converter = fcs.TargetAnnotationsFeatureConverter(pack=False)
    assert converter.get_model_feature_lengths(with_length)["negative_token_ids"] == 8
    with pytest.raises(ValueError, match="negative_token_ids has length 3"):
        convert(WITH_IDS, {**LENGTHS, "negative_token_ids": 3})
    short = {**WITH_IDS[0], "negative_token_ids": [[1, 2]]}
    with pytest.raises(tf.errors.InvalidArgumentError, match="negative_token_ids"):
        convert([short], pack=False)
    with pytest.raises(ValueError, match=r"must be \[length, k\]"):
        converter(dataset(WITH_IDS, k=None), LENGTHS)
    # A converter that has seen them does not expect them of the next data set.
    assert len(list(converter(dataset(WITH_IDS), LENGTHS))) == 2
    assert len(list(converter(dataset(EXAMPLES), LENGTHS))) == 2


def test_decoder_only_example_of_the_docstring():
    first = {"targets": [60, 47, 1], "target_annotations": [0, 1, 0]}
    examples = [EXAMPLES[0] | first, EXAMPLES[1]]
    rows = convert(examples, {"inputs": 6, "targets": 6}, DECODER_ONLY, pack=True)
    assert rows == [
        {
            "decoder_target_tokens": [21, 34, 1, 60, 47, 1, 18, 1, 60, 1, 0, 0],
            "decoder_input_tokens": [0, 21, 34, 1, 60, 47, 0, 18, 1, 60, 0, 0],
            "decoder_loss_weights": [0, 0, 0, 1, -1, 1, 0, 0, -1, 1, 0, 0],
            "decoder_causal_attention": [1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0],
            "decoder_segment_ids": [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0],
            "decoder_positions": [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 0, 0],
        }
    ]


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    ("cls", "seqios"),
    [
        (fcs.TargetAnnotationsFeatureConverter, seqio.EncDecFeatureConverter),
        (DECODER_ONLY, seqio.PrefixLMFeatureConverter),
    ],
)
def test_but_for_signs_it_is_seqios_converter(cls, seqios, pack):
    examples = [
        {
            # Decoder-only models take examples without inputs, too.
            "inputs": [*range(5 if cls is DECODER_ONLY else 4, 5 + i % 4)],
            "targets": [*range(2, 2 + i % 3), 1],
            "target_annotations": [i % 2] * (i % 3 + 1),
        }
        for i in range(13)
    ]
    expected = convert(examples, cls=seqios, pack=pack)
    got = convert(examples, cls=cls, pack=pack)
    assert any(-1 in row["decoder_loss_weights"] for row in got)
    for row in got:
        row["decoder_loss_weights"] = [abs(x) for x in row["decoder_loss_weights"]]
    assert got == expected


def test_decoder_only_without_targets_reads_all_inputs():
    example = {"inputs": [7, 8, 1], "targets": [], "target_annotations": []}
    (row,) = convert([example], cls=DECODER_ONLY, pack=False)
    (expected,) = convert([example], cls=seqio.PrefixLMFeatureConverter, pack=False)
    for name in ("decoder_input_tokens", "decoder_causal_attention"):
        assert row[name] == expected[name]
    assert not any(row["decoder_loss_weights"])


# ---- Bad outputs with their corrections --------------------------------------------


def aligned(targets, other):
    return list(zip(targets, [*other, *[0] * len(targets)], strict=False))


def expected_weights(name, negative, corrected):
    """The table, as a loop."""
    kind = next(kind for kind in KINDS if kind in name)
    if name.startswith("NegativeAndPositive"):
        if len(negative) < len(corrected):
            name, kind = "CorrectiveTraining", "Full"
        else:
            name = "NegativeTraining"
    corrective = name.startswith("Corrective")
    targets, other = (corrected, negative) if corrective else (negative, corrected)
    changes = [i for i, (a, b) in enumerate(aligned(targets, other)) if a != b]
    marked = {"First": changes[:1], "Diff": changes, "Full": range(len(targets))}[kind]
    one, rest = (1, 0) if corrective else (-1, 1)
    return targets, [one if i in marked else rest for i in range(len(targets))]


def random_corrections(count=25):
    """Of few ids, so that sequences often agree; with and without EOS."""
    rng = random.Random(0)

    def draw(ids):
        return [rng.choice(ids) for _ in range(rng.randint(1, 6))]

    return [
        {
            "inputs": draw(range(1, 10)),
            "negative_targets": draw(range(2, 5)) + [1] * rng.randint(0, 1),
            "corrected_targets": draw(range(2, 5)) + [1] * rng.randint(0, 1),
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("name", NINE)
def test_corrections_weigh_by_the_table_and_pack_alike(name):
    """The docstring's example, then others; a class of each family packs them."""
    examples, cls = [CORRECTION, *random_corrections()], getattr(fcs, name)
    first, *others = rows = convert(examples, CORRECTION_LENGTHS, cls, pack=False)
    kind = KINDS.index(next(kind for kind in KINDS if kind in name))
    corrective = name.startswith("Corrective")
    weights = (
        ([0, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1])
        if corrective
        else ([1, -1, 1, 1], [1, -1, -1, 1], [-1, -1, -1, -1])
    )[kind]
    targets = CORRECTION[f"{'corrected' if corrective else 'negative'}_targets"]
    assert first == {
        "encoder_input_tokens": [31, 1, 0, 0, 0, 0],
        "decoder_target_tokens": [*targets, 0, 0, 0],
        "decoder_input_tokens": [0, *targets, 0, 0],
        "decoder_loss_weights": [*weights, 0, 0, 0],
    }
    for row, example in zip(others, examples[1:], strict=True):
        targets, weights = expected_weights(
            name, example["negative_targets"], example["corrected_targets"]
        )
        row = unpadded(row)
        assert row["decoder_target_tokens"] == targets
        assert row["decoder_loss_weights"] == weights
    if name in PACKED:
        packed = convert(examples, CORRECTION_LENGTHS, cls, pack=True)
        assert_packed_alike(packed, rows)


def test_a_stand_in_of_padding_is_shorter_than_any_output():
    good = {"inputs": [6], "negative_targets": [0], "corrected_targets": [29, 36, 1]}
    cls = fcs.NegativeAndPositiveTrainingDiffFeatureConverter
    for pack in (False, True):
        (row,) = convert([good], CORRECTION_LENGTHS, cls, pack=pack)
        assert row["decoder_target_tokens"] == [29, 36, 1, 0, 0, 0, 0]
        assert row["decoder_loss_weights"] == [1, 1, 1, 0, 0, 0, 0]


def test_corrections_and_bad_outputs_of_different_lengths():
    lengths = {**CORRECTION_LENGTHS, "corrected_targets": 9}
    one = fcs.CorrectiveTrainingDiffFeatureConverter
    both = fcs.NegativeAndPositiveTrainingFullFeatureConverter
    (row,) = convert([CORRECTION], lengths, one, pack=False)
    assert row["decoder_loss_weights"] == [0, 1, 1, 0, 0, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="same lengths.*7 and 9"):
        convert([CORRECTION], lengths, both)


class Halves(fcs.NegativeTrainingFeatureConverterBase):
    """A user's own: its weights take both outputs, padded to the same length."""

    def get_decoder_weights(self, features):
        same = features["negative_targets"] == features["corrected_targets"]
        return tf.where(same, -7, 0) + features["negative_targets"] % 2

    def get_decoder_target_tokens(self, features):
        return features["negative_targets"]

    def get_decoder_length(self, task_feature_lengths):
        return task_feature_lengths["negative_targets"]


class Mixed(fcs.NegativeAndPositiveTrainingFeatureConverterBase):
    POSITIVE_FEATURE_CONVERTER_CLS = Halves


def test_users_subclasses():
    (row,) = convert([CORRECTION], CORRECTION_LENGTHS, Halves, pack=False)
    assert row["decoder_loss_weights"] == [-7, 0, 1, -6, 0, 0, 0]
    (packed,) = convert([CORRECTION] * 1, CORRECTION_LENGTHS, Halves, pack=True)
    assert packed["decoder_loss_weights"] == row["decoder_loss_weights"]
    good = {"inputs": [6], "negative_targets": [29], "corrected_targets": [29, 36, 1]}
    (row,) = convert([good], CORRECTION_LENGTHS, Mixed)
    assert row["decoder_target_tokens"] == [29, 0, 0, 0, 0, 0, 0]
    assert row["decoder_loss_weights"] == [-6, 0, 0, 0, 0, 0, 0]
    with pytest.raises(TypeError, match="abstract"):
        fcs.NegativeTrainingFeatureConverterBase(pack=False)


# ---- What the converters are made of ------------------------------------------------

INT32 = st.integers(-(2**31) + 1, 2**31 - 2)


@settings(deadline=None)
@given(st.lists(INT32, max_size=9))
def test_zeros_are_hidden_from_packing_and_come_back(values):
    hidden = utils.without_zeros(tf.constant(values, tf.int32))
    assert 0 not in hidden.numpy()
    assert utils.with_zeros(hidden).numpy().tolist() == values
    assert utils.with_zeros(tf.zeros(3, tf.int32)).numpy().tolist() == [0, 0, 0]


SEQUENCE = st.lists(st.integers(0, 3), max_size=7)


@settings(deadline=None)
@given(SEQUENCE, SEQUENCE)
def test_masks_of_differences(first, second):
    pairs = aligned(first, second)
    differs = [int(a != b) for a, b in pairs]
    seqs = [tf.constant(x, tf.int32) for x in (first, second)]
    diff = utils.get_diff_mask(*seqs)
    assert diff.dtype == tf.int32
    assert diff.numpy().tolist() == [int(a != b and a != 0) for a, b in pairs]
    only = [int(x and not any(differs[:i])) for i, x in enumerate(differs)]
    assert utils.get_first_diff_mask(*seqs).numpy().tolist() == only
    size = max([i + 1 for i, x in enumerate(first) if x], default=0)
    assert int(utils.content_length(seqs[0])) == size


# ---- Gin ----------------------------------------------------------------------------


@pytest.mark.parametrize("dynamic", [False, True])
def test_gin_finds_the_converters(dynamic):
    head, module = [], "feature_converters"
    if dynamic:
        module = "t5patches_feature_converters"
        head = ["from __gin__ import dynamic_registration"]
        head += [f"from t5patches import feature_converters as {module}"]
    try:
        for name in [*NINE, "TargetAnnotationsFeatureConverter"]:
            of_class = f"{module}.{name}.apply_length_check = False"
            gin.parse_config([*head, f"CONVERTER = @{module}.{name}", of_class])
            converter = copy.deepcopy(gin.query_parameter("%CONVERTER"))
            assert issubclass(converter, getattr(fcs, name))
            assert not converter(pack=False)._apply_length_check
    finally:
        gin.clear_config()
