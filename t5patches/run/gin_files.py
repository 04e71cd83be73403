"""What gin files say, read as they are written.

Gin imports the modules that a file names while it parses it. `read` imports nothing,
so that what is wrong with a file is known before TensorFlow is there.
"""

from __future__ import annotations

import dataclasses
import os
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from absl import logging
from gin import config_parser, resource_reader

from t5patches import _engine
from t5patches.errors import UserError
from t5patches.run import gin_config, gin_errors


@dataclasses.dataclass(frozen=True)
class Reference:
    """The value of a macro, `%NAME`, or of a configurable, `@name` or `@name()`."""

    text: str

    @property
    def macro(self) -> str | None:
        """The macro's name, or None."""
        return self.text[1:] if self.text.startswith("%") else None

    def __repr__(self) -> str:
        return self.text


REQUIRED = Reference("%gin.REQUIRED")


class Binding(NamedTuple):
    """What a name is bound to.

    Attributes:
      name: a macro's, or an argument's as `scope/function.argument`; modules, which
        have other names in each file, are left out.
      value: numbers, texts, containers, `Reference`s.
      place: file and line, or that it is of the command line.
      file: the file's path; "" for the command line.
    """

    name: str
    value: Any
    place: str
    file: str


class _References(config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name, evaluate):
        return Reference(f"@{scoped_configurable_name}{'()' if evaluate else ''}")

    def macro(self, macro_name):
        return Reference(f"%{macro_name}")


def read(
    files: Sequence[str], bindings: Sequence[str], folders: Sequence[str]
) -> list[Binding]:
    """Reads gin files with what they include, then bindings; later ones override.

    Args:
      files: names or paths of gin files.
      bindings: `NAME = value`.
      folders: where names are looked up. A name that more than one of them has is
        warned of.

    Returns:
      What they bind, in order.

    Raises:
      UserError: a file is missing, is no gin file, or includes itself.
    """
    found: list[Binding] = []

    def read_file(name: str, place: str, within: tuple[str, ...]) -> None:
        path = find(name, folders, place)
        if path in within:
            circle = " → ".join((*within[within.index(path) :], path))
            raise UserError(f"{place}a gin file includes itself: {circle}")
        try:
            with open(path, encoding="utf-8") as lines:
                read_lines(lines, path, (*within, path))
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is no gin file: {error}") from error

    def read_lines(lines: Any, path: str, within: tuple[str, ...] = ()) -> None:
        try:
            for statement in config_parser.ConfigParser(lines, _References()):
                take(statement, path, within)
        except SyntaxError as error:
            error.text = error.text if path else lines
            raise
        except tokenize.TokenError as error:
            message, (line, _) = error.args
            place = f"{path}, line {line}" if path else f"command line: {lines}"
            raise UserError(f"{place}: {message}") from error

    def take(statement: Any, path: str, within: tuple[str, ...]) -> None:
        line = statement.location.line_num
        place = f"{path}, line {line}" if path else "command line"
        if isinstance(statement, config_parser.IncludeStatement):
            read_file(statement.filename, f"{place}: ", within)
        elif isinstance(statement, config_parser.BindingStatement):
            scope, name, argument, value, _ = statement
            if argument:
                name = f"{name.rpartition('.')[2]}.{argument}"
            name = f"{scope}/{name}" if scope else name
            name = name.removesuffix("/macro.value")
            found.append(Binding(name, value, place, path))

    with gin_errors.in_our_words(gin_errors.parse_error):
        for file in files:
            read_file(file, "", ())
        for binding in bindings:
            read_lines(binding, "")
    return found


def find(name: str, folders: Sequence[str], place: str = "") -> str:
    """Returns the path of a gin file: that in the first of the folders that has it.

    As gin does it; a name that other folders have as well is warned of.

    Args:
      name: name or absolute path.
      folders: where it is looked up.
      place: where the name stands, for the message.

    Raises:
      UserError: there is none.
    """
    paths = [os.path.join(folder, name) for folder in folders]
    there = [path for path in dict.fromkeys(paths) if os.path.isfile(path)]
    if not there:
        with gin_config.without_path_errors():  # In a Python package, as gin finds it.
            if resource_reader.system_path_file_exists(name):
                there = [resource_reader._parse_config_path(name)]
    if not there:
        hint = ""
        if name.startswith("t5x/") and _engine.name() != "t5x":
            hint = "; it would be one of T5X's, which is not installed"
        looked = ", ".join(folder or "the current folder" for folder in folders)
        raise UserError(
            f"{place}there is no gin file {name!r}{hint}. Looked for in {looked}"
        )
    for other in there[1:]:
        if not os.path.samefile(there[0], other):
            logging.warning(
                "%s is read, not %s: give yours another name, or its path "
                "(./NAME.gin), if it is meant",
                there[0],
                os.path.abspath(other),
            )
    return there[0]


def references(value: Any) -> Iterator[Reference]:
    """Yields the references in a value."""
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, dict):
        yield from references([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for part in value:
            yield from references(part)
