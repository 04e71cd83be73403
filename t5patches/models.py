"""T5X models whose loss is a targeted update: a class per method.

A class is its row of `losses.METHODS`; everything else is shared. The frozen
original model's parameters reach the loss as its argument `orig_params`, which
`trainer.SelfDistillationTrainer` supplies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.struct
import gin
import jax
import jax.numpy as jnp
import numpy as np
import seqio
from clu import metrics as clu_metrics
from flax import core as flax_core
from flax import traverse_util
from t5x import losses as t5x_losses
from t5x import models as t5x_models

from t5patches import feature_converters, losses, upstream_values
from t5patches.interchange import unwanted_sets as sets_files

PyTree = Any
Batch = Mapping[str, jax.Array]
Metrics = dict[str, clu_metrics.Metric]


@flax.struct.dataclass
class _TokenMean(clu_metrics.Average):
    """A mean over tokens of a kind; NaN, quietly, where a batch has none of them."""

    def compute(self) -> Any:
        with np.errstate(invalid="ignore"):
            return super().compute()


class NegativeTrainingTransformer(t5x_models.BaseTransformerModel):
    """Base of the models that train on annotated generations.

    Batches are those of a T5X model except that `decoder_loss_weights` carries the
    annotation: −1 at unwanted tokens, 1 at others, 0 at padding. Optionally,
    `negative_token_ids`, int32 [batch, length, k], has further unwanted tokens of
    each position (0 for none), and `unwanted_sets`, int32 [batch, length], the row of a
    table of sets, which p_new leaves out at fine positions, too.

    Attributes:
      METHOD: the row of `losses.METHODS` that the class stands for.
      EPSILON: NL's threshold, a log-probability, under upstream's name.
      alpha: weight of the loss at unwanted tokens.
      epsilon: floor of the unwanted tokens' probability in a reverse KL.
      upstream_values: whether losses and scores are google/t5patches' numbers.
      trainable: 'all' parameters, or 'unwanted_rows' of the output layer.
    """

    # Class-level values: subclasses may replace __init__.
    METHOD: losses.Method
    EPSILON = losses.THRESHOLD
    alpha: float = 1e4
    epsilon: float = losses.EPSILON
    upstream_values: bool = False
    trainable: Literal["all", "unwanted_rows"] = "all"
    _unwanted_sets = None
    _z_loss: float = 0.0
    _label_smoothing: float = 0.0
    _loss_normalizing_factor = None

    def __init__(
        self,
        feature_converter_cls: Callable[..., seqio.FeatureConverter] | None = None,
        alpha: float = 1e4,
        epsilon: float = losses.EPSILON,
        upstream_values: bool = False,
        unwanted_sets: str | None = None,
        trainable: Literal["all", "unwanted_rows"] = "all",
        **kwargs: Any,
    ):
        """Makes a model.

        Args:
          feature_converter_cls: converts the task's features to the batch; by
            default the one for `targets` with `target_annotations`.
          alpha: weight of the loss at unwanted tokens.
          epsilon: see `losses.token_terms`; only reverse KLs use it.
          upstream_values: whether losses and scores are the numbers of
            google/t5patches where ours differ: see docs/methods.md. There is then
            no z-loss and no normalisation, and `negative_token_ids` and
            `unwanted_sets` are refused.
          unwanted_sets: the file with the table of the batch's `unwanted_sets`
            (`interchange.unwanted_sets`).
          trainable: which parameters are trained: 'all', or 'unwanted_rows', those of
            the output layer (of the embedding, where that is the output layer) for
            the tokens of `unwanted_sets`. All others stay as they are, bit for bit.
          **kwargs: T5X's own (module, input_vocabulary, output_vocabulary,
            optimizer_def, decode_fn, z_loss, loss_normalizing_factor, ...).

        Raises:
          ValueError: for label smoothing, which has no meaning here: targets are
            distributions already, or tokens of the model's own; for rows without
            a table that names them.
        """
        super().__init__(
            feature_converter_cls=feature_converter_cls or self.FEATURE_CONVERTER_CLS,
            **kwargs,
        )
        self.alpha = alpha
        self.epsilon = epsilon
        self.upstream_values = upstream_values
        if upstream_values and self.METHOD.name in losses.RIVALS:
            raise ValueError(
                f"upstream_values = True: google/t5patches has no {self.METHOD.name}"
            )
        self._unwanted_sets = unwanted_sets and sets_files.read(unwanted_sets)
        self.trainable = trainable
        if trainable not in ("all", "unwanted_rows"):
            raise ValueError(
                f"trainable = {trainable!r}: it must be 'all' or 'unwanted_rows'"
            )
        if trainable != "all" and self._unwanted_sets is None:
            raise ValueError(
                "trainable = 'unwanted_rows' trains the rows of a table of"
                " unwanted_sets, and there is none; `t5patches annotate phrases` writes"
                " it beside its records. Without one set TRAINABLE = 'all'"
            )
        if self._label_smoothing:
            raise ValueError(
                f"label_smoothing = {self._label_smoothing}: the targeted losses have"
                " distributions for targets, not labels; set LABEL_SMOOTHING = 0.0"
            )

    def loss_fn(
        self, params: PyTree, batch: Batch, dropout_rng: jax.Array | None
    ) -> tuple[jax.Array, Metrics]:
        """The loss of the update and its metrics.

        Args:
          params: the parameters in training.
          batch: model features, int32 [batch, length] each.
          dropout_rng: a key, or None for no dropout.

        Returns:
          The loss, a float32 scalar, and metrics: T5X's own, over |weights|, and
          the parts that `losses.targeted_loss` names.
        """
        return self._loss(params, batch, dropout_rng)

    def score_batch(
        self, params: PyTree, batch: Batch, return_intermediates: bool = False
    ) -> jax.Array | tuple[jax.Array, Mapping[str, Any]]:
        """The negative loss of each sequence; higher is better. No z-loss.

        Args:
          params: the parameters in training.
          batch: model features, int32 [batch, length] each.
          return_intermediates: whether to return what the network sowed, too.

        Returns:
          float32 [batch]; with `return_intermediates` a pair of it and the
          intermediates, to which `decoder/target_tokens`, `decoder/loss_weights`
          and `decoder/token_scores` (each token's loss) are added.
        """
        return self._score(params, batch, return_intermediates)

    def _loss(
        self, params, batch, dropout_rng, orig_params=None
    ) -> tuple[jax.Array, Metrics]:
        params = self._stop_gradients(params)
        logits = self._compute_logits(params, batch, dropout_rng=dropout_rng)
        frozen_logits = self._frozen_logits(orig_params, batch, dropout_rng)
        targets, annotation = self._annotation(batch)
        # T5X's normalisers and metrics sum the weights: they want magnitudes.
        magnitudes = {**batch, "decoder_loss_weights": annotation.magnitude}
        factor, magnitude = t5x_losses.get_loss_normalizing_factor_and_weights(
            self._loss_normalizing_factor, magnitudes
        )
        arrays = logits, frozen_logits, targets
        loss, parts = losses.targeted_loss(
            self.METHOD,
            *arrays,
            annotation._replace(magnitude=magnitude),
            alpha=self.alpha,
            epsilon=self.epsilon,
            threshold=self.EPSILON,
            z_loss=self._z_loss,
            loss_normalizing_factor=factor,
        )
        z_loss, _ = parts.pop("z_loss")
        if self.upstream_values:
            loss = jnp.sum(self._token_losses(*arrays, annotation))
            z_loss = jnp.zeros_like(z_loss)
        metrics = self._compute_metrics(
            logits=logits,
            targets=targets,
            mask=magnitude,
            loss=loss,
            z_loss=z_loss,
            segment_ids=_segment_ids(batch),
        )
        for name, (total, count) in parts.items():
            metrics[name] = _TokenMean(total=total, count=count)
        return loss, metrics

    def _stop_gradients(self, params: PyTree) -> PyTree:
        """Returns the parameters, of which only the trainable ones have gradients."""
        if self.trainable == "all":
            return params
        flat = traverse_util.flatten_dict(flax_core.unfreeze(params), sep="/")
        heads = [name for name in flat if name.endswith("logits_dense/kernel")]
        axis = 1 if heads else 0
        (output,) = heads or [n for n in flat if n.endswith("token_embedder/embedding")]
        tokens = np.bitwise_or.reduce(self._unwanted_sets).view(np.uint8)
        size = flat[output].shape[axis]
        rows = np.unpackbits(tokens, bitorder="little")[:size].astype(bool)
        rows = np.expand_dims(np.pad(rows, (0, size - len(rows))), 1 - axis)
        stopped = jax.lax.stop_gradient(flat)
        stopped[output] = jnp.where(rows, flat[output], stopped[output])
        return traverse_util.unflatten_dict(stopped, sep="/")

    def _score(self, params, batch, return_intermediates, orig_params=None):
        mutable = ["intermediates"] if return_intermediates else False
        logits = self._compute_logits(params, batch, mutable=mutable)
        frozen_logits = self._frozen_logits(orig_params, batch, None, mutable)
        logits, variables = logits if return_intermediates else (logits, {})
        tokens = self._token_losses(logits, frozen_logits, *self._annotation(batch))
        scores = -jnp.sum(tokens, axis=-1)
        if not return_intermediates:
            return scores
        intermediates = flax_core.unfreeze(variables.get("intermediates", {}))
        intermediates.setdefault("decoder", {}).update(
            target_tokens=(batch["decoder_target_tokens"],),
            loss_weights=(batch["decoder_loss_weights"],),
            token_scores=(tokens,),
        )
        return scores, intermediates

    def _frozen_logits(self, orig_params, batch, dropout_rng, mutable=False):
        del orig_params, batch, dropout_rng, mutable  # There is no frozen model.
        return None

    def _annotation(self, batch) -> tuple[jax.Array, losses.Annotation]:
        """Returns the target ids of a batch and what it says of them."""
        # T5X takes targets in any dtype.
        targets = jnp.asarray(batch["decoder_target_tokens"]).astype(jnp.int32)
        ids, rows = batch.get("negative_token_ids"), batch.get("unwanted_sets")
        if self.upstream_values and (ids is not None or rows is not None):
            raise ValueError(
                "upstream_values = True: google/t5patches has no negative_token_ids and"
                " no unwanted_sets; leave the feature or upstream_values out"
            )
        if rows is not None and self._unwanted_sets is None:
            raise ValueError(
                "the batch names unwanted_sets, and the model has no table of them; its"
                " argument unwanted_sets is the file that `t5patches annotate` writes"
            )
        bits = None if rows is None else jnp.asarray(self._unwanted_sets)[rows]
        weights = batch["decoder_loss_weights"]
        # A likelihood would have a phrase's first tokens be said.
        decide = self.METHOD.positive != "cross_entropy"
        return targets, losses.read_annotation(targets, weights, ids, bits, decide)

    def _token_losses(self, logits, frozen_logits, targets, annotation) -> jax.Array:
        """Returns each token's loss, alpha and weight included, [batch, length]."""
        # A score is float32 whatever the network's logits are, integers included.
        logits, frozen_logits = jax.tree.map(jnp.float32, (logits, frozen_logits))
        arrays = self.METHOD, logits, frozen_logits, targets
        if self.upstream_values:
            weights = jnp.where(annotation.unwanted, -1, 1) * annotation.magnitude
            return upstream_values.token_losses(*arrays, weights, self.alpha)
        options = {"epsilon": self.epsilon, "threshold": self.EPSILON}
        terms = losses.token_terms(*arrays, annotation.tokens, **options)
        alpha = jnp.where(annotation.unwanted, self.alpha, 1.0)
        return alpha * annotation.magnitude * terms.loss


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
    ) -> tuple[jax.Array, Metrics]:
        """The loss of the targeted update and its metrics.

        Args:
          params: the parameters in training.
          batch: model features, int32 [batch, length] each.
          dropout_rng: a key, or None for no dropout.
          orig_params: the frozen parameters, a tree like `params`.

        Returns:
          See `NegativeTrainingTransformer.loss_fn`.

        Raises:
          ValueError: if `orig_params` is missing.
        """
        return self._loss(params, batch, dropout_rng, orig_params)

    def eval_fn(
        self, params: PyTree, batch: Batch, orig_params: PyTree = None
    ) -> tuple[jax.Array, Metrics]:
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
          See `NegativeTrainingTransformer.score_batch`.

        Raises:
          ValueError: if `orig_params` is missing.
        """
        return self._score(params, batch, return_intermediates, orig_params)

    def distances(
        self, params: PyTree, batch: Batch, orig_params: PyTree
    ) -> dict[str, jax.Array]:
        """How far the model is from the original one and the exact update of it.

        Which positions are unwanted, and what p_new leaves out at each, is what the
        loss says. There is no dropout.

        Args:
          params: the model's parameters.
          batch: model features, int32 [batch, length] each.
          orig_params: the original model's.

        Returns:
          Sums over the positions of each example, float32 [batch]: `fine_tokens` and
          `unwanted_positions`, how many there are; of `losses.Distances`, `kl_original`
          at fine tokens, `kl_exact` at all, `total_variation` and the probabilities
          `unwanted_before` and `unwanted_after` at unwanted positions.
        """
        trees = (params, orig_params)
        logits, original = (self._compute_logits(tree, batch) for tree in trees)
        _, annotation = self._annotation(batch)
        found = losses.distances(logits, original, annotation.tokens)
        weight = annotation.magnitude
        unwanted = jnp.where(annotation.unwanted, weight, 0)
        fine = weight - unwanted
        return {
            "fine_tokens": jnp.sum(fine, axis=-1),
            "kl_original": jnp.sum(fine * found.kl_original, axis=-1),
            "kl_exact": jnp.sum(weight * found.kl_exact, axis=-1),
            "unwanted_positions": jnp.sum(unwanted, axis=-1),
            "total_variation": jnp.sum(unwanted * found.total_variation, axis=-1),
            "unwanted_before": jnp.sum(unwanted * found.before, axis=-1),
            "unwanted_after": jnp.sum(unwanted * found.after, axis=-1),
        }

    def _frozen_logits(self, orig_params, batch, dropout_rng, mutable=False):
        if orig_params is None:
            raise ValueError(
                f"{type(self).__name__} compares with the frozen original model:"
                " pass its parameters as orig_params (SelfDistillationTrainer does)."
                " For log-likelihoods use T5X's own model class"
            )
        dropout_rng = dropout_rng if self.frozen_dropout else None
        options = {"dropout_rng": dropout_rng, "mutable": mutable}
        logits = self._compute_logits(orig_params, batch, **options)
        return logits[0] if mutable else logits


def _segment_ids(batch: Batch) -> dict[str, jax.Array]:
    """Returns what T5X's metrics need to count examples and padding, packed or not."""
    suffix = "_segment_ids"
    packed = {k.removesuffix(suffix): v for k, v in batch.items() if k.endswith(suffix)}
    unpacked = ("encoder_input_tokens", "decoder_target_tokens")
    return packed or {name: batch[name] != 0 for name in unpacked if name in batch}


