"""What a model is like: config.json, our gin file, `network.T5Config`."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from t5patches import layers, network
from t5patches.errors import UserError, shorten
from t5patches.interchange import json_files

CONFIG = "config.json"
GENERATION = "generation_config.json"

# Field of T5Config -> key of config.json.
_SIZES = {
    "vocab_size": "vocab_size",
    "emb_dim": "d_model",
    "num_heads": "num_heads",
    "head_dim": "d_kv",
    "mlp_dim": "d_ff",
    "num_encoder_layers": "num_layers",
    "num_decoder_layers": "num_decoder_layers",
}
# Transformers' 'gelu' of a gated layer is the approximation by tanh, as Flax's is.
_ACTIVATIONS = {
    "relu": ("relu",),
    "gated-gelu": ("gelu", "linear"),
    "gated-silu": ("silu", "linear"),
    "gated-relu": ("relu", "linear"),
}
# Of each type of model: the activation of a config.json that names none.
_TYPES = {"t5": "relu", "mt5": "gated-gelu", "umt5": "gated-gelu"}
# What the network has as it is.
_FIXED = {
    "relative_attention_num_buckets": layers.NUM_BUCKETS,
    "relative_attention_max_distance": layers.MAX_DISTANCE,
    "layer_norm_epsilon": 1e-6,
    "is_encoder_decoder": True,
}
_STARTS = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}


def read(folder: pathlib.Path) -> dict[str, Any]:
    """Returns a folder's config.json.

    Raises:
      UserError: it is not of a model that this network is.
    """
    path = folder / CONFIG
    found = json_files.read_json(path)
    for key in ("auto_map", "trust_remote_code"):
        if found.get(key):
            raise UserError(
                f"{path}: {key} names code of the model's folder, which is never run; "
                "only the T5s that Transformers itself has are converted"
            )
    if found.get("model_type") not in _TYPES:
        raise UserError(
            f"{path}: 'model_type' is {shorten(found.get('model_type'))}, expected "
            f"one of {', '.join(_TYPES)}"
        )
    for key, value in (_FIXED | _STARTS).items():
        got = found.get(key)
        if got is not None and got != value:
            raise UserError(
                f"{path}: {key!r} is {shorten(got)}; only models with {value} are "
                "converted"
            )
    if found.get("quantization_config"):
        raise UserError(
            f"{path}: the model is quantised; take the one that it was made from"
        )
    return found


def architecture(config: Mapping[str, Any], place: os.PathLike) -> network.T5Config:
    """Returns what a config.json says, with logits of their own.

    Args:
      config: what `read` returned.
      place: the folder, for messages.

    Raises:
      UserError: a size is missing or no whole number, or the activation is another.
    """
    path = pathlib.Path(place) / CONFIG
    sizes: dict[str, Any] = {key: config.get(key) for key in _SIZES.values()}
    sizes["num_decoder_layers"] = (
        sizes["num_decoder_layers"] or sizes["num_layers"]  # None: as many.
    )
    json_files.check_fields(sizes, dict.fromkeys(sizes, int), path, "mend it")
    kind = config["model_type"]
    activation = config.get("feed_forward_proj", _TYPES[kind])
    if activation not in _ACTIVATIONS:
        raise UserError(
            f"{path}: 'feed_forward_proj' is {shorten(activation)}, expected one of "
            f"{', '.join(_ACTIVATIONS)}"
        )
    return network.T5Config(
        **{field: sizes[key] for field, key in _SIZES.items()},
        mlp_activations=_ACTIVATIONS[activation],
        positions_per_layer=kind == "umt5",
    )


def dtype(config: Mapping[str, Any]) -> str | None:
    """Returns the type of the weights that a config.json names, if it is one of ours.

    Before version 4.56 of Transformers the key was `torch_dtype`.
    """
    named = config.get("dtype") or config.get("torch_dtype")
    return named if named in ("float32", "bfloat16", "float16") else None


def to_hugging_face(
    architecture: network.T5Config, template: Mapping[str, Any], dtype: str
) -> dict[str, Any]:
    """Returns a config.json with which Transformers 4 and 5 load the same numbers.

    Args:
      architecture: of the model.
      template: another config.json, whose other keys are kept.
      dtype: of most of the weights.
    """
    tied = architecture.logits_via_embedding
    sizes = {key: getattr(architecture, field) for field, key in _SIZES.items()}
    names = {value: key for key, value in _ACTIVATIONS.items()}
    activation = names[tuple(architecture.mlp_activations)]
    gated = activation.startswith("gated-")
    function = activation.removeprefix("gated-")
    kind = template.get("model_type", "t5")
    if architecture.positions_per_layer:
        kind = "umt5"
    elif kind == "umt5" or tied:  # The network is T5's. Version 5 scales no mT5.
        kind = "t5"
    classes = {"t5": "T5", "mt5": "MT5", "umt5": "UMT5"}
    made = {
        **_FIXED,
        **{key: value for key, value in template.items() if key != "torch_dtype"},
        **_STARTS,
        **sizes,
        "model_type": kind,
        "architectures": [f"{classes[kind]}ForConditionalGeneration"],
        "feed_forward_proj": activation,
        "is_gated_act": gated,
        "dense_act_fn": "gelu_new" if gated and function == "gelu" else function,
        # Version 4 scales the decoder's outputs where embeddings are tied; version 5
        # ties what is equal, and scales by a key of its own.
        "tie_word_embeddings": tied,
        "scale_decoder_outputs": tied,
        "dtype": dtype,
    }
    made.pop("transformers_version", None)  # Of who wrote it: that was we.
    if kind != "t5":
        del made["scale_decoder_outputs"]
    return made


def generation(template: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a generation_config.json, with what a T5 starts and ends with."""
    made = {key: v for key, v in template.items() if key != "transformers_version"}
    return {**made, **_STARTS}


