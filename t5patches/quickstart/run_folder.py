"""A run folder: what it was asked for, where things are in it, which stages are done.

    RUN/settings.json       what the run was asked for; other settings are refused
    RUN/STAGE.done.json     a stage that is done: its seconds and its findings
    RUN/corpus/             SPLIT.jsonl and vocabulary.model
    RUN/corpus/phrases.txt  what is unwanted, or
    RUN/tagger/             the tagger that finds it, by use case
    RUN/finetuned/          the model that the job starts from
    RUN/before/SPLIT/       its generations
    RUN/annotated/SPLIT/    the same with what is unwanted marked
    RUN/baselines/METHOD/   what a baseline is trained on, where it is something else
    RUN/updated/            the updated model
    RUN/after/test/         its generations
    RUN/exact/SPLIT/        those of the fine-tuned model without the phrases
    RUN/annotated_exact/    the same, for training: only where something was unwanted
    RUN/round2/             a further round: before/, annotated/, updated/, after/
    RUN/points/             several methods, see `sweep.py`
    RUN/results.json, report.html, report.png

A stage is marked as done when all of it is there, so a run that was killed goes on with
the stage it was in.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from t5patches.errors import UserError

SIZES = {"train": 12000, "validation": 400, "test": 500}
SPLITS = tuple(SIZES)
VOCABULARY_SIZE = 1000


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder and what it is asked for.

    Attributes:
      folder: the run folder, absolute.
      seed: of the corpus, the initial parameters and the order of the data.
      method: of the update, one of `job.METHODS`.
      use_case: of the made-up data, a key of `use_cases.MADE_UP`.
      data: a file of one's own data, or None for a made-up corpus.
      phrases: a phrase file; required with `data`.
      sizes: examples per split of the made-up corpus.
      pieces: of the vocabulary.
      macros: overrides of the gin files' macros by stage; 'shared' ones hold for every
        stage.
    """

    folder: str
    seed: int = 0
    method: str = "tnff"
    use_case: str = "comments"
    data: str | None = None
    phrases: str | None = None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=lambda: SIZES)
    pieces: int = VOCABULARY_SIZE
    macros: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def path(self, *parts: str) -> str:
        """Returns a path in the run folder."""
        return os.path.join(self.folder, *parts)

    @property
    def vocabulary_path(self) -> str:
        return self.path("corpus", "vocabulary.model")

    def corpus_files(self) -> dict[str, str]:
        """Returns split -> file of the corpus."""
        return {split: self.path("corpus", f"{split}.jsonl") for split in SPLITS}

    def predictions(self, when: str, split: str = "test") -> str:
        """Returns what names the generations of a split, in the folder `when`."""
        return self.path(when, split, "text-predict")

    def annotated(self, split: str) -> str:
        """Returns what names the annotated generations of a split."""
        return self.path("annotated", split, "annotated")

    def checkpoint(self, model: str) -> str:
        """Returns the last checkpoint of a model folder."""
        from t5patches.checkpoints import finding

        folder = self.path(model)
        steps = finding.steps(folder)
        if not steps:
            raise UserError(
                f"{folder}: no checkpoint in it, although the stage that makes it was "
                "done; remove the run folder and start again"
            )
        return os.path.join(folder, f"checkpoint_{steps[-1]}")
