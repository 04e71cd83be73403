"""`t5patches annotate`: the options of each annotator, and those that all share."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from t5patches.annotate import (
    Annotator,
    annotate_files,
    custom,
    entities,
    occurrence,
    phrases,
    spacy_pipelines,
    toxicity,
)
from t5patches.cli.options import names, natural, positive, probability

Parser = argparse.ArgumentParser
Add = Callable[..., None]  # `_add`, of a parser.

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
    top = parser("annotate", "Marks what is unwanted in predictions.")
    top.epilog = "`t5patches annotate phrases --help` says what it reads and writes."
    kinds = top.add_subparsers(metavar="ANNOTATOR", dest="annotator", required=True)
    for name, kind in ANNOTATORS.items():
        files = _FILES.format(reads=kind.reads)
        own = kinds.add_parser(
            name,
            help=kind.summary,
            description=f"{kind.description}\n\n{files}",
            formatter_class=top.formatter_class,
        )
        kind.add_options(functools.partial(_add, own))
        _add_shared(own)
    args, beam_flags = top.parse_known_args(argv)
    if beam_flags and not args.runner:
        top.error(f"unrecognized arguments: {' '.join(beam_flags)}")
    prepare()
    from t5patches.interchange import records

    lengths = {"inputs": args.inputs_length, "targets": args.targets_length}
    options = {
        "only_annotated": args.only_annotated,
        "feature_lengths": {name: n for name, n in lengths.items() if n is not None},
        "on_error": args.on_error,
    }
    annotator = ANNOTATORS[args.annotator].make(args)
    vocabulary = records.load_vocabulary(args.vocabulary, args.extra_ids)
    files_and_annotator = (args.predictions, annotator, args.output, vocabulary)
    if args.runner:
        from t5patches.annotate import beam

        flags = [f"--runner={args.runner}", *beam_flags]
        stats = beam.annotate_files(*files_and_annotator, flags=flags, **options)
    else:
        stats = annotate_files(
            *files_and_annotator, processes=args.processes, **options
        )
    print(
        f"{stats['examples']:,} predictions, "
        f"{100 * stats['share_with_unwanted']:.1f} % with something unwanted "
        f"({stats['unwanted_tokens']:,} of {stats['tokens']:,} tokens); "
        f"{stats['written']:,} written to {args.output}"
        + (f"; {stats['skipped']:,} skipped" if stats["skipped"] else "")
    )


def _add(parser: Parser, option: str, value: str, text: str, **how: Any) -> None:
    """Adds an option with a value, which is required unless `how` says otherwise."""
    how = how or {"required": True}
    parser.add_argument(option, metavar=value, help=text, **how)


def _add_shared(parser: Parser) -> None:
    add = functools.partial(_add, parser)
    text = "files, patterns, or the prefix of a sharded set"
    add("--predictions", "FILE", text, required=True, nargs="+")
    add("--output", "FOLDER", "a folder of its own")
    add("--vocabulary", "FILE", "the model's SentencePiece file, or 'bytes' for ByT5")
    text = "sentinel ids after the vocabulary (T5: 100; default: %(default)s)"
    add("--extra-ids", "N", text, type=natural, default=0)
    parser.add_argument(
        "--only-annotated",
        action="store_true",
        help="keep only predictions with something unwanted",
    )
    for name in ("inputs", "targets"):
        text = f"length of {name} in training; what it cuts off is counted"
        add(f"--{name}-length", "N", text, type=natural)
    parser.add_argument(
        "--on-error",
        choices=["stop", "skip"],
        default="stop",
        help="what to do at a wrong line (default: %(default)s); 'skip' leaves it out "
        "and lists it in skipped.txt",
    )
    text = "processes that share the work (default: %(default)s)"
    add("--processes", "N", text, type=positive, default=1)
    text = (
        "run on Apache Beam, a file per task: DirectRunner, DataflowRunner, "
        "FlinkRunner …; Beam's own flags may follow (extra 't5patches[beam]')"
    )
    add("--runner", "NAME", text, default=None)


# --------------------------------------------------------------------------- annotators


def _add_phrases(add: Add) -> None:
    add("--phrases", "FILE", "text file, a phrase per line, # for comments, \\# for #")


def _add_entities(add: Add) -> None:
    text = "a spaCy pipeline, by name or folder (default: %(default)s)"
    add("--pipeline", "NAME", text, default=entities.PIPELINE)
    text = "entities to consider, e.g. PERSON,GPE,DATE (default: all)"
    add("--labels", "A,B", text, type=names)
    _add_batch_size(add)


def _add_toxicity(add: Add) -> None:
    add("--tagger", "FOLDER", "what `t5patches tagger train` wrote")
    text = (
        "probability from which a word is marked (default: %(default)s); the one that "
        "training chose, in evaluation.json, suits texts in which as much is unwanted "
        "as in the posts of the training"
    )
    add("--threshold", "P", text, type=probability, default=toxicity.THRESHOLD)
    _add_batch_size(add)


def _add_batch_size(add: Add) -> None:
    text = "texts that go through spaCy together (default: %(default)s)"
    default = spacy_pipelines.BATCH_SIZE
    add("--batch-size", "N", text, type=positive, default=default)


def _add_custom(add: Add) -> None:
    add("--function", "MODULE:NAME", "my_module:function or my_file.py:function")


class _Kind(NamedTuple):
    """An annotator as the command has it.

    Attributes:
      summary: of a few words.
      description: its help begins with this.
      reads: what it reads besides predictions.
      add_options: adds its own options.
      make: makes it from the arguments.
    """

    summary: str
    description: str
    reads: str
    add_options: Callable[[Add], None]
    make: Callable[[argparse.Namespace], Annotator]


_PHRASES = (
    "Marks every occurrence of a phrase in predictions: whole words, whatever the case."
)
_ENTITIES = (
    "Marks the entities of predictions (spaCy's) that do not occur in the input. What\n"
    "follows a quantity without a space is marked with it: the 'm' of '£5m'.\n\n"
    # What it means to occur, without the line that says what the module is.
    + (occurrence.__doc__ or "").partition("\n\n")[2].strip().replace("**", "")
)
_TOXICITY = "Marks the words that a trained tagger finds toxic, or else unwanted."
_CUSTOM = """\
Marks what a Python function returns: it takes (text, inputs), two strings, and returns
a list of (start, end, label), spans of characters of the text. Where the file of the
function has changed, an output folder made before is refused; a change in what the file
imports is not seen: then give another folder.

    def shouting(text, inputs):
        return [(*m.span(), "shout") for m in re.finditer("[A-Z]{3,}", text)]"""
ANNOTATORS = {
    "phrases": _Kind(
        "every occurrence of a phrase of a list",
        _PHRASES,
        " and a list of phrases",
        _add_phrases,
        lambda args: phrases.load(args.phrases),
    ),
    "entities": _Kind(
        "names, numbers and dates that the input does not mention",
        _ENTITIES,
        "",
        _add_entities,
        lambda args: entities.EntityAnnotator(
            args.pipeline, args.labels, args.batch_size
        ),
    ),
    "toxicity": _Kind(
        "what a trained tagger marks (`t5patches tagger train`)",
        _TOXICITY,
        " and a tagger",
        _add_toxicity,
        lambda args: toxicity.ToxicityAnnotator(
            args.tagger, args.threshold, args.batch_size
        ),
    ),
    "custom": _Kind(
        "what a Python function of yours returns",
        _CUSTOM,
        " and a Python module",
        _add_custom,
        lambda args: custom.load(args.function),
    ),
}
