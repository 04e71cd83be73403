"""`t5patches evaluate` and `t5patches report`."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import shlex

from t5patches.cli import options, starting
from t5patches.cli.options import add_option

# What the numbers may depend on.
_VERSIONS = ("t5patches", "numpy", "rouge-score", "sacrebleu")
_EVALUATE = """\
Compares the outputs of a model before and after an update.

reads   predictions of both models for the same inputs (joined by id), and, if given,
        references. What is unwanted says a list of phrases, or, without one, the
        annotations of the predictions: those that `t5patches annotate` has written
writes  results.json: prevalence of unwanted outputs, in all and by label; exact match,
        BLEU, ROUGE and word edits between old and new outputs, for all inputs and for
        those whose old output was clean; their 95 % intervals; faults that outputs have
        newly; whether more was changed than mended; and results.examples.jsonl, every
        pair of outputs with its faults. docs/evidence.md says what each number means,
        and when it misleads

Intervals are of a bootstrap over pairs; --cluster names a field of the old predictions
(e.g. inputs) whose equal values are drawn together.

--second-phrases, or --second-old and --second-new (the same predictions, annotated by
another annotator), judge the outputs by a detector that had no part in the update, and
--variants looks for the phrases in other spellings.

--old-samples and --new-samples take samples of both models (`generate` with a
TEMPERATURE of 1.0), as many of both for each of some inputs, as lines with the same
inputs and ids of their own.

--against takes predictions of another update and tests whether the two differ.

--exact-update takes predictions of the exact token-level update, the original model
decoded without the unwanted tokens (`t5patches generate --forbid FILE`). It is not the
model conditioned on never saying a phrase. results.json has then its numbers
(exact_update) and how far the update is from them (distance_to_exact_update).

--distances takes what `generate` with runs/distances.gin says of the old predictions:
KL divergences of the update from the original model and from the exact update, total
variation, and the probability that is left to the unwanted (distances).

--rejection takes samples of the original model (`generate` with a TEMPERATURE of 1.0),
several for each of some inputs, as lines with the same inputs and ids of their own. The
first without anything unwanted is taken: the model conditioned on saying nothing
unwanted. rejection_sampling in results.json has how many were accepted, how many had to
be drawn, and the accepted outputs' numbers."""
_REPORT = """\
Writes the report of an evaluation, or of several, or of a sweep.

reads   results.json of `t5patches evaluate`, with results.examples.jsonl beside it; or
        several, each of an update of the same model on the same inputs, which are
        named by their folders; or the one results.json of a sweep
writes  report.html (one file, opens offline: the numbers and, of one update, every
        example), report.png and report.csv (the numbers of its tables); training.png
        and training.csv where the model's folder is known; and prints a table"""


