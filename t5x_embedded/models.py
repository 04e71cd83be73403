"""Models: a Flax module with its vocabularies, loss, metrics, decoding and scoring."""

import functools
import inspect
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import flax
import gin
import jax
import jax.numpy as jnp
import seqio
from clu import metrics as clu_metrics
from flax import linen as nn

from t5x_embedded import _absent, decoding, losses
from t5x_embedded import metrics as metrics_lib
from t5x_embedded.optimizers import OptimizerDef

__getattr__ = _absent.module_getattr(__name__)

Array = jax.Array
Batch = Mapping[str, Array]
Params = Mapping[str, Any]
MetricsMap = metrics_lib.MetricsMap
# New rows wait until this part of the places is free, to be encoded together.
_BEGINNING = 1 / 8
LossNormalizingFactor = float | str | losses.SpecialLossNormalizingFactor | None


def _segments(batch: Batch) -> dict[str, Array]:
    """By feature, int [batch, length]: which example a position is of; 0 is none."""
    suffix = "_segment_ids"
    packed = {
        name.removesuffix(suffix): ids
        for name, ids in batch.items()
        if name.endswith(suffix)
    }
    tokens = ("encoder_input_tokens", "decoder_target_tokens")
    return packed or {name: batch[name] != 0 for name in tokens if name in batch}


def count_packed_examples(segment_ids: Array) -> Array:
    """The number of examples in a packed batch.

    Args:
        segment_ids: [batch, length]; a run of equal ids is an example, except that a
            row may end in padding, 0.
    """
    changes = jnp.sum(segment_ids[:, 1:] != segment_ids[:, :-1])
    return changes + jnp.sum(segment_ids[:, -1] != 0)


def compute_base_metrics(
    logits: Array,
    targets: Array,
    mask: Array | None,
    loss: Array,
    z_loss: Array | None = None,
    segment_ids: Mapping[str, Array] | None = None,
) -> MetricsMap:
    """The metrics that every training step reports.

    Args:
        logits: [batch, length, vocab] float.
        targets: [batch, length] int.
        mask: [batch, length], 1 where a token counts; None counts all.
        loss: scalar, z-loss included.
        z_loss: scalar.
        segment_ids: by feature, int [batch, length], 0 at padding.

    Returns:
        Metrics by name; durations and steps are still to be filled in.
    """
    average, per_step = clu_metrics.Average, metrics_lib.AveragePerStep
    rate = metrics_lib.TimeRate.from_model_output
    sequences, tokens = jnp.array(targets.shape[0]), jnp.array(targets.size)
    real_tokens = targets.size if mask is None else jnp.sum(mask)
    cores = jax.device_count()
    right = (losses.argmax(logits) == targets).astype(jnp.float32)
    right = average.from_model_output(right, mask)
    metrics = {
        "accuracy": clu_metrics.Accuracy(total=right.total, count=right.count),
        "loss": per_step(total=loss),
        "loss_per_nonpadding_target_token": average(total=loss, count=real_tokens),
        "loss_per_all_target_tokens": average(total=loss, count=tokens),
        "timing/seconds": metrics_lib.Time(),
        "timing/steps_per_second": metrics_lib.StepsPerTime.from_model_output(),
        "timing/seqs": metrics_lib.Sum(sequences),
        "timing/seqs_per_second": rate(numerator=sequences),
        "timing/seqs_per_second_per_core": rate(numerator=sequences / cores),
        "timing/target_tokens_per_second": rate(numerator=tokens),
        "timing/target_tokens_per_second_per_core": rate(numerator=tokens / cores),
        "non_padding_fraction/loss_weights": average(total=real_tokens, count=tokens),
    }
    if z_loss is not None:
        for name, part in {"z_loss": z_loss, "cross_ent_loss": loss - z_loss}.items():
            metrics[name] = per_step(total=part)
            metrics[f"{name}_per_all_target_tokens"] = average(total=part, count=tokens)
    if segment_ids is not None:
        metrics |= _packing_metrics(segment_ids)
    return metrics


