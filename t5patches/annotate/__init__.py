"""Annotators: what in a text is unwanted, and which generated ids that is.

An annotator is a function `annotator(text, inputs) -> [(start, end, label)]`: spans of
characters of `text`, a model's output for `inputs`. `annotate_files` runs one over
predictions.
"""

from t5patches.annotate.alignment import align, token_ranges
from t5patches.annotate.job import Annotator, annotate_files, annotate_row
from t5patches.annotate.phrases import PhraseAnnotator

__all__ = [
    "Annotator",
    "PhraseAnnotator",
    "align",
    "annotate_files",
    "annotate_row",
    "token_ranges",
]
