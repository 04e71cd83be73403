"""The weights of a model folder in Hugging Face's form: safetensors files.

Tensors are read and written one at a time. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

from t5patches.errors import UserError, shorten
from t5patches.interchange import json_files

_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_COPY = "copy the model again"
_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
_UNPICKLED = (
    "{path}: only safetensors are read, for a .bin file can run code when "
    'it is. If you trust it, this makes safetensors of it: python -c "from '
    "transformers import AutoModelForSeq2SeqLM as M; M.from_pretrained('{folder}')"
    ".save_pretrained('{folder}')\""
)


class Weights:
    """The tensors of a folder by their names; a context manager.

    Attributes:
      folder: where they are.

    Raises:
      UserError: there are none, the index or a file is damaged, or a file of the index
        is none of the folder's.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._files: dict[str, tuple[pathlib.Path, Any]] = {}
        for path, listed in _files(folder).items():
            with _named(path):
                file = safetensors.safe_open(path, "np", backend="pread")
                file = self._stack.enter_context(file)
            keys = set(file.keys())
            for key in listed:
                if key not in keys:
                    raise UserError(
                        f"{path}: has no {key}, which {_INDEX} says it has; {_COPY}"
                    )
            self._files |= {key: (path, file) for key in listed or keys}

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._files))

    def file(self, name: str) -> str:
        """Returns the path of the file that a tensor is in."""
        return str(self._files[name][0])

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape without reading it."""
        return tuple(self._files[name][1].get_slice(name).get_shape())

    def dtype(self, name: str) -> np.dtype:
        """Returns a tensor's type without reading it.

        Raises:
          UserError: it is neither float32 nor float16 nor bfloat16.
        """
        path, file = self._files[name]
        dtype = file.get_slice(name).get_dtype()
        if dtype not in _DTYPES:
            raise UserError(
                f"{path}: {name} is of type {dtype}, expected {', '.join(_DTYPES)}; "
                "quantised models are not converted, take the one they were made from"
            )
        return np.dtype(_DTYPES[dtype])

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor."""
        path, file = self._files[name]
        with _named(path):
            return file.get_tensor(name)


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: {error}; {_COPY}") from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {_COPY}") from error


def _files(folder: pathlib.Path) -> dict[pathlib.Path, list[str]]:
    """Returns a folder's files with the tensors that the index, if any, has in each."""
    if (folder / _WHOLE).exists():
        return {folder / _WHOLE: []}
    index = folder / _INDEX
    if index.exists():
        found: dict[pathlib.Path, list[str]] = {}
        record = json_files.read_record(index, {"weight_map": dict}, _COPY)
        for key, name in record["weight_map"].items():
            # Links are followed: in a cache of the hub's every file is one.
            plain = isinstance(name, str) and os.path.basename(name) == name
            if not plain or not name.endswith(".safetensors"):
                raise UserError(
                    f"{index}: {key} is in {shorten(name)}, which is not the name of a "
                    "safetensors file in this folder"
                )
            found.setdefault(folder / name, []).append(key)
        return found
    for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt"):
        for path in sorted(folder.glob(pattern)):
            raise UserError(_UNPICKLED.format(path=path, folder=folder))
    raise UserError(f"{folder}: has neither {_WHOLE} nor {_INDEX}")


class Tensor(NamedTuple):
    """A tensor to be written.

    Attributes:
      name: its name.
      shape: its shape.
      dtype: its type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write(
    folder: pathlib.Path,
    tensors: Iterable[Tensor],
    read: Callable[[list[str]], Iterable[np.ndarray]],
    limit: int,
) -> None:
    """Writes a folder's weights; no shard is in memory as a whole.

    Args:
      folder: where.
      tensors: what is written, in order.
      read: makes the tensors of a shard, by their names, in that order.
      limit: bytes of a shard; a tensor that is larger has one of its own.
    """
    parts: list[list[Tensor]] = [[]]
    for tensor in tensors:
        if parts[-1] and sum(t.nbytes for t in (*parts[-1], tensor)) > limit:
            parts.append([])
        parts[-1].append(tensor)
    places = {}
    for i, part in enumerate(parts, start=1):
        many = f"model-{i:05d}-of-{len(parts):05d}.safetensors"
        name = many if len(parts) > 1 else _WHOLE
        _write_shard(folder / name, part, read)
        places |= {tensor.name: name for tensor in part}
    if len(parts) > 1:
        total = sum(tensor.nbytes for part in parts for tensor in part)
        index = {"metadata": {"total_size": total}, "weight_map": places}
        json_files.write_json(folder / _INDEX, index)


def _write_shard(
    path: pathlib.Path,
    tensors: Iterable[Tensor],
    read: Callable[[list[str]], Iterable[np.ndarray]],
) -> None:
    """Writes a file: 8 bytes of the header's length, the header, the tensors.

    Safetensors' own writer takes all of them at once.
    """
    # The wider types come first, so that each tensor is aligned, as readers need it.
    ordered = sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)
    codes = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}
    # Transformers reads no file that does not say of which framework it is.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": codes[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in read([tensor.name for tensor in ordered]):
            array.tofile(file)
