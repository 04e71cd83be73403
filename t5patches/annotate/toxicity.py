"""The toxicity annotator: what a trained tagger marks (`t5patches tagger train`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from t5patches.annotate import spacy_pipelines
from t5patches.annotate.alignment import Span
from t5patches.errors import UserError
from t5patches.interchange import json_files, shards

# Raised by one whenever the same probabilities come to mark other words.
RULES = 1
# A word is marked if it is likelier unwanted than not. The threshold that training
# chose is the best for posts like those it was trained on; where nearly all of these
# have something unwanted, it finds something in nearly every text.
THRESHOLD = 0.5


class ToxicityAnnotator(spacy_pipelines.SpacyAnnotator):
    """Marks the spans of a tagger, whatever the input; the label is the tagger's."""

    def __init__(
        self,
        tagger: shards.PathLike,
        threshold: float = THRESHOLD,
        batch_size: int = spacy_pipelines.BATCH_SIZE,
    ):
        """Takes a tagger.

        Args:
          tagger: the folder that `t5patches tagger train` wrote.
          threshold: probability from which a token is unwanted, in place of the
            trained one.
          batch_size: texts that go through the pipeline together.

        Raises:
          UserError: the folder is missing, does not load, or is another pipeline; or
            `threshold` is no probability.
        """
        from t5patches.annotate.tagger import component

        if not 0 <= threshold <= 1:
            raise UserError(f"threshold {threshold} is not between 0 and 1")
        super().__init__(tagger, load_tagger(tagger), batch_size)
        cfg = self.nlp.get_pipe(component.FACTORY).cfg
        cfg["threshold"] = self.threshold = threshold
        self._label = cfg["label"]

    @property
    def settings(self) -> dict[str, Any]:
        """What tells this tagger and threshold from others."""
        return {
            "annotator": "toxicity",
            "tagger": spacy_pipelines.digest(self.nlp),
            "threshold": self.threshold,
            "rules": RULES,
        }

    def pipe(self, pairs: Iterable[tuple[str, str]]) -> Iterator[list[Span]]:
        """Yields the unwanted spans of each (text, inputs); inputs do not matter."""
        texts = (text for text, _ in pairs)
        for doc in self.nlp.pipe(texts, batch_size=self.batch_size):
            yield [
                (span.start_char, span.end_char, span.label_)
                for span in doc.spans[self._label]
            ]

    def __reduce__(self):
        return ToxicityAnnotator, (self.source, self.threshold, self.batch_size)


def load_tagger(folder: shards.PathLike) -> Any:
    """Returns the spaCy pipeline that `t5patches tagger train` wrote, by its folder.

    Raises:
      UserError: there is none, it has no span tagger, or its files were changed.
    """
    from t5patches.annotate.tagger import component

    advice = "give the folder that `t5patches tagger train` wrote"
    nlp = spacy_pipelines.load(folder, advice)
    if component.FACTORY not in nlp.pipe_names:
        raise UserError(
            f"{folder}: has no {component.FACTORY!r} (it has: "
            f"{', '.join(nlp.pipe_names) or 'none'}); make one with `t5patches tagger "
            "train`"
        )
    record = os.path.join(folder, "evaluation.json")
    wanted = (
        json_files.read_json(record).get("content") if os.path.isfile(record) else None
    )
    if wanted not in (None, spacy_pipelines.digest(nlp)):
        raise UserError(
            f"{folder}: its files are not as `t5patches tagger train` wrote them; "
            "train it again"
        )
    return nlp
