"""`t5patches quickstart`."""

from __future__ import annotations

import argparse
import os

from t5patches.cli import starting
from t5patches.errors import UserError

_DESCRIPTION = """\
Trains a small T5, finds and marks what is unwanted in what it generates, updates it
so that it stops saying that, and reports what changed and what did not.

use cases  comments: made-up comments, some with rude words, found by a list of phrases
           hallucination: made-up news, whose headlines name people, places and days
           that the report does not; names are found by a spaCy tagger, trained first
           your own: --data and --phrases

--methods compares several methods on the job: an update for each point of a fixed grid
of alpha and learning rate, each method's point chosen on the validation inputs, all
points shown on the test inputs. `all` takes about 45 minutes on two cores.

Reads: nothing, or --data and --phrases. Writes into --output: the corpus, the models,
their generations, results.json, report.html, report.png. A run that was stopped goes
on when the same command is given again; one of several methods takes more of them.
"""


def quickstart(argv: list[str]) -> None:
    """Runs `t5patches quickstart`.

    Raises:
      UserError: options that do not fit together, a run folder made with others, or
        data that cannot be used.
    """
    arguments = _parse(argv)
    from t5patches.quickstart import job, run_folder, sweep, use_cases

    methods = arguments.methods and sweep.methods_of(arguments.methods)
    _check(arguments, job.METHODS)
    starting.prepare()
    use_case = arguments.use_case or "comments"
    run = run_folder.Run(
        folder=os.path.abspath(arguments.output or _default_folder(arguments)),
        seed=arguments.seed,
        method=arguments.method,
        use_case=use_case,
        data=arguments.data,
        phrases=arguments.phrases,
        **use_cases.find(use_case, arguments.data).options,
    )
    if methods:
        sweep.run_all(run, methods)
    else:
        job.run_all(run)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = starting.parser("quickstart", _DESCRIPTION)
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="run folder (default: t5patches-quickstart, and -hallucination and "
        "-methods behind it where these are asked for)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the corpus, the model and the order of the data (default: 0)",
    )
    parser.add_argument(
        "--use-case",
        choices=("comments", "hallucination"),
        help="the made-up job (default: comments)",
    )
    methods = parser.add_mutually_exclusive_group()
    methods.add_argument(
        "--method", default="tnff", help="of the update (default: %(default)s)"
    )
    methods.add_argument(
        "--methods",
        metavar="LIST",
        help="compare methods: 'all', or names separated by commas",
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
    return parser.parse_args(argv)


def _check(arguments: argparse.Namespace, methods: tuple[str, ...]) -> None:
    if arguments.method not in methods:
        raise UserError(f"--method {arguments.method}: there is {', '.join(methods)}")
    if bool(arguments.data) != bool(arguments.phrases):
        raise UserError("--data and --phrases go together: give both or neither")
    if arguments.data and arguments.use_case:
        raise UserError("--use-case is for made-up data: leave it out with --data")
    for path in (arguments.data, arguments.phrases):
        if path and not os.path.isfile(path):
            raise UserError(f"{path}: no such file")
    if arguments.seed < 0:
        raise UserError(f"--seed {arguments.seed}: must not be negative")


def _default_folder(arguments: argparse.Namespace) -> str:
    use_case = "-hallucination" if arguments.use_case == "hallucination" else ""
    return f"t5patches-quickstart{use_case}{'-methods' if arguments.methods else ''}"
