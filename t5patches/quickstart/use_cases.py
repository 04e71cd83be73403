"""What the quickstart's use cases have of their own: corpus, annotator, correction.

comments        made-up comments with rude words, found by a list of phrases; or
                one's own data with one's own list
hallucination   made-up news whose headlines name what the report does not, found
                by a tagger of names
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

from t5patches.annotate import Annotator, entities, phrases
from t5patches.interchange import shards
from t5patches.quickstart import comments, made_up, news, own_data
from t5patches.quickstart.made_up import Span, Splits
from t5patches.quickstart.run_folder import Run


class UseCase(abc.ABC):
    """A job of the quickstart.

    Attributes:
      name: as `--use-case` takes it.
      options: `Run`'s options where they differ from the defaults.
    """

    name: str
    options: Mapping[str, Any] = {}

    @abc.abstractmethod
    def make(self, run: Run) -> Splits:
        """Returns the corpus: split -> examples `{"inputs", "targets"}`."""

    @abc.abstractmethod
    def prepare(self, run: Run) -> dict[str, Any]:
        """Makes what the annotator needs; returns findings for the stage's record."""

    @abc.abstractmethod
    def annotator(self, run: Run) -> Annotator:
        """Returns what finds the unwanted spans of an output."""

    @abc.abstractmethod
    def correct(self, text: str, spans: Sequence[Span]) -> str:
        """Returns an output with its unwanted spans corrected."""


class Comments(UseCase):
    """Comments, some of them rude."""

    name = "comments"

    def make(self, run: Run) -> Splits:
        return comments.make(run.seed, run.sizes)

    def prepare(self, run: Run) -> dict[str, Any]:
        words = self._phrases(run)
        with shards.atomic_write(run.phrases_path) as file:
            file.writelines(f"{word}\n" for word in words)
        return {"phrases": len(words)}

    def _phrases(self, run: Run) -> list[str]:
        return comments.rude_words()

    def annotator(self, run: Run) -> Annotator:
        return phrases.load(run.phrases_path)

    def correct(self, text: str, spans: Sequence[Span]) -> str:
        return comments.correct(text, spans)


class OwnData(Comments):
    """One's own texts and phrases. A correction leaves the phrases out."""

    name = "own data"
    # Real text needs more pieces, longer features and more steps.
    options = {
        "pieces": 4096,
        "macros": {
            "shared": {"TASK_FEATURE_LENGTHS": {"inputs": 48, "targets": 48}},
            "finetune": {
                "TRAIN_STEPS_RELATIVE": 2000,
                "EVAL_PERIOD": 500,
                "SAVE_PERIOD": 250,
            },
        },
    }

    def make(self, run: Run) -> Splits:
        return own_data.read(run.data)

    def _phrases(self, run: Run) -> list[str]:
        return phrases.read_phrases(run.phrases)

    def correct(self, text: str, spans: Sequence[Span]) -> str:
        return " ".join(made_up.replace_spans(text, spans, lambda *_: "").split())


class Hallucination(UseCase):
    """News headlines that name what the report does not."""

    name = "hallucination"
    # Which names an organisation's headlines favour takes longer to learn.
    options = {"macros": {"finetune": {"TRAIN_STEPS_RELATIVE": 1500}}}

    def make(self, run: Run) -> Splits:
        return news.make(run.seed, run.sizes)

    def prepare(self, run: Run) -> dict[str, Any]:
        return {"tagger": news.train_tagger(run.path("tagger"), run.seed)}

    def annotator(self, run: Run) -> Annotator:
        return entities.EntityAnnotator(run.path("tagger"))

    def correct(self, text: str, spans: Sequence[Span]) -> str:
        return news.correct(text, spans)


MADE_UP: dict[str, UseCase] = {
    use_case.name: use_case for use_case in (Comments(), Hallucination())
}
_OWN_DATA = OwnData()


def find(name: str, data: str | None) -> UseCase:
    """Returns the use case of that name; with one's own data, theirs."""
    return _OWN_DATA if data else MADE_UP[name]
