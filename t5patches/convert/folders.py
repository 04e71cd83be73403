"""A model folder in Hugging Face's form to one in T5X's, and back."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import seqio
from absl import logging
from etils import epath

from t5patches import network
from t5patches.checkpoints import contents, finding, integrity
from t5patches.convert import configs, names, safetensors_files, t5x_files, tokenizers
from t5patches.errors import UserError
from t5patches.interchange import claims, json_files, shards, vocabularies

MODEL_GIN = "model.gin"
VOCABULARY = "sentencepiece.model"
CARRIED = "huggingface"  # What was beside the weights, for the way back.

_BESIDE = {".json", ".model", ".txt", ".md", ".jinja"}  # Nothing that is code.
# Other names of the embedding table, and a tensor that no version has ever read.
_ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_UNREAD = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def hf_to_t5x(folder: str, output: str) -> network.T5Config:
    """Makes a T5X checkpoint of a model folder, with its gin file and vocabulary.

    `output` has then checkpoint_0, model.gin, sentencepiece.model and, in
    huggingface/, what was beside the weights.

    Args:
      folder: config.json, safetensors, tokenizer; local.
      output: a folder that is not there yet.

    Returns:
      The model's architecture.

    Raises:
      UserError: a file is missing, damaged or of another model; `output` is there.
    """
    source = _local(folder)
    _check_new(output)
    if not source.is_dir():
        raise UserError(f"{folder}: no such folder")
    config = configs.read(source)
    architecture = configs.architecture(config, source)
    extra = tokenizers.extra_bytes(source, config)
    pieces = b""
    if extra is None:
        pieces = tokenizers.sentencepiece_model(source, architecture.vocab_size)
    with safetensors_files.Weights(source) as weights, _new(output) as place:
        architecture, params = _to_t5x(architecture, config, weights)
        t5x_files.write(place, architecture, params)
        if extra is None:
            (place / VOCABULARY).write_bytes(pieces)
            vocabulary = seqio.SentencePieceVocabulary(os.fspath(place / VOCABULARY))
            name = os.fspath(finding.absolute(output) / VOCABULARY)
        else:
            vocabulary, name = seqio.ByteVocabulary(extra), extra
        (place / MODEL_GIN).write_text(configs.gin_file(architecture, name))
        _carry(source, place / CARRIED)
        # For the way back; a config.json need not name it, or may name another.
        largest = max(params.values(), key=lambda array: array.nbytes)
        kept = config | {"dtype": largest.dtype.name}
        json_files.write_json(place / CARRIED / configs.CONFIG, kept)
        fingerprint = vocabularies.fingerprint(vocabulary)
        integrity.seal(place / "checkpoint_0", fingerprint)
    return architecture


def t5x_to_hf(
    checkpoint: str,
    output: str,
    like: str | None = None,
    vocabulary: str | None = None,
    shard_bytes: int = 5 * 10**9,
    dtype: str | None = None,
    parameters: str | None = None,
) -> network.T5Config:
    """Makes a model folder in Hugging Face's form of a T5X checkpoint.

    Args:
      checkpoint: a checkpoint, or a folder with some: then the latest.
      output: a folder that is not there yet; local.
      like: a folder whose other files (tokenizer, settings, model card) the result is
        to have: in Hugging Face's form, or made by `hf_to_t5x`. None for that in which
        the checkpoint is, if it has them.
      vocabulary: a SentencePiece model, where there is no such folder.
      shard_bytes: the size of a file of weights that is not exceeded.
      dtype: of the weights: float32, bfloat16 or float16. None for that which the
        config.json of `like` names if all of the checkpoint is float32, as training
        leaves it; other checkpoints keep their types.
      parameters: a regular expression; parameters whose '/'-separated names it does
        not match as a whole are left out. None for all of them.

    Returns:
      The model's architecture.

    Raises:
      UserError: the checkpoint is damaged, is of no T5, or of another model than
        `like`; `output` is there; a weight is too large for `dtype`;
        `parameters` is no regular expression.
    """
    _local(output)
    _check_new(output)
    path = epath.Path(finding.one_checkpoint(checkpoint))
    contents.check_whole(path)
    beside = _beside(path, like)
    params = t5x_files.Parameters(path)
    matches = _matching(parameters)
    shapes = {n: tuple(x.shape) for n, x in params.arrays.items() if matches(n)}
    architecture = configs.of_shapes(shapes, os.fspath(path))
    template: dict[str, Any] = {}
    if beside is not None:
        template = configs.read(beside)
        architecture = configs.completed(architecture, template, beside, path)
    table = {p.key: p for p in names.parameters(architecture)}
    wanted = {p.name: p.shape for p in table.values()}
    for name in dict.fromkeys([*wanted, *shapes]):
        if wanted.get(name) != shapes.get(name):
            raise UserError(
                f"{path}: is of no T5: {name} is {shapes.get(name, 'missing')}, "
                f"expected {wanted.get(name, 'none such')}"
            )

    stored = {key: params.arrays[p.name].dtype for key, p in table.items()}
    if dtype is None and {*stored.values()} == {np.dtype(np.float32)}:
        dtype = configs.dtype(template)
    types = dict.fromkeys(stored, jnp.dtype(dtype)) if dtype else stored

    def read(keys: list[str]) -> Iterator[np.ndarray]:
        wanted = {table[key].name: table[key] for key in keys}
        for name, x in params.read(wanted):
            key = wanted[name].key
            yield _cast(_turned(x, wanted[name]), types[key], key)

    tensors = [
        safetensors_files.Tensor(key, p.hf_shape, types[key])
        for key, p in table.items()
    ]
    with _new(output) as place:
        safetensors_files.write(pathlib.Path(place), tensors, read, shard_bytes)
        if beside is not None:
            _carry(beside, place)
        elif vocabulary is not None:
            tokenizers.write(pathlib.Path(place), vocabulary, architecture.vocab_size)
        else:
            logging.warning("%s has no tokenizer: none was named", output)
        largest = max(tensors, key=lambda tensor: tensor.nbytes)
        config = configs.to_hugging_face(architecture, template, largest.dtype.name)
        json_files.write_json(place / configs.CONFIG, config)
        generation = place / configs.GENERATION
        kept = json_files.read_json(generation) if generation.exists() else {}
        json_files.write_json(generation, configs.generation(kept))
    return architecture


def _matching(expression: str | None) -> Callable[[str], Any]:
    try:
        return re.compile(".*" if expression is None else expression).fullmatch
    except re.error as error:
        raise UserError(f"--parameters {expression}: {error}") from error


def _local(folder: str) -> pathlib.Path:
    if "://" in folder:
        raise UserError(
            f"{folder}: Hugging Face's form is read and written on local disks alone; "
            "copy it"
        )
    return pathlib.Path(folder)


def _check_new(output: str) -> None:
    if epath.Path(output).exists():
        raise UserError(
            f"{output}: is there already, and is not written over; name another "
            "output, or remove it"
        )


@contextlib.contextmanager
def _new(output: str) -> Iterator[epath.Path]:
    """Yields a temporary folder that becomes the output if the block ends well."""
    with claims.lock(output), shards.atomic_path(output) as temporary:
        place = epath.Path(temporary)
        place.mkdir()
        yield place


def _carry(source: os.PathLike, target: epath.Path) -> None:
    """Copies what is beside the weights of a model folder, but no code."""
    target.mkdir(exist_ok=True)
    for path in sorted(pathlib.Path(source).iterdir()):
        index = path.name.endswith(".index.json")
        if path.is_file() and path.suffix in _BESIDE and not index:
            with path.open("rb") as read, (target / path.name).open("wb") as write:
                shutil.copyfileobj(read, write)


def _beside(path: epath.Path, like: str | None) -> pathlib.Path | None:
    """Returns the folder with what is beside the weights in Hugging Face's form."""
    there = pathlib.Path(like) if like else pathlib.Path(path.parent)
    for folder in (there / CARRIED, there):
        if (folder / configs.CONFIG).is_file():
            return folder
    if like:
        raise UserError(f"{like}: has no {configs.CONFIG}, nor a folder {CARRIED}")
    return None


