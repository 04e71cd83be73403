"""T5X models whose loss is a targeted update: a class per method.

A class is its row of `losses.METHODS`; everything else is shared. The frozen
original model's parameters reach the loss as its argument `orig_params`, which
`trainer.SelfDistillationTrainer` supplies.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

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

from t5patches import feature_converters, layers, losses, upstream_values
from t5patches.interchange import unwanted_sets as sets_files

PyTree = Any
Batch = Mapping[str, jax.Array]
Metrics = dict[str, clu_metrics.Metric]

# Above so many bytes of float32 logits on a device, only some positions have them at a
# time. On CPUs what stays in the caches is faster; elsewhere only memory counts, and
# every part may cost a sum of the output layer's gradient over the devices.
LOGITS_BYTES = {"cpu": 2**24, "others": 2**28}


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
      logits_chunk: of how many positions of each row there are logits at a time.
      frozen_cache: where what the frozen model's logits are made of lies.
      starts_frozen: whether training starts from the frozen model; a trainer says so.
    """

    # Class-level values: subclasses may replace __init__.
    METHOD: losses.Method
    EPSILON = losses.THRESHOLD
    alpha: float = 1e4
    epsilon: float = losses.EPSILON
    upstream_values: bool = False
    trainable: Literal["all", "unwanted_rows"] = "all"
    logits_chunk: int | None = None
    frozen_cache: str | None = None
    starts_frozen: bool = False
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
        logits_chunk: int | None = None,
        frozen_cache: str | None = None,
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
          logits_chunk: of how many positions of each row there are logits at a time in
            training; 0: of all; None: of as many as `LOGITS_BYTES` allows. Networks
            that do not sow `pre_logits` (T5X's own) have those of all.
          frozen_cache: a folder with what the frozen model's logits are made of, for
            every example: what `t5patches cache` writes. Batches then have it as
            `frozen_states`, [batch, length, features], and of the frozen parameters
            only the output layer's are needed. Methods without a frozen model have no
            use for it.
          **kwargs: T5X's own (module, input_vocabulary, output_vocabulary,
            optimizer_def, decode_fn, z_loss, loss_normalizing_factor, ...).

        Raises:
          ValueError: for label smoothing, which has no meaning here: targets are
            distributions already, or tokens of the model's own; for rows without
            a table that names them.
        """
        converter = feature_converter_cls or self.FEATURE_CONVERTER_CLS
        if frozen_cache and self.METHOD.frozen:
            self.frozen_cache = frozen_cache
            converter = functools.partial(converter, frozen_cache=frozen_cache)
        super().__init__(feature_converter_cls=converter, **kwargs)
        self.alpha = alpha
        self.epsilon = epsilon
        self.upstream_values = upstream_values
        if upstream_values and self.METHOD.name in losses.RIVALS:
            raise ValueError(
                f"upstream_values = True: google/t5patches has no {self.METHOD.name}"
            )
        self._unwanted_sets = unwanted_sets and sets_files.read(unwanted_sets)
        self.trainable = trainable
        self.logits_chunk = logits_chunk
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
        frozen_states, frozen_head = self._frozen(orig_params, batch, dropout_rng)
        cached = feature_converters.FROZEN_STATES in batch
        rows_alone = self.trainable == "unwanted_rows" and not head_of(params).tied
        rows = None
        if cached and rows_alone and self.starts_frozen and not self._dropout_rate:
            # But for its trained rows the model is the frozen one.
            states, head = frozen_states, head_of(params)
            rows = self._rows_alone(batch, frozen_head, head)
        else:
            states, head = _outputs(self, params, batch, dropout_rng)
        targets, annotation = self._annotation(batch, rows)
        # T5X's normalisers and metrics sum the weights: they want magnitudes.
        magnitudes = {**batch, "decoder_loss_weights": annotation.magnitude}
        factor, magnitude = t5x_losses.get_loss_normalizing_factor_and_weights(
            self._loss_normalizing_factor, magnitudes
        )

        def of_some(states, weight, tokens, constants):
            frozen_states, targets, annotation, magnitude = tokens
            frozen_weight, factor, alpha = constants
            logits = _logits(states, head._replace(weight=weight))
            frozen_logits = entropy = None
            if frozen_states is not None:
                frozen = frozen_head._replace(weight=frozen_weight)
                frozen_logits = _logits(frozen_states, frozen)
            if rows is None:
                right = losses.argmax(logits) == targets
            else:
                logits, frozen_logits, entropy, right = rows.merged(
                    logits, frozen_logits, targets
                )
                targets = rows.places[targets]
            arrays = logits, frozen_logits, targets
            loss, parts = losses.targeted_loss(
                self.METHOD,
                *arrays,
                annotation._replace(magnitude=magnitude),
                alpha=alpha,
                epsilon=self.epsilon,
                threshold=self.EPSILON,
                z_loss=self._z_loss,
                loss_normalizing_factor=factor,
                others_entropy=entropy,
            )
            if self.upstream_values:
                loss = jnp.sum(self._token_losses(*arrays, annotation, alpha))
            right &= magnitude != 0
            return loss, (parts, jnp.sum(right, dtype=jnp.float32))

        tokens = frozen_states, targets, annotation, magnitude
        constants = frozen_head and frozen_head.weight, factor, self.alpha
        size = _positions_at_once(states, head, self.logits_chunk)
        if rows is not None:
            head = head._replace(weight=head.weight[:, rows.ids])
        loss, (parts, right) = _by_positions(
            of_some, size, states, head, tokens, constants
        )
        z_loss, _ = parts.pop("z_loss")
        z_loss = jnp.zeros_like(z_loss) if self.upstream_values else z_loss
        metrics = _metrics(self, batch, magnitude, loss, z_loss, right)
        for name, (total, count) in parts.items():
            metrics[name] = _TokenMean(total=total, count=count)
        return loss, metrics

    def _stop_gradients(self, params: PyTree) -> PyTree:
        """Returns the parameters, of which only the trainable ones have gradients."""
        if self.trainable == "all":
            return params
        flat = traverse_util.flatten_dict(flax_core.unfreeze(params), sep="/")
        output, axis = head_name(flat), int(not head_of(params).tied)
        rows = np.isin(np.arange(flat[output].shape[axis]), self._trained_rows)
        rows = np.expand_dims(rows, 1 - axis)
        stopped = jax.lax.stop_gradient(flat)
        stopped[output] = jnp.where(rows, flat[output], stopped[output])
        return traverse_util.unflatten_dict(stopped, sep="/")

    @property
    def _trained_rows(self) -> np.ndarray:
        """The tokens of the table, int32 [n]."""
        tokens = np.bitwise_or.reduce(self._unwanted_sets).view(np.uint8)
        return np.flatnonzero(np.unpackbits(tokens, bitorder="little")).astype(np.int32)

    def _rows_alone(self, batch, frozen_head, head) -> _Rows | None:
        """The rows that are trained, if nothing else decides over a batch's loss."""
        size = head.weight.shape[1]
        ids = self._trained_rows
        ids = ids[ids < size]
        if (
            "unwanted_sets" not in batch  # Else its own tokens are unwanted, whatever;
            or "negative_token_ids" in batch
            or not self._sets_decide
            or self.METHOD.name == "ftpo"  # which looks at every token's logit;
            or frozen_head.weight.dtype != head.weight.dtype
            or not 0 < len(ids) <= size / 2  # nothing or little to gain.
        ):
            return None
        return _Rows.of(ids, size, self._unwanted_sets)

    def _score(self, params, batch, return_intermediates, orig_params=None):
        mutable = ["intermediates"] if return_intermediates else False
        logits = self._compute_logits(params, batch, mutable=mutable)
        logits, variables = logits if return_intermediates else (logits, {})
        arrays = logits, self._frozen_logits(orig_params, batch)
        tokens = self._token_losses(*arrays, *self._annotation(batch), self.alpha)
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

    def pre_logits(self, params: PyTree, batch: Batch) -> jax.Array:
        """What the logits are made of, without dropout, [batch, length, features].

        Raises:
          ValueError: the network, which is not ours, does not sow it.
        """
        states, head = _outputs(self, params, batch, None)
        if head.weight is None:
            raise ValueError(
                f"{type(self.module).__name__} does not sow `pre_logits`, what it makes"
                " its logits of, so that a frozen one cannot be cached; set"
                " FROZEN_CACHE = None, or use t5patches.network"
            )
        return states

    @property
    def _dropout_rate(self) -> float:
        return getattr(getattr(self.module, "config", None), "dropout_rate", 0.0)

    def _frozen(self, orig_params, batch, dropout_rng) -> tuple[Any, Any]:
        """Returns `_outputs` of the frozen model, or None twice."""
        del orig_params, batch, dropout_rng  # There is none.
        return None, None

    def _frozen_logits(self, orig_params, batch):
        """Returns the frozen model's logits without dropout, or None."""
        states, head = self._frozen(orig_params, batch, None)
        return None if states is None else _logits(states, head)

    @property
    def _sets_decide(self) -> bool:
        # A likelihood would have a phrase's first tokens be said.
        return self.METHOD.positive != "cross_entropy"

    def _annotation(
        self, batch, trained: _Rows | None = None
    ) -> tuple[jax.Array, losses.Annotation]:
        """Returns the target ids of a batch and what it says of them.

        With `trained` rows its annotation is of `losses.Merged` logits.
        """
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
        table = self._unwanted_sets if trained is None else trained.sets
        bits = None if rows is None else jnp.asarray(table)[rows]
        tokens = targets if trained is None else trained.places[targets]
        weights = batch["decoder_loss_weights"]
        return targets, losses.read_annotation(
            tokens, weights, ids, bits, self._sets_decide
        )

    def _token_losses(
        self, logits, frozen_logits, targets, annotation, alpha
    ) -> jax.Array:
        """Returns each token's loss, alpha and weight included, [batch, length]."""
        # A score is float32 whatever the network's logits are, integers included.
        logits, frozen_logits = jax.tree.map(jnp.float32, (logits, frozen_logits))
        arrays = self.METHOD, logits, frozen_logits, targets
        if self.upstream_values:
            weights = jnp.where(annotation.unwanted, -1, 1) * annotation.magnitude
            return upstream_values.token_losses(*arrays, weights, alpha)
        options = {"epsilon": self.epsilon, "threshold": self.EPSILON}
        terms = losses.token_terms(*arrays, annotation.tokens, **options)
        alpha = jnp.where(annotation.unwanted, alpha, 1.0)
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
        if self.frozen_cache and frozen_dropout and self._dropout_rate:
            raise ValueError(
                f"frozen_cache = {self.frozen_cache!r}: what is kept there has no"
                " dropout; set DROPOUT_RATE = 0.0 or, to have it in the trained model"
                " alone, FROZEN_DROPOUT = False"
            )

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

    def _frozen(self, orig_params, batch, dropout_rng):
        if orig_params is None:
            raise ValueError(
                f"{type(self).__name__} compares with the frozen original model:"
                " pass its parameters as orig_params (SelfDistillationTrainer does)."
                " For log-likelihoods use T5X's own model class"
            )
        if (states := batch.get(feature_converters.FROZEN_STATES)) is not None:
            return states, head_of(orig_params)
        dropout_rng = dropout_rng if self.frozen_dropout else None
        return _outputs(self, orig_params, batch, dropout_rng)


