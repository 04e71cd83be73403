"""`t5patches annotate`: the options of each annotator, and those that all share."""

from __future__ import annotations

import argparse
import functools
import shlex
from collections.abc import Callable

from t5patches.annotate import (
    Annotator,
    custom,
    entities,
    job,
    occurrence,
    phrases,
    spacy_pipelines,
    spans,
    toxicity,
)
from t5patches.cli import starting
from t5patches.cli.options import add_option, names, positive, sentinels
from t5patches.errors import UserError

Add = Callable[..., None]  # `add_option`, of a parser.
Make = Callable[[argparse.Namespace], Annotator]

_FILES = """\
reads   predictions (JSON lines, also gzipped, with inputs, prediction, target_tokens,
        id, or what T5X's inference writes){reads}
writes  to the output folder, a shard for each file of predictions:
        annotated-00000-of-00001.jsonl     annotated predictions
        annotated-00000-of-00001.tfrecord  the same for training
        unwanted_sets.npz                  (phrases) what else would be unwanted at
                                           each position: training leaves it out, too
        stats.json                         how much is unwanted, by label, and what
                                           the feature lengths would cut off
        skipped.txt                        what --on-error skip left out

Typed again, it skips the shards that are there if nothing has changed."""


def annotate(argv: list[str]) -> None:
    """Runs `t5patches annotate`."""
    top = starting.parser("annotate", "Marks what is unwanted in predictions.")
    top.epilog = "`t5patches annotate phrases --help` says what it reads and writes."
    kinds = top.add_subparsers(metavar="ANNOTATOR", required=True)
    for name, (add_options, summary, description) in ANNOTATORS.items():
        own = kinds.add_parser(
            name,
            help=summary,
            description=f"{description}\n\n{_FILES.format(reads=_READS.get(name, ''))}",
            formatter_class=top.formatter_class,
        )
        add = functools.partial(add_option, own)
        own.set_defaults(make=add_options(add))
        _add_shared(add)
    args, beam_flags = top.parse_known_args(argv)
    if beam_flags and not args.runner:
        top.error(f"unrecognized arguments: {' '.join(beam_flags)}")
    starting.prepare()
    from t5patches.interchange import records

    run = functools.partial(job.Job.run, processes=args.processes)
    if args.runner:
        from t5patches.annotate import beam

        flags = [f"--runner={args.runner}", *beam_flags]
        run = functools.partial(beam.run, flags=flags)
    lengths = {"inputs": args.inputs_length, "targets": args.targets_length}
    files = job.Job(
        args.predictions,
        args.make(args),
        args.output,
        records.load_vocabulary(args.vocabulary, args.extra_ids),
        only_annotated=args.only_annotated,
        feature_lengths={name: n for name, n in lengths.items() if n is not None},
        on_error=args.on_error,
        alternatives=args.alternatives,
    )
    stats = run(files)
    print(
        f"{stats['examples']:,} predictions, "
        f"{100 * stats['share_with_unwanted']:.1f} % with something unwanted "
        f"({stats['unwanted_tokens']:,} of {stats['tokens']:,} tokens); "
        f"{stats['written']:,} written to {args.output}"
        + (f"; {stats['skipped']:,} skipped" if stats["skipped"] else "")
    )
    if args.alternatives and "alternatives_tried" in stats:
        print(
            f"{stats['unwanted_alternatives']:,} of {stats['alternatives_tried']:,} "
            f"alternatives are unwanted, at {stats['positions_with_them']:,} positions"
        )


def make_annotator(words: str, where: str) -> Annotator:
    """Makes the annotator of words as they stand behind `t5patches annotate`.

    Raises:
      UserError: there is none of that name; `where` says where the words are from.
    """
    name, *argv = shlex.split(words) or [""]
    if name not in ANNOTATORS:
        kinds = ", ".join(ANNOTATORS)
        raise UserError(f"{where}: no annotator {name!r}; there is {kinds}")
    parser = starting.parser(f"annotate {name}", where)
    make = ANNOTATORS[name][0](functools.partial(add_option, parser))
    return make(parser.parse_args(argv))


def _add_shared(add: Add) -> None:
    text = "files, patterns, or the prefix of a sharded set"
    add("--predictions", "FILE", text, required=True, nargs="+")
    add("--output", "FOLDER", "a folder of its own")
    add("--vocabulary", "FILE", "the model's SentencePiece file, or 'bytes' for ByT5")
    text = "sentinel ids after the vocabulary (T5: 100; default: %(default)s)"
    add("--extra-ids", "N", text, type=sentinels, default=0)
    text = (
        "what else the model would have said (`t5patches generate` with "
        "runs/alternatives.gin wrote it): what is unwanted of it is marked, too"
    )
    add("--alternatives", "FILE", text, nargs="+", default=None)
    text = "keep only predictions with something unwanted"
    add("--only-annotated", None, text, action="store_true")
    for name in ("inputs", "targets"):
        text = f"length of {name} in training; what it cuts off is counted"
        add(f"--{name}-length", "N", text, type=positive)
    text = (
        "what to do at a wrong line (default: %(default)s); 'skip' leaves it out "
        "and lists it in skipped.txt"
    )
    add("--on-error", None, text, choices=["stop", "skip"], default="stop")
    text = "processes that share the work (default: %(default)s)"
    add("--processes", "N", text, type=positive, default=1)
    text = (
        "run on Apache Beam, a file per task: DirectRunner, DataflowRunner, "
        "FlinkRunner …; Beam's own flags may follow (extra 't5patches[beam]')"
    )
    add("--runner", "NAME", text, default=None)


