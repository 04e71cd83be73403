"""The `t5patches` command.

Exit status: 0 done; 2 wrong use or wrong input (a message, no traceback); 130 stopped
by Ctrl-C; 1 a fault of ours (a traceback).

Nothing heavy is imported before a command needs it: `t5patches --help` must be quick.
"""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence

from t5patches.errors import UserError

Command = Callable[[list[str]], None]

# A file that is a folder's place, a folder that cannot be written to, a full disk.
_USERS_FAULTS = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
_GENERATE_GIN = "runs/generate.gin"
_GENERATE_BEAM_GIN = "runs/generate_beam.gin"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # Not all terminals have '─'.
        sys.stdout.reconfigure(errors="replace")
    try:
        _dispatch(argv)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {_message(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # As of `| head`. Python would write what is left at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None or error.errno not in _USERS_FAULTS:
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
        COMMANDS[argv[0]][0](argv[1:])
        return
    args = parser.parse_args(argv)
    if args.version:
        from t5patches import __version__

        print(__version__)
        return
    parser.print_help(sys.stderr)
    raise SystemExit(2)


def _message(error: UserError) -> str:
    """Leaves out the call chain that gin appends to messages of what it calls."""
    lines = str(error).splitlines()
    return "\n".join(
        line
        for line in lines
        if not line.lstrip().startswith("In call to configurable")
    ).strip()


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"t5patches {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


class _LogLines(logging.Handler):
    """Writes the project's log as plain lines, and of others only warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        folders = pathlib.PurePath(record.pathname).parent.parts[-2:]
        ours = {"t5patches", "t5x_embedded", "t5x", "tasks"} & set(folders)
        if ours or record.levelno >= logging.WARNING:
            print(self.format(record), file=sys.stderr)


def _start_logging() -> None:
    from absl import logging as absl_logging

    root = logging.getLogger()
    root.removeHandler(absl_logging.get_absl_handler())
    if not any(isinstance(handler, _LogLines) for handler in root.handlers):
        handler = _LogLines()
        style = "%(asctime)s %(levelname)s %(message)s"
        handler.setFormatter(logging.Formatter(style, datefmt="%H:%M:%S"))
        root.addHandler(handler)
    absl_logging.set_verbosity(absl_logging.INFO)


def _import_tensorflow() -> None:
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


# ------------------------------------------------------------------- train, generate

_SCRIPT_HELP = """\
{what}

{files}
Takes the flags of T5X's scripts; --gin.NAME=VALUE sets a macro or a binding, as in
--gin.BATCH_SIZE=16. Gin files of t5patches are found by their names:
models/t5_1_1_small.gin, runs/finetune.gin, runs/update.gin, methods/tnff.gin …
{flags}"""
_SCRIPTS = {
    "train": (
        "Fine-tunes or updates a model: the gin file says which.",
        """\
reads   the task's files and the checkpoint INITIAL_CHECKPOINT_PATH (with --checkpoint
        best|latest|STEP: a checkpoint of the model folder that it names)
writes  checkpoints, TensorBoard scalars, config.gin and best.json (the checkpoint with
        the lowest validation loss) to MODEL_DIR

SIGTERM ends it after the step, saved, with status 0. Typed again, the command goes on.

example (an update of a fine-tuned model):
  t5patches train --gin_file=models/t5_1_1_small.gin --gin_file=methods/tnff.gin \\
    --gin_file=runs/update.gin --gin_file=my_task.gin --gin.MODEL_DIR="'updated'"
""",
    ),
    "infer": (
        "Runs a model over a task, as T5X's infer script does.",
        """\
reads   the task's files and the checkpoint CHECKPOINT_PATH (with --checkpoint
        best|latest|STEP: a checkpoint of the model folder that it names)
writes  JSON lines to INFER_OUTPUT_DIR
""",
    ),
    "eval": (
        "Computes a task's metrics for checkpoints, as T5X's eval script does.",
        """\
reads   the task's files and the checkpoint CHECKPOINT_PATH (with --checkpoint
        best|latest|STEP: a checkpoint of the model folder that it names)
writes  metrics and predictions to EVAL_OUTPUT_DIR
""",
    ),
    "generate": (
        "Generates with a model on a task's split: greedily, or by sampling or beams.",
        """\
reads   the task's files and the checkpoint CHECKPOINT_PATH (with --checkpoint
        best|latest|STEP: a checkpoint of the model folder that it names)
writes  predictions, TASK-predict-00000-of-00001.jsonl, to INFER_OUTPUT_DIR:
        one JSON line each with inputs, prediction, target_tokens, id

runs/generate.gin is read after the models/ file, also if no --gin_file names it. It
says how to sample (TEMPERATURE, TOP_K, TOP_P) and to share the work between processes
(SHARD_ID, NUM_SHARDS); runs/generate_beam.gin searches with beams. Typed again, it
skips what is complete.
""",
    ),
}


def _script(name: str) -> Command:
    def run(argv: list[str]) -> None:
        from t5patches.run import scripts

        what, files = _SCRIPTS[name]
        script = "infer" if name == "generate" else name
        if not argv or argv[0] in ("-h", "--help"):
            flags = scripts.flag_help(script)
            print(_SCRIPT_HELP.format(what=what, files=files, flags=flags))
            raise SystemExit(0 if argv else 2)
        _start_logging()
        _import_tensorflow()
        scripts.run(script, _with_generate_gin(argv) if name == "generate" else argv)

    return run


def _with_generate_gin(argv: list[str]) -> list[str]:
    """Puts the run file after the model's, whose required macros it sets."""
    values = [word.removeprefix("--gin_file=") for word in argv]
    if any(value.endswith((_GENERATE_GIN, _GENERATE_BEAM_GIN)) for value in values):
        return argv
    models = [i for i, value in enumerate(values) if "models/" in value]
    place = models[-1] + 1 if models else 0
    return [*argv[:place], f"--gin_file={_GENERATE_GIN}", *argv[place:]]