class NLModel(NegativeTrainingTransformer):
    """NL: the log-likelihood of unwanted tokens, until they are unlikely enough."""

    METHOD = losses.METHODS["nl"]


class ULModel(NegativeTrainingTransformer):
    """UL: −log(1 − p_m) at unwanted tokens, cross entropy elsewhere."""

    METHOD = losses.METHODS["ul"]


class TNFFModel(SelfDistillationModel):
    """TNFF: KL(p_new ‖ p_m) at unwanted tokens, KL(p_o ‖ p_m) elsewhere."""

    METHOD = losses.METHODS["tnff"]


class TNRRModel(SelfDistillationModel):
    """TNRR: KL(p_m ‖ p_new) at unwanted tokens, KL(p_m ‖ p_o) elsewhere."""

    METHOD = losses.METHODS["tnrr"]


class TNRFModel(SelfDistillationModel):
    """TNRF: KL(p_m ‖ p_new) at unwanted tokens, KL(p_o ‖ p_m) elsewhere."""

    METHOD = losses.METHODS["tnrf"]


class TNFLLModel(SelfDistillationModel):
    """TNFLL: KL(p_new ‖ p_m) at unwanted tokens, cross entropy elsewhere."""

    METHOD = losses.METHODS["tnfll"]


class TNRLLModel(SelfDistillationModel):
    """TNRLL: KL(p_m ‖ p_new) at unwanted tokens, cross entropy elsewhere."""

    METHOD = losses.METHODS["tnrll"]


