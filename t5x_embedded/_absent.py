"""What T5X has and this engine leaves out: one wording for every such name."""

from collections.abc import Callable, Iterable
from typing import Any, NoReturn


def message(name: str) -> str:
    """The sentence a user reads on asking for `name`, e.g. 't5x.optimizers.adamw'."""
    return f"the embedded engine does not have {name}; T5X does"


def option(owner: str, name: str, value: Any, hint: str = "") -> NoReturn:
    """Refuses an argument that T5X would honour.

    Args:
        owner: the public name that was called, e.g. 'adafactor.Adafactor'.
        name: the argument's name.
        value: what was passed.
        hint: what to do instead, if anything.

    Raises:
        NotImplementedError: always.
    """
    text = f"{message(f'{owner}({name}={value!r})')}"
    raise NotImplementedError(f"{text}. {hint}" if hint else text)


def refuse(owner: str, **values: Any) -> None:
    """`option` for the first of the arguments that is set: not None, False or empty."""
    for name, value in values.items():
        if value:
            option(owner, name, value)


def module_getattr(module: str, names: Iterable[str]) -> Callable[[str], Any]:
    """Returns a module-level `__getattr__` (PEP 562).

    Args:
        module: the module's `__name__`; its last part is what T5X calls it.
        names: public names of T5X's module that are missing here.

    Returns:
        A function that always raises AttributeError; for one of `names` it says
        where the name can be had.
    """
    known = frozenset(names)
    short = module.rpartition(".")[2]

    def lookup(name: str) -> NoReturn:
        if name in known:
            raise AttributeError(message(f"t5x.{short}.{name}"))
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return lookup


def instance_getattr(owner: str, names: str) -> Callable[[Any, str], Any]:
    """Returns a class's `__getattr__`, as `module_getattr` does for a module.

    Args:
        owner: the class as T5X calls it, e.g. 'utils.TrainStateInitializer'.
        names: attributes of T5X's class that are missing here, separated by blanks.
    """

    def lookup(self, name: str) -> NoReturn:
        if name in names.split():
            raise AttributeError(message(f"{owner}.{name}"))
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    return lookup