class _Rows(NamedTuple):
    """Some of the vocabulary's tokens, of which all others are taken as one.

    Attributes:
      ids: int32 [n].
      places: int32 [vocab], where a token is among them; n of the others.
      sets: the table of unwanted sets, its bits those of the places.
    """

    ids: np.ndarray
    places: jax.Array
    sets: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, size: int, sets: np.ndarray) -> _Rows:
        places = np.full(size, len(ids), np.int32)
        places[ids] = np.arange(len(ids))
        bits = np.unpackbits(sets.view(np.uint8), axis=1, bitorder="little")[:, ids]
        bits = np.pad(bits, ((0, 0), (0, 32 - len(ids) % 32)))
        packed = np.ascontiguousarray(np.packbits(bits, axis=1, bitorder="little"))
        return cls(ids, jnp.asarray(places), packed.view(np.uint32))

    def merged(self, logits, frozen_logits, targets) -> tuple[jax.Array, ...]:
        """Merges all others.

        Args:
          logits: [batch, length, n], the trained model's.
          frozen_logits: [batch, length, vocab].
          targets: int32 [batch, length].

        Returns:
          Both logits, [batch, length, n + 1], the entropy of `losses.Merged`, and where
          the target is what the trained model would have said.
        """
        merged = losses.Merged.of(frozen_logits, self.ids)
        largest = jnp.maximum(jnp.max(logits, axis=-1), merged.largest)
        own = jnp.take_along_axis(frozen_logits, targets[..., None], axis=-1)
        logits = jnp.append(logits, merged.logits[..., -1:], axis=-1)
        places = self.places[targets][..., None]
        of_row = jnp.take_along_axis(logits, places, axis=-1)
        own = jnp.where(places < len(self.ids), of_row, own)[..., 0]
        return logits, merged.logits, merged.entropy, own == largest


