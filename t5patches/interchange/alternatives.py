"""Files of alternatives: what a model would nearly have said, a line for each output.

`t5patches generate` with runs/alternatives.gin writes them::

    {"id": "17", "prediction": "Reds win in Oslo", "alternatives": [
        {"position": 4, "tokens": [81, 12], "text": "Rome", "probability": 0.21}]}

In place of the output's id at `position` stand `tokens`, of which the first has this
`probability`; the rest of them goes on from there. Those that an annotator finds
unwanted are listed as `unwanted_alternatives` of the annotated output, and as pairs of
position and id in the feature of that name of its TFRecord.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from t5patches.errors import UserError, shorten
from t5patches.interchange import claims, json_files, shards, tables

FEATURE = "unwanted_alternatives"
# In the settings of a folder of annotated records.
SETTING = "alternatives"


class Alternative(NamedTuple):
    """What a model might have said from the output's id at `position` on."""

    position: int
    tokens: list[int]
    text: str
    probability: float


class Tried(NamedTuple):
    """The alternatives of an output, whose text is `prediction`."""

    id: str
    prediction: str
    alternatives: list[Alternative]


def read(spec: shards.PathLike | Sequence[shards.PathLike]) -> Iterator[Tried]:
    """Yields the lines of files of alternatives, which `shards.expand` finds.

    Raises:
      UserError: naming file, line and field.
    """
    ids = tables.Ids()
    for path in shards.expand(spec):
        for number, row in json_files.read_jsonl(path):
            where = f"{path}:{number}"
            json_files.check_fields(
                row,
                {"id": str, "prediction": str, "alternatives": list},
                where,
                "give what `t5patches generate` with runs/alternatives.gin wrote",
            )
            ids.add(row["id"], where)
            found = [_alternative(each, where) for each in row["alternatives"]]
            yield Tried(row["id"], row["prediction"], found)


def _alternative(value: Any, where: str) -> Alternative:
    with contextlib.suppress(TypeError):  # Other fields, or none at all.
        made = Alternative(**value)
        numbers = [made.position, *made.tokens]
        if made.tokens and all(type(x) is int and x >= 0 for x in numbers):
            return made
    raise UserError(
        f"{where}: an alternative has {', '.join(Alternative._fields)}, it is not "
        f"{shorten(value)}"
    )


def most(files: Iterable[str]) -> int:
    """Returns how many unwanted alternatives a position may have in annotated records.

    Args:
      files: of records, of any number of folders.
    """
    counts = [0]
    for folder in {os.path.dirname(path) for path in files}:
        settings = epath.Path(folder) / claims.SETTINGS
        if settings.exists():
            counts.append(
                json_files.read_json(settings).get(SETTING, {}).get("most", 0)
            )
    return max(counts)
