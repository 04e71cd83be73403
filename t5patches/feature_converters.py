"""SeqIO feature converters: task features of annotated generations → model features.

Two families. One reads a model's own generations, each token marked as unwanted or not
(`TargetAnnotationsFeatureConverter`, `DecoderOnlyTargetAnnotationsFeatureConverter`).
The other, the nine of google/t5patches, reads bad outputs with their corrections; a
class is its row of the table at `NegativeTrainingFeatureConverterBase`.

Every converter packs: what a token weighs is settled example by example, before
examples share a row. Padding weighs 0.
"""

from __future__ import annotations

import abc
import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import numpy as np
import seqio
import tensorflow as tf

from t5patches import feature_converters_utils as utils
from t5patches.interchange import frozen_states

_Spec = seqio.FeatureConverter.FeatureSpec
_Example = Mapping[str, tf.Tensor]
_Lengths = Mapping[str, int]

NEGATIVE_TOKEN_IDS = "negative_token_ids"
UNWANTED_SETS = "unwanted_sets"
FROZEN_STATES, FROZEN_ROWS = "frozen_states", "frozen_rows"
# What says, on each side, which positions have a token.
_TOKENS = {"encoder": "encoder_input_tokens", "decoder": "decoder_target_tokens"}

# Calls into Python are for so many examples: one for each took as long as all the rest.
_AT_ONCE = 64

_registered = gin.configurable(module="feature_converters")


def _specs(*names: str) -> dict[str, seqio.FeatureConverter.FeatureSpec]:
    return {name: _Spec(dtype=tf.int32) for name in names}


def _packing(*sides: str) -> dict[str, tf.dtypes.DType]:
    kinds = ("segment_ids", "positions")
    return {f"{side}_{kind}": tf.int32 for side in sides for kind in kinds}


