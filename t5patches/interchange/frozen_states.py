"""What the frozen model's logits are made of, kept for every example, once.

A folder of `states-<digest>.bin`, the numbers of the positions that count one after
another, and beside each a `….npz` that says whose they are. They are found by the
tokens of an example alone: another order, packing or annotation of the same outputs
finds them, too, and an example that is not there is missed, never mistaken. A file is
named after its examples, so that several commands may fill one folder.
"""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
import zipfile
from collections.abc import Mapping, Sequence
from typing import IO

import jax.numpy as jnp
import numpy as np
from etils import epath

from t5patches.errors import UserError
from t5patches.interchange import shards

DTYPES = ("bfloat16", "float32")


def key(inputs: np.ndarray, targets: np.ndarray) -> bytes:
    """Returns what an example is found by: 16 bytes.

    Args:
      inputs: the encoder's tokens, int [length], without padding; empty where there is
        no encoder.
      targets: the decoder's target tokens, likewise.
    """
    tokens = np.concatenate([inputs, [-1], targets]).astype("<i4")
    return hashlib.blake2b(tokens.tobytes(), digest_size=16).digest()


def write(
    folder: shards.PathLike, keys: Sequence[bytes], states: Sequence[np.ndarray]
) -> epath.Path:
    """Writes the states of some examples; they are there when both files are.

    Args:
      folder: where to.
      keys: of the examples.
      states: [positions that count, features] of each, bfloat16 or float32.

    Returns:
      The file that says whose they are.
    """
    rows = np.concatenate(states)
    name = hashlib.blake2b(b"".join(keys), digest_size=8).hexdigest()
    path = os.path.join(os.fspath(folder), f"states-{name}")
    with shards.atomic_write(f"{path}.bin", "wb") as file:
        file.write(np.ascontiguousarray(rows).view(np.uint8).data)
    with shards.atomic_write(f"{path}.npz", "wb") as file:
        np.savez(
            file,
            keys=np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16),
            counts=np.array([len(each) for each in states], np.int32),
            features=rows.shape[1],
            dtype=str(rows.dtype),
        )
    return epath.Path(f"{path}.npz")


class Store:
    """A folder of states, for reading; safe for threads.

    Rows are numbered from 1 through all files; row 0 is zeros, for padding.

    Attributes:
      features: how many numbers a row has; 0 while there are no rows.
      dtype: of the numbers.
    """

    def __init__(self, folder: shards.PathLike):
        """Reads which examples there are; a folder that is not there has none.

        Raises:
          UserError: a file is broken, or two are of different models.
        """
        self.folder = epath.Path(os.fspath(folder))
        self.features, self.dtype = 0, np.dtype(jnp.bfloat16)
        self._rows: dict[bytes, tuple[int, int]] = {}
        self._starts: list[int] = [1]
        self._paths: list[epath.Path] = []
        self._files: dict[int, IO[bytes]] = {}  # Those that were read.
        weakref.finalize(self, _close, self._files)
        self._lock = threading.Lock()
        for path in sorted(self.folder.glob("states-*.npz")):
            self._add(path)

    def _add(self, path: epath.Path) -> None:
        try:
            with path.open("rb") as file, np.load(file) as found:
                keys, counts = found["keys"], found["counts"]
                like = int(found["features"]), np.dtype(jnp.dtype(str(found["dtype"])))
            data = path.with_suffix(".bin")
            whole = data.stat().length == counts.sum() * like[0] * like[1].itemsize
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path}: is broken ({error}); remove it, and its states are made again"
            ) from error
        if not whole or self._paths and like != (self.features, self.dtype):
            what = "is of another model" if whole else "does not fit its .bin"
            raise UserError(f"{path}: {what}; remove it, and its states are made again")
        self.features, self.dtype = like
        starts = self._starts[-1] + np.cumsum(counts) - counts
        for name, start, count in zip(
            keys, starts.tolist(), counts.tolist(), strict=True
        ):
            self._rows[name.tobytes()] = start, count
        self._starts.append(self._starts[-1] + int(counts.sum()))
        self._paths.append(data)

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def rows(
        self, inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray
    ) -> np.ndarray:
        """Returns the row of each target, int32 [length], 0 where the weight is 0.

        Raises:
          UserError: the example is not there.
        """
        counts = weights != 0
        start, count = self._rows.get(key(inputs, targets), (0, -1))
        if count != counts.sum():
            raise UserError(
                f"{self.folder} has no states of an example with the target tokens "
                f"{targets[:8].tolist()}…: it was made of other data, or with other "
                "TASK_FEATURE_LENGTHS; `t5patches cache` adds what is missing"
            )
        return np.where(counts, start - 1 + np.cumsum(counts), 0).astype(np.int32)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Returns rows, [...] -> [..., features]."""
        found = np.zeros((rows.size, self.features), self.dtype)
        places = np.flatnonzero(rows)
        there = rows.ravel()[places]
        files = np.searchsorted(self._starts, there, side="right") - 1
        # What is of one example lies together, and is read at once.
        steps = np.diff([places, there, files])
        breaks = np.flatnonzero((steps != [[1], [1], [0]]).any(axis=0)) + 1
        for some in np.split(np.arange(len(places)), breaks) if len(places) else ():
            first, row, file = (int(x[some[0]]) for x in (places, there, files))
            found[first : first + len(some)] = self._read(file, row, len(some))
        return found.reshape(*rows.shape, self.features)

    def _read(self, number: int, first: int, count: int) -> np.ndarray:
        size = self.features * self.dtype.itemsize
        with self._lock:
            if number not in self._files:
                self._files[number] = self._paths[number].open("rb")
            file = self._files[number]
            file.seek((first - self._starts[number]) * size)
            content = file.read(count * size)
        return np.frombuffer(content, self.dtype).reshape(count, self.features)


def _close(files: Mapping[int, IO[bytes]]) -> None:
    for file in files.values():
        file.close()
