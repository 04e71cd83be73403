"""`t5patches patch`."""

from __future__ import annotations

import shlex

from t5patches import losses
from t5patches.cli import starting
from t5patches.cli.annotate import ANNOTATORS, make_annotator
from t5patches.cli.options import add_option, positive, seed

_FORMS = ("hf", "t5x")
_DESCRIPTION = """\
Updates a model so that it no longer says what is unwanted: all of it by one command.

reads   --model: a folder in Hugging Face's form (config.json, safetensors, tokenizer)
        or a T5X checkpoint; --inputs: texts, in JSON lines, CSV or Parquet; and what is
        unwanted: --phrases, or an --annotator with its options (see `t5patches annotate
        ANNOTATOR --help`). Or, in place of --inputs, --annotated: outputs of the model
        that are marked already, JSON lines with inputs, prediction, id and annotations
        ([{"start", "end", "label"}], characters of the prediction)
writes  to --output: the model in the form that it came in, README.md (its model card,
        with a section on the update), report.html, results.json, and in run/ all that
        was made on the way, which may be removed then: run/commands.txt has the
        commands that do it by hand

The texts are split by a hash into training (80 %), validation and test. The model
generates for them, what is unwanted is marked, the model is updated (of its checkpoints
that with the lowest validation loss is taken), generates for the test texts again and
is compared with what it was. The model's files are written last.

Of phrases the update learns all that would complete one, at every position, and what
the model says without them, and trains the output layer's rows of these tokens alone;
else it learns what was said and, of what the model nearly said in its place, what the
annotator finds unwanted, and trains everything. With --annotated the marks alone teach,
nothing is generated for training, and an output for a test text counts as unwanted if
it has words that were marked in the output before; with --phrases or --annotator
besides, by these.

A learning rate of 0.04 for phrases and 0.0001 otherwise, and 1,000 steps, were chosen
on small models: look at the report, and try others. With --search five updates with a
quarter of the steps come first, with these, with a quarter and four times the rate, and
the same of alpha; the best on the validation texts says what the update gets. They are
a sweep, and run/search/report.html is its report.

Typed again, the command goes on where it was stopped."""


def patch(argv: list[str]) -> None:
    """Runs `t5patches patch`.

    Raises:
      UserError: options, model or texts are not what they should be, or nothing
        unwanted is said.
    """
    parser = starting.parser("patch", _DESCRIPTION)
    add_option(parser, "--model", "MODEL", "the model")
    add_option(parser, "--output", "FOLDER", "a folder that is not there yet")
    given = parser.add_mutually_exclusive_group(required=True)
    text = "texts: JSON lines, CSV or Parquet"
    add_option(given, "--inputs", "FILE", text, default=None)
    text = "outputs of the model, marked already"
    add_option(given, "--annotated", "FILE", text, default=None)
    text = "column of the texts (default: inputs, or text)"
    add_option(parser, "--inputs-key", "NAME", text, default=None)
    text = "unwanted phrases, one a line: short for --annotator phrases"
    add_option(parser, "--phrases", "FILE", text, default=None)
    text = "what finds what is unwanted; its own options follow"
    kinds = [name for name in ANNOTATORS if name != "spans"]
    add_option(parser, "--annotator", None, text, choices=kinds, default=None)
    text = "form of the result (default: the model's)"
    add_option(parser, "--to", None, text, choices=_FORMS, default=None)
    text = "SentencePiece model of a T5X checkpoint that has no model.gin beside it"
    add_option(parser, "--vocabulary", "FILE", text, default=None)
    text = "of the update (default: %(default)s)"
    methods = [*losses.METHODS]
    add_option(parser, "--method", None, text, choices=methods, default="tnff")
    for name, kind, default, text in (
        ("steps", positive, 1000, "of the update"),
        ("learning-rate", float, None, "of the update (default: see above)"),
        ("alpha", float, None, "weight of what is unwanted (default: 1)"),
        ("batch-size", positive, 32, "examples in a batch"),
        ("targets-length", positive, 128, "pieces of an output, at most"),
        ("partitions", positive, 1, "devices that share each parameter"),
        ("seed", seed, 0, "of the order of the data"),
    ):
        text += "" if default is None else " (default: %(default)s)"
        add_option(parser, f"--{name}", "N", text, type=kind, default=default)
    text = "choose the learning rate, and alpha unless given, by short updates first"
    add_option(parser, "--search", None, text, action="store_true")
    args, rest = parser.parse_known_args(argv)
    if args.search and args.learning_rate is not None:
        parser.error("--search chooses the learning rate: leave --learning-rate out")
    if args.phrases:
        if args.annotator not in (None, "phrases"):
            parser.error(f"--phrases and --annotator {args.annotator}: give one")
        args.annotator, rest = "phrases", ["--phrases", args.phrases, *rest]
    words = shlex.join([args.annotator, *rest]) if args.annotator else ""
    if rest and not words:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if args.inputs and not words:
        parser.error("what is unwanted? give --phrases or --annotator")
    options = vars(args)
    del options["annotator"]
    starting.prepare()
    annotator = make_annotator(words, "t5patches patch") if words else None
    from t5patches.patch import asked, job

    job.run(asked.Patch(annotator=annotator, words=words, **options))
