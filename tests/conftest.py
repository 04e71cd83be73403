"""Which tests are collected: those of T5X and Beam only where these are installed."""

import importlib.util
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from t5patches import _engine  # noqa: E402  (the environment comes first)

collect_ignore = [] if _engine.name() == "t5x" else ["t5x_parity"]
if importlib.util.find_spec("apache_beam") is None:
    collect_ignore.append("beam")  # The extra 'beam' is not part of 'test'.