def evaluate(argv: list[str]) -> None:
    """Runs `t5patches evaluate`."""
    parser = starting.parser("evaluate", _EVALUATE)
    for side, when in (("old", "before"), ("new", "after")):
        text = f"predictions {when} the update"
        add_option(parser, f"--{side}", "FILE", text, nargs="+", required=True)
    text = "text file, a phrase per line, # for comments, \\# for #"
    add_option(parser, "--phrases", "FILE", text, default=None)
    add_option(parser, "--output", "FILE", "e.g. results.json")
    text = "JSON lines, CSV or Parquet with id and the right output"
    add_option(parser, "--references", "FILE", text, default=None)
    text = "field of the right output there (default: %(default)s)"
    add_option(parser, "--references-key", "FIELD", text, default="targets")
    for name, text in (
        ("exact-update", "predictions of the exact update, for the same inputs"),
        ("rejection", "samples of the original model, several for each of some inputs"),
        ("against", "predictions of another update, for the same inputs"),
        ("distances", "distances to the exact update at the old predictions' tokens"),
        ("old-samples", "samples before the update, several for each of some inputs"),
        ("new-samples", "samples after the update, as many for the same inputs"),
        ("second-old", "the old predictions, annotated by a second annotator"),
        ("second-new", "the new predictions, annotated by a second annotator"),
    ):
        add_option(parser, f"--{name}", "FILE", text, nargs="+", default=None)
    text = "phrases that had no part in the update, to judge by besides"
    add_option(parser, "--second-phrases", "FILE", text, default=None)
    text = "look for other spellings of the phrases, too"
    add_option(parser, "--variants", None, text, action="store_true")
    text = "field of the old predictions whose equal values are resampled together"
    add_option(parser, "--cluster", "FIELD", text, default=None)
    text = "of the intervals and tests (default: %(default)s)"
    add_option(parser, "--seed", "N", text, type=options.seed, default=0)
    args = parser.parse_args(argv)
    for one, other in (
        ("--old-samples", "--new-samples"),
        ("--second-old", "--second-new"),
    ):
        values = [getattr(args, name[2:].replace("-", "_")) for name in (one, other)]
        if (values[0] is None) != (values[1] is None):
            parser.error(f"{one} and {other} are given together")
    if args.second_phrases and args.second_old:
        parser.error("--second-phrases and --second-old: give one of them")
    if args.variants and not args.phrases:
        parser.error("--variants needs --phrases")
    starting.start_logging()
    from t5patches import evaluate as evaluation
    from t5patches import report
    from t5patches.annotate import phrases
    from t5patches.interchange import claims, results_files, shards

    sampled = (args.old_samples, args.new_samples)
    second = (args.second_old, args.second_new)
    given = (args.old, args.new, args.exact_update, args.rejection, args.against)
    given += (args.distances,)
    files = (some for some in (*given, *sampled, *second) if some)
    read = shards.expand([*itertools.chain(*files)])
    read += filter(None, (args.phrases, args.references, args.second_phrases))
    outputs = (args.output, results_files.examples_path(args.output))
    results_files.check_outputs(outputs, read)
    detector = second if args.second_old else None
    if args.second_phrases:
        detector = phrases.load(args.second_phrases)
    results, examples = evaluation.evaluate_files(
        args.old,
        args.new,
        phrases.load(args.phrases) if args.phrases else None,
        args.references,
        args.references_key,
        args.exact_update,
        args.rejection,
        seed=args.seed,
        cluster=args.cluster,
        second=detector,
        variants=args.variants,
        sampled=sampled if args.old_samples else None,
        against=args.against,
        distances=args.distances,
    )
    results |= {
        "commands": [shlex.join(["t5patches", "evaluate", *argv])],
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
        "fingerprints": {path: claims.file_digest(path) for path in read},
    }
    results_files.write(args.output, results, examples)
    print(report.terminal_table(results))
    print(f"written to {args.output}")


def report(argv: list[str]) -> None:
    """Runs `t5patches report`."""
    parser = starting.parser("report", _REPORT)
    text = "results.json, one or several"
    add_option(parser, "--results", "FILE", text, nargs="+", required=True)
    text = "(default: the folder of the results; required with several)"
    add_option(parser, "--output", "FOLDER", text, default=None)
    text = "what `train` wrote, for its curves: a folder for each of the results"
    add_option(parser, "--model", "FOLDER", text, nargs="+", default=[])
    args = parser.parse_args(argv)
    if len(args.results) > 1 and not args.output:
        parser.error("--output is required with several --results")
    if args.model and len(args.model) != len(args.results):
        parser.error("--model: give a folder for each of the --results")
    starting.start_logging()
    from t5patches import __version__
    from t5patches import report as reports
    from t5patches.interchange import claims, results_files
    from t5patches.report import reading, rendering

    folder = args.output or os.path.dirname(args.results[0]) or "."
    outputs = [os.path.join(folder, name) for name in rendering.FILES]
    read = [*args.results, *map(results_files.examples_path, args.results)]
    results_files.check_outputs(outputs, read)
    results, examples = reading.read(args.results, args.model)
    made = {
        "results": "; ".join(
            f"{path}, digest {claims.file_digest(path)}" for path in args.results
        ),
        "page": f"t5patches {__version__}",
    }
    if any("model" in part for part in (results, *results.get("points", ()))):
        starting.import_tensorflow()  # It reads the training curves.
    if "points" in results:
        print(reports.write_comparison(folder, results, settings=made))
    else:
        print(reports.write_report(folder, results, examples, made))
    print(f"written to {outputs[0]}")
