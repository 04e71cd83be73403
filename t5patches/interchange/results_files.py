"""What `t5patches evaluate` writes and `t5patches report` reads.

The numbers are a JSON document, `results.json`; some pairs of outputs to show stand
beside it in `results.examples.jsonl`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from t5patches.errors import UserError
from t5patches.interchange import json_files, shards


def examples_path(path: str) -> str:
    """Returns the file of examples beside a file of results."""
    return f"{path.removesuffix('.json')}.examples.jsonl"


def check_output(
    path: str, predictions: Sequence[shards.PathLike], *others: str | None
) -> None:
    """Refuses to write results over what is no file or what they are made from.

    Args:
      path: the file of results.
      predictions: what is read for them, as `shards.expand` takes it.
      *others: other files that are read for them.

    Raises:
      UserError: naming the file that is in the way.
    """
    read = [*shards.expand(predictions), *filter(None, others)]
    for output in (path, examples_path(path)):
        shards.check_output(output)
        if os.path.realpath(output) in map(os.path.realpath, read):
            raise UserError(f"{output}: is read here; give another file to write to")


def write(
    path: str, results: Mapping[str, Any], examples: Iterable[Mapping[str, Any]]
) -> None:
    """Writes results and their examples: both, or, where there is no room, neither."""
    with shards.atomic_write(examples_path(path)) as file:
        file.writelines(map(json_files.json_line, examples))
        file.flush()
        json_files.write_json(path, results)
