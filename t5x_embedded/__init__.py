"""T5X's public interface, as far as t5patches uses it, on packages from PyPI.

Where T5X is not installed, importing `t5patches` makes `t5x` and its submodules
resolve to this package (see `t5patches/_engine.py`). README.md in this folder lists
the names that are supported; asking for anything else is an error that says so.
Nothing is imported here: losses, optimizers and the train state must be importable
on machines without TensorFlow.
"""


class UnsupportedError(ValueError):
    """Asked for something of T5X's that the embedded engine leaves out."""

    def __init__(self, what: str, hint: str = ""):
        super().__init__(f"the embedded engine does not have {what}; T5X does.{hint}")