class NPOModel(SelfDistillationModel):
    """NPO: negative preferences at unwanted tokens, KL(p_o ‖ p_m) elsewhere."""

    METHOD = losses.METHODS["npo"]


class FTPOModel(SelfDistillationModel):
    """FTPO: final-token preferences at unwanted tokens, KL(p_o ‖ p_m) elsewhere."""

    METHOD = losses.METHODS["ftpo"]


class _EncoderDecoder(t5x_models.EncoderDecoderModel):
    FEATURE_CONVERTER_CLS = feature_converters.TargetAnnotationsFeatureConverter


class _DecoderOnly(t5x_models.DecoderOnlyModel):
    FEATURE_CONVERTER_CLS = (
        feature_converters.DecoderOnlyTargetAnnotationsFeatureConverter
    )


class EncoderDecoderModelNL(NLModel, _EncoderDecoder):
    """NL for encoder-decoder models; see `NLModel`."""


class EncoderDecoderModelUL(ULModel, _EncoderDecoder):
    """UL for encoder-decoder models; see `ULModel`."""


class EncoderDecoderModelTNFF(TNFFModel, _EncoderDecoder):
    """TNFF for encoder-decoder models; see `TNFFModel`."""


class EncoderDecoderModelTNRR(TNRRModel, _EncoderDecoder):
    """TNRR for encoder-decoder models; see `TNRRModel`."""