class _Converter(seqio.FeatureConverter):
    """What the converters share: one example's features, then packing or padding.

    A subclass gives `_features`.
    """

    MODEL_FEATURES = _specs(
        "encoder_input_tokens",
        "decoder_target_tokens",
        "decoder_input_tokens",
        "decoder_loss_weights",
    )
    PACKING_FEATURE_DTYPES = _packing("encoder", "decoder")

    def __init__(self, *args: Any, frozen_cache: str | None = None, **kwargs: Any):
        """Takes the arguments of `seqio.FeatureConverter` and:

        Args:
          frozen_cache: a folder of states of the frozen model (see
            `interchange.frozen_states`), which become the feature `frozen_states`,
            [length, features].
        """
        super().__init__(*args, **kwargs)
        self._cache = None
        if frozen_cache:
            self._cache = frozen_states.Store(frozen_cache)
            # Their rows alone are packed: SeqIO packs nothing but int32 [length].
            self.MODEL_FEATURES = {**self.MODEL_FEATURES, **_specs(FROZEN_ROWS)}

    def __call__(
        self, ds: tf.data.Dataset, task_feature_lengths: _Lengths
    ) -> tf.data.Dataset:
        """Converts `ds`; see `seqio.FeatureConverter`."""
        ds = super().__call__(ds, task_feature_lengths)
        cache = self._cache
        if not cache:
            return ds

        def read(features):
            rows = features.pop(FROZEN_ROWS)
            dtype = tf.as_dtype(cache.dtype)
            states = tf.numpy_function(cache.read, [rows], dtype, stateful=False)
            states = tf.ensure_shape(states, [*rows.shape, cache.features])
            return {**features, FROZEN_STATES: states}

        return ds.batch(_AT_ONCE).map(read).unbatch()

    @abc.abstractmethod
    def _features(self, example: _Example) -> dict[str, tf.Tensor]:
        """All model features of an example but `decoder_input_tokens`.

        Returns:
          int32 [length] each, without padding; those of a side are equally long.
        """

    def get_decoder_length(self, task_feature_lengths: _Lengths) -> int:
        """Returns the length of the decoder's features."""
        return task_feature_lengths["targets"]

    def _convert_features(
        self, ds: tf.data.Dataset, task_feature_lengths: _Lengths
    ) -> tf.data.Dataset:
        passed = [*self._passthrough_features]
        own = [name for name in self.MODEL_FEATURES if name != "decoder_input_tokens"]
        kept = [name for name in own if name != FROZEN_ROWS]
        lengths = self.get_model_feature_lengths(task_feature_lengths)

        def prepare(example):
            features = self._features(example)
            features = {name: utils.without_zeros(features[name]) for name in kept}
            return features | {name: example[name] for name in passed}

        def finish(row):
            features = {name: utils.with_zeros(row[name]) for name in own}
            features["decoder_input_tokens"] = seqio.utils.make_autoregressive_inputs(
                features["decoder_target_tokens"],
                sequence_id=row.get("decoder_target_tokens_segment_ids"),
                bos_id=self.bos_id,
            )
            for name in self.PACKING_FEATURE_DTYPES if self.pack else ():
                side, kind = name.split("_", 1)
                features[name] = row[f"{_TOKENS[side]}_{kind}"]
            return features | {name: row[name] for name in passed}

        ds = ds.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
        if self.pack:
            # An empty sequence would shift the segment numbers of one side.
            ds = ds.filter(lambda x: tf.reduce_all([tf.size(x[k]) > 0 for k in kept]))
        if self._cache:
            find = functools.partial(self._add_frozen_rows, lengths=lengths)
            ds = ds.padded_batch(_AT_ONCE).map(find).unbatch()
        ds = self._pack_or_pad(ds, {name: lengths[name] for name in own + passed})
        return ds.map(finish, num_parallel_calls=tf.data.AUTOTUNE)

    def _add_frozen_rows(self, features: _Example, lengths: _Lengths) -> _Example:
        """Adds where the states of targets are, int32 [examples, length]."""
        names = (*_TOKENS.values(), "decoder_loss_weights")
        there = {"encoder_input_tokens": features[names[1]][:, :0], **features}
        tokens = [there[name][:, : lengths.get(name, 0)] for name in names]

        def find(*tokens):
            found = np.zeros_like(tokens[-1])
            for row, *of_one in zip(found, *tokens, strict=True):
                # As `without_zeros` has them: 0 is padding.
                own = [each[each != 0] for each in of_one]
                own = [each - (each > 0) for each in own]
                row[: len(own[-1])] = self._cache.rows(*own) + 1
            return found

        rows = tf.numpy_function(find, tokens, tf.int32, stateful=False)
        return {**features, FROZEN_ROWS: tf.ensure_shape(rows, [None, None])}

    def get_model_feature_lengths(
        self, task_feature_lengths: _Lengths
    ) -> dict[str, int]:
        """Returns the length of each model feature."""
        names = [*self.MODEL_FEATURES]
        if self.pack:
            names += self.PACKING_FEATURE_DTYPES
        encoder = task_feature_lengths["inputs"]
        decoder = self.get_decoder_length(task_feature_lengths)
        lengths = {k: encoder if k.startswith("encoder") else decoder for k in names}
        passed = {key: task_feature_lengths[key] for key in self._passthrough_features}
        return lengths | passed


def _weigh(targets: tf.Tensor, marks: tf.Tensor, marked: int, other: int) -> tf.Tensor:
    """`marked` where `marks` is positive, `other` elsewhere, 0 where there is no token.

    Args:
      targets: int32 [length].
      marks: int [length].
      marked: a weight.
      other: a weight.

    Returns:
      int32 [length].
    """
    return tf.where(targets == 0, 0, tf.where(marks > 0, marked, other))


# ---- A model's own generations ----------------------------------------------------


