"""SeqIO feature converters: task features of annotated generations → model features."""

from __future__ import annotations

from collections.abc import Mapping

import seqio
import tensorflow as tf

_Spec = seqio.FeatureConverter.FeatureSpec
_Example = Mapping[str, tf.Tensor]

_MODEL_FEATURES = {
    name: _Spec(dtype=tf.int32)
    for name in (
        "encoder_input_tokens",
        "decoder_target_tokens",
        "decoder_input_tokens",
        "decoder_loss_weights",
    )
}
_PACKING_FEATURES = {
    f"{side}_{kind}": tf.int32
    for side in ("encoder", "decoder")
    for kind in ("segment_ids", "positions")
}


class TargetAnnotationsFeatureConverter(seqio.FeatureConverter):
    """Annotated generations for an encoder-decoder: the weights say what is unwanted.

    Task features are `inputs`, `targets` and `target_annotations` (1 at an unwanted
    target, 0 at any other). `decoder_loss_weights` is -1 at an unwanted target, 1 at
    any other, 0 at padding.

    Example, with task_feature_lengths = {"inputs": 10, "targets": 7}:

      ds = [{"inputs": [7, 8, 5, 1], "targets": [3, 9, 1],
             "target_annotations": [0, 1, 0]},
            {"inputs": [8, 4, 9, 3, 1], "targets": [4, 1],
             "target_annotations": [1, 0]}]

    The first example becomes, without packing:

      {"encoder_input_tokens":  [7, 8, 5, 1, 0, 0, 0, 0, 0, 0],
       "decoder_target_tokens": [3, 9, 1, 0, 0, 0, 0],
       "decoder_input_tokens":  [0, 3, 9, 1, 0, 0, 0],
       "decoder_loss_weights":  [1, -1, 1, 0, 0, 0, 0]}

    With pack=True both share one row. No target of one example is an input of another:
    the decoder starts anew where a segment starts.

      {"encoder_input_tokens":  [7, 8, 5, 1, 8, 4, 9, 3, 1, 0],
       "encoder_segment_ids":   [1, 1, 1, 1, 2, 2, 2, 2, 2, 0],
       "encoder_positions":     [0, 1, 2, 3, 0, 1, 2, 3, 4, 0],
       "decoder_target_tokens": [3, 9, 1, 4, 1, 0, 0],
       "decoder_input_tokens":  [0, 3, 9, 0, 4, 0, 0],
       "decoder_loss_weights":  [1, -1, 1, -1, 1, 0, 0],
       "decoder_segment_ids":   [1, 1, 1, 2, 2, 0, 0],
       "decoder_positions":     [0, 1, 2, 0, 1, 0, 0]}

    Annotations are as long as the targets, so their length need not be given; if it is,
    it must be that of the targets.
    """

    TASK_FEATURES = {
        name: _Spec(dtype=tf.int32)
        for name in ("inputs", "targets", "target_annotations")
    }
    MODEL_FEATURES = _MODEL_FEATURES
    PACKING_FEATURE_DTYPES = _PACKING_FEATURES

    def __call__(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        """Converts `ds`; see the class and `seqio.FeatureConverter`.

        Raises:
          ValueError: `task_feature_lengths` gives annotations another length than
            targets, or features are missing.
        """
        lengths = dict(task_feature_lengths)
        if "targets" in lengths:
            length = lengths.setdefault("target_annotations", lengths["targets"])
            if length != lengths["targets"]:
                raise ValueError(
                    f"target_annotations has length {length} and targets "
                    f"{lengths['targets']} in task_feature_lengths; they must be equal"
                )
        if "target_annotations" in ds.element_spec:
            ds = ds.map(_check_pairs, num_parallel_calls=tf.data.AUTOTUNE)
            if "target_annotations" not in task_feature_lengths:
                # The task has trimmed the targets only.
                ds = ds.map(_trim_annotations, num_parallel_calls=tf.data.AUTOTUNE)
        return super().__call__(ds, lengths)

    def _convert_features(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        # Weights are made before packing: SeqIO's packing takes a feature's zeros for
        # padding, and most annotations are zeros while no weight of a target is.
        ds = ds.map(self._with_weights, num_parallel_calls=tf.data.AUTOTUNE)
        if self.pack:
            # An empty sequence would shift the segment numbers of one side.
            ds = ds.filter(
                lambda x: (tf.size(x["inputs"]) > 0) & (tf.size(x["targets"]) > 0)
            )
        lengths = {
            "inputs": task_feature_lengths["inputs"],
            "targets": task_feature_lengths["targets"],
            "weights": task_feature_lengths["targets"],
        }
        passed = {key: task_feature_lengths[key] for key in self._passthrough_features}
        ds = self._pack_or_pad(ds, lengths | passed)
        return ds.map(self._to_model_features, num_parallel_calls=tf.data.AUTOTUNE)

    def _with_weights(self, example: _Example) -> dict[str, tf.Tensor]:
        kept = {key: example[key] for key in self._passthrough_features}
        targets = example["targets"]
        weights = tf.where(example["target_annotations"] > 0, -1, 1)
        return kept | {
            "inputs": example["inputs"],
            "targets": targets,
            "weights": tf.where(targets == 0, 0, weights),
        }

    def _to_model_features(self, example: _Example) -> dict[str, tf.Tensor]:
        features = {
            "encoder_input_tokens": example["inputs"],
            "decoder_target_tokens": example["targets"],
            "decoder_input_tokens": seqio.utils.make_autoregressive_inputs(
                example["targets"],
                sequence_id=example.get("targets_segment_ids"),
                bos_id=self.bos_id,
            ),
            "decoder_loss_weights": example["weights"],
        }
        if self.pack:
            for side, feature in (("encoder", "inputs"), ("decoder", "targets")):
                for kind in ("segment_ids", "positions"):
                    features[f"{side}_{kind}"] = example[f"{feature}_{kind}"]
        return features | {key: example[key] for key in self._passthrough_features}

    def get_model_feature_lengths(
        self, task_feature_lengths: Mapping[str, int]
    ) -> dict[str, int]:
        """Returns the length of each model feature."""
        names = [*self.MODEL_FEATURES]
        if self.pack:
            names += self.PACKING_FEATURE_DTYPES
        sides = {"encoder": "inputs", "decoder": "targets"}
        lengths = {
            name: task_feature_lengths[sides[name.split("_")[0]]] for name in names
        }
        passed = {key: task_feature_lengths[key] for key in self._passthrough_features}
        return lengths | passed


def _check_pairs(example: _Example) -> _Example:
    """Fails where an untrimmed annotation is shorter than its targets."""
    targets, marks = tf.size(example["targets"]), tf.size(example["target_annotations"])
    message = "target_annotations must have one value per id of targets"
    with tf.control_dependencies(
        [tf.debugging.assert_less_equal(targets, marks, message=message)]
    ):
        return {key: tf.identity(value) for key, value in example.items()}


def _trim_annotations(example: _Example) -> _Example:
    length = tf.size(example["targets"])
    return {**example, "target_annotations": example["target_annotations"][:length]}