def _packing_metrics(segment_ids: Mapping[str, Array]) -> MetricsMap:
    """How many examples each feature packs, and how much of it is not padding."""

    def filled(*features):
        used = sum((jnp.sum(ids != 0) for ids in features), start=jnp.array(0))
        places = jnp.array(sum(ids.size for ids in features))
        return clu_metrics.Average(total=used, count=places)

    packed = {k: x for k, x in segment_ids.items() if x is not None and x.shape[1]}
    metrics = {"non_padding_fraction/overall": filled(*packed.values())}
    for name, ids in packed.items():
        examples = metrics_lib.AveragePerStep(total=count_packed_examples(ids))
        metrics[f"effective_batch_size/{name}"] = examples
        metrics[f"non_padding_fraction/{name}"] = filled(ids)
    return metrics


class BaseTransformerModel:
    """A model whose logits are compared with the targets by cross entropy.

    A subclass gives `predict_batch_with_aux` and the class attributes below.

    Attributes:
        FEATURE_CONVERTER_CLS: the seqio.FeatureConverter that makes its batches.
        optimizer_def: how to train it.
    """

    FEATURE_CONVERTER_CLS: Callable[..., seqio.FeatureConverter]
    _TOKENS: tuple[str, ...]  # What the module reads, in order, before the targets;
    _EXTRAS: tuple[str, ...]  # what it takes by name, where there is any;
    _DECODE_FN: Callable | None = None  # what decodes unless told otherwise, as in T5X.
    _compute_metrics = staticmethod(compute_base_metrics)

    def __init__(
        self,
        module: nn.Module,
        input_vocabulary: seqio.Vocabulary,
        output_vocabulary: seqio.Vocabulary,
        optimizer_def: OptimizerDef,
        decode_fn: Callable | None = None,
        feature_converter_cls: Callable[..., seqio.FeatureConverter] | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        loss_normalizing_factor: LossNormalizingFactor = None,
    ):
        """Sets up the model.

        Args:
            module: the network.
            input_vocabulary: of the inputs.
            output_vocabulary: of the targets; its `eos_id` ends decodes.
            optimizer_def: how to train it.
            decode_fn: `decoding.temperature_sample`, `decoding.beam_search`, or a
                function that can stand in for them; None for the class's own.
            feature_converter_cls: in place of the class's own.
            label_smoothing: probability given to tokens other than the target.
            z_loss: coefficient of log(Z)^2.
            loss_normalizing_factor: what to divide the summed loss by: a number, or
                a `losses.SpecialLossNormalizingFactor` (or its name).
        """
        self.optimizer_def = optimizer_def
        self.module = module
        self._input_vocabulary = input_vocabulary
        self._output_vocabulary = output_vocabulary
        self._decode_fn = decode_fn or type(self)._DECODE_FN
        self._label_smoothing = label_smoothing
        self._z_loss = z_loss
        self._loss_normalizing_factor = loss_normalizing_factor
        if feature_converter_cls is not None:
            self.FEATURE_CONVERTER_CLS = feature_converter_cls

    input_vocabulary = property(lambda self: self._input_vocabulary)
    output_vocabulary = property(lambda self: self._output_vocabulary)
    decode_fn = property(lambda self: self._decode_fn)

    def get_initial_variables(
        self, rng, input_shapes, input_types=None
    ) -> flax.core.FrozenDict:
        """The module's variables, initialised.

        Args:
            rng: a key.
            input_shapes: of the model features.
            input_types: their types, or None; tokens are float32 where it does not
                say.
        """
        types = input_types or {}

        def ones(name, default):
            return jnp.ones(input_shapes[name], types.get(name, default))

        # The decoder's inputs stand for the targets, which may have no shape here.
        names = (*self._TOKENS, self._TOKENS[-1])
        tokens = [ones(name, jnp.float32) for name in names]
        extras = {n: ones(n, jnp.int32) for n in self._EXTRAS if n in input_shapes}
        variables = self.module.init(
            rng, *tokens, decode=False, enable_dropout=False, **extras
        )
        return flax.core.freeze(variables)

    def _compute_logits(self, params, batch, dropout_rng=None, mutable=False) -> Any:
        """Logits of every target position.

        Args:
            params: the module's parameters.
            batch: model features.
            dropout_rng: a key; None turns dropout off.
            mutable: collections to return beside the logits.

        Returns:
            [batch, length, vocab], or (that, the mutable collections).
        """
        return self.module.apply(
            {"params": params},
            *(batch[name] for name in (*self._TOKENS, "decoder_target_tokens")),
            decode=False,
            enable_dropout=dropout_rng is not None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
            mutable=mutable,
            **self._extras(batch),
        )

    def _extras(self, batch) -> dict[str, Array | None]:
        """What the forward pass takes by name."""
        return {name: batch.get(name) for name in self._EXTRAS}

    def loss_fn(self, params, batch, dropout_rng) -> tuple[Array, MetricsMap]:
        """The loss to minimise, and metrics.

        Args:
            params: the module's parameters.
            batch: model features, [batch, length] each.
            dropout_rng: a key; None turns dropout off.

        Returns:
            (float32 scalar, metrics by name).
        """
        logits = self._compute_logits(params, batch, dropout_rng)
        targets = batch["decoder_target_tokens"]
        factor, weights = losses.get_loss_normalizing_factor_and_weights(
            self._loss_normalizing_factor, batch
        )
        loss, z_loss, _ = losses.compute_weighted_cross_entropy(
            logits,
            targets,
            weights,
            label_smoothing=self._label_smoothing,
            z_loss=self._z_loss,
            loss_normalizing_factor=factor,
        )
        named = dict(loss=loss, z_loss=z_loss, segment_ids=_segments(batch))
        return loss, self._compute_metrics(
            logits=logits, targets=targets, mask=weights, **named
        )

    def eval_fn(self, params, batch) -> tuple[Array, MetricsMap]:
        """`loss_fn` without dropout."""
        return self.loss_fn(params, batch, None)

    def predict_batch(self, params, batch, rng=None, **options) -> Array:
        """Decodes: int32 [batch, length]; see `predict_batch_with_aux`."""
        return self.predict_batch_with_aux(params, batch, rng=rng, **options)[0]

    def takes_queue(self) -> bool:
        """Whether it decodes many rows in a few places, given these (`places`).

        Not with beams, nor with a module that cannot, nor where gin binds several
        decodes of a row or prompts.
        """
        try:
            bound = gin.get_bindings(type(self).predict_batch_with_aux)
        except ValueError:  # Gin knows of none.
            bound = {}
        if bound.get("num_decodes", 1) != 1 or bound.get("prompt_with_targets"):
            return False
        asked = {"places": self.predict_batch_with_aux, "queue": self._decode_fn}
        return getattr(self.module, "rows_begin_apart", False) and all(
            name in inspect.signature(function).parameters
            for name, function in asked.items()
        )

    def score_batch(self, params, batch, return_intermediates=False) -> Array:
        """Log likelihood of the targets.

        Args:
            params: the module's parameters.
            batch: model features, with 'decoder_loss_weights'.
            return_intermediates: not supported.

        Returns:
            float32 [batch].
        """
        owner = f"models.{type(self).__name__}.score_batch"
        _absent.refuse(owner, locals(), "return_intermediates")
        logits = self._compute_logits(params, batch)
        scores = losses.token_log_likelihood(logits, batch["decoder_target_tokens"])
        return jnp.sum(scores * batch["decoder_loss_weights"], axis=-1)

    def _empty_cache(self, params, *like: Array) -> Mapping:
        """The cache before the first step, for tokens of these shapes."""
        _, variables = self.module.apply(  # XLA drops all but the cache.
            {"params": params},
            *map(jnp.ones_like, like),
            enable_dropout=False,
            decode=True,
            mutable=["cache"],
        )
        return variables["cache"]

    def _step(
        self, state, params, *before, memory=None, **options
    ) -> tuple[Array, Mapping]:
        """One step through the cache.

        Args:
            state: a DecodingState: tokens to read, [rows, 1], and the cache.
            params: the module's parameters.
            *before: what the module takes before the tokens.
            memory: the collection of this name, or None.
            **options: of the module, `max_decode_length` among them.

        Returns:
            (logits [rows, vocab], cache).
        """
        logits, variables = self.module.apply(
            {"params": params, "cache": state.cache, "memory": memory or {}},
            *(*before, state.cur_token, state.cur_token),
            enable_dropout=False,
            decode=True,
            mutable=["cache"],
            **options,
        )
        return logits[:, 0], variables["cache"]

    def _decode(self, rng, decoder_params, return_all_decodes, **arguments):
        """Calls the decoding function.

        Args:
            rng: a key for sampling, or None.
            decoder_params: arguments of the caller's, or None.
            return_all_decodes: return all decodes, not only the best.
            **arguments: the model's arguments.

        Returns:
            See `predict_batch_with_aux`.

        Raises:
            ValueError: a key is given twice.
        """
        options = {"eos_id": self.output_vocabulary.eos_id or 1, "cache_offset": 0}
        options.update(decoder_params or {})
        if rng is not None:
            if options.get("decode_rng") is not None:
                raise ValueError(
                    "both `rng` and decoder_params['decode_rng'] are given"
                )
            options["decode_rng"] = rng
        decodes, scores = self._decode_fn(**arguments, **options)
        if not return_all_decodes:
            decodes, scores = decodes[:, -1], scores[:, -1]
        return decodes, {"scores": scores}