# The annotators: each function adds an annotator's own options, and returns what makes
# it from the arguments.


def _phrases(add: Add) -> Make:
    add("--phrases", "FILE", "text file, a phrase per line, # for comments, \\# for #")
    text = (
        "which ids that were not said are unwanted, too (default: %(default)s): the "
        "'piece' that completes a phrase, or the 'next' one, which ends its word, so "
        "that longer words stay possible"
    )
    add("--word-end", None, text, choices=["piece", "next"], default="piece")
    return lambda args: phrases.load(args.phrases, args.word_end)


def _entities(add: Add) -> Make:
    text = "a spaCy pipeline, by name or folder (default: %(default)s)"
    add("--pipeline", "NAME", text, default=entities.PIPELINE)
    text = "entities to consider, e.g. PERSON,GPE,DATE (default: all)"
    add("--labels", "A,B", text, type=names)
    _add_batch_size(add)
    text = (
        "of which entities only the words are marked that the input does not have: "
        "'John' of 'John Smith' where it has 'Mr Smith' (default: %(default)s; without "
        "a value: names). Numbers and dates are always marked as a whole"
    )
    add(
        "--unsupported-words-only",
        None,
        text,
        nargs="?",
        action="store",
        choices=entities.WORDS_ONLY,
        const="names",
        default=entities.DEFAULT_WORDS_ONLY,
    )
    make = entities.EntityAnnotator
    return lambda args: make(
        args.pipeline, args.labels, args.batch_size, args.unsupported_words_only
    )


def _toxicity(add: Add) -> Make:
    add("--tagger", "FOLDER", "what `t5patches tagger train` wrote")
    _add_batch_size(add)
    return lambda args: toxicity.ToxicityAnnotator(args.tagger, args.batch_size)


def _add_batch_size(add: Add) -> None:
    text = "texts that go through spaCy together (default: %(default)s)"
    default = spacy_pipelines.BATCH_SIZE
    add("--batch-size", "N", text, type=positive, default=default)


def _spans(add: Add) -> Make:
    text = "JSON lines, CSV or Parquet with id, start and end, or with id and spans"
    add("--spans", "FILE", text)
    return lambda args: spans.SpanAnnotator(args.spans)


def _custom(add: Add) -> Make:
    add("--function", "MODULE:NAME", "my_module:function or my_file.py:function")
    return lambda args: custom.load(args.function)


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
_SPANS = """\
Marks what people have marked. A row of the file is a span: the id of its prediction,
start and end (characters of the prediction, from 0, the end exclusive: Python's
text[start:end]), and, if you like, a label ('unwanted' if not) and marked, the marked
characters, which are compared. Or a row has all spans of a prediction:

    {"id": "7", "start": 12, "end": 17, "label": "rude", "marked": "silly"}
    {"id": "8", "spans": [[0, 4], {"start": 12, "end": 17, "label": "rude"}]}

A prediction without spans has nothing unwanted. An id that no prediction has, and a
span outside its text, are errors. Where a prediction without target_tokens changes when
it is encoded, spans are of the text as it was given."""
_CUSTOM = """\
Marks what a Python function returns: it takes (text, inputs), two strings, and returns
a list of (start, end, label), spans of characters of the text. If it has a parameter
row, too, it gets the whole prediction as that, a dictionary: id, inputs, prediction,
target_tokens, and what else its line has. Where the file of the function has changed,
an output folder made before is refused; a change in what the file imports is not seen:
then give another folder.

    def shouting(text, inputs):
        return [(*m.span(), "shout") for m in re.finditer("[A-Z]{3,}", text)]

    def banned(text, inputs, row):
        return [(*m.span(), "ban") for m in re.finditer(row["ban"], text)]"""
# Name -> what adds its options, its summary, the first lines of its help.
ANNOTATORS = {
    "phrases": (_phrases, "every occurrence of a phrase of a list", _PHRASES),
    "entities": (
        _entities,
        "names, numbers and dates that the input does not mention",
        _ENTITIES,
    ),
    "toxicity": (
        _toxicity,
        "what a trained tagger marks (`t5patches tagger train`)",
        _TOXICITY,
    ),
    "spans": (_spans, "what people have marked", _SPANS),
    "custom": (_custom, "what a Python function of yours returns", _CUSTOM),
}
# What some read besides predictions.
_READS = {
    "phrases": " and a list of phrases",
    "toxicity": " and a tagger",
    "spans": " and a file of spans",
    "custom": " and a Python module",
}
