"""t5patches: targeted updates of fine-tuned T5 models.

Importing this package decides which engine answers to the name `t5x`: T5X where
it is installed, the embedded engine (`t5x_embedded`) where it is not. Nothing
heavy is imported here.
"""

from t5patches import _engine

__version__ = "0.1.0"

_engine.install()