@_registered
class TargetAnnotationsFeatureConverter(_Converter):
    """Annotated generations for an encoder-decoder: the weights say what is unwanted.

    Task features are `inputs`, `targets` and `target_annotations` (1 at an unwanted
    target, 0 at any other). `decoder_loss_weights` is -1 at an unwanted target, 1 at
    any other, 0 at padding.

    Example, with task_feature_lengths = {"inputs": 6, "targets": 8}:

      ds = [{"inputs": [21, 34, 1], "targets": [52, 60, 47, 1],
             "target_annotations": [0, 0, 1, 0]},
            {"inputs": [18, 1], "targets": [60, 1], "target_annotations": [1, 0]}]

    The first example becomes, without packing:

      {"encoder_input_tokens":  [21, 34, 1, 0, 0, 0],
       "decoder_target_tokens": [52, 60, 47, 1, 0, 0, 0, 0],
       "decoder_input_tokens":  [0, 52, 60, 47, 1, 0, 0, 0],
       "decoder_loss_weights":  [1, 1, -1, 1, 0, 0, 0, 0]}

    With pack=True both share one row. No target of one example is an input of another:
    the decoder starts anew where a segment starts.

      {"encoder_input_tokens":  [21, 34, 1, 18, 1, 0],
       "encoder_segment_ids":   [1, 1, 1, 2, 2, 0],
       "encoder_positions":     [0, 1, 2, 0, 1, 0],
       "decoder_target_tokens": [52, 60, 47, 1, 60, 1, 0, 0],
       "decoder_input_tokens":  [0, 52, 60, 47, 0, 60, 0, 0],
       "decoder_loss_weights":  [1, 1, -1, 1, -1, 1, 0, 0],
       "decoder_segment_ids":   [1, 1, 1, 1, 2, 2, 0, 0],
       "decoder_positions":     [0, 1, 2, 3, 0, 1, 0, 0]}

    Several tokens can be unwanted at one position. A task that has
    `negative_token_ids`, int32 [length of targets, k], names up to k of them (0 is
    none), and the feature of that name goes along, packed or not. For the second
    example [[60, 55], [0, 0]] becomes, without packing, [[60, 55]] and seven [0, 0].

    Or a task names sets: `unwanted_sets`, int32 [length of targets], has for each
    position a row of the model's table of sets (0 is the empty one), and goes along.

    Annotations, negative token ids and sets are as long as the targets, so that their
    length need not be given; if it is, it must be that of the targets.
    """

    TASK_FEATURES = _specs("inputs", "targets", "target_annotations")
    # Sets, and negative token ids, one feature for each of the k.
    _columns: Sequence[str] = ()

    def __call__(
        self, ds: tf.data.Dataset, task_feature_lengths: _Lengths
    ) -> tf.data.Dataset:
        """Converts `ds`; see the class and `seqio.FeatureConverter`.

        Raises:
          ValueError: `task_feature_lengths` gives annotations another length than
            targets, or features are missing.
        """
        lengths = dict(task_feature_lengths)
        more = [n for n in (UNWANTED_SETS, NEGATIVE_TOKEN_IDS) if n in ds.element_spec]
        names = ["target_annotations", *more]
        for name in names if "targets" in lengths else ():
            length = lengths.setdefault(name, lengths["targets"])
            if length != lengths["targets"]:
                raise ValueError(
                    f"{name} has length {length} and targets {lengths['targets']} in"
                    " task_feature_lengths; they must be equal"
                )
        if names[0] in ds.element_spec:
            # What has no length of its own was not trimmed with the targets.
            trimmed = {name: name not in task_feature_lengths for name in names}
            ds = ds.map(_matched(trimmed), num_parallel_calls=tf.data.AUTOTUNE)
        if UNWANTED_SETS in more:
            return self._with(UNWANTED_SETS)._convert(ds, lengths)
        return self._convert(ds, lengths)

    def _with(self, *columns):
        """Returns a converter of further features [length]."""
        inner = copy.copy(self)
        inner.TASK_FEATURES = {**self.TASK_FEATURES, **_specs(*columns)}
        inner.MODEL_FEATURES = {**self.MODEL_FEATURES, **_specs(*columns)}
        inner._columns = [*self._columns, *columns]
        return inner

    def _convert(self, ds, lengths):
        """Converts [length, k] as k features [length], since SeqIO packs no other."""
        if NEGATIVE_TOKEN_IDS not in ds.element_spec:
            return _Converter.__call__(self, ds, lengths)
        shape = ds.element_spec[NEGATIVE_TOKEN_IDS].shape
        if shape.rank != 2 or shape[1] is None:
            raise ValueError(
                f"{NEGATIVE_TOKEN_IDS} must be [length, k], with a k that is the same"
                f" for all examples; the data set has the shape {shape}"
            )
        columns = [f"{NEGATIVE_TOKEN_IDS}_{i}" for i in range(shape[1])]

        def split(example):
            ids = tf.unstack(example[NEGATIVE_TOKEN_IDS], axis=1)
            return {**example, **dict(zip(columns, ids, strict=True))}

        def join(features):
            ids = tf.stack([features.pop(name) for name in columns], axis=1)
            return {**features, NEGATIVE_TOKEN_IDS: ids}

        length = lengths.pop(NEGATIVE_TOKEN_IDS)
        ds = ds.map(split, num_parallel_calls=tf.data.AUTOTUNE)
        lengths |= dict.fromkeys(columns, length)
        ds = _Converter.__call__(self._with(*columns), ds, lengths)
        return ds.map(join, num_parallel_calls=tf.data.AUTOTUNE)

    def _features(self, example: _Example) -> dict[str, tf.Tensor]:
        targets = _content(example["targets"])
        length = tf.size(targets)
        weights = _weigh(targets, example["target_annotations"][:length], -1, 1)
        return {
            "encoder_input_tokens": _content(example["inputs"]),
            "decoder_target_tokens": targets,
            "decoder_loss_weights": weights,
        } | {name: example[name][:length] for name in self._columns}

    def get_model_feature_lengths(
        self, task_feature_lengths: _Lengths
    ) -> dict[str, int]:
        """Returns the length of each model feature (its first axis)."""
        lengths = super().get_model_feature_lengths(task_feature_lengths)
        for name in (NEGATIVE_TOKEN_IDS, UNWANTED_SETS):
            if name in task_feature_lengths:
                lengths[name] = lengths["decoder_target_tokens"]
        return lengths


