"""`t5patches annotate`: the options of each annotator, and those that all share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from t5patches.annotate import occurrence
from t5patches.annotate.toxicity import THRESHOLD
from t5patches.cli.options import names, natural, positive, probability

Parser = argparse.ArgumentParser

_FILES = """\
reads   predictions (JSON lines, also gzipped, with inputs, prediction, target_tokens,
        id, or what T5X's inference writes){reads}
writes  to the output folder, a shard for each file of predictions:
        annotated-00000-of-00001.jsonl     annotated predictions
        annotated-00000-of-00001.tfrecord  the same for training
        stats.json                         how much is unwanted, by label, and what
                                           the feature lengths would cut off
        skipped.txt                        what --on-error skip left out

Typed again, it skips the shards that are there if nothing has changed."""


def annotate(
    argv: list[str], parser: Callable[[str, str], Parser], prepare: Callable[[], None]
) -> None:
    """Runs `t5patches annotate`.

    Args:
      argv: the words after it.
      parser: makes a parser from a command's name and description.
      prepare: called before something heavy is imported.
    """
    if argv and argv[0] in ANNOTATORS:
        _run(argv[0], argv[1:], parser, prepare)
        return
    listed = "\n".join(f"  {name:9} {a.summary}" for name, a in ANNOTATORS.items())
    top = parser(
        "annotate", f"Marks what is unwanted in predictions.\n\nannotators:\n{listed}"
    )
    top.add_argument("annotator", choices=list(ANNOTATORS), help="which annotator")
    top.epilog = "`t5patches annotate phrases --help` says what it reads and writes."
    top.parse_args(argv)


def _run(
    name: str,
    argv: list[str],
    make_parser: Callable[[str, str], Parser],
    prepare: Callable[[], None],
) -> None:
    kind = ANNOTATORS[name]
    files = _FILES.format(reads=kind.reads)
    parser = make_parser(f"annotate {name}", f"{kind.description}\n\n{files}")
    kind.add_arguments(parser)
    _add_shared(parser)
    args, beam_flags = parser.parse_known_args(argv)
    if beam_flags and not args.runner:
        parser.error(f"unrecognized arguments: {' '.join(beam_flags)}")
    prepare()
    from t5patches import annotate
    from t5patches.interchange import records

    annotator = kind.load(args)
    lengths = {"inputs": args.inputs_length, "targets": args.targets_length}
    options = {
        "only_annotated": args.only_annotated,
        "feature_lengths": {name: n for name, n in lengths.items() if n is not None},
        "on_error": args.on_error,
    }
    vocabulary = records.load_vocabulary(args.vocabulary, args.extra_ids)
    files_and_annotator = (args.predictions, annotator, args.output, vocabulary)
    if args.runner:
        from t5patches.annotate import beam

        flags = [f"--runner={args.runner}", *beam_flags]
        stats = beam.annotate_files(*files_and_annotator, flags=flags, **options)
    else:
        stats = annotate.annotate_files(
            *files_and_annotator, processes=args.processes, **options
        )
    print(
        f"{stats['examples']:,} predictions, "
        f"{100 * stats['share_with_unwanted']:.1f} % with something unwanted "
        f"({stats['unwanted_tokens']:,} of {stats['tokens']:,} tokens); "
        f"{stats['written']:,} written to {args.output}"
        + (f"; {stats['skipped']:,} skipped" if stats["skipped"] else "")
    )


def _add_shared(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--predictions",
        required=True,
        nargs="+",
        metavar="FILE",
        help="files, patterns, or the prefix of a sharded set",
    )
    add("--output", required=True, metavar="FOLDER", help="a folder of its own")
    add(
        "--vocabulary",
        required=True,
        metavar="FILE",
        help="the model's SentencePiece file, or 'bytes' for ByT5",
    )
    add(
        "--extra-ids",
        type=natural,
        default=0,
        metavar="N",
        help="sentinel ids after the vocabulary (T5: 100; default: %(default)s)",
    )
    add(
        "--only-annotated",
        action="store_true",
        help="keep only predictions with something unwanted",
    )
    for name in ("inputs", "targets"):
        add(
            f"--{name}-length",
            type=natural,
            metavar="N",
            help=f"length of {name} in training; what it cuts off is counted",
        )
    add(
        "--on-error",
        choices=["stop", "skip"],
        default="stop",
        help="what to do at a wrong line (default: %(default)s); 'skip' leaves it out "
        "and lists it in skipped.txt",
    )
    add(
        "--processes",
        type=positive,
        default=1,
        metavar="N",
        help="processes that share the work (default: %(default)s)",
    )
    add(
        "--runner",
        metavar="NAME",
        help="run on Apache Beam, a file per task: DirectRunner, DataflowRunner, "
        "FlinkRunner …; Beam's own flags may follow (extra 't5patches[beam]')",
    )


# --------------------------------------------------------------------------- annotators


class _Phrases:
    summary = "every occurrence of a phrase of a list"
    description = (
        "Marks every occurrence of a phrase in predictions: whole words, whatever the "
        "case."
    )
    reads = " and a list of phrases"

    @staticmethod
    def add_arguments(parser: Parser) -> None:
        parser.add_argument(
            "--phrases",
            required=True,
            metavar="FILE",
            help="text file, a phrase per line, # for comments, \\# for #",
        )

    @staticmethod
    def load(args: argparse.Namespace) -> Any:
        from t5patches.annotate import phrases

        return phrases.load(args.phrases)


class _Entities:
    summary = "names, numbers and dates that the input does not mention"
    description = (
        "Marks the entities of predictions (spaCy's) that do not occur in the input."
        "\n\n"
        # What it means to occur, without the line that says what the module is.
        + (occurrence.__doc__ or "").partition("\n\n")[2].strip().replace("**", "")
    )
    reads = ""

    @staticmethod
    def add_arguments(parser: Parser) -> None:
        add = parser.add_argument
        add(
            "--pipeline",
            default="en_core_web_sm",
            metavar="NAME",
            help="a spaCy pipeline, by name or folder (default: %(default)s)",
        )
        add(
            "--labels",
            type=names,
            metavar="A,B",
            help="entities to consider, e.g. PERSON,GPE,DATE (default: all)",
        )
        _add_batch_size(parser)

    @staticmethod
    def load(args: argparse.Namespace) -> Any:
        from t5patches.annotate.entities import EntityAnnotator

        return EntityAnnotator(args.pipeline, args.labels, args.batch_size)


class _Toxicity:
    summary = "what a trained tagger marks (`t5patches tagger train`)"
    description = "Marks the words that a trained tagger finds toxic, or else unwanted."
    reads = " and a tagger"

    @staticmethod
    def add_arguments(parser: Parser) -> None:
        add = parser.add_argument
        add(
            "--tagger",
            required=True,
            metavar="FOLDER",
            help="what `t5patches tagger train` wrote",
        )
        add(
            "--threshold",
            type=probability,
            default=THRESHOLD,
            metavar="P",
            help="probability from which a word is marked (default: %(default)s); the "
            "one that training chose, in evaluation.json, suits texts of which as many "
            "are unwanted as there",
        )
        _add_batch_size(parser)

    @staticmethod
    def load(args: argparse.Namespace) -> Any:
        from t5patches.annotate.toxicity import ToxicityAnnotator

        return ToxicityAnnotator(args.tagger, args.threshold, args.batch_size)


class _Custom:
    summary = "what a Python function of yours returns"
    description = """\
Marks what a Python function returns: it takes (text, inputs), two strings, and returns
a list of (start, end, label), spans of characters of the text. Where the file of the
function has changed, an output folder made before is refused; a change in what the file
imports is not seen: then give another folder.

    def shouting(text, inputs):
        return [(*m.span(), "shout") for m in re.finditer("[A-Z]{3,}", text)]"""
    reads = " and a Python module"

    @staticmethod
    def add_arguments(parser: Parser) -> None:
        parser.add_argument(
            "--function",
            required=True,
            metavar="MODULE:NAME",
            help="my_module:function or my_file.py:function",
        )

    @staticmethod
    def load(args: argparse.Namespace) -> Any:
        from t5patches.annotate import custom

        return custom.load(args.function)


ANNOTATORS = {
    "phrases": _Phrases,
    "entities": _Entities,
    "toxicity": _Toxicity,
    "custom": _Custom,
}


def _add_batch_size(parser: Parser) -> None:
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=256,
        metavar="N",
        help="texts that go through spaCy together (default: %(default)s)",
    )
