"""Which engine answers to the name `t5x`: T5X, or the embedded one.

`install()` runs when `t5patches` is imported and imports nothing heavy. If T5X is
importable it does nothing. If not, an import finder hands out the modules of
`t5x_embedded` under the names of T5X's: one module object, whichever name asked for
it, so that gin sees one configurable and `isinstance` one class. With
`T5PATCHES_ENGINE=t5x_embedded` in the environment this happens although T5X is there.

A second finder serves `t5patches.tasks` from the `tasks` folder beside the package
when it runs from a bare checkout; an installed package has it inside.
"""

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import os
import pathlib
import sys

_EMBEDDED = "t5x_embedded"


class _AliasLoader(importlib.abc.Loader):
    """Loads `t5x[.sub]` by handing out the module of that place in t5x_embedded."""

    def __init__(self, target: str):
        self._target = target

    def create_module(self, spec):
        module = importlib.import_module(self._target)
        # The import system is about to put the alias's spec on the module.
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module):
        module.__spec__ = self._own_spec


class _EngineFinder(importlib.abc.MetaPathFinder):
    """Resolves `t5x` and `t5x.*`, or says what is not there."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, rest = fullname.partition(".")
        if package == _EMBEDDED and rest:
            # `from t5x import xyz` comes here, since the package's name is ours.
            if importlib.machinery.PathFinder.find_spec(fullname, path) is None:
                raise self._missing(rest)
            return None
        if package != "t5x":
            return None
        name()  # The log line.
        actual = f"{_EMBEDDED}.{rest}" if rest else _EMBEDDED
        found = importlib.util.find_spec(actual)
        if found is None:
            raise self._missing(rest)
        return importlib.machinery.ModuleSpec(
            fullname,
            _AliasLoader(actual),
            origin=found.origin,
            is_package=found.submodule_search_locations is not None,
        )

    def _missing(self, rest):
        # Without `name=`, or `from t5x import xyz` would swallow the message.
        return ModuleNotFoundError(
            f"No module named 't5x.{rest}': the embedded engine does not have it; "
            "T5X does."
        )


class _CheckoutTasksFinder(importlib.abc.MetaPathFinder):
    """Resolves `t5patches.tasks` to the checkout's `tasks` folder."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "t5patches.tasks":
            return None
        init = pathlib.Path(__file__).resolve().parent.parent / "tasks" / "__init__.py"
        if not init.is_file():
            return None
        return importlib.util.spec_from_file_location(
            fullname, init, submodule_search_locations=[str(init.parent)]
        )


def _t5x_is_installed() -> bool:
    """Whether a `t5x` with T5X's modules is importable (PyPI's `t5x` is a dummy)."""
    if os.environ.get("T5PATCHES_ENGINE") == _EMBEDDED:
        return False
    loaded = sys.modules.get("t5x")
    if loaded is not None:
        return getattr(loaded, "__name__", "") != _EMBEDDED
    for finder in sys.meta_path:
        if isinstance(finder, _EngineFinder):
            continue
        spec = finder.find_spec("t5x", None)
        if spec is not None:
            folders = spec.submodule_search_locations or ()
            return any((pathlib.Path(f) / "models.py").is_file() for f in folders)
    return False


def install() -> None:
    """Makes `t5x` importable; safe to call again."""
    installed = {type(finder) for finder in sys.meta_path}
    if _CheckoutTasksFinder not in installed:
        sys.meta_path.append(_CheckoutTasksFinder())
    if _EngineFinder not in installed and not _t5x_is_installed():
        sys.meta_path.insert(0, _EngineFinder())


@functools.cache
def name() -> str:
    """`"t5x"` or `"t5x_embedded"`; the first call logs which."""
    engine = "t5x" if _t5x_is_installed() else _EMBEDDED
    logging.getLogger("t5patches").info("engine: %s", engine)
    return engine
