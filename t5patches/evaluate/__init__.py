"""What an update did: is the unwanted gone, and is the rest as it was?"""

from t5patches.evaluate.files import evaluate_files

__all__ = ["evaluate_files"]
