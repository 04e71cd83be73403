"""What `t5patches evaluate` writes and `t5patches report` reads.

The numbers are a JSON document, `results.json`; some pairs of outputs to show stand
beside it in `results.examples.jsonl`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from t5patches.errors import UserError
from t5patches.interchange import claims, json_files, shards

# Field of the results: which examples are theirs.
EXAMPLES = "examples_file"
EXACT_UPDATE = (
    "the exact token-level update: the original model decoded without the unwanted "
    "tokens; it is not the model conditioned on never saying a phrase"
)


def examples_path(path: str) -> str:
    """Returns the file of examples beside a file of results."""
    return f"{path.removesuffix('.json')}.examples.jsonl"


def check_outputs(outputs: Iterable[str], read: Iterable[str]) -> None:
    """Refuses to write over what is no file, or over what is read or written besides.

    Raises:
      UserError: naming the file that is in the way.
    """
    taken = {os.path.realpath(path) for path in read}
    for output in outputs:
        shards.check_output(output)
        place = os.path.realpath(output)
        if place in taken:
            raise UserError(
                f"{output}: is read here, or written twice; write to another place"
            )
        taken.add(place)


def write(
    path: str, results: Mapping[str, Any], examples: Iterable[Mapping[str, Any]]
) -> None:
    """Writes results and their examples: both, or, where there is no room, neither."""
    examples = list(examples)
    results = {**results, EXAMPLES: claims.fingerprint({EXAMPLES: examples})}
    with shards.atomic_write(examples_path(path)) as file:
        file.writelines(map(json_files.json_line, examples))
        file.flush()
        json_files.write_json(path, results)
