"""T5X models whose loss is a targeted update: a class per method.

A class is its row of `losses.METHODS`; everything else is shared. The frozen
original model's parameters reach the loss as its argument `orig_params`, which
`trainer.SelfDistillationTrainer` supplies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import seqio
from clu import metrics as clu_metrics
from flax import core as flax_core
from t5x import losses as t5x_losses
from t5x import models as t5x_models

from t5patches import feature_converters, losses

PyTree = Any
Batch = Mapping[str, jax.Array]


class NegativeTrainingTransformer(t5x_models.BaseTransformerModel):
    """Base of the models that train on annotated generations.

    Batches are those of a T5X model except that `decoder_loss_weights` carries the
    annotation: −1 at unwanted tokens, 1 at others, 0 at padding.

    Attributes:
      METHOD: the row of `losses.METHODS` that the class stands for.
      alpha: weight of the loss at unwanted tokens.
    """

    METHOD: losses.Method
    FEATURE_CONVERTER_CLS = feature_converters.TargetAnnotationsFeatureConverter
    alpha: float = 1e4
    _z_loss: float = 0.0
    _label_smoothing: float = 0.0
    _loss_normalizing_factor = None

    def __init__(
        self,
        feature_converter_cls: Callable[..., seqio.FeatureConverter] | None = None,
        alpha: float = 1e4,
        **kwargs: Any,
    ):
        """Makes a model.

        Args:
          feature_converter_cls: converts the task's features to the batch; by
            default the one for `targets` with `target_annotations`.
          alpha: weight of the loss at unwanted tokens.
          **kwargs: T5X's own (module, input_vocabulary, output_vocabulary,
            optimizer_def, decode_fn, z_loss, loss_normalizing_factor, ...).

        Raises:
          ValueError: for label smoothing, which has no meaning here: the targets
            are distributions already.
        """
        super().__init__(
            feature_converter_cls=feature_converter_cls or self.FEATURE_CONVERTER_CLS,
            **kwargs,
        )
        self.alpha = alpha
        if self._label_smoothing:
            raise ValueError(
                f"label_smoothing = {self._label_smoothing}: the targeted losses have"
                " distributions for targets, not labels; set LABEL_SMOOTHING = 0.0"
            )


class SelfDistillationModel(NegativeTrainingTransformer):
    """Base of the models whose loss compares with the frozen original model.

    Attributes:
      frozen_dropout: whether the frozen model runs with the trainable model's
        dropout masks in training, so that both differ by their parameters alone
        (as upstream t5patches does), or without dropout.
    """

    frozen_dropout: bool = True

    def __init__(self, frozen_dropout: bool = True, **kwargs: Any):
        """Makes a model; see `NegativeTrainingTransformer` for the arguments."""
        super().__init__(**kwargs)
        self.frozen_dropout = frozen_dropout

    def loss_fn(
        self,
        params: PyTree,
        batch: Batch,
        dropout_rng: jax.Array | None,
        orig_params: PyTree = None,
    ) -> tuple[jax.Array, dict[str, clu_metrics.Metric]]:
        """The loss of the targeted update and its metrics.

        Args:
          params: the parameters in training.
          batch: model features, int32 [batch, length] each.
          dropout_rng: a key, or None for no dropout.
          orig_params: the frozen parameters, a tree like `params`.

        Returns:
          The loss, a float32 scalar, and metrics: T5X's own, over |weights|, and
          the parts that `losses.targeted_loss` names.

        Raises:
          ValueError: if `orig_params` is missing.
        """
        frozen_rng = dropout_rng if self.frozen_dropout else None
        logits = self._compute_logits(params, batch, dropout_rng=dropout_rng)
        frozen_logits = self._frozen_logits(orig_params, batch, frozen_rng)
        weights = batch["decoder_loss_weights"]
        # T5X's normalisers and metrics sum the weights: they want magnitudes.
        magnitudes = {**batch, "decoder_loss_weights": jnp.abs(weights)}
        factor, magnitude = t5x_losses.get_loss_normalizing_factor_and_weights(
            self._loss_normalizing_factor, magnitudes
        )
        magnitude = jnp.asarray(magnitude, jnp.float32)
        loss, parts = losses.targeted_loss(
            self.METHOD,
            logits,
            frozen_logits,
            batch["decoder_target_tokens"],
            jnp.where(weights < 0, -magnitude, magnitude),
            alpha=self.alpha,
            z_loss=self._z_loss,
            loss_normalizing_factor=factor,
        )
        z_loss, _ = parts.pop("z_loss")
        metrics = self._compute_metrics(
            logits=logits,
            targets=batch["decoder_target_tokens"],
            mask=magnitude,
            loss=loss,
            z_loss=z_loss,
            segment_ids=_segment_ids(batch),
        )
        metrics |= {
            name: clu_metrics.Average(total=total, count=count)
            for name, (total, count) in parts.items()
        }
        return loss, metrics

    def eval_fn(
        self, params: PyTree, batch: Batch, orig_params: PyTree = None
    ) -> tuple[jax.Array, dict[str, clu_metrics.Metric]]:
        """`loss_fn` without dropout."""
        return self.loss_fn(params, batch, None, orig_params)

    def score_batch(
        self,
        params: PyTree,
        batch: Batch,
        return_intermediates: bool = False,
        orig_params: PyTree = None,
    ) -> jax.Array | tuple[jax.Array, Mapping[str, Any]]:
        """The negative loss of each sequence; higher is better. No z-loss.

        Args:
          params: the parameters in training.
          batch: model features, int32 [batch, length] each.
          return_intermediates: whether to return what the network sowed, too.
          orig_params: the frozen parameters.

        Returns:
          float32 [batch]; with `return_intermediates` a pair of it and the
          intermediates, to which `decoder/target_tokens` and
          `decoder/loss_weights` are added.

        Raises:
          ValueError: if `orig_params` is missing.
        """
        weights = batch["decoder_loss_weights"]
        targets = batch["decoder_target_tokens"]
        intermediates = {}
        if return_intermediates:
            logits, variables = self._compute_logits(
                params, batch, mutable=["intermediates"]
            )
            intermediates = flax_core.unfreeze(variables.get("intermediates", {}))
            intermediates.setdefault("decoder", {}).update(
                target_tokens=(targets,), loss_weights=(weights,)
            )
        else:
            logits = self._compute_logits(params, batch)
        frozen_logits = self._frozen_logits(orig_params, batch, None)
        terms = losses.token_terms(self.METHOD, logits, frozen_logits, targets, weights)
        per_token = jnp.where(weights < 0, self.alpha, 1.0) * jnp.abs(weights)
        scores = -jnp.sum(per_token * terms.loss, axis=-1)
        return (scores, intermediates) if return_intermediates else scores

    def _frozen_logits(self, orig_params, batch, dropout_rng):
        if orig_params is None:
            raise ValueError(
                f"{type(self).__name__} compares with the frozen original model:"
                " pass its parameters as orig_params (SelfDistillationTrainer does)."
                " For log-likelihoods use models.EncoderDecoderModel"
            )
        return self._compute_logits(orig_params, batch, dropout_rng=dropout_rng)


def _segment_ids(batch: Batch) -> dict[str, jax.Array]:
    """What T5X's metrics need to count examples and padding, packed or not."""
    suffix = "_segment_ids"
    packed = {k.removesuffix(suffix): v for k, v in batch.items() if k.endswith(suffix)}
    unpacked = ("encoder_input_tokens", "decoder_target_tokens")
    return packed or {name: batch[name] != 0 for name in unpacked}


class EncoderDecoderModelTNFF(SelfDistillationModel, t5x_models.EncoderDecoderModel):
    """TNFF: KL(p_new ‖ p_m) at unwanted tokens, KL(p_o ‖ p_m) elsewhere."""

    METHOD = losses.METHODS["tnff"]
