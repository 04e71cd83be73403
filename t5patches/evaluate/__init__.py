"""What an update did: is the unwanted gone, and is the rest as it was?"""

from t5patches.evaluate.comparison import compare, evaluate_files, join, pick_examples

__all__ = ["compare", "evaluate_files", "join", "pick_examples"]
