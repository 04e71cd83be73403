"""`t5patches quickstart`: the whole job, on a made-up corpus or on one's own data."""

import argparse
import os
from collections.abc import Callable

from t5patches.errors import UserError

DESCRIPTION = """\
Trains a small T5, finds and marks the unwanted words in what it generates, updates it
so that it stops saying them, and reports what changed and what did not.

Reads: nothing, or --data and --phrases. Writes into --output: the corpus, both models,
their generations, results.json, report.html, report.png. A run that was stopped goes
on when the same command is given again.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options to `parser`."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--output",
        metavar="DIR",
        default="t5patches-quickstart",
        help="run folder (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the corpus, the model and the order of the data (default: 0)",
    )
    parser.add_argument(
        "--method", default="tnff", help="of the update (default: %(default)s)"
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="your own .csv or .jsonl file instead of the made-up corpus, with the "
        "columns inputs and targets, or text, which is cut in two",
    )
    parser.add_argument(
        "--phrases",
        metavar="FILE",
        help="unwanted phrases for --data, one per line",
    )


def main(
    arguments: argparse.Namespace, prepare: Callable[[], None] = lambda: None
) -> None:
    """Runs the command.

    Args:
      arguments: parsed by a parser with the options of `add_arguments`.
      prepare: called when the options have been checked, before the work.

    Raises:
      UserError: options that do not fit together, a run folder made with others, or
        data that cannot be used.
    """
    from t5patches.quickstart import pipeline

    if arguments.method not in pipeline.METHODS:
        raise UserError(
            f"--method {arguments.method}: there is {', '.join(pipeline.METHODS)}"
        )
    if bool(arguments.data) != bool(arguments.phrases):
        raise UserError("--data and --phrases go together: give both or neither")
    for path in (arguments.data, arguments.phrases):
        if path and not os.path.isfile(path):
            raise UserError(f"{path}: no such file")
    if arguments.seed < 0:
        raise UserError(f"--seed {arguments.seed}: must not be negative")
    prepare()
    own = pipeline.OWN_DATA if arguments.data else {}
    pipeline.run_all(
        pipeline.Run(
            folder=os.path.abspath(arguments.output),
            seed=arguments.seed,
            method=arguments.method,
            data=arguments.data,
            phrases=arguments.phrases,
            **own,
        )
    )
