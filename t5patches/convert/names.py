"""One table of parameters: T5X's name, Hugging Face's key, and which are transposed.

Both directions follow from it. A dense kernel of T5X's is [in, out], a weight of
PyTorch's [out, in]; relative positions are [heads, buckets] and [buckets, heads].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from t5patches import layers, network

SHARED = "shared.weight"
HEAD = "lm_head.weight"


class Parameter(NamedTuple):
    """A parameter of a model.

    Attributes:
      name: T5X's, '/'-separated.
      key: Hugging Face's.
      shape: T5X's; Hugging Face's is the reverse.
      transposed: whether the two forms are each other's transpose.
    """

    name: str
    key: str
    shape: tuple[int, ...]
    transposed: bool = True

    @property
    def hf_shape(self) -> tuple[int, ...]:
        """The shape in Hugging Face's form."""
        return self.shape[::-1] if self.transposed else self.shape


def parameters(config: network.T5Config) -> Iterator[Parameter]:
    """Yields the parameters of a model, in Hugging Face's order."""
    table = (config.vocab_size, config.emb_dim)
    yield Parameter("token_embedder/embedding", SHARED, table, False)
    yield from _stack(config, "encoder", config.num_encoder_layers)
    yield from _stack(config, "decoder", config.num_decoder_layers)
    if not config.logits_via_embedding:
        yield Parameter("decoder/logits_dense/kernel", HEAD, table[::-1])


def _stack(config: network.T5Config, side: str, count: int) -> Iterator[Parameter]:
    positions = (config.num_heads, layers.NUM_BUCKETS)
    table = "layer.0.SelfAttention.relative_attention_bias.weight"
    if not config.positions_per_layer:
        # Of the whole stack in T5X, of its first block in Hugging Face's form.
        name = f"{side}/relpos_bias/rel_embedding"
        yield Parameter(name, f"{side}.block.0.{table}", positions)
    for i in range(count):
        layer, block = f"{side}/layers_{i}", f"{side}.block.{i}"
        if config.positions_per_layer:
            name = f"{layer}/relpos_bias/rel_embedding"
            yield Parameter(name, f"{block}.{table}", positions)
        yield from _layer(config, side == "decoder", layer, block)
    norm = f"{side}/{side}_norm/scale", f"{side}.final_layer_norm.weight"
    yield Parameter(*norm, (config.emb_dim,), False)


def _layer(
    config: network.T5Config, decoder: bool, layer: str, block: str
) -> Iterator[Parameter]:
    width, mlp = config.num_heads * config.head_dim, config.mlp_dim
    inwards = dict.fromkeys(("query", "key", "value"), (config.emb_dim, width))
    attention = inwards | {"out": (width, config.emb_dim)}
    gated = len(config.mlp_activations) > 1
    names = ("wi_0", "wi_1") if gated else ("wi",)
    feed_forward = dict.fromkeys(names, (config.emb_dim, mlp)) | {
        "wo": (mlp, config.emb_dim)
    }
    # T5X's names of the norm and the module, Hugging Face's of the module.
    parts = [("self_attention" if decoder else "attention",) * 2 + ("SelfAttention",)]
    if decoder:
        cross = "cross_attention", "encoder_decoder_attention", "EncDecAttention"
        parts.append(cross)
    parts.append(("mlp", "mlp", "DenseReluDense"))
    for i, (norm, module, theirs) in enumerate(parts):
        yield Parameter(
            f"{layer}/pre_{norm}_layer_norm/scale",
            f"{block}.layer.{i}.layer_norm.weight",
            (config.emb_dim,),
            False,
        )
        for name, shape in (feed_forward if module == "mlp" else attention).items():
            key = name if module == "mlp" else name[0]
            yield Parameter(
                f"{layer}/{module}/{name}/kernel",
                f"{block}.layer.{i}.{theirs}.{key}.weight",
                shape,
            )
