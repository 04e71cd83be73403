"""What T5X has and this engine leaves out: one wording for every such name."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn


def message(name: str) -> str:
    """The sentence a user reads on asking for `name`, e.g. 't5x.optimizers.adamw'."""
    return f"the embedded engine does not have {name}; T5X does"


def option(owner: str, name: str, value: Any) -> NoReturn:
    """Refuses an argument that T5X would honour.

    Args:
        owner: the public name that was called, e.g. 'adafactor.Adafactor'.
        name: the argument's name.
        value: what was passed.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(message(f"{owner}({name}={value!r})"))


def _is_set(value: Any) -> bool:
    try:
        return bool(value)
    except (TypeError, ValueError):  # An array, perhaps traced.
        return True


def refuse(owner: str, arguments: Mapping[str, Any], *unset: str, **defaults: Any):
    """`option` for the first argument that is not as good as its default.

    Args:
        owner: the public name that was called.
        arguments: what it was called with, by name.
        *unset: names of arguments that only T5X heeds, whose default is None, False, 0
            or empty; these are all the same.
        **defaults: other such arguments, with their defaults.
    """
    for name, default in {**dict.fromkeys(unset), **defaults}.items():
        if _is_set(arguments[name]) != bool(default):
            option(owner, name, arguments[name])


def _attribute_error(start: str, name: str, owner: str) -> AttributeError:
    text = f"{start} has no attribute {name!r}"
    if not name.startswith("_"):
        text += f": {message(f'{owner}.{name}')}, if that is its name"
    return AttributeError(text)


def module_getattr(module: str) -> Callable[[str], Any]:
    """Returns a module-level `__getattr__` (PEP 562) that points to T5X.

    Args:
        module: the module's `__name__`; its last part is what T5X calls it.
    """

    def lookup(name: str) -> NoReturn:
        owner = f"t5x.{module.rpartition('.')[2]}"
        raise _attribute_error(f"module {module!r}", name, owner)

    return lookup


def instance_getattr(owner: str) -> Callable[[Any, str], Any]:
    """Returns a class's `__getattr__`, as `module_getattr` does for a module.

    Args:
        owner: the class as T5X calls it, e.g. 'utils.TrainStateInitializer'.
    """

    def lookup(self, name: str) -> NoReturn:
        raise _attribute_error(repr(type(self).__name__), name, owner)

    return lookup