def completed(
    found: network.T5Config,
    template: Mapping[str, Any],
    folder: pathlib.Path,
    place: os.PathLike,
) -> network.T5Config:
    """Returns a checkpoint's architecture with what its shapes do not say.

    Args:
      found: what `of_shapes` returned.
      template: the config.json of a model of the same architecture.
      folder: where that is.
      place: the checkpoint.

    Raises:
      UserError: it is of another architecture.
    """
    said = architecture(template, folder)
    for field, key in _SIZES.items():
        if getattr(found, field) != getattr(said, field):
            raise UserError(
                f"{os.fspath(place)} is of another architecture than "
                f"{folder / CONFIG}: {key} is {getattr(found, field)} there, "
                f"{getattr(said, field)} here"
            )
    if len(found.mlp_activations) == len(said.mlp_activations):
        return dataclasses.replace(found, mlp_activations=said.mlp_activations)
    return found


_GIN = """\
# Converted from Hugging Face's form by `t5patches convert`; the weights are in
# checkpoint_0 beside it. Read in the place of a file of gin/models.
from __gin__ import dynamic_registration

import seqio
from t5patches import network

include 'models/_t5_1_1.gin'

{vocabulary}
VOCABULARY_SIZE = {c.vocab_size}
ACTIVATION_DTYPE = 'float32'  # 'bfloat16' is faster on accelerators

EMB_DIM = {c.emb_dim}
NUM_HEADS = {c.num_heads}
HEAD_DIM = {c.head_dim}
NUM_LAYERS = {c.num_encoder_layers}
MLP_DIM = {c.mlp_dim}
network.T5Config:
  num_decoder_layers = {c.num_decoder_layers}
  mlp_activations = {c.mlp_activations}
  logits_via_embedding = {c.logits_via_embedding}
  positions_per_layer = {c.positions_per_layer}
"""
_SENTENCEPIECE = "VOCABULARY_PATH = {path!r}"
_BYTES = """\
VOCABULARY = @seqio.ByteVocabulary()
seqio.ByteVocabulary.extra_ids = {extra}"""


def gin_file(architecture: network.T5Config, vocabulary: str | int) -> str:
    """Returns the gin file of a model, as those of gin/models are.

    Args:
      architecture: of the model.
      vocabulary: the path of the SentencePiece model, or how many ids come after those
        of ByT5's bytes.
    """
    if isinstance(vocabulary, int):
        text = _BYTES.format(extra=vocabulary)
    else:
        text = _SENTENCEPIECE.format(path=vocabulary)
    return _GIN.format(vocabulary=text, c=architecture)


def of_shapes(shapes: Mapping[str, tuple[int, ...]], place: str) -> network.T5Config:
    """Returns the architecture of a checkpoint by its parameters' shapes.

    Which function a gated layer has cannot be seen: it is taken for T5 1.1's.

    Args:
      shapes: by '/'-separated names.
      place: of the checkpoint, for messages.

    Raises:
      UserError: a parameter of every T5 is missing.
    """

    def shape(name: str, size: int) -> tuple[int, ...]:
        found = shapes.get(name, ())
        if len(found) != size:
            raise UserError(
                f"{place}: is of no T5: {name} "
                + (f"has the shape {found}" if name in shapes else "is missing")
            )
        return found

    def count(side: str) -> int:
        names = {name.split("/")[1] for name in shapes if name.startswith(f"{side}/")}
        return sum(name.startswith("layers_") for name in names)

    vocab_size, emb_dim = shape("token_embedder/embedding", 2)
    first = "encoder/layers_0"
    own = f"{first}/relpos_bias/rel_embedding"
    shared = "encoder/relpos_bias/rel_embedding"
    heads, _ = shape(own if own in shapes else shared, 2)
    _, width = shape(f"{first}/attention/query/kernel", 2)
    mlp_dim, _ = shape(f"{first}/mlp/wo/kernel", 2)
    gated = f"{first}/mlp/wi_0/kernel" in shapes
    return dataclasses.replace(
        network.T5Config(vocab_size=vocab_size),
        emb_dim=emb_dim,
        num_heads=heads,
        head_dim=width // heads,
        mlp_dim=mlp_dim,
        num_encoder_layers=count("encoder"),
        num_decoder_layers=count("decoder"),
        mlp_activations=_ACTIVATIONS["gated-gelu" if gated else "relu"],
        logits_via_embedding="decoder/logits_dense/kernel" not in shapes,
        positions_per_layer=own in shapes,
    )
