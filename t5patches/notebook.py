"""A model's update in Python: load, generate, annotate, update, evaluate.

What the commands do, by the same code and gin files, for those who have texts and
parameters at hand rather than files. What is written on the way lies in temporary
folders, which go with the objects that need them; gin's configuration is afterwards as
it was before.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from t5patches import evaluate as evaluation
from t5patches import losses
from t5patches.annotate import Annotator, annotate_files
from t5patches.checkpoints import finding
from t5patches.convert import configs, t5x_files
from t5patches.errors import UserError
from t5patches.interchange import json_files, records, shards, unwanted_sets
from t5patches.interchange.records import Prediction
from t5patches.patch import commands
from t5patches.patch import model as models
from t5patches.run.stages import quiet
from t5patches.sweep.plan import Command

PyTree = Any
_TEMPORARY = "t5patches-notebook-"


def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=_TEMPORARY)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model: `load` makes one, `update` another.

    Attributes:
      params: its parameters, jax.Array in nested dicts as T5X has them;
        `dataclasses.replace(model, params=…)` is the model with others.
      vocabulary: SeqIO's, of inputs and outputs.
      loaded: the model in T5X's form that it was read from, or is an update of.
      form: 'hf' or 't5x', what that came in.
      saved: the checkpoint of the parameters that it was read with, and these.
    """

    params: PyTree
    vocabulary: Any
    loaded: models.Model
    form: str
    saved: tuple[str, dict[str, weakref.ref]] = dataclasses.field(repr=False)
    _kept: tuple[Any, ...] = dataclasses.field(default=(), repr=False)

    def save(self, folder: str, form: str | None = None) -> None:
        """Writes the model with all that serves it, as `t5patches patch` does.

        Args:
          folder: local, not there yet.
          form: 'hf' or 't5x'; None for the one that the model came in.

        Raises:
          UserError: the folder is there.
        """
        if os.path.exists(folder):
            raise UserError(f"{folder}: is there already; name another")
        with _temporary() as place:
            checkpoint = _checkpoint(self, place)
            given = (self.loaded, folder, self.vocabulary)
            models.export(form or self.form, checkpoint, *given)
        os.rmdir(os.path.join(folder, "run"))


@dataclasses.dataclass(frozen=True)
class Marked:
    """Generations in which what is unwanted is marked: what an update learns from.

    Attributes:
      rows: the annotated predictions (README, *Files between the steps*).
      share_with_unwanted: the share of them with something unwanted.
      whole: whether all is known that is unwanted, whether it was said or not.
      files: what names their files.
    """

    rows: Sequence[records.AnnotatedPrediction]
    share_with_unwanted: float
    whole: bool
    files: str
    _kept: Any = dataclasses.field(repr=False)


def load(path: str, vocabulary: str | None = None) -> Model:
    """Reads a model.

    Args:
      path: a folder in Hugging Face's form, or a T5X checkpoint.
      vocabulary: the SentencePiece model of a checkpoint with no model.gin beside it.

    Raises:
      UserError: it is no model, or not one that is whole.
    """
    models.check(path, vocabulary)
    folder = _temporary()
    made = models.prepare(path, os.path.join(folder.name, "model"), vocabulary)
    pieces = commands.vocabulary(made.gin_file)
    return _read(made.checkpoint, pieces, made, models.form_of(path), folder)


def _read(checkpoint: str, vocabulary: Any, loaded, form: str, *kept: Any) -> Model:
    stored = t5x_files.Parameters(checkpoint)
    found = {name: jnp.asarray(array) for name, array in stored.read(stored.arrays)}
    params = traverse_util.unflatten_dict(found, sep="/")
    saved = checkpoint, {name: weakref.ref(x) for name, x in found.items()}
    return Model(params, vocabulary, loaded, form, saved, kept)


def _checkpoint(model: Model, folder: str) -> str:
    """Returns a checkpoint with a model's parameters, written if there is none."""
    path, saved = model.saved
    flat = traverse_util.flatten_dict(model.params, sep="/")
    if all(flat.get(name) is array() for name, array in saved.items()):
        return path
    shapes = {name: array.shape for name, array in flat.items()}
    arrays = {
        name: t5x_files.Unread(x.shape, x.dtype, lambda x=x: jax.device_get(x))
        for name, x in flat.items()
    }
    t5x_files.write(folder, configs.of_shapes(shapes, "params"), arrays)
    return os.path.join(folder, "checkpoint_0")


def generate(
    model: Model,
    texts: Sequence[str],
    *,
    max_length: int = 128,
    batch_size: int = 32,
    forbid: Sequence[str] = (),
    gin_files: Sequence[str] = (),
    **macros: Any,
) -> list[Prediction]:
    """Generates for texts, greedily.

    Args:
      model: what says something.
      texts: its inputs.
      max_length: of outputs, in pieces, EOS included.
      batch_size: texts in a batch.
      forbid: phrases that are not to be said: of the model before an update that is the
        exact update.
      gin_files: more of them, such as 'runs/generate_beam.gin'.
      **macros: of the gin files, such as TEMPERATURE.

    Returns:
      A prediction for each text, in their order; its `id` is the text's number.

    Raises:
      UserError: one is no text.
    """
    for number, text in enumerate([texts] if isinstance(texts, str) else texts):
        if isinstance(texts, str) or not isinstance(text, str):
            raise UserError(f"texts: give a list of texts; number {number} is {text!r}")
    with _temporary() as folder, quiet():
        inputs, rows = os.path.join(folder, "inputs.jsonl"), enumerate(texts)
        count = json_files.write_jsonl(
            inputs, ({"id": str(number), "inputs": text} for number, text in rows)
        )
        if not count:
            return []
        if forbid:
            macros["FORBID"] = os.path.join(folder, "forbidden.txt")
            with shards.atomic_write(macros["FORBID"]) as file:
                file.writelines(f"{phrase}\n" for phrase in forbid)
        shared = _shared(model, texts, max_length, batch_size)
        command = commands.generate(shared, {"test": inputs}).plus(
            gin_files,
            CHECKPOINT_PATH=_checkpoint(model, folder),
            INFER_OUTPUT_DIR=os.path.join(folder, "said"),
            **macros,
        )
        command.run("infer", "generate")
        said = records.read_predictions(os.path.join(folder, "said", "text-predict"))
        return sorted(said, key=lambda row: int(row["id"]))


