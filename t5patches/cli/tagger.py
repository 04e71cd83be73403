"""`t5patches tagger train|evaluate`."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable

from t5patches.cli import starting
from t5patches.cli.options import add_option, positive, seed, words

_DATA = """\
reads   posts: CSV with columns spans ("[8, 9, 10]", character offsets) and text, as
        SemEval-2021 Task 5 has them; JSON lines (.jsonl) or Parquet with the same
        fields; or a split of TFDS's copy,
        tfds:civil_comments/CivilCommentsToxicSpans:1.2.4/train"""
_TRAIN = f"""\
Trains a tagger of unwanted words (spaCy's own NER, on CPU) for `t5patches annotate
toxicity`. The epoch is chosen on a part of the training posts.

{_DATA}
writes  the pipeline to the output folder, which spacy.load and --tagger take, with
        evaluation.json in it: what `t5patches tagger evaluate` prints, of the posts of
        --evaluate

Typed again, it does nothing if posts and settings are the same."""
_EVALUATE = f"""\
Prints the character F1 of a tagger as SemEval-2021 Task 5 defines it (per post, mean
over posts), with a 95 % bootstrap interval, and the share of posts in which it marks
something: of all posts, of those with spans, and of those without. A post without spans
counts 1 if nothing is marked in it, or else 0.

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
    for name, kind, default, text in (
        ("label", words, "toxic", "of what is marked"),
        ("language", words, "en", "of spaCy's tokenizer"),
        ("epochs", positive, 4, "at most"),
        ("seed", seed, 0, "of weights, order and the posts held out"),
    ):
        text += " (default: %(default)s)"
        add(f"--{name}", None, text, type=kind, default=default)


def _train(args: argparse.Namespace) -> None:
    from t5patches.annotate.tagger import posts, training
    from t5patches.interchange import claims

    with claims.lock(args.output):
        results = training.train_folder(
            args.output,
            posts.read_posts(args.data, args.tfds_data_dir),
            posts.read_posts(args.evaluate, args.tfds_data_dir),
            training.Settings(args.label, args.language, args.epochs, args.seed),
        )
    for kind, found in results.get("evaluation", {}).items():
        low, high = found["interval"]
        print(
            f"{kind.replace('_', ' ')}: character F1 {found['f1']:.4f} (95 % interval "
            f"{low:.4f} to {high:.4f}) on {found['posts']} posts, "
            f"{found['marked']:.1%} marked"
        )
    print(f"written to {args.output}")


def _add_evaluation(add: Callable[..., None]) -> None:
    add("--tagger", "FOLDER", "what `t5patches tagger train` wrote")


def _evaluate(args: argparse.Namespace) -> None:
    from t5patches.annotate import toxicity
    from t5patches.annotate.tagger import posts, training

    data = posts.read_posts(args.data, args.tfds_data_dir)
    print(json.dumps(training.evaluate(toxicity.load_tagger(args.tagger), data)))
