"""A decoder-only transformer with T5X's parameters and interface.

Parameter tree, logical axes, dropout masks and the calls that fill and read the cache
are those of T5X's `examples/decoder_only`, so that its checkpoints load and its
`DecoderOnlyModel` drives this network. It is T5's decoder without the encoder: relative
positions, normed residual layers, and, with `decoder_causal_attention`, a prefix that
sees itself in both directions (a prefix language model).

References:
  Raffel et al, Exploring the Limits of Transfer Learning, section 3.2,
  https://arxiv.org/abs/1910.10683
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from t5patches import layers, network


@struct.dataclass
class TransformerConfig(network.LayerConfig):
    """Shape and numerics of a decoder-only transformer.

    Attributes:
      num_layers: number of layers.
    """

    num_layers: int = 6


class Decoder(nn.Module):
    """The network. Tokens are int arrays [batch, length], 0 is padding."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array,
        decoder_segment_ids: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        decoder_causal_attention: jax.Array | None = None,
        *,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
        prefill: bool | None = None,
        prefill_lengths: jax.Array | None = None,
    ) -> jax.Array:
        """Scores targets.

        To generate after prompts of different lengths, the cache is made by a call with
        `decode` over the whole length, filled by one with `prefill`, and then read and
        extended by calls with `decode`, a token of each row at a time.

        Args:
          decoder_input_tokens: [batch, length], the targets shifted right.
          decoder_target_tokens: [batch, length], to see which are padding.
          decoder_segment_ids: [batch, length] where packed.
          decoder_positions: unused: the positions are relative.
          decoder_causal_attention: [batch, length], 1 where the prefix is, whose
            positions see each other whatever their order; None: there is no such.
          enable_dropout: needs an rng named `dropout`.
          decode: through the `cache` collection.
          max_decode_length: length of the cache, where `decode`.
          prefill: whether to fill the cache with the first positions of each row.
          prefill_lengths: [batch], how many; by default those that the first position
            sees.

        Returns:
          Logits [batch, length, vocab_size], float32.

        Raises:
          ValueError: packing while decoding, or tokens that are not [batch, length].
        """
        del decoder_positions
        cfg = self.config
        if decode and decoder_segment_ids is not None:
            raise ValueError("packed examples (segment ids) cannot be decoded")
        shape = cfg.vocab_size, cfg.emb_dim
        table = layers.token_embedder(*shape, name="token_embedder")()
        x = layers.embed(table, decoder_input_tokens, cfg.dtype)
        mask = None
        if not decode:
            valid, segments = decoder_target_tokens > 0, decoder_segment_ids
            prefix = decoder_causal_attention
            prefix = None if prefix is None else prefix > 0
            masked = valid, valid, segments, segments
            mask = layers.pair_mask(*masked, causal=True, prefix=prefix)
        if prefill and prefill_lengths is None:
            prefill_lengths = jnp.sum(mask[:, 0, 0], axis=-1)

        length = decode and max_decode_length or decoder_input_tokens.shape[1]
        bias = layers.relative_positions(
            cfg.num_heads, length, cfg.dtype, bidirectional=False
        )

        def dropout(name, x):
            return layers.Dropout(cfg.dropout_rate, name=name)(x, not enable_dropout)

        x = dropout("input_dropout", x)
        lengths = prefill_lengths if prefill else None
        options: dict[str, Any] = {"decode": decode, "prefill_lengths": lengths}
        for i in range(cfg.num_layers):
            layer = network.Layer(cfg, True, named_dropout=True, name=f"layers_{i}")
            x = layer(x, bias, mask, deterministic=not enable_dropout, **options)
        x = dropout("output_dropout", layers.rms_norm("decoder_norm", x, cfg.dtype))
        self.sow("intermediates", "pre_logits", x)
        return layers.logits(
            x, cfg.vocab_size, table if cfg.logits_via_embedding else None
        )


class DecoderWrapper(nn.Module):
    """`Decoder` under the name `decoder`, where T5X's checkpoints have it."""

    config: TransformerConfig

    def setup(self):
        self.decoder = Decoder(self.config)

    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        """See `Decoder`."""
        return self.decoder(*args, **kwargs)
