"""What an update did: is the unwanted gone, and is the rest as it was?"""

from t5patches.evaluate.comparison import (
    compare,
    evaluate_files,
    join,
    pick_examples,
    summarize,
)
from t5patches.evaluate.similarity import bleu, exact_match, rouge_l

__all__ = [
    "bleu",
    "compare",
    "evaluate_files",
    "exact_match",
    "join",
    "pick_examples",
    "rouge_l",
    "summarize",
]
