"""What an update did: is the unwanted gone, and is the rest as it was?"""

from t5patches.evaluate.comparison import compare
from t5patches.evaluate.files import evaluate_files
from t5patches.evaluate.pairs import join

__all__ = ["compare", "evaluate_files", "join"]
