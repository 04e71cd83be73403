"""T5 1.0 and 1.1: an encoder-decoder transformer with T5X's parameters and interface.

Parameter tree, logical axes, cache and dropout masks are those of T5X's `examples/t5`,
so that its checkpoints load and its `EncoderDecoderModel` drives this network. Encoder
and decoder are one module, `Stack`, and so are their layers.

T5 1.0: `mlp_activations=("relu",)`, `logits_via_embedding=True`.
T5 1.1: `mlp_activations=("gelu", "linear")`, `logits_via_embedding=False`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from t5patches import layers


@struct.dataclass
class LayerConfig:
    """Shape and numerics of a transformer, except how many layers it has.

    Attributes:
      vocab_size: rows of the embedding table.
      dtype: of the activations; parameters and logits are float32.
      emb_dim: size of a token's vector.
      num_heads: attention heads of a layer.
      head_dim: size of a head.
      mlp_dim: size of the feed-forward layers.
      mlp_activations: names in flax.linen, or functions; see `layers.Mlp`.
      dropout_rate: of every dropout.
      logits_via_embedding: whether the embedding table also makes the logits.
      float32_attention_logits: see `layers.attend`.
    """

    vocab_size: int
    dtype: Any = jnp.float32
    emb_dim: int = 512
    num_heads: int = 8
    head_dim: int = 64
    mlp_dim: int = 2048
    mlp_activations: Sequence[str] = ("relu",)
    dropout_rate: float = 0.1
    logits_via_embedding: bool = False
    float32_attention_logits: bool = False


@struct.dataclass
class T5Config(LayerConfig):
    """Shape and numerics of a T5.

    Attributes:
      num_encoder_layers: layers of the encoder.
      num_decoder_layers: layers of the decoder.
      positions_per_layer: whether each layer has a table of relative positions of its
        own, as in umT5 and T5X's `examples/scalable_t5`; else all of a stack share one.
    """

    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    positions_per_layer: bool = False


class Layer(nn.Module):
    """Self-attention, attention to `encoded` where it is given, feed-forward.

    Each is applied to the normed input, and its output, after dropout, added to it.

    Attributes:
      config: of the network.
      decoder: whether the parameters are called as a decoder's.
      named_dropout: whether the dropouts have names, on which their masks depend.
    """

    config: LayerConfig
    decoder: bool
    named_dropout: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        bias: jax.Array | None,
        mask: jax.Array | None,
        encoded: jax.Array | None = None,
        cross_mask: jax.Array | None = None,
        *,
        deterministic: bool,
        decode: bool = False,
        prefill_lengths: jax.Array | None = None,
        positions: int = 0,
    ) -> jax.Array:
        """Maps x [batch, length, emb_dim] to its shape; see `Stack`.

        Without a `bias`, one for so many `positions` is made of a table of its own.
        """
        cfg = self.config
        if bias is None:
            bias = layers.relative_positions(
                cfg.num_heads, positions, cfg.dtype, bidirectional=not self.decoder
            )

        def attention(name):
            return layers.Attention(
                num_heads=cfg.num_heads,
                head_dim=cfg.head_dim,
                dtype=cfg.dtype,
                dropout_rate=cfg.dropout_rate,
                float32_logits=cfg.float32_attention_logits,
                name=name,
            )

        def residual(x, part, function, *args, **options):
            y = layers.rms_norm(f"pre_{part}_layer_norm", x, cfg.dtype)
            y = function(y, *args, deterministic=deterministic, **options)
            name = f"post_{part}_dropout" if self.named_dropout else None
            return x + layers.Dropout(cfg.dropout_rate, name=name)(y, deterministic)

        name = "self_attention" if self.decoder else "attention"
        cache = {"decode": decode, "prefill_lengths": prefill_lengths}
        x = residual(x, name, attention(name), None, bias, mask, **cache)
        if encoded is not None:
            cross = attention("encoder_decoder_attention")
            options = {"mask": cross_mask, "fixed_memory": decode}
            x = residual(x, "cross_attention", cross, encoded, **options)
        mlp = layers.Mlp(
            cfg.mlp_dim, cfg.mlp_activations, cfg.dropout_rate, cfg.dtype, name="mlp"
        )
        return residual(x, "mlp", mlp)


class Stack(nn.Module):
    """The layers of the encoder, or of the decoder up to the logits.

    The decoder sows what it makes logits of, [batch, length, emb_dim], as `pre_logits`:
    `layers.head_logits` makes the same of it.

    Attributes:
      config: of the network.
      decoder: which of the two.
    """

    config: T5Config
    decoder: bool

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None,
        encoded: jax.Array | None = None,
        cross_mask: jax.Array | None = None,
        logits_table: jax.Array | None = None,
        *,
        deterministic: bool,
        decode: bool = False,
        max_decode_length: int | None = None,
    ) -> jax.Array:
        """Runs the stack.

        Args:
          x: embedded tokens, [batch, length, emb_dim].
          mask: bool [batch, 1, length, length], or None: everything attends.
          encoded: the encoder's output, [batch, source_length, emb_dim].
          cross_mask: bool [batch, 1, length, source_length].
          logits_table: [vocab, emb_dim] where the embedding table makes the logits.
          deterministic: no dropout.
          decode: through the cache; see `layers.Attention`.
          max_decode_length: length of the cache.

        Returns:
          [batch, length, emb_dim] of the encoder, logits [batch, length, vocab_size],
          float32, of the decoder.
        """
        cfg = self.config
        length = decode and max_decode_length or x.shape[1]
        bias = None
        if not cfg.positions_per_layer:
            # Made here once; each layer adds it to its own logits.
            bias = layers.relative_positions(
                cfg.num_heads, length, cfg.dtype, bidirectional=not self.decoder
            )

        x = layers.Dropout(cfg.dropout_rate)(x, deterministic)
        count = cfg.num_decoder_layers if self.decoder else cfg.num_encoder_layers
        options: dict[str, Any] = {"deterministic": deterministic, "decode": decode}
        if cfg.positions_per_layer:
            options["positions"] = length
        for i in range(count):
            layer = Layer(cfg, self.decoder, name=f"layers_{i}")
            x = layer(x, bias, mask, encoded, cross_mask, **options)
        side = "decoder" if self.decoder else "encoder"
        x = layers.rms_norm(f"{side}_norm", x, cfg.dtype)
        # T5X's encoder drops single entries here, everything else whole columns.
        x = layers.Dropout(cfg.dropout_rate, (-2,) if self.decoder else ())(
            x, deterministic
        )
        if not self.decoder:
            return x
        self.sow("intermediates", "pre_logits", x)
        return layers.logits(x, cfg.vocab_size, logits_table)


class Transformer(nn.Module):
    """The whole network. Tokens are int arrays [batch, length], 0 is padding.

    Attributes:
      config: shape and numerics.
      decodes_share_inputs: that `decode` takes several decodes of an input, which T5X
        would encode for each; read by an engine that knows of it, as is
      rows_begin_apart: that it takes rows of which some are replaced by new ones.
    """

    config: T5Config
    decodes_share_inputs: ClassVar[bool] = True
    rows_begin_apart: ClassVar[bool] = True

    def setup(self):
        cfg = self.config
        self.token_embedder = layers.token_embedder(cfg.vocab_size, cfg.emb_dim)
        self.encoder = Stack(cfg, decoder=False)
        self.decoder = Stack(cfg, decoder=True)

    def encode(
        self,
        encoder_input_tokens: jax.Array,
        encoder_segment_ids: jax.Array | None = None,
        enable_dropout: bool = True,
    ) -> jax.Array:
        """Encodes the inputs.

        Args:
          encoder_input_tokens: [batch, source_length].
          encoder_segment_ids: same shape, the example of each position where packed.
          enable_dropout: needs an rng named `dropout`.

        Returns:
          [batch, source_length, emb_dim] in the activations' dtype.
        """
        x = layers.embed(self.token_embedder(), encoder_input_tokens, self.config.dtype)
        valid = encoder_input_tokens > 0
        mask = layers.pair_mask(valid, valid, encoder_segment_ids, encoder_segment_ids)
        return self.encoder(x, mask, deterministic=not enable_dropout)

    def decode(
        self,
        encoded: jax.Array,
        encoder_input_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array,
        encoder_segment_ids: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
    ) -> jax.Array:
        """Scores targets given the encoded inputs.

        Args:
          encoded: [batch, source_length, emb_dim].
          encoder_input_tokens: [batch, source_length], to see which are padding.
          decoder_input_tokens: [batch, length], the targets shifted right; with
            `decode` [batch * decodes, 1], the decodes of an input next to each other.
          decoder_target_tokens: [batch, length], to see which are padding.
          encoder_segment_ids: [batch, source_length] where packed.
          decoder_segment_ids: [batch, length] where packed.
          decoder_positions: with `decode`, int [batch, 1], how many tokens each row has
            read before, where they did not begin together; else unused: T5's
            positions are relative.
          enable_dropout: needs an rng named `dropout`.
          decode: a token at a time, [batch, 1], through the `cache` collection.
          max_decode_length: length of the cache, where `decode`.

        Returns:
          Logits [batch, length, vocab_size], float32.

        Raises:
          ValueError: packing while decoding, or one side packed only.
        """
        if decode and encoder_segment_ids is not None:
            raise ValueError("packed examples (segment ids) cannot be decoded")
        if encoder_segment_ids is not None and decoder_segment_ids is None:
            raise ValueError("encoder_segment_ids came without decoder_segment_ids")
        source_valid = encoder_input_tokens > 0
        if decode:
            # What has not been generated is hidden by the cache, and a generated 0 is
            # a token like any other.
            mask, valid = None, jnp.ones((len(source_valid), 1), bool)
            if decoder_positions is not None:
                back = jnp.arange(max_decode_length or 1)
                mask = back <= decoder_positions[:, :, None, None]
        else:
            valid = decoder_target_tokens > 0
            mask = layers.pair_mask(
                valid, valid, decoder_segment_ids, decoder_segment_ids, causal=True
            )
        cross_segments = None if encoder_segment_ids is None else decoder_segment_ids
        table = self.token_embedder()
        return self.decoder(
            layers.embed(table, decoder_input_tokens, self.config.dtype),
            mask,
            encoded,
            layers.pair_mask(valid, source_valid, cross_segments, encoder_segment_ids),
            table if self.config.logits_via_embedding else None,
            deterministic=not enable_dropout,
            decode=decode,
            max_decode_length=max_decode_length,
        )

    def __call__(
        self,
        encoder_input_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array,
        encoder_segment_ids: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        encoder_positions: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        *,
        enable_dropout: bool = True,
        decode: bool = False,
    ) -> jax.Array:
        """Encodes and scores; the arguments and the result are those of `decode`."""
        del encoder_positions, decoder_positions
        tokens = encoder_input_tokens, decoder_input_tokens, decoder_target_tokens
        segments = encoder_segment_ids, decoder_segment_ids
        options: dict[str, Any] = {"enable_dropout": enable_dropout, "decode": decode}
        encoded = self.encode(encoder_input_tokens, encoder_segment_ids, enable_dropout)
        return self.decode(encoded, *tokens, *segments, **options)
