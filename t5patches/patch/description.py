"""What a model folder or a checkpoint is, for `t5patches info`."""

from __future__ import annotations

import collections
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from t5patches import network
from t5patches.checkpoints import contents, finding
from t5patches.convert import configs, safetensors_files, t5x_files
from t5patches.patch import model
from t5patches.run import patches

_FORMS = {"hf": "Hugging Face's", "t5x": "T5X's"}


def describe(path: str) -> Iterator[str]:
    """Yields lines: form, architecture, parameters, types, step, updates, and the tree.

    Args:
      path: a folder in Hugging Face's form, a T5X checkpoint, or a folder of them, of
        which it is the latest.

    Raises:
      UserError: it is none of these, is damaged, or is of no T5.
    """
    form = model.form_of(path)
    said: dict[str, Any] = {"form": _FORMS[form]}
    if form == "hf":
        folder = pathlib.Path(path)
        config = configs.read(folder)
        with safetensors_files.Weights(folder) as weights:
            tree = {
                name: (weights.shape(name), weights.dtype(name)) for name in weights
            }
        said["kind"] = config["model_type"]
        said |= _architecture(configs.architecture(config, folder))
    else:
        checkpoint = finding.one_checkpoint(path)
        contents.check_whole(checkpoint)
        arrays = t5x_files.Parameters(checkpoint).arrays
        tree = {name: (tuple(a.shape), a.dtype) for name, a in arrays.items()}
        shapes = {name: shape for name, (shape, _) in tree.items()}
        said |= {"checkpoint": checkpoint, "step": finding.step_of(checkpoint)}
        said |= _architecture(configs.of_shapes(shapes, path))
        said |= _chain(patches.of_checkpoint(checkpoint))
    count = sum(math.prod(shape) for shape, _ in tree.values())
    types = collections.Counter(str(dtype) for _, dtype in tree.values())
    said |= {"parameters": f"{count:,}", "types": ", ".join(types)}
    width = max(map(len, said))
    for name, value in said.items():
        yield f"{name:{width}}  {value}"
    yield ""
    width = max(map(len, tree))
    for name, (shape, dtype) in sorted(tree.items()):
        yield f"{name:{width}}  {'×'.join(map(str, shape))}  {dtype}"


def _architecture(found: network.T5Config) -> dict[str, Any]:
    layers = f"{found.num_encoder_layers} + {found.num_decoder_layers}"
    tied = "the embedding's" if found.logits_via_embedding else "of their own"
    return {
        "layers": f"{layers} (encoder + decoder)",
        "width": f"{found.emb_dim}, feed-forward {found.mlp_dim}",
        "heads": f"{found.num_heads} of {found.head_dim}",
        "activations": ", ".join(found.mlp_activations),
        "vocabulary": f"{found.vocab_size:,} rows; logits {tied}",
    }


def _chain(chain: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the updates that made a model, the first first."""
    found = {}
    if chain["updates"]:
        found["original"] = chain["original"].get("checkpoint", "not on record")
    for number, update in enumerate(chain["updates"], start=1):
        names = ("method", "alpha", "learning_rate")
        settings = (f"{name} {update[name]}" for name in names if update.get(name))
        found[f"update {number}"] = ", ".join(settings)
    return found