class EncoderDecoderModelTNRF(TNRFModel, _EncoderDecoder):
    """TNRF for encoder-decoder models; see `TNRFModel`."""


class EncoderDecoderModelTNFLL(TNFLLModel, _EncoderDecoder):
    """TNFLL for encoder-decoder models; see `TNFLLModel`."""


class EncoderDecoderModelTNRLL(TNRLLModel, _EncoderDecoder):
    """TNRLL for encoder-decoder models; see `TNRLLModel`."""


class EncoderDecoderModelNPO(NPOModel, _EncoderDecoder):
    """NPO for encoder-decoder models; see `NPOModel`."""


class EncoderDecoderModelFTPO(FTPOModel, _EncoderDecoder):
    """FTPO for encoder-decoder models; see `FTPOModel`."""


class DecoderOnlyModelNL(NLModel, _DecoderOnly):
    """NL for decoder-only models; see `NLModel`."""


class DecoderOnlyModelUL(ULModel, _DecoderOnly):
    """UL for decoder-only models; see `ULModel`."""


class DecoderOnlyModelTNFF(TNFFModel, _DecoderOnly):
    """TNFF for decoder-only models; see `TNFFModel`."""


class DecoderOnlyModelTNRR(TNRRModel, _DecoderOnly):
    """TNRR for decoder-only models; see `TNRRModel`."""


