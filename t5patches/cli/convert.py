"""`t5patches convert hf-to-t5x|t5x-to-hf`."""

from __future__ import annotations

import argparse

from t5patches.cli import starting
from t5patches.cli.options import add_option, positive, words

_WHAT = "Models in Hugging Face's form to T5X's, and back: T5 1.0 and 1.1, LM-adapt, "
_WHAT += "Flan, mT5, umT5, ByT5."
_TO_T5X = """\
Makes a T5X checkpoint of a model folder that Transformers has saved. Neither torch nor
Transformers is needed.

reads   config.json; model.safetensors, or the shards of model.safetensors.index.json;
        spiece.model or tokenizer.json
writes  checkpoint_0, model.gin (to be read in the place of a file of gin/models),
        sentencepiece.model, and in huggingface/ what was beside the weights

Nothing is unpickled, and no code of the folder runs. Weights keep their type.

example:
  t5patches convert hf-to-t5x flan-t5-small flan
  t5patches generate --gin_file=flan/model.gin --gin_file=tasks/text.gin \\
    --gin_file=job.gin --gin.CHECKPOINT_PATH="'flan/checkpoint_0'" \\
    --gin.INFER_OUTPUT_DIR="'before'\""""
_TO_HF = """\
Makes a model folder, as Transformers 4 and 5 load it, of a T5X checkpoint.

reads   a checkpoint (also of T5X's older format, or with scanned layers), or the latest
        of a folder; and what is to be beside the weights: the tokenizer and settings
        of --like, which is the folder that the model came from in Hugging Face's form,
        or what `t5patches convert hf-to-t5x` made of it; a checkpoint of the latter
        needs none. Without it, --vocabulary gives the tokenizer
writes  config.json, generation_config.json, the tokenizer, and model.safetensors or,
        of large models, shards with their index

example:
  t5patches convert t5x-to-hf updated/checkpoint_1000 updated-hf --like flan"""


def convert(argv: list[str]) -> None:
    """Runs `t5patches convert`."""
    top = starting.parser("convert", _WHAT)
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary, description, source, run in (
        ("hf-to-t5x", "a model folder to a checkpoint", _TO_T5X, "DIR", _to_t5x),
        ("t5x-to-hf", "a checkpoint to a model folder", _TO_HF, "CKPT", _to_hf),
    ):
        command = commands.add_parser(
            name,
            help=summary,
            description=description,
            formatter_class=top.formatter_class,
        )
        command.add_argument("source", metavar=source, type=words)
        text = "a folder that is not there yet"
        command.add_argument("output", metavar="OUT", type=words, help=text)
        command.set_defaults(run=run)
        if run is _to_hf:
            text = "where the other files are"
            add_option(command, "--like", "DIR", text, default=None)
            text = "a SentencePiece model, if there is no such folder"
            add_option(command, "--vocabulary", "FILE", text, default=None)
            text = "of the weights (default: as the model of --like has them)"
            types = ["float32", "bfloat16", "float16"]
            add_option(command, "--dtype", None, text, choices=types, default=None)
            text = "a regular expression: other parameters are left out"
            add_option(command, "--parameters", "NAMES", text, default=None)
            text = "most megabytes of a file of weights (default: %(default)s)"
            name = "--shard-megabytes"
            add_option(command, name, "N", text, type=positive, default=5000)
    args = top.parse_args(argv)
    starting.prepare()
    args.run(args)


def _to_t5x(args: argparse.Namespace) -> None:
    from t5patches.convert import folders

    folders.hf_to_t5x(args.source, args.output)
    print(f"written to {args.output}: checkpoint_0, {folders.MODEL_GIN}")


def _to_hf(args: argparse.Namespace) -> None:
    from t5patches.convert import folders

    size = args.shard_megabytes * 10**6
    beside = args.like, args.vocabulary
    chosen = args.dtype, args.parameters
    folders.t5x_to_hf(args.source, args.output, *beside, size, *chosen)
    print(f"written to {args.output}")