class Head(NamedTuple):
    """The output layer, which makes logits.

    Attributes:
      weight: its parameters; None where there is none between what is given and them.
      tied: whether they are the embedding, [vocab, features], not [features, vocab].
    """

    weight: jax.Array | None = None
    tied: bool = False


def _logits(states: jax.Array, head: Head) -> jax.Array:
    if head.weight is None:
        return states
    return layers.head_logits(states, head.weight, tied=head.tied)


def _outputs(model, params, batch, dropout_rng) -> tuple[jax.Array, Head]:
    """Returns what the logits are made of, [batch, length, features], and how.

    XLA leaves out the logits that the network makes itself.
    """
    options = {"dropout_rng": dropout_rng, "mutable": ["intermediates"]}
    logits, variables = model._compute_logits(params, batch, **options)
    sown = variables.get("intermediates", {}).get("decoder", {}).get("pre_logits")
    return (logits, Head()) if sown is None else (sown[0], head_of(params))


def _positions_at_once(states: jax.Array, head: Head, chunk: int | None) -> int:
    """Returns of how many positions of each row there are logits at a time."""
    batch, length, features = states.shape
    if head.weight is None:
        return length
    if chunk is not None:
        return chunk or length
    if batch * length / jax.device_count() < features:
        # Beside the sum of its parts, a gradient of the output layer is more than this.
        return length
    size = max(head.weight.shape) * batch * 4 / jax.device_count()
    limit = LOGITS_BYTES.get(jax.default_backend(), LOGITS_BYTES["others"])
    chunks = math.ceil(length * size / limit)
    return math.ceil(length / min(chunks, length))