@_registered
class DecoderOnlyTargetAnnotationsFeatureConverter(TargetAnnotationsFeatureConverter):
    """Annotated generations for a decoder-only model: inputs and targets in one row.

    Task features are those of `TargetAnnotationsFeatureConverter`, model features those
    of `seqio.PrefixLMFeatureConverter`, except that a weight is -1 at an unwanted
    target. Inputs weigh 0. `decoder_causal_attention` is 1 where an input token is
    predicted or, the last of them, read: the part that a prefix language model sees in
    both directions.

    Example, with task_feature_lengths = {"inputs": 6, "targets": 6} and pack=True:

      ds = [{"inputs": [21, 34, 1], "targets": [60, 47, 1],
             "target_annotations": [0, 1, 0]},
            {"inputs": [18, 1], "targets": [60, 1], "target_annotations": [1, 0]}]

      {"decoder_target_tokens":    [21, 34, 1, 60, 47, 1, 18, 1, 60, 1, 0, 0],
       "decoder_input_tokens":     [0, 21, 34, 1, 60, 47, 0, 18, 1, 60, 0, 0],
       "decoder_loss_weights":     [0, 0, 0, 1, -1, 1, 0, 0, -1, 1, 0, 0],
       "decoder_causal_attention": [1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0],
       "decoder_segment_ids":      [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0],
       "decoder_positions":        [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 0, 0]}
    """

    MODEL_FEATURES = _specs(
        "decoder_target_tokens",
        "decoder_input_tokens",
        "decoder_loss_weights",
        "decoder_causal_attention",
    )
    PACKING_FEATURE_DTYPES = _packing("decoder")

    def get_decoder_length(self, task_feature_lengths: _Lengths) -> int:
        """Returns the length of inputs and targets together."""
        return task_feature_lengths["inputs"] + task_feature_lengths["targets"]

    def _features(self, example: _Example) -> dict[str, tf.Tensor]:
        features = super()._features(example)
        inputs = features.pop("encoder_input_tokens")
        # Without targets (generation) there still is a place to read the last input.
        short = tf.maximum(0, 1 - tf.size(features["decoder_target_tokens"]))
        for name, values in features.items():
            before = inputs if name == "decoder_target_tokens" else inputs * 0
            values = tf.pad(values, [[0, short]])
            features[name] = tf.concat([before, values], axis=0)
        places = tf.range(tf.size(features["decoder_target_tokens"]))
        prefix = tf.cast(places <= tf.size(inputs), tf.int32)
        return features | {"decoder_causal_attention": prefix}


def _content(tokens: tf.Tensor) -> tf.Tensor:
    return tokens[: utils.content_length(tokens)]


def _matched(trimmed: Mapping[str, bool]) -> Callable[[_Example], _Example]:
    """Fails where a name is shorter than its targets; cuts it to them if `trimmed`."""

    def match(example):
        length = tf.size(example["targets"])
        found = {}
        for name, trim in trimmed.items():
            message = f"{name} must have one value per id of targets"
            size = tf.shape(example[name])[0]
            checks = [tf.debugging.assert_less_equal(length, size, message=message)]
            with tf.control_dependencies(checks):
                values = tf.identity(example[name])
            found[name] = values[:length] if trim else values
        return {**example, **found}

    return match


# ---- Bad outputs with their corrections (google/t5patches) -------------------------


