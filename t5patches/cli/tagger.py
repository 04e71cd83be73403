"""`t5patches tagger train|evaluate`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

from t5patches.annotate.toxicity import THRESHOLD
from t5patches.cli.options import natural, positive, probability
from t5patches.errors import UserError
from t5patches.interchange import json_files

Parser = argparse.ArgumentParser

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
        F1 (evaluation), and with the one that `annotate toxicity` has (annotating)"""
_EVALUATE = f"""\
Prints the character F1 of a tagger as SemEval-2021 Task 5 defines it (per post, mean
over posts), with a 95 % bootstrap interval.

{_DATA}, and a tagger
writes  one line of JSON to standard output"""


def tagger(
    argv: list[str], parser: Callable[[str, str], Parser], prepare: Callable[[], None]
) -> None:
    """Runs `t5patches tagger`; arguments as `annotate.command.annotate`'s."""
    commands = {"train": _train, "evaluate": _evaluate}
    if argv and argv[0] in commands:
        commands[argv[0]](argv[1:], parser, prepare)
        return
    top = parser(
        "tagger",
        "Trains and evaluates a tagger of unwanted words.\n\n"
        "commands:\n  train     from posts with marked characters\n"
        "  evaluate  on other posts",
    )
    top.add_argument("command", choices=list(commands), help="what to do")
    top.parse_args(argv)


def _train(
    argv: list[str],
    make_parser: Callable[[str, str], Parser],
    prepare: Callable[[], None],
) -> None:
    parser = make_parser("tagger train", _TRAIN)
    add = parser.add_argument
    _add_data(parser)
    add("--output", required=True, metavar="FOLDER", help="a folder not yet there")
    add(
        "--evaluate",
        nargs="+",
        metavar="FILE",
        help="posts to report F1 on; they are taken out of the training posts",
    )
    add(
        "--compare",
        action="store_true",
        help="also train spaCy's plain NER on the same posts and report its F1",
    )
    add("--label", default="toxic", help="of what is marked (default: %(default)s)")
    add("--language", default="en", help="of spaCy's tokenizer (default: %(default)s)")
    add("--epochs", type=positive, default=4, help="at most (default: %(default)s)")
    add(
        "--members",
        type=positive,
        default=2,
        help="networks whose probabilities are averaged (default: %(default)s)",
    )
    add("--seed", type=natural, default=0, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    prepare()
    from t5patches.annotate.tagger import posts, training

    if os.path.exists(args.output):
        raise UserError(
            f"{args.output}: exists; give another folder or remove this one"
        )
    data = posts.read_posts(args.data, args.tfds_data_dir)
    held_out = (
        posts.read_posts(args.evaluate, args.tfds_data_dir) if args.evaluate else []
    )
    kept = posts.without(data, held_out)
    settings = training.Settings(
        label=args.label,
        language=args.language,
        epochs=args.epochs,
        members=args.members,
        seed=args.seed,
    )
    nlp = training.train(kept, settings)
    cfg = nlp.get_pipe(nlp.pipe_names[-1]).cfg
    results: dict[str, Any] = {
        "training_posts": len(kept),
        "taken_out": len(data) - len(kept),
        **{key: cfg[key] for key in ("threshold", "ratio", "held_out_f1")},
    }
    if held_out:
        find = training.span_finder(nlp, args.label)
        results["evaluation"] = training.evaluate(find, held_out)
        print(_line("tagger", results["evaluation"]))
        cfg["threshold"] = THRESHOLD
        results["annotating"] = training.evaluate(find, held_out)
        print(_line(f"tagger at threshold {THRESHOLD}", results["annotating"]))
        cfg["threshold"] = results["threshold"]
    nlp.meta["performance"] = dict(results)
    training.save(nlp, args.output, results)
    if held_out and args.compare:
        plain = training.train_plain_ner(kept, seed=args.seed)
        found = training.span_finder(plain)
        results["plain_ner"] = training.evaluate(found, held_out)
        print(_line("plain NER", results["plain_ner"]))
        json_files.write_json(os.path.join(args.output, training.RECORD), results)
    print(f"written to {args.output}")


def _evaluate(
    argv: list[str],
    make_parser: Callable[[str, str], Parser],
    prepare: Callable[[], None],
) -> None:
    parser = make_parser("tagger evaluate", _EVALUATE)
    _add_data(parser)
    parser.add_argument(
        "--tagger",
        required=True,
        metavar="FOLDER",
        help="what `t5patches tagger train` wrote",
    )
    parser.add_argument(
        "--threshold",
        type=probability,
        metavar="P",
        help="probability from which a word is marked (default: the one that training "
        f"chose; `annotate toxicity` has {THRESHOLD})",
    )
    args = parser.parse_args(argv)
    prepare()
    from t5patches.annotate import toxicity
    from t5patches.annotate.tagger import component, posts, training

    data = posts.read_posts(args.data, args.tfds_data_dir)
    nlp = toxicity.load_tagger(args.tagger)
    tagger = nlp.get_pipe(component.FACTORY)
    if args.threshold is not None:
        tagger.cfg["threshold"] = args.threshold
    print(json.dumps(training.evaluate(training.span_finder(nlp, tagger.label), data)))


def _add_data(parser: Parser) -> None:
    parser.add_argument(
        "--data", required=True, nargs="+", metavar="FILE", help="posts"
    )
    parser.add_argument(
        "--tfds_data_dir", metavar="FOLDER", help="of TensorFlow Datasets"
    )


def _line(name: str, result: dict[str, Any]) -> str:
    low, high = result["interval"]
    return (
        f"{name}: character F1 {result['f1']:.4f} (95 % interval {low:.4f} to "
        f"{high:.4f}) on {result['posts']} posts, {result['marked']:.1%} marked"
    )
