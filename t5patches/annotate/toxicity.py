"""The toxicity annotator: what a trained tagger marks (`t5patches tagger train`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from t5patches.annotate import spacy_pipelines
from t5patches.annotate.alignment import Span
from t5patches.errors import UserError
from t5patches.interchange import json_files, shards

# Raised by one whenever the same tagger comes to mark other words.
RULES = 1
# What `t5patches tagger train` writes beside the pipeline.
RECORD = "evaluation.json"


class ToxicityAnnotator(spacy_pipelines.SpacyAnnotator):
    """Marks the spans of a tagger, whatever the input; the label is the tagger's."""

    def __init__(
        self, tagger: shards.PathLike, batch_size: int = spacy_pipelines.BATCH_SIZE
    ):
        """Takes a tagger.

        Args:
          tagger: the folder that `t5patches tagger train` wrote.
          batch_size: texts that go through the pipeline together.

        Raises:
          UserError: the folder is missing, does not load, or is another pipeline.
        """
        super().__init__(tagger, load_tagger(tagger), batch_size)

    @property
    def settings(self) -> dict[str, Any]:
        """What tells this tagger from others."""
        tagger = spacy_pipelines.digest(self.nlp)
        return {"annotator": "toxicity", "tagger": tagger, "rules": RULES}

    def pipe(self, pairs: Iterable[tuple[str, str]]) -> Iterator[list[Span]]:
        """Yields the unwanted spans of each (text, inputs); inputs do not matter."""
        texts = (text for text, _ in pairs)
        for doc in self.nlp.pipe(texts, batch_size=self.batch_size):
            yield [(span.start_char, span.end_char, span.label_) for span in doc.ents]

    def __reduce__(self):
        return ToxicityAnnotator, (self.source, self.batch_size)


def load_tagger(folder: shards.PathLike) -> Any:
    """Returns the spaCy pipeline that `t5patches tagger train` wrote, by its folder.

    Raises:
      UserError: there is none, it is of an earlier version, or its files were changed.
    """
    wanted = read_evaluation(folder)["pipeline"]
    nlp = spacy_pipelines.load(folder)
    if wanted != spacy_pipelines.digest(nlp):
        raise UserError(
            f"{folder}: its files are not as `t5patches tagger train` wrote them; "
            "train it again"
        )
    return nlp


def read_evaluation(folder: shards.PathLike) -> shards.Row:
    """Returns what `t5patches tagger train` wrote of the tagger in a folder.

    Raises:
      UserError: there is none, or it is of an earlier version.
    """
    remedy = (
        "give a folder that `t5patches tagger train` wrote; if an earlier version did, "
        "train again"
    )
    path = os.path.join(folder, RECORD)
    return json_files.read_record(path, {"pipeline": str}, remedy)