# ------------------------------------------------------------------- annotate


def _annotate(argv: list[str]) -> None:
    from t5patches.cli import annotate

    annotate.annotate(argv, _parser, _prepare)


def _tagger(argv: list[str]) -> None:
    from t5patches.cli import tagger

    tagger.tagger(argv, _parser, _start_logging)


def _prepare() -> None:
    _start_logging()
    _import_tensorflow()


# ------------------------------------------------------------------- evaluate, report


def _evaluate(argv: list[str]) -> None:
    parser = _parser(
        "evaluate",
        """\
Compares the outputs of a model before and after an update.

reads   predictions of both models for the same inputs (joined by id), and, if given,
        references. What is unwanted says a list of phrases, or, without one, the
        annotations of the predictions: those that `t5patches annotate` has written
writes  results.json: prevalence of unwanted outputs; exact match, BLEU and ROUGE-L
        between old and new outputs, for all inputs and for those whose old output was
        clean; and results.examples.jsonl, some pairs for the report""",
    )
    add = parser.add_argument
    for side, when in (("old", "before"), ("new", "after")):
        add(
            f"--{side}",
            required=True,
            nargs="+",
            metavar="FILE",
            help=f"predictions {when} the update",
        )
    add("--phrases", help="text file, a phrase per line, # for comments, \\# for #")
    add("--output", required=True, metavar="FILE", help="e.g. results.json")
    add(
        "--references",
        metavar="FILE",
        help="JSON lines, CSV or Parquet with id and the right output",
    )
    add(
        "--references-key",
        default="targets",
        metavar="FIELD",
        help="field of the right output there (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    _start_logging()
    from t5patches import evaluate, report
    from t5patches.annotate import phrases
    from t5patches.interchange import json_files

    _check_output(args)
    results, examples = evaluate.evaluate_files(
        args.old,
        args.new,
        phrases.load(args.phrases) if args.phrases else None,
        args.references,
        args.references_key,
    )
    json_files.write_jsonl(_examples_path(args.output), examples)
    json_files.write_json(args.output, results)
    print(report.terminal_table(results))
    print(f"written to {args.output}")


def _check_output(args: argparse.Namespace) -> None:
    """Refuses to write results over a folder or over what they are made from."""
    from t5patches.interchange import shards

    if os.path.isdir(args.output):
        raise UserError(f"{args.output}: is a folder; give a file, e.g. results.json")
    read = [*shards.expand(args.old), *shards.expand(args.new)]
    read += [path for path in (args.phrases, args.references) if path]
    for output in (args.output, _examples_path(args.output)):
        if os.path.realpath(output) in map(os.path.realpath, read):
            raise UserError(f"{output}: is read here; give another file to write to")


def _report(argv: list[str]) -> None:
    parser = _parser(
        "report",
        """\
Writes the report of an evaluation.

reads   results.json and results.examples.jsonl of `t5patches evaluate`
writes  report.html (one file, opens offline) and report.png, and prints a table""",
    )
    parser.add_argument("--results", required=True, metavar="FILE", help="results.json")
    parser.add_argument(
        "--output", metavar="FOLDER", help="(default: the folder of the results)"
    )
    args = parser.parse_args(argv)
    _start_logging()
    from t5patches import report
    from t5patches.interchange import json_files
    from t5patches.report import result_checks

    results = json_files.read_json(args.results)
    examples = []
    path = _examples_path(args.results)
    if os.path.exists(path):
        for number, row in json_files.read_jsonl(path):
            result_checks.check_example(row, f"{path}:{number}")
            examples.append(row)
    folder = args.output or os.path.dirname(args.results) or "."
    try:
        table = report.write_report(folder, results, examples)
    except UserError as error:
        raise UserError(f"{args.results}: {error}") from error
    print(table)
    print(f"written to {os.path.join(folder, 'report.html')}")


def _examples_path(results_path: str) -> str:
    return f"{results_path.removesuffix('.json')}.examples.jsonl"


# ------------------------------------------------------------------- quickstart


def _quickstart(argv: list[str]) -> None:
    from t5patches import quickstart

    parser = _parser("quickstart", quickstart.DESCRIPTION)
    quickstart.add_arguments(parser)
    args = parser.parse_args(argv)
    _start_logging()
    quickstart.main(args, prepare=_import_tensorflow)


COMMANDS: dict[str, tuple[Command, str]] = {
    "quickstart": (_quickstart, "the whole job, on a made-up corpus or your own data"),
    "train": (_script("train"), "fine-tune or update a model"),
    "generate": (_script("generate"), "write a model's outputs as predictions"),
    "annotate": (_annotate, "mark what is unwanted in predictions"),
    "tagger": (_tagger, "train a tagger of unwanted words for annotate toxicity"),
    "evaluate": (_evaluate, "compare outputs before and after an update"),
    "report": (_report, "write the report of an evaluation"),
    "infer": (_script("infer"), "run a model over a task, as T5X does"),
    "eval": (_script("eval"), "compute a task's metrics, as T5X does"),
}