def _turned(array: np.ndarray, parameter: names.Parameter) -> np.ndarray:
    """Returns a parameter in the other form, its values side by side."""
    return np.ascontiguousarray(array.T if parameter.transposed else array)


def _cast(array: np.ndarray, dtype: np.dtype, key: str) -> np.ndarray:
    """Returns a parameter in another type; float16 has no numbers above 65504."""
    with np.errstate(over="ignore"):
        made = array.astype(dtype, copy=False)
    if made is not array and np.isinf(made).any():
        raise UserError(
            f"{key} has numbers too large for {dtype}: name another --dtype"
        )
    return made


def _to_t5x(
    architecture: network.T5Config,
    config: Mapping[str, Any],
    weights: safetensors_files.Weights,
) -> tuple[network.T5Config, dict[str, t5x_files.Unread]]:
    """Returns the architecture, logits included, and the parameters, none of them read.

    Raises:
      UserError: a tensor is missing, unknown, or of another shape.
    """
    shared = _shared(config, weights)
    head = _head(config, weights, shared)
    architecture = dataclasses.replace(architecture, logits_via_embedding=head is None)
    sources = {names.SHARED: (shared, 1.0), names.HEAD: head or (shared, 1.0)}
    params = {}
    for parameter in names.parameters(architecture):
        key, factor = sources.get(parameter.key, (parameter.key, 1.0))
        _check(weights, key, parameter.hf_shape)
        params[parameter.name] = t5x_files.Unread(
            parameter.shape,
            weights.dtype(key),
            functools.partial(_read, weights, key, parameter, factor),
        )
    known = {p.key for p in names.parameters(architecture)}
    for key in weights:
        if key not in known | {shared, names.HEAD, *_ALIASES, _UNREAD}:
            raise UserError(
                f"{weights.file(key)}: has {key}, which a model of its "
                f"{configs.CONFIG} has not"
            )
    return architecture, params


