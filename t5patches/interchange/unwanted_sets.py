"""Tables of sets of unwanted ids, which annotated records refer to by the row.

A set may have hundreds of ids and stand at every position: a record has its row alone.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable

import numpy as np
from etils import epath

from t5patches.errors import UserError
from t5patches.interchange import claims, json_files, shards

# The table's name in a folder of annotated records, and the feature with its rows.
FILE = "unwanted_sets.npz"
FEATURE = "sets"  # Short: every record has the name in it.


def write(folder: shards.PathLike, bits: np.ndarray) -> None:
    """Writes a table.

    Args:
      folder: that of the records.
      bits: uint32 [rows, ids / 32], bit i of word j being id 32 j + i. The first row is
        the empty set.
    """
    with shards.atomic_write(epath.Path(folder) / FILE, "wb") as file:
        np.savez_compressed(file, bits=bits)


def read(path: shards.PathLike, vocabulary_size: int | None = None) -> np.ndarray:
    """Returns a table, as `write` takes it.

    Args:
      path: the file.
      vocabulary_size: how many ids there are; None: any number.

    Raises:
      UserError: the file is missing, is no table, or one of its sets has every id (but
        padding): nothing could be said there.
    """
    try:
        content = epath.Path(os.fspath(path)).read_bytes()
        bits = np.load(io.BytesIO(content), allow_pickle=False)["bits"]
    except (FileNotFoundError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: no table of unwanted sets ({error}); `t5patches annotate` writes "
            "it beside its records"
        ) from error
    if bits.dtype != np.uint32 or bits.ndim != 2 or not len(bits) or bits[0].any():
        raise UserError(f"{path}: no table of unwanted sets; annotate again")
    for number, row in enumerate(bits if vocabulary_size else ()):
        ids = np.unpackbits(row.view(np.uint8), bitorder="little")[1:vocabulary_size]
        if np.count_nonzero(ids) + 1 == vocabulary_size:
            raise UserError(
                f"{path}: row {number} has every id of the vocabulary, so that nothing "
                "could be said there; annotate again, with less that is unwanted"
            )
    return bits


def find(files: Iterable[str]) -> str | None:
    """Returns the table that stands beside records, None if there is none.

    Args:
      files: of records, of any number of folders.

    Raises:
      UserError: two folders have different tables, or one has lost its own.
    """
    folders = sorted({os.path.dirname(path) for path in files})
    tables = {folder: epath.Path(folder) / FILE for folder in folders}
    there = [table for table in tables.values() if table.exists()]
    for folder, table in tables.items():
        settings = epath.Path(folder) / claims.SETTINGS
        made = settings.exists() and json_files.read_json(settings).get(FEATURE)
        if made and not table.exists():
            raise UserError(f"{table} is missing; type the `t5patches annotate` again")
    if len({table.read_bytes() for table in there}) > 1:
        raise UserError(
            f"{', '.join(map(str, there))} must be the same: annotate all records with "
            "the same phrases and vocabulary"
        )
    return os.fspath(there[0]) if there else None
