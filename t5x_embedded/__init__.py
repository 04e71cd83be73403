"""T5X's public interface, as far as t5patches uses it, on packages from PyPI.

Where T5X is not installed, importing `t5patches` makes `t5x` and its submodules
resolve to this package (see `t5patches/_engine.py`). README.md in this folder lists
the names that are supported; asking for anything else is an error that says so.
Nothing is imported here: losses, optimizers and the train state must be importable
on machines without TensorFlow.
"""
