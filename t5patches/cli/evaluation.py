"""`t5patches evaluate` and `t5patches report`."""

from __future__ import annotations

import os

from t5patches.cli import starting

_EVALUATE = """\
Compares the outputs of a model before and after an update.

reads   predictions of both models for the same inputs (joined by id), and, if given,
        references. What is unwanted says a list of phrases, or, without one, the
        annotations of the predictions: those that `t5patches annotate` has written
writes  results.json: prevalence of unwanted outputs; exact match, BLEU and ROUGE-L
        between old and new outputs, for all inputs and for those whose old output was
        clean; and results.examples.jsonl, some pairs for the report"""
_REPORT = """\
Writes the report of an evaluation.

reads   results.json and results.examples.jsonl of `t5patches evaluate`
writes  report.html (one file, opens offline) and report.png, and prints a table"""


def evaluate(argv: list[str]) -> None:
    """Runs `t5patches evaluate`."""
    parser = starting.parser("evaluate", _EVALUATE)
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
    starting.start_logging()
    from t5patches import report
    from t5patches.annotate import phrases
    from t5patches.evaluate import comparison
    from t5patches.interchange import results_files

    predictions = [*args.old, *args.new]
    results_files.check_output(args.output, predictions, args.phrases, args.references)
    results, examples = comparison.evaluate_files(
        args.old,
        args.new,
        phrases.load(args.phrases) if args.phrases else None,
        args.references,
        args.references_key,
    )
    results_files.write(args.output, results, examples)
    print(report.terminal_table(results))
    print(f"written to {args.output}")


def report(argv: list[str]) -> None:
    """Runs `t5patches report`."""
    parser = starting.parser("report", _REPORT)
    parser.add_argument("--results", required=True, metavar="FILE", help="results.json")
    parser.add_argument(
        "--output", metavar="FOLDER", help="(default: the folder of the results)"
    )
    args = parser.parse_args(argv)
    starting.start_logging()
    from t5patches.report import result_checks, update_report

    results, examples = result_checks.read(args.results)
    folder = args.output or os.path.dirname(args.results) or "."
    print(update_report.write_report(folder, results, examples))
    print(f"written to {os.path.join(folder, 'report.html')}")
