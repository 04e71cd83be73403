"""Someone's own data as the quickstart's corpus.

A CSV or JSON-lines file with the columns `inputs` and `targets`, or with a column
`text`, which is cut in two at a word boundary: the model learns to continue the first
part with the second. Which split an example belongs to is a hash of its inputs, so the
same inputs never stand in two splits and a file that grows keeps its splits.
"""

import os
from collections.abc import Iterator

from t5patches.errors import UserError
from t5patches.interchange import tables
from t5patches.patch import inputs as inputs_files
from t5patches.quickstart.made_up import Splits

# A text is cut after half of its words, after this many at most; what continues it
# is cut short too, so that every word stands within the model's feature lengths.
LONGEST_BEGINNING = 16
LONGEST_REST = 20
SHORTEST_TEXT = 4

COLUMNS = ("inputs", "targets")


def cut(text: str) -> tuple[str, str] | None:
    """Cuts a text at a word boundary.

    Returns:
      Its beginning and what continues it, or None if it has fewer than four words.
    """
    words = text.split()
    if len(words) < SHORTEST_TEXT:
        return None
    middle = min(len(words) // 2, LONGEST_BEGINNING)
    rest = words[middle : middle + LONGEST_REST]
    return " ".join(words[:middle]), " ".join(rest)


def _examples(path: str) -> Iterator[tuple[str, str]]:
    for where, row in tables.read_rows(path):
        if all(key in row for key in COLUMNS):
            texts = (tables.text_field(row, key, where) for key in COLUMNS)
            pair = tuple(" ".join(text.split()) for text in texts)
        elif "text" in row:
            pair = cut(tables.text_field(row, "text", where))
        else:
            raise UserError(
                f"{where}: expected the columns 'inputs' and 'targets', or 'text'; "
                f"found {', '.join(map(str, row)) or 'none'}"
            )
        if pair and all(pair):
            yield pair


def read(path: str | os.PathLike) -> Splits:
    """Reads a data file.

    Args:
      path: a `.csv` or `.jsonl` file, see the top of this module. Of several examples
        with the same inputs the first is kept; empty ones are left out.

    Returns:
      split name -> examples `{"inputs", "targets"}`.

    Raises:
      UserError: a line is not what it should be, or there is too little data.
    """
    path = os.fspath(path)
    if not path.endswith((".csv", ".jsonl")):
        raise UserError(f"{path}: --data takes a .csv or a .jsonl file")
    first: dict[str, str] = {}
    for inputs, targets in _examples(path):
        first.setdefault(inputs, targets)
    splits: Splits = {name: [] for name in inputs_files.SPLITS}
    for inputs, targets in first.items():
        splits[inputs_files.split_of(inputs)].append(
            {"inputs": inputs, "targets": targets}
        )
    inputs_files.check_sizes(splits, path)
    return splits
