"""Which tests are collected: those that need T5X only where T5X is installed."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from t5patches import _engine  # noqa: E402  (the environment comes first)

collect_ignore = [] if _engine.name() == "t5x" else ["t5x_parity"]
