"""What the quickstart's use cases have of their own: corpus, annotator, correction.

comments        made-up comments with rude words, found by a list of phrases; or
                one's own data with one's own list
hallucination   made-up news whose headlines name what the report does not, found
                by a tagger of names
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t5patches.annotate import Annotator, entities, phrases
from t5patches.interchange import shards
from t5patches.quickstart import comments, made_up, news, own_data
from t5patches.quickstart.made_up import Span, Splits
from t5patches.quickstart.run_folder import Run


@dataclasses.dataclass(frozen=True)
class UseCase:
    """A job of the quickstart.

    Attributes:
      name: as `--use-case` takes it.
      make: makes the corpus: split -> examples `{"inputs", "targets"}`.
      prepare: makes what the annotator needs; returns findings for the stage's record.
      annotator: returns what finds the unwanted spans of an output.
      annotate: the same in words of `t5patches annotate`.
      correct: returns an output with its unwanted spans corrected.
      options: `Run`'s options where they differ from the defaults.
      phrases: returns the file of phrases that are all that is unwanted; None where
        something else is.
    """

    name: str
    make: Callable[[Run], Splits]
    prepare: Callable[[Run], dict[str, Any]]
    annotator: Callable[[Run], Annotator]
    annotate: Callable[[Run], list[str]]
    correct: Callable[[str, Sequence[Span]], str]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    phrases: Callable[[Run], str] | None = None


def _phrases_path(run: Run) -> str:
    return run.path("corpus", "phrases.txt")


def _write_phrases(run: Run) -> dict[str, Any]:
    words = phrases.read_phrases(run.phrases) if run.data else comments.rude_phrases()
    with shards.atomic_write(_phrases_path(run)) as file:
        file.writelines(f"{word}\n" for word in words)
    return {"phrases": len(words)}


def _leave_out(text: str, spans: Sequence[Span]) -> str:
    return " ".join(made_up.replace_spans(text, spans, lambda *_: "").split())


_COMMENTS = UseCase(
    "comments",
    make=lambda run: comments.make(run.seed, run.sizes),
    prepare=_write_phrases,
    annotator=lambda run: phrases.load(_phrases_path(run)),
    annotate=lambda run: ["phrases", "--phrases", _phrases_path(run)],
    correct=comments.correct,
    options={
        "pieces": 1152,
        "macros": {
            "shared": {"TASK_FEATURE_LENGTHS": {"inputs": 24, "targets": 40}},
            # The test inputs' names are new, and so cut into more pieces.
            "generate": {"TASK_FEATURE_LENGTHS": {"inputs": 48, "targets": 40}},
            # The validation loss falls no further.
            "update": {"TRAIN_STEPS_RELATIVE": 400},
        },
    },
    phrases=_phrases_path,
)
_HALLUCINATION = UseCase(
    "hallucination",
    make=lambda run: news.make(run.seed, run.sizes),
    prepare=lambda run: {"tagger": news.train_tagger(run.path("tagger"), run.seed)},
    annotator=lambda run: entities.EntityAnnotator(run.path("tagger")),
    annotate=lambda run: ["entities", "--pipeline", run.path("tagger")],
    correct=news.correct,
    # Which names an organisation's headlines favour takes longer to learn.
    options={"macros": {"finetune": {"TRAIN_STEPS_RELATIVE": 1500}}},
)
MADE_UP = {use_case.name: use_case for use_case in (_COMMENTS, _HALLUCINATION)}

# Real text needs more pieces, longer features and more steps.
_LONGER = {"TRAIN_STEPS_RELATIVE": 2000, "EVAL_PERIOD": 500, "SAVE_PERIOD": 250}
_OWN_DATA = dataclasses.replace(
    _COMMENTS,
    name="own data",
    make=lambda run: own_data.read(run.data),
    correct=_leave_out,
    options={
        "pieces": 4096,
        "macros": {
            "shared": {"TASK_FEATURE_LENGTHS": {"inputs": 48, "targets": 48}},
            "finetune": _LONGER,
        },
    },
)


def find(name: str, data: str | None) -> UseCase:
    """Returns the use case of that name; with one's own data, theirs."""
    return _OWN_DATA if data else MADE_UP[name]
