"""A model in the form that it came in, to T5X's and back."""

from __future__ import annotations

import math
import os
import pathlib
import shutil
from typing import Any, NamedTuple

import seqio
from etils import epath

from t5patches import network
from t5patches.checkpoints import contents, finding
from t5patches.convert import configs, folders
from t5patches.errors import UserError
from t5patches.interchange import claims, records, shards
from t5patches.run import patches

CARD = "README.md"


class Model(NamedTuple):
    """A model as T5X's scripts take it.

    Attributes:
      checkpoint: its checkpoint.
      gin_file: in the place of a file of gin/models.
    """

    checkpoint: str
    gin_file: str


def form_of(path: str) -> str:
    """Returns the form of a model, 'hf' or 't5x'.

    Raises:
      UserError: it is none.
    """
    if "://" not in path and (pathlib.Path(path) / configs.CONFIG).is_file():
        return "hf"
    folder = finding.absolute(path)
    if finding.STEP.fullmatch(folder.name) or finding.steps(folder):
        return "t5x"
    what = "no such folder" if not folder.is_dir() else "is no model's folder"
    raise UserError(
        f"{path}: {what}; give one with {configs.CONFIG} and safetensors, or a T5X "
        "checkpoint"
    )


def digest(path: str) -> str:
    """Returns what tells a model from others, wherever it lies."""
    if form_of(path) == "t5x":
        return contents.content(finding.one_checkpoint(path))
    files = sorted(pathlib.Path(path).glob("*.safetensors"))
    return claims.file_digest([pathlib.Path(path) / configs.CONFIG, *files])


def check(path: str, vocabulary: str | None) -> None:
    """Checks that a model is there, and has a vocabulary or is given one.

    Raises:
      UserError: it is no model; the vocabulary is needed, or is not.
    """
    if form_of(path) == "hf":
        if vocabulary is not None:
            raise UserError(f"--vocabulary: {path} has its own tokenizer; leave it out")
        return
    contents.check_whole(finding.one_checkpoint(path))
    if vocabulary is not None:
        records.load_vocabulary(vocabulary)
    elif not _gin_beside(path).is_file():
        raise UserError(
            f"{path}: has no {folders.MODEL_GIN} beside it, so its SentencePiece model "
            "must be named: --vocabulary FILE"
        )


def prepare(path: str, folder: str, vocabulary: str | None = None) -> Model:
    """Returns a model as T5X's scripts take it, converted if need be.

    Args:
      path: of the model, checked.
      folder: for what has to be made.
      vocabulary: the SentencePiece model of a checkpoint with no model.gin beside it.

    Raises:
      UserError: it cannot be converted.
    """
    if form_of(path) == "hf":
        if not os.path.isdir(folder):
            folders.hf_to_t5x(path, folder)
        made = os.path.join(folder, "checkpoint_0")
        return Model(made, os.path.join(folder, folders.MODEL_GIN))
    checkpoint = finding.one_checkpoint(path)
    if vocabulary is None:
        return Model(checkpoint, os.fspath(_gin_beside(path)))
    architecture = configs.of_shapes(contents.shapes(checkpoint) or {}, path)
    gin_file = os.path.join(folder, folders.MODEL_GIN)
    with shards.atomic_write(gin_file) as file:
        file.write(configs.gin_file(architecture, os.path.abspath(vocabulary)))
    return Model(checkpoint, gin_file)


def check_partitions(checkpoint: str, partitions: int) -> network.T5Config:
    """Returns the architecture, if so many devices can share its parameters.

    Raises:
      UserError: they cannot.
    """
    found = configs.of_shapes(contents.shapes(checkpoint) or {}, checkpoint)
    # What T5X's rules split: other parameters are whole on every device.
    for name in ("num_heads", "mlp_dim", "vocab_size"):
        if (number := getattr(found, name)) % partitions:
            raise UserError(
                f"--partitions {partitions}: must divide the model's {name}, {number}"
            )
    return found


def size(checkpoint: str) -> int:
    """Returns how many parameters a checkpoint has."""
    return sum(map(math.prod, (contents.shapes(checkpoint) or {}).values()))


def export(
    form: str,
    updated: str,
    original: Model,
    output: str,
    vocabulary: Any,
    section: str = "",
) -> None:
    """Writes an updated model with all that serves it.

    Args:
      form: 'hf' or 't5x'.
      updated: its checkpoint.
      original: the model that it was, beside which tokenizer and settings may be.
      output: the folder that it will be in; it is made in `run/exported` of that, and
        then moved, what makes it a model last.
      vocabulary: SeqIO's, of the model.
      section: appended to its model card, README.md.
    """
    place = pathlib.Path(output, "run", "exported")
    shutil.rmtree(place, ignore_errors=True)  # Of a command that was stopped.
    pieces = getattr(vocabulary, "sentencepiece_model_file", None)
    beside = finding.model_folder(original.checkpoint)
    carried = beside / folders.CARRIED
    if form == "hf":
        like = any((part / configs.CONFIG).is_file() for part in (carried, beside))
        named = os.fspath(beside) if like else None
        folders.t5x_to_hf(updated, os.fspath(place), named, pieces)
        last = configs.CONFIG
    else:
        last = os.path.basename(updated)
        shutil.copytree(updated, place / last)
        gin = pathlib.Path(original.gin_file).read_text()
        if isinstance(vocabulary, seqio.SentencePieceVocabulary):
            shutil.copyfile(
                vocabulary.sentencepiece_model_file, place / folders.VOCABULARY
            )
            file = os.path.join(os.path.abspath(output), folders.VOCABULARY)
            gin += f"\nVOCABULARY_PATH = {file!r}\n"
        (place / folders.MODEL_GIN).write_text(gin)
        if carried.is_dir():
            shutil.copytree(carried, place / folders.CARRIED)
        chain = finding.model_folder(updated) / patches.RECORD
        if chain.is_file():
            shutil.copyfile(chain, place / patches.RECORD)
        if (beside / CARD).is_file():
            shutil.copyfile(beside / CARD, place / CARD)
    (place / "results.json").unlink(missing_ok=True)  # Of a patch before this one.
    card = place / CARD
    before = card.read_text() if card.is_file() else ""
    if section:
        card.write_text(f"{before.rstrip()}\n\n{section}".lstrip())
    for name in sorted(os.listdir(place), key=lambda name: (name == last, name)):
        target = pathlib.Path(output, name)
        if target.is_dir():  # Of a command that was stopped.
            shutil.rmtree(target)
        os.replace(place / name, target)
    place.rmdir()


def _gin_beside(path: str) -> epath.Path:
    return finding.model_folder(finding.one_checkpoint(path)) / folders.MODEL_GIN