class DecoderOnlyModelTNRF(TNRFModel, _DecoderOnly):
    """TNRF for decoder-only models; see `TNRFModel`."""


class DecoderOnlyModelTNFLL(TNFLLModel, _DecoderOnly):
    """TNFLL for decoder-only models; see `TNFLLModel`."""


class DecoderOnlyModelTNRLL(TNRLLModel, _DecoderOnly):
    """TNRLL for decoder-only models; see `TNRLLModel`."""


class DecoderOnlyModelNPO(NPOModel, _DecoderOnly):
    """NPO for decoder-only models; see `NPOModel`."""


class DecoderOnlyModelFTPO(FTPOModel, _DecoderOnly):
    """FTPO for decoder-only models; see `FTPOModel`."""


# Registered as upstream registers them; gin files with imports of their own find the
# same classes.
_registered = gin.configurable(module="models")
for _family in (_EncoderDecoder, _DecoderOnly):
    for _class in _family.__subclasses__():
        _registered(_class)


# ---- A method's model, for gin files that name the method and the family apart ----


@_registered
def encoder_decoder_model(
    method: Mapping[str, Any], **kwargs: Any
) -> NegativeTrainingTransformer:
    """Returns a method's encoder-decoder model.

    Args:
      method: `name`, a row of `losses.METHODS`, and arguments of its class.
      **kwargs: further ones.
    """
    return _model("EncoderDecoderModel", **method, **kwargs)


@_registered
def decoder_only_model(
    method: Mapping[str, Any], **kwargs: Any
) -> NegativeTrainingTransformer:
    """Returns a method's decoder-only model; see `encoder_decoder_model`."""
    return _model("DecoderOnlyModel", **method, **kwargs)


def _model(family: str, name: str, **kwargs: Any) -> NegativeTrainingTransformer:
    if name not in losses.METHODS:
        raise ValueError(f"no method {name!r}; there are {', '.join(losses.METHODS)}")
    return globals()[f"{family}{name.upper()}"](**kwargs)
