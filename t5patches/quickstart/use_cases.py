"""What the quickstart's use cases have of their own: corpus, annotator, correction.

    comments        made-up comments with rude words, found by a list of phrases; or
                    one's own data with one's own list
    hallucination   made-up news whose headlines name what the report does not, found
                    by a tagger of names

A use case also says with which of the run's options it differs from the defaults.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from t5patches.interchange import shards
from t5patches.quickstart import corpus, names, news, own_data

if TYPE_CHECKING:
    from t5patches.quickstart.pipeline import Run

Splits = dict[str, list[dict[str, str]]]
Span = tuple[int, int, str]
Annotator = Callable[[str, str], list[Span]]


class UseCase(abc.ABC):
    """A job of the quickstart.

    Attributes:
      name: as `--use-case` takes it.
      what: what is unwanted, for the reader.
      options: `Run`'s options where they differ from the defaults.
    """

    name: str
    what: str
    options: Mapping[str, Any] = {}

    @abc.abstractmethod
    def make(self, run: Run) -> Splits:
        """The corpus: split -> examples `{"inputs", "targets"}`."""

    @abc.abstractmethod
    def prepare(self, run: Run) -> dict[str, Any]:
        """Makes what the annotator needs; returns findings for the stage's record."""

    @abc.abstractmethod
    def annotator(self, run: Run) -> Annotator:
        """The annotator."""

    @abc.abstractmethod
    def correct(self, run: Run, text: str, spans: Sequence[Span]) -> str:
        """An output with its unwanted spans corrected."""


class Comments(UseCase):
    """Comments, some of them rude."""

    name = "comments"
    what = "rude words"

    def make(self, run: Run) -> Splits:
        return corpus.make(run.seed, dict(run.sizes))

    def prepare(self, run: Run) -> dict[str, Any]:
        words = self._phrases(run)
        with shards.atomic_write(run.phrases_path) as file:
            file.writelines(f"{word}\n" for word in words)
        return {"phrases": len(words)}

    def _phrases(self, run: Run) -> list[str]:
        return corpus.rude_words()

    def annotator(self, run: Run) -> Annotator:
        from t5patches.annotate import phrases

        return phrases.load(run.phrases_path)

    def correct(self, run: Run, text: str, spans: Sequence[Span]) -> str:
        return corpus.correct(text, spans)


class OwnData(Comments):
    """One's own texts and phrases. A correction leaves the phrases out."""

    name = "own data"
    what = "your phrases"
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
        from t5patches.annotate import phrases

        return phrases.read_phrases(run.phrases)

    def correct(self, run: Run, text: str, spans: Sequence[Span]) -> str:
        for start, end, _ in sorted(spans, reverse=True):
            text = text[:start] + text[end:]
        return " ".join(text.split())


class Hallucination(UseCase):
    """News headlines that name what the report does not."""

    name = "hallucination"
    what = "names that the report does not have"
    # Which names an organisation's headlines favour takes longer to learn.
    options = {"macros": {"finetune": {"TRAIN_STEPS_RELATIVE": 1500}}}

    def make(self, run: Run) -> Splits:
        return news.make(run.seed, dict(run.sizes))

    def prepare(self, run: Run) -> dict[str, Any]:
        return {"tagger": names.train(run.path("tagger"), run.seed)}

    def annotator(self, run: Run) -> Annotator:
        from t5patches.annotate import entities

        return entities.EntityAnnotator(run.path("tagger"))

    def correct(self, run: Run, text: str, spans: Sequence[Span]) -> str:
        return news.correct(text, spans)


MADE_UP: dict[str, UseCase] = {
    use_case.name: use_case for use_case in (Comments(), Hallucination())
}
_OWN_DATA = OwnData()


def find(name: str, data: str | None) -> UseCase:
    """The use case of a name, a key of MADE_UP; with a file of one's own data, that."""
    return _OWN_DATA if data else MADE_UP[name]
