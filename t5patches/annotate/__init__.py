"""Annotators: what in a text is unwanted, and which generated ids that is.

An annotator is a function `annotator(text, inputs) -> [(start, end, label)]`: spans of
characters of `text`, a model's output for `inputs`. `annotate_files` runs one over
predictions. Those of the command line are `phrases.PhraseAnnotator`,
`entities.EntityAnnotator`, `toxicity.ToxicityAnnotator`, `spans.SpanAnnotator` and
`custom.CustomAnnotator`.
An annotator says in its `settings` what tells it from others.
"""

from t5patches.annotate.alignment import align
from t5patches.annotate.annotator import Annotator, annotate_texts
from t5patches.annotate.job import annotate_files
from t5patches.annotate.phrases import PhraseAnnotator

__all__ = ["Annotator", "PhraseAnnotator", "align", "annotate_files", "annotate_texts"]
