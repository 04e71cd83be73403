"""A user's own annotator: a Python function named on the command line."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import logging

from t5patches.annotate.alignment import Span
from t5patches.annotate.annotator import users_code
from t5patches.errors import UserError
from t5patches.interchange import claims

_HINT = "give module:function or file.py:function"


class CustomAnnotator:
    """Calls a function `(text, inputs) -> [(start, end, label)]` of a module.

    It may also have a parameter `row`, the whole prediction.
    Of a class in place of the function one object is made, without arguments, and
    called; it may load a model. Its `pipe`, if it has one, is used for many texts.
    """

    def __init__(self, name: str, function: Callable[..., Any], file: str | None):
        """Takes the function, the name by which `load` finds it, and its module's file.

        The settings have the content of the file; what that imports or reads is not
        seen.
        """
        self.name = name
        self.function = function
        self.__wrapped__ = function  # So its signature is this one's, too.
        self.file = file
        content = claims.file_digest(file) if file else ""
        self.settings = {"annotator": "custom", "function": name, "content": content}
        if hasattr(function, "pipe"):
            self.pipe = function.pipe

    def __call__(self, text: str, inputs: str, **row: Any) -> Sequence[Span]:
        """Returns what the function returns."""
        return self.function(text, inputs, **row)

    def __reduce__(self):
        return load, (self.name,)


def load(name: str) -> CustomAnnotator:
    """Returns the annotator `module:function` or `file.py:function`.

    Modules are also looked for in the current folder.

    Raises:
      UserError: there is no such module or function, or it fails when it is loaded.
    """
    module_name, _, attribute = name.rpartition(":")
    if not (module_name and attribute):
        raise UserError(f"{name!r} names no function; {_HINT}")
    module = _module(module_name)
    function = getattr(module, attribute, None)
    if not callable(function):
        kind = "no function"
        if function is not None:
            kind = f"of type {type(function).__name__}"
        raise UserError(f"{module_name}: {attribute!r} is {kind} there; {_HINT}")
    if inspect.isclass(function):
        with users_code(f"{name}: making it raised"):
            function = function()
        if not callable(function):
            raise UserError(f"{name}: a class whose objects cannot be called; {_HINT}")
    return CustomAnnotator(name, function, getattr(module, "__file__", None))


def _module(name: str) -> Any:
    if name.endswith(".py"):
        if not os.path.isfile(name):
            raise UserError(f"{name}: no such file; {_HINT}")
        return imported(name, _HINT, _module_of_file)
    # The command does not look in the current folder by itself, `python -m` does.
    sys.path.insert(0, os.getcwd())
    try:
        importlib.invalidate_caches()
        return imported(name, _HINT)
    finally:
        sys.path.remove(os.getcwd())


def imported(
    name: str, hint: str, load: Callable[[str], Any] = importlib.import_module
) -> Any:
    """Imports a user's module.

    Args:
      name: of the module.
      hint: what to do if there is none.
      load: does it.

    Raises:
      UserError: there is no such module, or it raises an error.
    """
    logging.info("Importing %s", name)  # Its code may take long, or for ever.
    try:
        with users_code(f"{name}: importing it raised"):
            return load(name)
    except UserError as error:
        cause = error.__cause__
        if not isinstance(cause, ModuleNotFoundError):
            raise
        if cause.name and f"{name}.".startswith(f"{cause.name}."):
            raise UserError(f"{name}: no such module; {hint}") from error
        what = f"it imports {cause.name!r}, which is missing"
        raise UserError(f"{name}: {what}") from error


def _module_of_file(path: str) -> Any:
    name = f"t5patches_custom_{os.path.basename(path).removesuffix('.py')}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # The name ends in .py.
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Dataclasses and pickle look it up there.
    spec.loader.exec_module(module)
    return module