class EncoderDecoderModel(BaseTransformerModel):
    """An encoder-decoder such as T5; its module has `encode` and `decode`."""

    FEATURE_CONVERTER_CLS = seqio.EncDecFeatureConverter
    _TOKENS = ("encoder_input_tokens", "decoder_input_tokens")
    _EXTRAS = (
        "encoder_segment_ids",
        "decoder_segment_ids",
        "encoder_positions",
        "decoder_positions",
    )
    _DECODE_FN = staticmethod(decoding.beam_search)

    def _compute_logits_from_slice(
        self, decoding_state, params, encoded_inputs, raw_inputs, max_decode_length
    ) -> tuple[Array, Mapping[str, Any]]:
        """One decoder step through the cache.

        Args:
            decoding_state: see `_step`.
            params: the module's parameters.
            encoded_inputs: [rows, input length, emb]; of a module that says
                `decodes_share_inputs`, [batch, input length, emb].
            raw_inputs: int32, their tokens, for the padding mask.
            max_decode_length: an int, the cache's length.
        """
        return self._step(
            decoding_state,
            params,
            encoded_inputs,
            raw_inputs,
            max_decode_length=max_decode_length,
            method=self.module.decode,
        )

    def predict_batch_with_aux(
        self,
        params: Params,
        batch: Batch,
        rng: Array | None = None,
        decoder_params: MutableMapping[str, Any] | None = None,
        return_all_decodes: bool = False,
        num_decodes: int = 1,
        prompt_with_targets: bool = False,
        places: int | None = None,
        rows: Array | None = None,
    ) -> tuple[Array, Mapping[str, Array]]:
        """Decodes.

        Args:
            params: the module's parameters.
            batch: has 'encoder_input_tokens', and 'decoder_input_tokens', whose
                length the decodes get.
            rng: a key for sampling.
            decoder_params: more arguments for the decoding function.
            return_all_decodes: return all decodes, not only the best.
            num_decodes: how many to make.
            prompt_with_targets: begin with the tokens of 'decoder_input_tokens'
                (without EOS), which are read step by step.
            places: decode so many rows at a time, each as soon as another has ended,
                where the model `takes_queue`; not with a prompt or several decodes.
            rows: int32 scalar, the number of rows that are not padding, with `places`.

        Returns:
            (int32 [batch, length], {'scores': float32 [batch]}), or with all decodes
            ([batch, decodes, length], [batch, decodes]), the best last.

        Raises:
            ValueError: a key is given twice, or `places` with several decodes.
        """
        inputs = batch["encoder_input_tokens"]
        start = batch["decoder_input_tokens"]
        if places is not None:
            if num_decodes > 1 or prompt_with_targets:
                raise ValueError(
                    "`places` is for one decode of each row, from its start"
                )
            rows = len(inputs) if rows is None else rows
            arguments = self._queue(params, inputs, rows, places, start.shape[1])
            return self._decode(rng, decoder_params, return_all_decodes, **arguments)
        prompt = jnp.zeros_like(start)
        if prompt_with_targets:
            prompt = jnp.where(start == self.output_vocabulary.eos_id, 0, start)
        encoded = self._encode(params, inputs)
        shared = getattr(self.module, "decodes_share_inputs", False)
        rows = 1 if shared else num_decodes
        step = functools.partial(
            self._compute_logits_from_slice,
            params=params,
            encoded_inputs=decoding.flat_batch_beam_expand(encoded, rows),
            raw_inputs=decoding.flat_batch_beam_expand(inputs, rows),
            max_decode_length=start.shape[1],
        )
        return self._decode(
            rng,
            decoder_params,
            return_all_decodes,
            inputs=prompt,
            cache=self._empty_cache(params, inputs, start, start),
            tokens_to_logits=step,
            num_decodes=num_decodes,
        )

    def _encode(self, params, inputs) -> Array:
        """The encoder's output, [batch, input length, emb]."""
        return self.module.apply(
            {"params": params}, inputs, enable_dropout=False, method=self.module.encode
        )

    def _queue(self, params, inputs, rows, places, length) -> dict[str, Any]:
        """The decoding function's arguments, for rows decoded in so many places.

        Its cache has `module`, the module's; `memory`, the keys and values of the
        inputs of each place; and `inputs`, their tokens, for the padding mask.
        """

        def memory(tokens):
            first = jnp.ones((len(tokens), 1), jnp.int32)
            _, variables = self.module.apply(  # XLA drops all but the memory.
                {"params": params},
                *(self._encode(params, tokens), tokens, first, first),
                enable_dropout=False,
                decode=True,
                mutable=["memory", "cache"],
                method=self.module.decode,
            )
            return variables["memory"]

        def begin(cache, free, new):
            tokens = inputs[new]
            put = lambda old, new: old.at[free].set(new)
            return {
                "module": cache["module"],
                "memory": jax.tree.map(put, cache["memory"], memory(tokens)),
                "inputs": put(cache["inputs"], tokens),
            }

        def step(state):
            cache = state.cache
            logits, module = self._step(
                state.replace(cache=cache["module"]),
                params,
                jnp.zeros((places, 1, 1)),  # The memory is there.
                cache["inputs"],
                memory=cache["memory"],
                decoder_positions=state.cur_index[:, None],
                max_decode_length=length,
                method=self.module.decode,
            )
            return logits, {**cache, "module": module}

        tokens = jnp.zeros((places, inputs.shape[1]), inputs.dtype)
        blank = jnp.zeros((places, length), jnp.int32)
        empty = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(memory, tokens)
        )
        return {
            "inputs": blank,
            "cache": {
                "module": self._empty_cache(params, tokens, blank, blank),
                "memory": empty,
                "inputs": tokens,
            },
            "tokens_to_logits": step,
            "queue": decoding.Queue(
                len(inputs), rows, max(int(places * _BEGINNING), 1), begin
            ),
        }


