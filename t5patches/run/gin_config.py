"""Gin for one run of a script: files and bindings in, the script's arguments out.

What leans on gin's insides (its private names, its messages) stands here and in
`gin_errors`.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gin

from t5patches.errors import UserError
from t5patches.run import gin_errors

# What `gin.clear_config` forgets.
_STATE = ("_CONFIG", "_SINGLETONS", "_IMPORTS", "_OPERATIVE_CONFIG")


class Config:
    """What gin files and bindings say about a function and what it is given."""

    def __init__(self, function: Callable[..., Any], configured: Callable[..., Any]):
        self.function = function
        self._configured = configured

    @property
    def bindings(self) -> dict[str, str]:
        """Macros by name, arguments as `scope/module.function.argument`; as text."""
        found = {}
        for (scope, selector), arguments in gin.config._CONFIG.items():
            for argument, value in arguments.items():
                name = f"{selector}.{argument}"
                name = f"{scope}/{name}" if scope else name
                found[name.removesuffix("/gin.macro.value")] = repr(value)
        return found

    def macro(self, name: str) -> Any:
        """Returns the value of a macro, or the reference it is bound to, or None."""
        try:
            return gin.query_parameter(f"{name}/macro.value")
        except ValueError:
            return None

    def evaluated(self, name: str) -> Any:
        """Returns the value of a macro, with whatever it refers to evaluated."""
        with (
            gin.config_scope(name),
            gin_errors.in_our_words(gin_errors.evaluation_error),
        ):
            return gin.get_configurable("gin.macro")()

    def set_macro(self, name: str, value: Any) -> None:
        """Gives a macro another value."""
        with gin.unlock_config():
            gin.bind_parameter(f"{name}/macro.value", value)

    def arguments(self, **given: Any) -> dict[str, Any]:
        """Returns all arguments of the function: the given, the bound, the defaults.

        Raises:
          UserError: the configuration cannot be evaluated, or an argument is missing.
        """
        with gin_errors.in_our_words(gin_errors.evaluation_error):
            found = self._configured(**given)
        bound = inspect.signature(self.function).bind_partial(**found)
        bound.apply_defaults()
        name, parameters = self.function.__name__, bound.signature.parameters
        missing = [f"{name}.{p}" for p in parameters if p not in bound.arguments]
        if missing:
            raise UserError(f"not set in the gin files: {', '.join(missing)}")
        return bound.arguments


# How an update's frozen model and its logits are computed, not what comes of them.
_MACROS = {"FROZEN_CACHE", "FROZEN_CACHE_DTYPE", "LOGITS_CHUNK"}
HOW_COMPUTED = {*_MACROS, "by_positions.logits_chunk"} | {
    f"{family}_model.{name}"
    for family in ("encoder_decoder", "decoder_only")
    for name in ("frozen_cache", "logits_chunk")
}


def argument(binding: str) -> str:
    """Returns `function.argument` of a binding's name, or the macro that it is."""
    return ".".join(binding.rpartition("/")[2].split(".")[-2:])


@contextlib.contextmanager
def parsed(
    function: Callable[..., Any],
    files: Sequence[str],
    bindings: Sequence[str],
    search_paths: Sequence[str],
) -> Iterator[Config]:
    """Parses gin files that bind a function's arguments; yields what they say.

    Within the block gin has this configuration, and afterwards what it had before.

    Args:
      function: gin files know it by its name in `__main__`, as those of T5X do.
      files: gin files; later ones override.
      bindings: `NAME = value`; they override the files.
      search_paths: folders that files are looked up in, the working folder as "".

    Raises:
      UserError: naming file and line where gin knows them.
    """
    from t5x import gin_utils

    prefixes = gin.config._LOCATION_PREFIXES
    before, locked = list(prefixes), gin.config.config_is_locked()
    state = {each: getattr(gin.config, each).copy() for each in _STATE}
    gin.clear_config()
    prefixes.clear()  # The working folder is one of `search_paths`.
    try:
        with _in_main(_returning_arguments(function)) as configured:
            with gin_errors.in_our_words(gin_errors.parse_error), without_path_errors():
                gin_utils.parse_gin_flags(search_paths, files, bindings)
            yield Config(function, configured)
    finally:
        prefixes[:] = before
        gin.clear_config()
        for each, value in state.items():
            getattr(gin.config, each).update(value)
        gin.config._set_config_is_locked(locked)


def _returning_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of the same name and parameters that returns its arguments."""

    def arguments(**kwargs):
        return kwargs

    arguments.__name__ = arguments.__qualname__ = function.__name__
    arguments.__module__ = "__main__"
    arguments.__signature__ = inspect.signature(function)  # type: ignore
    return arguments


@contextlib.contextmanager
def _in_main(function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Puts a function into `__main__`; yields it as gin configures it."""
    main, name = vars(sys.modules["__main__"]), function.__name__
    before = {name: main[name]} if name in main else {}
    main[name] = function
    try:
        # Each run makes its own, in place of that of the run before.
        with gin.config.interactive_mode():
            configured = gin.configurable(function)
        yield configured
    finally:
        del main[name]
        main.update(before)


@contextlib.contextmanager
def without_path_errors() -> Iterator[None]:
    """Gin logs an error per folder that it looked into; what it raises says it all."""

    def keep(record):
        return not record.getMessage().startswith("Path not found")

    logger = logging.getLogger()
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
