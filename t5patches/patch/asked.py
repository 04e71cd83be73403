"""What a patch is asked for, checked, and what is said before anything takes long."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

from t5patches.annotate import Annotator
from t5patches.annotate.annotator import settings_of
from t5patches.errors import UserError
from t5patches.interchange import claims
from t5patches.patch import inputs as texts
from t5patches.patch import model
from t5patches.run.stages import Record


@dataclasses.dataclass(frozen=True)
class Patch:
    """What is asked for.

    Attributes:
      model: a folder in Hugging Face's form, or a T5X checkpoint.
      output: the folder that becomes the patched model.
      annotator: finds what is unwanted; None where `annotated` says all.
      words: the same as `t5patches annotate` takes it.
      inputs: a file of texts.
      annotated: a file of the model's outputs in which what is unwanted is marked, in
        the place of `inputs`.
      phrases: the file of phrases, if these are what is unwanted.
      inputs_key: the column of the texts.
      vocabulary: of a T5X checkpoint with no model.gin.
      to: the form of the result, 'hf' or 't5x'; None for that of the model.
      method: one of `losses.METHODS`.
      steps: of the update.
      learning_rate: None for the method's.
      alpha: None for the method's.
      batch_size: examples in a batch.
      targets_length: of outputs, in pieces, at most.
      search: whether learning rate and alpha are those of the best of short updates.
      partitions: devices that share each parameter.
      seed: of the order of the data.
    """

    model: str
    output: str
    annotator: Annotator | None = None
    words: str = ""
    inputs: str | None = None
    annotated: str | None = None
    phrases: str | None = None
    inputs_key: str | None = None
    vocabulary: str | None = None
    to: str | None = None
    method: str = "tnff"
    steps: int = 1000
    learning_rate: float | None = None
    alpha: float | None = None
    batch_size: int = 32
    targets_length: int = 128
    search: bool = False
    partitions: int = 1
    seed: int = 0

    def path(self, *parts: str) -> str:
        """Returns a path in the run's folder."""
        return os.path.join(os.path.abspath(self.output), "run", *parts)

    def predictions(self, when: str, split: str = "test") -> str:
        """Returns what names the generations of a split."""
        return self.path(when, split, "text-predict")

    @property
    def whole(self) -> bool:
        """Whether all is known that is unwanted: rows of one table are trained then."""
        return not self.annotated and hasattr(self.annotator, "unwanted_sets")

    def settings(self) -> dict[str, Any]:
        """Returns what decides the result, for the folder's claim."""
        names = ("inputs_key", "to", "method", "steps", "learning_rate", "alpha")
        names += ("batch_size", "targets_length", "seed", "search")
        files = ("inputs", "annotated", "vocabulary")
        paths = {name: getattr(self, name) for name in files}
        return {
            "step": "patch",
            "model": model.digest(self.model),
            **{name: p and claims.file_digest(p) for name, p in paths.items()},
            **({"annotator": settings_of(self.annotator)} if self.annotator else {}),
            **{name: getattr(self, name) for name in names},
        }


def check(patch: Patch) -> texts.Rows:
    """Returns the texts, or says what is wrong, before anything is made.

    Raises:
      UserError: the model, the folder or the texts are not what they should be.
    """
    model.check(patch.model, patch.vocabulary)
    if "://" in patch.output:
        raise UserError(f"--output {patch.output}: name a folder on a local disk")
    output, source = (os.path.realpath(p) for p in (patch.output, patch.model))
    if output == source:
        raise UserError(f"--output {patch.output}: is the model; name another folder")
    begun = os.path.isdir(patch.path())
    if os.path.isdir(output) and os.listdir(output) and not begun:
        raise UserError(
            f"{patch.output}: has something else in it; name another folder, or remove "
            "this one"
        )
    if patch.annotated:
        return texts.read_marked(patch.annotated)
    assert patch.inputs is not None
    return texts.read(patch.inputs, patch.inputs_key)


def memory(parameters: int, rows: int, tokens: int) -> int:
    """Returns about how many bytes an update takes, without its activations.

    Parameters, gradients and the frozen parameters are float32; Adafactor's factored
    moments are small beside them. Of the logits there are those of both models and a
    gradient.

    Args:
      parameters: how many the model has.
      rows: of its output layer.
      tokens: of the outputs of a batch.
    """
    return 4 * (3 * parameters + 3 * rows * tokens)


def introduction(
    patch: Patch, done: Mapping[str, Record], minutes: tuple[float, float]
) -> str:
    """Returns what is said before anything takes long, and how long that is."""
    found, examples = done["model"], done["inputs"]["examples"]
    tokens = patch.batch_size * patch.targets_length
    need = memory(found["parameters"], found["rows"], tokens)
    said = f"{need / 1e9:.1f} GB" if need >= 1e9 else f"{need / 1e6:.0f} MB"
    counts = ", ".join(f"{count:,} {split}" for split, count in examples.items())
    longest, length = found["longest_inputs"], found["inputs_length"]
    cut = f", cut to {length:,}" if longest > length else ""
    parts = "the output layer's rows of what is unwanted" if patch.whole else "all"
    hours = minutes[1] >= 120
    times = (math.ceil(each / (60 if hours else 1)) for each in minutes)
    time = f"{' to '.join(map(str, times))} {'hours' if hours else 'minutes'}"
    first = ", after shorter ones that are tried" if patch.search else ""
    return (
        f"  {patch.model}: {found['parameters']:,} parameters; trained are {parts}\n"
        f"  {sum(examples.values()):,} texts ({counts}), of up to "
        f"{longest:,} pieces{cut}\n"
        f"  {patch.steps:,} steps of {patch.batch_size} with "
        f"{patch.method.upper()}{first}; the update takes about {said} and its "
        f"activations. All takes about {time} on this machine; stopped, it goes on "
        "when the command is typed again"
    )
