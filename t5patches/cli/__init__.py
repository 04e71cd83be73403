"""The `t5patches` command.

Exit status: 0 done; 2 wrong use or wrong input (a message, no traceback); 130 stopped
by Ctrl-C; 1 a fault of ours (a traceback).

Nothing heavy is imported before a command needs it: `t5patches --help` must be quick.
"""

from __future__ import annotations

import argparse
import io
import os
import pkgutil
import sys
from collections.abc import Sequence

from t5patches.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # Not all terminals have '─'.
        sys.stdout.reconfigure(errors="replace")
    try:
        _dispatch(argv)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # As of `| head`. Python would write what is left at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:  # Not about a file or folder of the user's.
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; type the command again to go on", file=sys.stderr)
        return 130
    except SystemExit as stop:  # argparse: 0 after --help, 2 after wrong use
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


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
    "train": ("t5x_scripts:train", "fine-tune or update a model"),
    "generate": ("t5x_scripts:generate", "write a model's outputs as predictions"),
    "annotate": ("annotate:annotate", "mark what is unwanted in predictions"),
    "tagger": ("tagger:tagger", "train what annotate toxicity marks words with"),
    "evaluate": ("evaluation:evaluate", "compare outputs before and after an update"),
    "report": ("evaluation:report", "write the report of an evaluation"),
    "infer": ("t5x_scripts:infer", "run a model over a task, as T5X does"),
    "eval": ("t5x_scripts:evaluate", "compute a task's metrics, as T5X does"),
}