class NegativeTrainingFeatureConverterBase(_Converter):
    """Bad outputs with their corrections, for an encoder-decoder.

    Task features are `inputs`, `negative_targets` (what the model said) and
    `corrected_targets` (what it should have said), compared position by position. A
    subclass says which of the two are the targets, and what each token weighs. Ours:

    | class                   | targets             | marked           | weighs | rest |
    | ----------------------- | ------------------- | ---------------- | ------ | ---- |
    | NegativeTrainingFirst   | `negative_targets`  | the first change | -1     | 1    |
    | NegativeTrainingDiff    | `negative_targets`  | every change     | -1     | 1    |
    | NegativeTrainingFull    | `negative_targets`  | everything       | -1     |      |
    | CorrectiveTrainingFirst | `corrected_targets` | the first change | 1      | 0    |
    | CorrectiveTrainingDiff  | `corrected_targets` | every change     | 1      | 0    |
    | CorrectiveTrainingFull  | `corrected_targets` | everything       | 1      |      |

    Example: with {"inputs": [31, 1], "negative_targets": [44, 70, 25, 1],
    "corrected_targets": [44, 29, 36, 1]} and a length of 5, negative targets weigh

      First [1, -1, 1, 1, 0]   Diff [1, -1, -1, 1, 0]   Full [-1, -1, -1, -1, 0]

    and corrected targets [0, 1, 0, 0, 0], [0, 1, 1, 0, 0] and [1, 1, 1, 1, 0].

    The overridable methods see one example at a time, its features padded to their
    lengths. Whatever they give where there is no token is ignored: a correction that
    goes on where the bad output has ended marks nothing in it.
    """

    TASK_FEATURES = _specs("inputs", "negative_targets", "corrected_targets")

    @abc.abstractmethod
    def get_decoder_weights(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """What each target weighs: int32 [get_decoder_length]."""

    @abc.abstractmethod
    def get_decoder_target_tokens(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The targets of an example: int32 [get_decoder_length]."""

    @abc.abstractmethod
    def get_decoder_length(self, task_feature_lengths: Mapping[str, int]) -> int:
        """Length of the targets."""

    def _convert_features(
        self, ds: tf.data.Dataset, task_feature_lengths: _Lengths
    ) -> tf.data.Dataset:
        lengths = {name: task_feature_lengths[name] for name in self.TASK_FEATURES}
        ds = seqio.utils.trim_and_pad_dataset(ds, lengths)
        return super()._convert_features(ds, task_feature_lengths)

    def _features(self, example: _Example) -> dict[str, tf.Tensor]:
        targets = _content(self.get_decoder_target_tokens(example))
        weights = self.get_decoder_weights(example)[: tf.size(targets)]
        return {
            "encoder_input_tokens": _content(example["inputs"]),
            "decoder_target_tokens": targets,
            "decoder_loss_weights": tf.where(targets == 0, 0, weights),
        }


class _Row(NegativeTrainingFeatureConverterBase):
    """A row of the table.

    Attributes:
      TARGETS: the task feature that is trained on, compared with the other.
      MARKS: from (targets, other), int32 [length] each, to 1 where marked.
    """

    TARGETS: str
    MARKS: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

    def get_decoder_weights(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        negative = features["negative_targets"]
        corrected = features["corrected_targets"]
        if self.TARGETS == "negative_targets":
            return _weigh(negative, self.MARKS(negative, corrected), -1, 1)
        return _weigh(corrected, self.MARKS(corrected, negative), 1, 0)

    def get_decoder_target_tokens(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return features[self.TARGETS]

    def get_decoder_length(self, task_feature_lengths: Mapping[str, int]) -> int:
        return task_feature_lengths[self.TARGETS]


_Maker = Callable[..., NegativeTrainingFeatureConverterBase]


def _everything(targets: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    return tf.ones_like(targets)


@_registered
class NegativeTrainingFirstFeatureConverter(_Row):
    """Bad outputs; unwanted is the first token that was corrected."""

    TARGETS, MARKS = "negative_targets", staticmethod(utils.get_first_diff_mask)


@_registered
class NegativeTrainingDiffFeatureConverter(_Row):
    """Bad outputs; unwanted is every token that was corrected."""

    TARGETS, MARKS = "negative_targets", staticmethod(utils.get_diff_mask)


@_registered
class NegativeTrainingFullFeatureConverter(_Row):
    """Bad outputs; unwanted is every token."""

    TARGETS, MARKS = "negative_targets", staticmethod(_everything)


@_registered
class CorrectiveTrainingFirstFeatureConverter(_Row):
    """Corrections; what is learnt is the first token that was corrected."""

    TARGETS, MARKS = "corrected_targets", staticmethod(utils.get_first_diff_mask)


@_registered
class CorrectiveTrainingDiffFeatureConverter(_Row):
    """Corrections; what is learnt is every token that was corrected."""

    TARGETS, MARKS = "corrected_targets", staticmethod(utils.get_diff_mask)


@_registered
class CorrectiveTrainingFullFeatureConverter(_Row):
    """Corrections; what is learnt is every token, as in plain fine-tuning."""

    TARGETS, MARKS = "corrected_targets", staticmethod(_everything)


@_registered
class NegativeAndPositiveTrainingFeatureConverterBase(
    NegativeTrainingFeatureConverterBase
):
    """A mixture of bad outputs and good ones, which need not belong together.

    An example is what it has more tokens of: a bad output, converted by
    NEGATIVE_FEATURE_CONVERTER_CLS, if `negative_targets` is at least as long as
    `corrected_targets`, and else a good one, by POSITIVE_FEATURE_CONVERTER_CLS. The
    shorter of the two is a stand-in such as [0], or what a bad output is compared with.

    Example: {"negative_targets": [44, 70, 1], "corrected_targets": [44]} is a bad
    output, whose Diff weighs [1, -1, -1], and {"negative_targets": [0],
    "corrected_targets": [29, 36, 1]} a good one, which weighs [1, 1, 1].
    """

    NEGATIVE_FEATURE_CONVERTER_CLS: _Maker = NegativeTrainingFullFeatureConverter
    POSITIVE_FEATURE_CONVERTER_CLS: _Maker = CorrectiveTrainingFullFeatureConverter

    def __init__(self, pack: bool = False, *args: Any, **kwargs: Any):
        """Makes a converter; the arguments are those of `seqio.FeatureConverter`."""
        super().__init__(pack, *args, **kwargs)
        negative = self.NEGATIVE_FEATURE_CONVERTER_CLS
        positive = self.POSITIVE_FEATURE_CONVERTER_CLS
        self.negative_feature_converter = negative(pack, *args, **kwargs)
        self.positive_feature_converter = positive(pack, *args, **kwargs)

    def _choose(self, features: Mapping[str, tf.Tensor], method: str) -> tf.Tensor:
        negative = tf.math.count_nonzero(features["negative_targets"])
        corrected = tf.math.count_nonzero(features["corrected_targets"])
        return tf.cond(
            negative >= corrected,
            lambda: getattr(self.negative_feature_converter, method)(features),
            lambda: getattr(self.positive_feature_converter, method)(features),
        )

    def get_decoder_weights(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return self._choose(features, "get_decoder_weights")

    def get_decoder_target_tokens(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return self._choose(features, "get_decoder_target_tokens")

    def get_decoder_length(self, task_feature_lengths: Mapping[str, int]) -> int:
        """Length of the targets.

        Raises:
          ValueError: it differs between bad and good outputs.
        """
        converters = self.negative_feature_converter, self.positive_feature_converter
        negative, positive = (
            c.get_decoder_length(task_feature_lengths) for c in converters
        )
        if negative != positive:
            raise ValueError(
                "Negative and corrected targets should be assigned the same lengths"
                f" in task_feature_lengths, not {negative} and {positive}"
            )
        return negative


@_registered
class NegativeAndPositiveTrainingFullFeatureConverter(
    NegativeAndPositiveTrainingFeatureConverterBase
):
    """Good outputs, and bad ones in which every token is unwanted."""

    NEGATIVE_FEATURE_CONVERTER_CLS = NegativeTrainingFullFeatureConverter


@_registered
class NegativeAndPositiveTrainingFirstFeatureConverter(
    NegativeAndPositiveTrainingFeatureConverterBase
):
    """Good outputs, and bad ones in which the first corrected token is unwanted."""

    NEGATIVE_FEATURE_CONVERTER_CLS = NegativeTrainingFirstFeatureConverter


@_registered
class NegativeAndPositiveTrainingDiffFeatureConverter(
    NegativeAndPositiveTrainingFeatureConverterBase
):
    """Good outputs, and bad ones in which every corrected token is unwanted."""

    NEGATIVE_FEATURE_CONVERTER_CLS = NegativeTrainingDiffFeatureConverter
