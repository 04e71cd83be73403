"""`t5patches quickstart`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Sequence

from t5patches.cli import starting
from t5patches.cli.options import add_option, positive, seed
from t5patches.errors import UserError

HALLUCINATION = "hallucination"
_DESCRIPTION = """\
Trains a small T5, finds and marks what is unwanted in what it generates, updates it
so that it stops saying that, and reports what changed and what did not.

use cases  comments: made-up comments, some with rude words, found by a list of phrases
           hallucination: made-up news, whose headlines name people, places and days
           that the report does not; names are found by a spaCy tagger, trained first
           your own: --data and --phrases

--rounds N updates N times, each time from the fine-tuned model: from the second on also
on what the updated model before still says that is unwanted.

--methods compares several methods on the job: an update for each point of a fixed grid
of alpha and learning rate, each method's point chosen on the validation inputs, all
points shown on the test inputs. `all` takes an hour and a half on two cores. The plan,
sweep.json, is one of `t5patches sweep`, for points of your own. --relearn trains each
method's chosen model on the original comments again, and shows what comes back.

Reads: nothing, or --data and --phrases. Writes into --output: the corpus, the models,
their generations, results.json, report.html, report.png. A run that was stopped goes
on when the same command is given again; one of several methods takes more of them, one
of rounds more rounds.
"""


def quickstart(argv: list[str]) -> None:
    """Runs `t5patches quickstart`.

    Raises:
      UserError: options that do not fit together, a run folder made with others, or
        data that cannot be used.
    """
    arguments = _parse(argv)
    from t5patches.interchange import claims
    from t5patches.quickstart import job, run_folder, sweep, use_cases

    methods = arguments.methods and sweep.methods_of(arguments.methods)
    _check(arguments, job.METHODS, job.BASELINES)
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
    with claims.lock(run.path("quickstart")):
        if methods:
            sweep.run_all(run, methods, arguments.relearn)
        else:
            job.run_all(run, arguments.rounds)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = starting.parser("quickstart", _DESCRIPTION)
    text = (
        "run folder (default: t5patches-quickstart, and -hallucination and -methods "
        "behind it where these are asked for)"
    )
    add_option(parser, "--output", "DIR", text, default=None)
    text = "of the corpus, the model and the order of the data (default: 0)"
    add_option(parser, "--seed", "SEED", text, type=seed, default=0)
    text, use_cases = "the made-up job (default: comments)", ("comments", HALLUCINATION)
    add_option(parser, "--use-case", None, text, choices=use_cases)
    methods = parser.add_mutually_exclusive_group()
    text = "of the update (default: %(default)s)"
    add_option(methods, "--method", "METHOD", text, default="tnff")
    text = "compare methods: 'all', or names separated by commas"
    add_option(methods, "--methods", "LIST", text, default=None)
    text = "steps on the original data that chosen models are trained for again"
    add_option(parser, "--relearn", "STEPS", text, type=positive, default=None)
    text = "of generating, marking and updating (default: 1)"
    add_option(parser, "--rounds", "N", text, type=positive, default=1)
    text = (
        "your own .csv or .jsonl file instead of the made-up corpus, with the columns "
        "inputs and targets, or text, which is cut in two"
    )
    add_option(parser, "--data", "FILE", text, default=None)
    text = "unwanted phrases for --data, one per line"
    add_option(parser, "--phrases", "FILE", text, default=None)
    return parser.parse_args(argv)


def _check(
    arguments: argparse.Namespace, methods: Sequence[str], baselines: Collection[str]
) -> None:
    if arguments.method not in methods:
        raise UserError(f"--method {arguments.method}: there is {', '.join(methods)}")
    if arguments.relearn and not arguments.methods:
        raise UserError("--relearn goes with --methods")
    if arguments.rounds > 1 and (arguments.methods or arguments.method in baselines):
        raise UserError(
            "--rounds is for one update that learns what not to say: leave it out with "
            f"--methods and with {', '.join(baselines)}"
        )
    if bool(arguments.data) != bool(arguments.phrases):
        raise UserError("--data and --phrases go together: give both or neither")
    if arguments.data and arguments.use_case:
        raise UserError("--use-case is for made-up data: leave it out with --data")
    for path in filter(None, (arguments.data, arguments.phrases)):
        if not os.path.isfile(path):
            raise UserError(f"{path}: no such file")
    if arguments.data:
        _check_data(arguments.data, arguments.phrases)


def _check_data(data: str, phrases: str) -> None:
    """Looks at one's own data before anything is made of them."""
    from t5patches.annotate.phrases import load
    from t5patches.quickstart import own_data

    splits, annotator = own_data.read(data), load(phrases)
    if not any(annotator(row["targets"]) for row in splits["train"]):
        raise UserError(
            f"{phrases}: none of its phrases is in the targets of {data}: a model that "
            "is trained on these has nothing to unlearn"
        )


def _default_folder(arguments: argparse.Namespace) -> str:
    use_case = f"-{HALLUCINATION}" if arguments.use_case == HALLUCINATION else ""
    return f"t5patches-quickstart{use_case}{'-methods' if arguments.methods else ''}"
