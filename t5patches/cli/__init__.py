"""The `t5patches` command.

Exit status: 0 done; 2 wrong use, wrong input, or what the machine cannot do (a message,
no traceback); 130 stopped by Ctrl-C; 1 a fault of ours (a traceback).

Nothing heavy is imported before a command needs it: `t5patches --help` must be quick.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import io
import os
import pkgutil
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from t5patches.errors import explained

OUTPUT = "standard output"
INTERRUPTED = "interrupted; type the command again to go on"
_EXIT = os._exit  # While a user's code runs, os has another.
# Characters that a terminal obeys; a file's name may have some.
_CONTROLS = re.compile(r"[^\n -~\xa0-\U0010ffff]")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # A seventh of the time of imports went on looking for garbage among them.
    gc.set_threshold(20_000, 20, 20)
    _open_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with contextlib.suppress(ValueError):  # Not of the main thread.
            signal.signal(signal.SIGINT, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):  # Not all terminals have '─'.
        sys.stdout.reconfigure(errors="replace")
    with contextlib.redirect_stdout(_Output(sys.stdout)):
        status, message = _run(argv)
    if fault := _write_out(sys.stdout):
        status, message = 2, f"error: {OUTPUT}: {fault}"
    message = _CONTROLS.sub(lambda found: repr(found[0])[1:-1], message)
    with contextlib.suppress(OSError, ValueError):
        if message:
            print(message, file=sys.stderr)
    _write_out(sys.stderr)
    return status


def _run(argv: list[str]) -> tuple[int, str]:
    """Runs a command line; returns the exit status and what is to be said of it."""
    try:
        _dispatch(argv)
    except KeyboardInterrupt:
        return 130, INTERRUPTED
    except SystemExit as stop:  # argparse: 0 after --help, 2 after wrong use
        if isinstance(stop.code, str):
            return 1, stop.code
        return stop.code or 0, ""
    except Exception as error:
        known = explained(error)
        if known is None:
            raise
        return 2, f"error: {known}"
    return 0, ""


def _interrupt(number: int, frame: Any) -> None:
    """Ends the command at Ctrl-C: at once where something is being imported.

    Libraries in C++ make of an exception there an abort, a hang, or an error of theirs.
    """
    while frame is not None:
        if "importlib._bootstrap" in frame.f_code.co_filename:
            os.write(2, f"{INTERRUPTED}\n".encode())
            _EXIT(130)
        frame = frame.f_back
    raise KeyboardInterrupt


class _Output:
    """Standard output, whose errors say that they are its."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        return self._named(self._stream.write, text)

    def flush(self) -> None:
        self._named(self._stream.flush)

    @staticmethod
    def _named(function: Callable[..., Any], *text: str) -> Any:
        try:
            return function(*text)
        except OSError as error:
            error.filename = OUTPUT
            raise
        except ValueError as error:  # What a user's code has closed.
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), OUTPUT) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _open_streams() -> None:
    """Lets standard streams that are closed lead nowhere.

    The next file that is opened would get the number of a closed one, and what
    libraries print would land in it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))


def _write_out(stream: Any) -> str | None:
    """Writes what a stream still holds; returns the reason if it cannot.

    Python would try again at its end, and say so.
    """
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error.strerror
    except ValueError:  # It is closed.
        pass
    return None


def _dispatch(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="t5patches",
        description="Targeted updates of fine-tuned T5 models: the unwanted outputs "
        "go, the others stay.",
        epilog="`t5patches COMMAND --help` says what a command reads and writes.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")
    for name, (_, summary) in COMMANDS.items():
        # Each command parses what follows itself, so that none is imported for another.
        commands.add_parser(name, help=summary, add_help=False)
    if argv and argv[0] in COMMANDS:
        place, _ = COMMANDS[argv[0]]
        pkgutil.resolve_name(f"t5patches.cli.{place}")(argv[1:])
        return
    args = parser.parse_args(argv)
    if args.version:
        from t5patches import __version__

        print(__version__)
        return
    parser.print_help(sys.stderr)
    raise SystemExit(2)


# Name -> where its function is, which is imported when it is given; what it does.
COMMANDS = {
    "quickstart": ("quickstart:quickstart", "the whole job, on made-up or your data"),
    "patch": ("patch:patch", "the whole job on your model and texts"),
    "train": ("t5x_scripts:train", "fine-tune or update a model"),
    "cache": ("t5x_scripts:cache", "run an update's frozen model once, before it"),
    "generate": ("t5x_scripts:generate", "write a model's outputs as predictions"),
    "annotate": ("annotate:annotate", "mark what is unwanted in predictions"),
    "tagger": ("tagger:tagger", "train what annotate toxicity marks words with"),
    "evaluate": ("evaluation:evaluate", "compare outputs before and after an update"),
    "sweep": ("sweep:sweep", "compare methods and settings: many updates"),
    "report": ("evaluation:report", "write the report of an evaluation"),
    "convert": ("convert:convert", "models from and to Hugging Face's form"),
    "info": ("info:info", "say what a model or a checkpoint is"),
    "infer": ("t5x_scripts:infer", "run a model over a task, as T5X does"),
    "eval": ("t5x_scripts:evaluate", "compute a task's metrics, as T5X does"),
}