def _check(weights: safetensors_files.Weights, key: str, shape: tuple) -> None:
    if key not in weights:
        raise UserError(
            f"{weights.folder}: has no {key}, which a model of its {configs.CONFIG} has"
        )
    if weights.shape(key) != shape:
        raise UserError(
            f"{weights.file(key)}: {key} has the shape {weights.shape(key)}, "
            f"{configs.CONFIG} says {shape}"
        )


def _read(
    weights: safetensors_files.Weights,
    key: str,
    parameter: names.Parameter,
    factor: float,
) -> np.ndarray:
    array = weights.read(key)
    if factor != 1.0:
        array *= np.asarray(factor, array.dtype)
    return _turned(array, parameter)


def _equal(weights: safetensors_files.Weights, one: str, other: str) -> bool:
    same = weights.shape(one) == weights.shape(other)
    return same and np.array_equal(weights.read(one), weights.read(other))


def _shared(config: Mapping[str, Any], weights: safetensors_files.Weights) -> str:
    """Returns the key of the embedding table; of equal tensors files may have one."""
    keys = [names.SHARED, *_ALIASES]
    if _ties(config):
        keys.append(names.HEAD)
    found = [key for key in keys if key in weights] or [names.SHARED]
    for key in found[1:]:
        if key != names.HEAD and not _equal(weights, found[0], key):
            raise UserError(
                f"{weights.file(key)}: {key} differs from {found[0]}, which T5s share; "
                "remove the one that is not meant"
            )
    return found[0]


def _ties(config: Mapping[str, Any]) -> bool:
    return config.get("tie_word_embeddings", True) is not False


def _head(
    config: Mapping[str, Any], weights: safetensors_files.Weights, shared: str
) -> tuple[str, float] | None:
    """Returns what makes the logits, and a factor; None if the embedding table does.

    T5X divides logits by √d_model where the table makes them. Transformers 4 does so
    where config.json ties the two. Version 5 writes `tie_word_embeddings: true`
    whatever is tied, ties only what is equal in the file, and divides as
    `scale_decoder_outputs` says; mT5's never, umT5's always.

    Raises:
      UserError: the versions of Transformers do not read the same.
    """
    ties, head = _ties(config), names.HEAD
    newer = int(str(config.get("transformers_version", "0")).partition(".")[0] or 0) > 4
    if not ties:
        _check(weights, head, (config["vocab_size"], config["d_model"]))
        return head, 1.0
    own = head in weights and head != shared and not _equal(weights, head, shared)
    kind, key = config["model_type"], "scale_decoder_outputs"
    scaled = True
    if kind == "t5" and key in config:
        scaled, newer = bool(config[key]), True
    elif newer:
        scaled = kind != "mt5"
    if own and not newer:
        raise UserError(
            f"{weights.file(head)}: {head} differs from {shared}, and "
            f"{configs.CONFIG} says that they are one (tie_word_embeddings); set it to "
            f"false if {head} is meant, or remove that"
        )
    if scaled and not own:
        return None
    return head if own else shared, config["d_model"] ** -0.5 if scaled else 1.0