def _by_positions(function, size: int, states, head: Head, *others: Any) -> Any:
    """Calls a function of `losses.in_chunks` on all positions, or on some at a time."""
    if size < states.shape[1]:
        function = losses.in_chunks(function, size)
    return function(states, head.weight, *others)


def _metrics(model, batch, weights, loss, z_loss, right) -> Metrics:
    """Returns T5X's metrics; `right` is the weight of what would have been said."""
    targets = batch["decoder_target_tokens"]
    metrics = model._compute_metrics(
        logits=jnp.zeros((*targets.shape, 1)),  # There are none of all positions.
        targets=targets,
        mask=weights,
        loss=loss,
        z_loss=z_loss,
        segment_ids=_segment_ids(batch),
    )
    metrics["accuracy"] = metrics["accuracy"].replace(total=right)
    return metrics


def head_name(names: Iterable[str]) -> str:
    """Returns which of the '/'-separated names of parameters is the output layer's."""
    names = list(names)
    for ending in ("logits_dense/kernel", "token_embedder/embedding"):
        if found := [name for name in names if name.endswith(ending)]:
            (name,) = found
            return name
    raise ValueError(f"no output layer among the parameters {names}")


def head_of(params: PyTree) -> Head:
    """Returns the output layer among a network's parameters."""
    flat = traverse_util.flatten_dict(flax_core.unfreeze(params), sep="/")
    name = head_name(flat)
    return Head(flat[name], tied=name.endswith("embedding"))


def head_alone(params: PyTree) -> PyTree:
    """Returns a tree of parameters, or of their axes, without all but the head's."""
    flat = traverse_util.flatten_dict(flax_core.unfreeze(params), sep="/")
    ending = "_axes" if all(name.endswith("_axes") for name in flat) else ""
    name = head_name(name.removesuffix(ending) for name in flat) + ending
    kept = traverse_util.unflatten_dict({name: flat[name]}, sep="/")
    return flax_core.freeze(kept) if isinstance(params, flax_core.FrozenDict) else kept


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


@_registered
def by_positions(
    model: t5x_models.BaseTransformerModel, logits_chunk: int | None = None
) -> t5x_models.BaseTransformerModel:
    """Returns T5X's model; its training has logits of some positions at a time.

    Loss and metrics are T5X's.

    Args:
      model: one whose loss is T5X's cross entropy.
      logits_chunk: as of `NegativeTrainingTransformer`.
    """

    def loss_fn(params, batch, dropout_rng):
        states, head = _outputs(model, params, batch, dropout_rng)
        targets = batch["decoder_target_tokens"]
        factor, weights = t5x_losses.get_loss_normalizing_factor_and_weights(
            model._loss_normalizing_factor, batch
        )
        weights = jnp.ones(targets.shape) if weights is None else weights

        def of_some(states, weight, tokens, factor):
            targets, weights = tokens
            logits = _logits(states, head._replace(weight=weight))
            loss, z_loss, _ = t5x_losses.compute_weighted_cross_entropy(
                logits,
                targets=targets,
                weights=weights,
                label_smoothing=model._label_smoothing,
                z_loss=model._z_loss,
                loss_normalizing_factor=factor,
            )
            right = (losses.argmax(logits) == targets) * weights
            return loss, (z_loss, jnp.sum(right))

        size = _positions_at_once(states, head, logits_chunk)
        loss, (z_loss, right) = _by_positions(
            of_some, size, states, head, (targets, weights), factor
        )
        return loss, _metrics(model, batch, weights, loss, z_loss, right)

    model.loss_fn = loss_fn
    return model


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
