"""What every command does at its start: its parser, its log, TensorFlow."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import ctypes
import importlib.util
import logging
import os
import pathlib
import shutil
import sys
import tempfile
import threading
from typing import Any

_TEMPORARY = "t5patches-temporary-"

# glibc's parameters of malloc, by their numbers in malloc.h: memory that was freed is
# kept for what comes next, up to so much, in one arena.
_MALLOC = {
    -8: 1,  # M_ARENA_MAX
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD
    -2: 2**26,  # M_TOP_PAD
    -3: 2**31 - 1,  # M_MMAP_THRESHOLD
}
# With many threads they would wait for each other's allocations in one arena.
_MOST_CORES = 8


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """Makes the parser of a command; the description's lines stay as they are."""
    return argparse.ArgumentParser(
        prog=f"t5patches {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def prepare() -> None:
    """Starts the log and imports TensorFlow, before something heavy is done."""
    start_logging()
    import_tensorflow()


class _LogLines(logging.Handler):
    """Writes the project's log as plain lines, and of others only warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        folders = pathlib.PurePath(record.pathname).parent.parts[-2:]
        ours = {"t5patches", "t5x_embedded", "t5x", "tasks"} & set(folders)
        if ours or record.levelno >= logging.WARNING:
            # Work does not end for want of a log, on a disk that is full, say.
            with contextlib.suppress(OSError, ValueError):
                print(self.format(record), file=sys.stderr)


class _OneLine(logging.Formatter):
    """Leaves out the traces that libraries log with an error which they raise, too."""

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return ""


def _log_thread(kind: type[BaseException], error: Any, trace: Any) -> None:
    """Logs what ends a thread of a library's, such as those that save checkpoints.

    The command hears of it where it waits for the thread.
    """
    if threading.current_thread() is threading.main_thread():
        sys.__excepthook__(kind, error, trace)
    else:
        logging.warning("%s: %s", kind.__name__, error)


def start_logging() -> None:
    """Shows the project's log on standard error."""
    _keep_freed_memory()
    _keep_temporary_files_together()
    from absl import logging as absl_logging

    root = logging.getLogger()
    root.removeHandler(absl_logging.get_absl_handler())
    if not any(isinstance(handler, _LogLines) for handler in root.handlers):
        handler = _LogLines()
        style = "%(asctime)s %(levelname)s %(message)s"
        handler.setFormatter(_OneLine(style, datefmt="%H:%M:%S"))
        root.addHandler(handler)
        sys.excepthook = _log_thread
        threading.excepthook = lambda raised: _log_thread(*raised[:3])
    absl_logging.set_verbosity(absl_logging.INFO)


def _keep_temporary_files_together() -> None:
    """Gives the process a folder for its temporary files, and those of libraries.

    It goes at the end, or, if the process is killed, when another one starts.
    """
    from t5patches.interchange import shards

    with contextlib.suppress(OSError):  # Not all commands need it.
        around = tempfile.gettempdir()
        if _TEMPORARY in around:  # Of an earlier command in this process.
            return
        shards.remove_leftovers(around, _TEMPORARY)
        folder = tempfile.mkdtemp(prefix=f"{_TEMPORARY}{os.getpid()}-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        tempfile.tempdir = folder


def _keep_freed_memory() -> None:
    """Has malloc keep what is freed, where JAX computes on a few cores.

    XLA frees and allocates its buffers at every step; glibc gives those of its threads'
    arenas back to the system at once, and a third of the time went on getting the same
    pages again, zeroed. A user's own settings of malloc stay.
    """
    own = any(name.startswith("MALLOC_") for name in os.environ)
    own |= "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    accelerators = any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))
    elsewhere = accelerators and os.environ.get("JAX_PLATFORMS") != "cpu"
    if own or elsewhere or (os.cpu_count() or 1) > _MOST_CORES:
        return
    with contextlib.suppress(OSError, AttributeError):  # Another C library.
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _MALLOC.items():
            mallopt(parameter, value)


def import_tensorflow() -> None:
    """Imports TensorFlow without its C++ notes on processor and GPUs.

    TensorFlow 2.21 writes them whatever TF_CPP_MIN_LOG_LEVEL says, so they are taken
    off at the file descriptor. If the import fails, what was written is shown.
    """
    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            import tensorflow as tf

            # JAX takes the GPU's memory; TensorFlow, which only reads data, must not.
            # Looking for GPUs writes notes, too.
            tf.config.set_visible_devices([], "GPU")
        except BaseException:
            notes.seek(0)
            os.write(kept, notes.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
