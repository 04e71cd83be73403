"""The toxicity annotator: what a trained tagger marks (`t5patches tagger train`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from t5patches.annotate import spacy_pipelines
from t5patches.annotate.alignment import Span
from t5patches.errors import UserError
from t5patches.interchange import claims

BATCH_SIZE = 256
# A word is marked if it is likelier unwanted than not. The threshold that training
# chose is the best for posts as those it was trained on; where nearly all of these have
# something unwanted, it finds something in nearly every text.
THRESHOLD = 0.5


class ToxicityAnnotator:
    """Marks the spans of a tagger, whatever the input; the label is the tagger's."""

    # Counted up when a tagger's probabilities come to mark other words, so that the
    # folders of before are not taken for done.
    rules = 1

    def __init__(
        self,
        nlp: Any,
        threshold: float = THRESHOLD,
        batch_size: int = BATCH_SIZE,
    ):
        """Takes a pipeline of `tagger.train`.

        Args:
          nlp: the pipeline, which stays as it is.
          threshold: probability from which a token is unwanted, in place of the
            trained one.
          batch_size: texts that go through the pipeline together.
        """
        from t5patches.annotate.tagger import component

        if not 0 <= threshold <= 1:
            raise UserError(f"threshold {threshold} is not between 0 and 1")
        trained = nlp.get_pipe(component.FACTORY)
        # The pipeline's own stays at the threshold that was trained.
        self._tagger = component.SpanTagger(
            nlp.vocab, trained.model, trained.name, trained.label, threshold,
            trained.cfg["ratio"],
        )  # fmt: skip
        self.nlp = nlp
        self.threshold = threshold
        self.batch_size = batch_size
        self._others = {"disable": [trained.name]}
        self._source: str | None = None

    @property
    def digest(self) -> str:
        """Tells taggers and thresholds apart."""
        parts = {"pipeline": spacy_pipelines.digest(self.nlp), **self._tagger.cfg}
        return claims.fingerprint(parts)

    def __call__(self, text: str, inputs: str = "") -> list[Span]:
        """Returns the unwanted spans of `text`; `inputs` does not matter here."""
        del inputs
        return self._spans(self._tagger(self.nlp(text, **self._others)))

    def pipe(self, pairs: Iterable[tuple[str, str]]) -> Iterator[list[Span]]:
        """Does what a call does for many (text, inputs), in batches."""
        texts = (text for text, _ in pairs)
        docs = self.nlp.pipe(texts, batch_size=self.batch_size, **self._others)
        for doc in self._tagger.pipe(docs, batch_size=self.batch_size):
            yield self._spans(doc)

    def _spans(self, doc: Any) -> list[Span]:
        return [
            (span.start_char, span.end_char, span.label_)
            for span in doc.spans[self._tagger.label]
        ]

    def __reduce__(self):
        if self._source is None:
            return ToxicityAnnotator, (self.nlp, self.threshold, self.batch_size)
        return load, (self._source, self.threshold, self.batch_size)


def load(
    tagger: str | os.PathLike,
    threshold: float = THRESHOLD,
    batch_size: int = BATCH_SIZE,
) -> ToxicityAnnotator:
    """Returns the annotator with the pipeline that `t5patches tagger train` wrote.

    Raises:
      UserError: the folder is missing, does not load, or is another pipeline.
    """
    annotator = ToxicityAnnotator(load_tagger(tagger), threshold, batch_size)
    annotator._source = os.fspath(tagger)
    return annotator


def load_tagger(folder: str | os.PathLike) -> Any:
    """Returns the spaCy pipeline that `t5patches tagger train` wrote.

    Raises:
      UserError: there is none, or it has no span tagger.
    """
    from t5patches.annotate.tagger import component

    advice = "give the folder that `t5patches tagger train` wrote"
    nlp = spacy_pipelines.load(folder, advice)
    if component.FACTORY not in nlp.pipe_names:
        raise UserError(
            f"{os.fspath(folder)}: has no {component.FACTORY!r} (it has: "
            f"{', '.join(nlp.pipe_names) or 'none'}); make one with `t5patches tagger "
            "train`"
        )
    return nlp
