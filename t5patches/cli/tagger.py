"""`t5patches tagger train|evaluate`."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable

from t5patches.annotate.toxicity import THRESHOLD
from t5patches.cli import starting
from t5patches.cli.options import add_option, positive, probability, seed, words
from t5patches.errors import UserError

_DATA = """\
reads   posts: CSV with columns spans ("[8, 9, 10]", character offsets) and text, as
        SemEval-2021 Task 5 has them; JSON lines (.jsonl) or Parquet with the same
        fields; or a split of TFDS's copy,
        tfds:civil_comments/CivilCommentsToxicSpans:1.2.4/train"""
_TRAIN = f"""\
Trains a tagger of unwanted words (a spaCy pipeline, on CPU) for `t5patches annotate
toxicity`. Epoch and thresholds are chosen on a part of the training posts.

{_DATA}
writes  the pipeline to the output folder, which spacy.load and --tagger take, with
        evaluation.json in it: character F1 as SemEval-2021 Task 5 defines it, with a
        95 % bootstrap interval, and the share of posts with something marked, on the
        posts of --evaluate; with the threshold that was chosen, which is the best for
        F1 (evaluation), and with the one that `annotate toxicity` has (annotating)

Typed again, it does what is not done yet: plain NER where only --compare is new."""
_EVALUATE = f"""\
Prints the character F1 of a tagger as SemEval-2021 Task 5 defines it (per post, mean
over posts), with a 95 % bootstrap interval.

{_DATA}, and a tagger
writes  one line of JSON to standard output"""


def tagger(argv: list[str]) -> None:
    """Runs `t5patches tagger`."""
    top = starting.parser("tagger", "Trains and evaluates a tagger of unwanted words.")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary, description, add_options, run in (
        ("train", "from posts with marked characters", _TRAIN, _add_training, _train),
        ("evaluate", "on other posts", _EVALUATE, _add_evaluation, _evaluate),
    ):
        command = commands.add_parser(
            name,
            help=summary,
            description=description,
            formatter_class=top.formatter_class,
        )
        command.set_defaults(run=run)
        add = functools.partial(add_option, command)
        add("--data", "FILE", "posts", required=True, nargs="+")
        add("--tfds_data_dir", "FOLDER", "of TensorFlow Datasets", default=None)
        add_options(add)
    args = top.parse_args(argv)
    starting.start_logging()
    args.run(args)


def _add_training(add: Callable[..., None]) -> None:
    add("--output", "FOLDER", "a folder of its own")
    text = "posts to report F1 on; they are taken out of the training posts"
    add("--evaluate", "FILE", text, nargs="+", default=[])
    text = "also train spaCy's plain NER on the same posts and report its F1"
    add("--compare", None, text, action="store_true")
    for name, kind, default, text in (
        ("label", words, "toxic", "of what is marked"),
        ("language", words, "en", "of spaCy's tokenizer"),
        ("epochs", positive, 4, "at most"),
        ("members", positive, 2, "networks whose probabilities are averaged"),
        ("seed", seed, 0, "of weights, order and the posts held out"),
    ):
        text += " (default: %(default)s)"
        add(f"--{name}", None, text, type=kind, default=default)


def _train(args: argparse.Namespace) -> None:
    from t5patches.annotate.tagger import posts, training
    from t5patches.interchange import claims

    if args.compare and not args.evaluate:
        raise UserError("--compare needs the posts of --evaluate")
    with claims.lock(args.output):
        results = training.train_folder(
            args.output,
            posts.read_posts(args.data, args.tfds_data_dir),
            posts.read_posts(args.evaluate, args.tfds_data_dir),
            training.Settings(
                args.label,
                args.language,
                args.epochs,
                args.seed,
                {"members": args.members},
            ),
            THRESHOLD,
            args.compare,
        )
    for key, name in (
        ("evaluation", "tagger"),
        ("annotating", f"tagger at threshold {THRESHOLD}"),
        ("plain_ner", "plain NER"),
    ):
        if result := results.get(key):
            low, high = result["interval"]
            print(
                f"{name}: character F1 {result['f1']:.4f} (95 % interval {low:.4f} to "
                f"{high:.4f}) on {result['posts']} posts, {result['marked']:.1%} marked"
            )
    print(f"written to {args.output}")


def _add_evaluation(add: Callable[..., None]) -> None:
    add("--tagger", "FOLDER", "what `t5patches tagger train` wrote")
    text = (
        "probability from which a word is marked (default: the one that training "
        f"chose; `annotate toxicity` has {THRESHOLD})"
    )
    add("--threshold", "P", text, type=probability)


def _evaluate(args: argparse.Namespace) -> None:
    from t5patches.annotate import toxicity
    from t5patches.annotate.tagger import component, posts, training

    data = posts.read_posts(args.data, args.tfds_data_dir)
    nlp = toxicity.load_tagger(args.tagger)
    tagger = nlp.get_pipe(component.FACTORY)
    if args.threshold is not None:
        tagger.cfg["threshold"] = args.threshold
    print(json.dumps(training.evaluate(nlp, data, tagger.label)))