class DecoderOnlyModel(BaseTransformerModel):
    """A language model: of targets alone, or of inputs and then targets in one row.

    `decoder_causal_attention` says what the inputs are: it is 1 at the positions of
    `decoder_input_tokens` from the start to the last input token.
    """

    FEATURE_CONVERTER_CLS = seqio.DecoderFeatureConverter
    _TOKENS = ("decoder_input_tokens",)
    _EXTRAS = ("decoder_segment_ids", "decoder_positions")
    _DECODE_FN = staticmethod(decoding.temperature_sample)

    def __init__(
        self,
        module: nn.Module,
        vocabulary: seqio.Vocabulary,
        optimizer_def: OptimizerDef,
        decode_fn: Callable | None = None,
        inputs_bidirectional_attention: bool = False,
        feature_converter_cls: Callable[..., seqio.FeatureConverter] | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        loss_normalizing_factor: LossNormalizingFactor = None,
    ):
        """Sets up the model.

        Args:
            module: called as T5X's `examples/decoder_only` is.
            vocabulary: of inputs and targets.
            optimizer_def: how to train it.
            decode_fn: one that can start from a filled cache (`initial_index`), as
                `decoding.temperature_sample` can.
            inputs_bidirectional_attention: whether every input token sees all others
                (a prefix language model), or only those before it.
            feature_converter_cls: see BaseTransformerModel, as for what follows.
            label_smoothing: share of the other tokens.
            z_loss: coefficient.
            loss_normalizing_factor: divisor.
        """
        super().__init__(
            module,
            vocabulary,
            vocabulary,
            optimizer_def,
            decode_fn,
            feature_converter_cls,
            label_smoothing,
            z_loss,
            loss_normalizing_factor,
        )
        self._inputs_bidirectional_attention = inputs_bidirectional_attention

    def _prefix(self, batch: Batch) -> Array | None:
        """The positions that see each other: int [batch, length], or None."""
        if not self._inputs_bidirectional_attention:
            return None
        if "decoder_causal_attention" not in batch:
            raise ValueError(
                "inputs_bidirectional_attention needs the feature "
                "decoder_causal_attention, which a batch with inputs has"
            )
        return batch["decoder_causal_attention"]

    def _extras(self, batch) -> dict[str, Array | None]:
        return super()._extras(batch) | {
            "decoder_causal_attention": self._prefix(batch)
        }

    _compute_logits_from_slice = BaseTransformerModel._step

    def _prefilled_cache(self, params, prompts, is_prompt, lengths):
        """The cache after `lengths` positions of each prompt were read.

        Args:
            params: the module's parameters.
            prompts: int32 [batch, length], shifted right, 0 behind the prompt.
            is_prompt: int32 [batch, length], 1 at the positions of the prompt, its
                first, which reads 0, among them.
            lengths: int32 [batch].
        """
        empty = self._empty_cache(params, prompts, prompts)
        _, variables = self.module.apply(
            {"params": params, "cache": empty},
            prompts,
            is_prompt,  # In the targets' place it says what is not padding.
            enable_dropout=False,
            mutable=["cache"],
            decoder_causal_attention=self._prefix(
                {"decoder_causal_attention": is_prompt}
            ),
            prefill=True,
            prefill_lengths=lengths,
        )
        return variables["cache"]

    def predict_batch_with_aux(
        self,
        params: Params,
        batch: Batch,
        rng: Array | None = None,
        *,
        return_all_decodes: bool = False,
        num_decodes: int = 1,
        decoder_params: MutableMapping[str, Any] | None = None,
    ) -> tuple[Array, Mapping[str, Array]]:
        """Continues the inputs.

        Inputs are read at once into the cache, all but their last token, with which
        decoding begins.

        Args:
            params: the module's parameters.
            batch: has 'decoder_input_tokens' and 'decoder_causal_attention', [batch,
                length]; targets among the tokens are not looked at.
            rng: a key for sampling.
            return_all_decodes: return all decodes, not only the best.
            num_decodes: how many to make.
            decoder_params: more arguments for the decoding function.

        Returns:
            (int32 [batch, length], {'scores': float32 [batch]}), or with all decodes
            ([batch, decodes, length], [batch, decodes]), the best last. A decode begins
            with the first token behind the inputs.

        Raises:
            ValueError: a key is given twice, or the batch has no inputs.
        """
        if "decoder_causal_attention" not in batch:
            raise ValueError(
                "the batch has no decoder_causal_attention, so that it is not known "
                "what to continue: TASK_FEATURE_LENGTHS needs inputs and targets"
            )
        is_prompt = batch["decoder_causal_attention"]
        prompts = batch["decoder_input_tokens"] * is_prompt
        lengths = jnp.sum(prompts[:, 1:] != 0, axis=-1)
        step = functools.partial(
            self._compute_logits_from_slice,
            params=params,
            max_decode_length=prompts.shape[1],
        )
        decodes, aux = self._decode(
            rng,
            decoder_params,
            return_all_decodes,
            inputs=prompts,
            cache=self._prefilled_cache(params, prompts, is_prompt, lengths),
            tokens_to_logits=step,
            num_decodes=num_decodes,
            initial_index=lengths,
        )
        return remove_prefix(decodes, lengths), aux


@jax.vmap
def remove_prefix(sequence: Array, prefix_length: Array) -> Array:
    """Shifts sequences left by their prefixes, 0s behind them.

    Args:
        sequence: int [batch, …, length].
        prefix_length: int [batch].
    """
    place = jnp.arange(sequence.shape[-1]) + prefix_length
    return jnp.take(sequence, place, axis=-1, mode="fill", fill_value=0)