def _shared(
    model: Model, texts: Iterable[str], max_length: int, batch_size: int
) -> Command:
    longest = commands.longest(model.vocabulary, texts)
    return commands.model(model.loaded.gin_file, longest, max_length, batch_size)


def annotate(
    model: Model, predictions: Sequence[Prediction], annotator: Annotator
) -> Marked:
    """Marks what is unwanted in generations.

    Args:
      model: what generated them.
      predictions: of `generate`.
      annotator: `annotator(text, inputs)`, or with a third parameter `row`, returns
        spans (start, end, label) of characters of a prediction's text. Those of
        `t5patches.annotate` that know all that is unwanted, such as `PhraseAnnotator`,
        give the whole sets, too.

    Raises:
      UserError: a span is none of the text; an id occurs twice.
    """
    kept = _temporary()
    with _temporary() as folder, quiet("error"):
        said = os.path.join(folder, "text-predict-00000-of-00001.jsonl")
        json_files.write_jsonl(said, predictions)
        settings = None if hasattr(annotator, "settings") else {"function": "own"}
        stats = annotate_files(
            said, annotator, kept.name, model.vocabulary, settings=settings
        )
    files = os.path.join(kept.name, "annotated")
    whole = os.path.exists(os.path.join(kept.name, unwanted_sets.FILE))
    rows = [*records.read_annotated(files)]
    return Marked(rows, stats["share_with_unwanted"], whole, files, kept)


def update(
    model: Model,
    train: Sequence[Marked],
    validation: Sequence[Marked],
    *,
    method: str = "tnff",
    steps: int = 1000,
    learning_rate: float | None = None,
    alpha: float | None = None,
    batch_size: int = 32,
    seed: int = 0,
    gin_files: Sequence[str] = (),
    **macros: Any,
) -> Model:
    """Updates a model so that it no longer says what is marked.

    Args:
      model: the model; it stays as it is.
      train: marked generations of it, and of it with phrases forbidden.
      validation: others; of five checkpoints that with the lowest loss on them is
        taken.
      method: one of `losses.METHODS`.
      steps: of the update.
      learning_rate: None for 0.04 where all is known that is unwanted (then only the
        output layer's rows of these tokens are trained), else 0.0001.
      alpha: the weight of what is unwanted; None for the method's.
      batch_size: examples in a batch.
      seed: of the order of the data.
      gin_files: more of them.
      **macros: of the gin files, such as DROPOUT_RATE.

    Raises:
      UserError: nothing is marked; there is no such method; a loss became NaN or
        infinite.
    """
    if method not in losses.METHODS:
        raise UserError(f"method {method!r}: there is {', '.join(losses.METHODS)}")
    for name, side in (("train", train), ("validation", validation)):
        if isinstance(side, Marked) or not any(marked.rows for marked in side):
            raise UserError(f"{name}: give a list of what `annotate` returned")
    rows = [row for marked in (*train, *validation) for row in marked.rows]
    if not any(marked.share_with_unwanted for marked in train):
        raise UserError("nothing is marked: there is nothing to update")
    sides = {"train": train, "validation": validation}
    longest = max(len(row["target_tokens"]) for row in rows)
    kept = _temporary()
    updated = os.path.join(kept.name, "updated")
    with _temporary() as folder, quiet():
        shared = _shared(model, (r["inputs"] for r in rows), longest, batch_size)
        command = commands.update(
            shared,
            method,
            all(marked.whole for marked in train),
            {split: [one.files for one in side] for split, side in sides.items()},
            sum(len(marked.rows) for marked in validation),
            steps,
            seed,
        )
        command.plus(
            gin_files,
            INITIAL_CHECKPOINT_PATH=_checkpoint(model, folder),
            FROZEN_CACHE=os.path.join(folder, "frozen_states"),
            MODEL_DIR=updated,
            **commands.settings(alpha, learning_rate),
            **macros,
        ).run("train", "update")
    best = finding.choose_checkpoint(updated, "best")
    return _read(best, model.vocabulary, model.loaded, model.form, kept, *model._kept)


def evaluate(
    before: Sequence[Prediction],
    after: Sequence[Prediction],
    annotator: Annotator,
    **options: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compares new generations with old ones for the same texts.

    Args:
      before: of the model before the update.
      after: of the updated model.
      annotator: finds what is unwanted.
      **options: of `t5patches.evaluate.evaluate_files`.

    Returns:
      The results, as in `results.json` (docs/evidence.md), and every example.
    """
    with _temporary() as folder:
        paths = []
        for name, said in (("before", before), ("after", after)):
            paths.append(os.path.join(folder, f"{name}.jsonl"))
            json_files.write_jsonl(paths[-1], said)
        results, examples = evaluation.evaluate_files(*paths, annotator, **options)
        return results, [*examples]
