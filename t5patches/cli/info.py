"""`t5patches info`."""

from __future__ import annotations

from t5patches.cli import starting
from t5patches.cli.options import words

_DESCRIPTION = """\
Says what a model is: a folder in Hugging Face's form, or a T5X checkpoint (of a folder
of them the latest): its architecture, parameters, types and step, the updates that made
it (patches.json), and each parameter with its shape. No weights are read."""


def info(argv: list[str]) -> None:
    """Runs `t5patches info`."""
    parser = starting.parser("info", _DESCRIPTION)
    parser.add_argument("path", metavar="PATH", type=words)
    args = parser.parse_args(argv)
    starting.prepare()
    from t5patches.patch import description

    print("\n".join(description.describe(args.path)))
