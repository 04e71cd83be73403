"""What `t5patches evaluate` writes and `t5patches report` reads.

The numbers are a JSON document, `results.json`, whose fields docs/evidence.md lists;
every pair of outputs stands beside it in `results.examples.jsonl`, in the order of the
old predictions.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from t5patches.errors import UserError
from t5patches.interchange import json_files, shards

SCHEMA_VERSION = 1
# Field of the results: which examples are theirs.
EXAMPLES = "examples_file"
# What happened to an output -> what the page calls it.
KINDS = {
    "fixed": "Fixed: unwanted before, clean now",
    "remaining": "Still unwanted: before and now",
    "broken": "Newly unwanted: clean before, unwanted now",
    "changed": "Changed without need: clean before and now, but other words",
    "unchanged": "Unchanged: the same before and now",
}
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
    # What `claims.fingerprint` says of a list of all of them, which need not be held.
    digest, between = hashlib.sha256(f'{{"{EXAMPLES}": ['.encode()), ""
    with shards.atomic_write(examples_path(path)) as file:
        for example in examples:
            text = json.dumps(example, sort_keys=True, ensure_ascii=False)
            digest.update(f"{between}{text}".encode())
            file.write(json_files.json_line(example))
            between = ", "
        digest.update(b"]}")
        file.flush()
        json_files.write_json(path, {**results, EXAMPLES: digest.hexdigest()[:16]})
