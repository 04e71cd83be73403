"""What the made-up corpora share: their words, drawing examples, correcting texts."""

import importlib.resources
import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Splits = dict[str, list[dict[str, str]]]
Span = tuple[int, int, str]

# The chances of three ways to say something, the likeliest first.
PHRASE_RANKS = (0.62, 0.24, 0.14)


def words(name: str) -> dict[str, Any]:
    """Returns the words of a corpus, a file of `data/`."""
    file = importlib.resources.files(__package__) / "data" / f"{name}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def draw_splits(
    sizes: Mapping[str, int], draw: Callable[[str], Any], go_on: Callable[[Any], str]
) -> Splits:
    """Returns a corpus in which no beginning occurs twice, in one split or in two.

    Args:
      sizes: split -> number of examples.
      draw: draws a beginning of a split, whose `text()` is the model's input.
      go_on: draws the text that follows one.

    Returns:
      split -> examples `{"inputs", "targets"}`.
    """
    seen: set[str] = set()
    splits: Splits = {name: [] for name in sizes}
    for name, size in sizes.items():
        while len(splits[name]) < size:
            beginning = draw(name)
            text = beginning.text()
            if text not in seen:
                seen.add(text)
                splits[name].append({"inputs": text, "targets": go_on(beginning)})
    return splits


def replace_spans(
    text: str, spans: Iterable[Span], word: Callable[[str, str], str]
) -> str:
    """Returns `text` with `word(its characters, its label)` in place of each span."""
    for start, end, label in sorted(spans, reverse=True):
        text = text[:start] + word(text[start:end], label) + text[end:]
    return text
