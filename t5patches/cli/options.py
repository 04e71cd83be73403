"""Options of the commands, and their values: each type reads one word."""

import argparse
import math
from typing import Any


def add_option(
    parser: argparse._ActionsContainer,
    option: str,
    value: str | None,
    text: str,
    **how: Any,
) -> None:
    """Adds an option, which is required unless `how` says otherwise.

    A value is never empty: `--data ''` is a shell variable that was not set. A list may
    be given in several parts, `--data a b --data c`.

    Args:
      parser: of the command.
      option: its name, with the hyphens.
      value: what its value is called in the help; None if it has none, or choices.
      text: its help.
      how: other arguments of `add_argument`.
    """
    how = how or {"required": True}
    if not {"action", "choices", "type"} & how.keys():
        how["type"] = words
    if "action" not in how:
        how["action"] = "extend" if "nargs" in how else _Once
    if value is not None:
        how["metavar"] = value
    parser.add_argument(option, help=text, **how)


class _Once(argparse.Action):
    """Stores a value. Of several, all but one would be dropped without a word."""

    given = False

    def __call__(self, parser, namespace, values, option_string=None):
        if self.given:
            raise argparse.ArgumentError(self, "is given twice")
        self.given = True
        setattr(namespace, self.dest, values)


def words(text: str) -> str:
    """Reads a text that is not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty")
    return text


def names(text: str) -> list[str]:
    """Reads a list with commas, of at least one name."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return found


def seed(text: str) -> int:
    """Reads what every library that draws numbers takes: 0 to 2³¹ − 1."""
    return natural(text, 2**31)


def sentinels(text: str) -> int:
    """Reads how many ids come after a vocabulary; each is a piece to be made."""
    return natural(text, 2**16)


def natural(text: str, limit: float = math.inf) -> int:
    """Reads 0, 1, 2 … below a limit."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    if value >= limit:
        raise argparse.ArgumentTypeError(f"{text} is larger than {limit - 1}")
    return value


def positive(text: str) -> int:
    """Reads 1, 2, 3 …"""
    value = natural(text)
    if not value:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
