"""Checkpoints of T5X's older format, as the public T5 models have it; read only.

`checkpoint_<step>/checkpoint` is a msgpack file of the state dict. An array that T5X
partitions is a TensorStore spec there and lies in a folder beside the file; any other
array is in the file itself. The file is written last, before the folder is renamed.
"""

import concurrent.futures
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from etils import epath
from flax import serialization, traverse_util

_FILE = "checkpoint"
_VERSIONS = (2, 3)  # T5X reads no others; 3 says that bfloat16 is stored as such.


def is_legacy(path: epath.PathLike) -> bool:
    """Whether `path` is the folder of a checkpoint in the older format."""
    return (epath.Path(path) / _FILE).is_file()


def open_arrays(path: epath.PathLike) -> dict[str, np.ndarray | ts.TensorStore]:
    """A checkpoint's arrays by '/'-separated names ('target/…'); reads no large one.

    Raises:
        ValueError: the file is not T5X's, or an array that it names is not there.
    """
    file = epath.Path(path) / _FILE
    try:
        content = serialization.msgpack_restore(file.read_bytes())
        version, state = content["version"], content["optimizer"]
    except Exception as error:  # msgpack raises whatever it stumbles over.
        raise ValueError(f"{file} is not T5X's msgpack file: {error!r}") from error
    if version not in _VERSIONS:
        raise ValueError(f"{file} is of version {version}, not one of {_VERSIONS}")
    flat = traverse_util.flatten_dict(state, sep="/", is_leaf=lambda _, x: _is_spec(x))
    # All are asked for before the first is waited for: storage may be far away.
    opening = {n: _open(file.parent, x) for n, x in flat.items() if _is_spec(x)}
    inline = {n: x for n, x in flat.items() if not isinstance(x, dict | None)}
    found = {n: np.asarray(x) for n, x in inline.items()}
    for name, future in opening.items():
        try:
            found[name] = future.result()
        except ValueError as error:
            raise ValueError(
                f"checkpoint {path}: cannot open {name}: {error}"
            ) from None
        if found[name].dtype == ts.uint16:
            raise ValueError(f"checkpoint {path}: {name} is bfloat16 stored as uint16")
    return found


def _is_spec(leaf) -> bool:
    return isinstance(leaf, dict) and {"driver", "kvstore"} <= leaf.keys()


def _open(folder: epath.Path, spec: Mapping[str, Any]):
    """Opens an array where the checkpoint is now; the spec's driver and bucket are
    those of the place where it was written. Before TensorStore 0.1.14 the path stood
    beside the key-value store."""
    kvstore = spec["kvstore"]
    where = str(folder / (kvstore.get("path") or spec.get("path")))
    if where.startswith("gs://"):
        bucket, _, where = where.removeprefix("gs://").partition("/")
        store = {"driver": "gcs", "bucket": bucket}
    else:
        store = {"driver": "file"}
    shape = {"shape": spec["metadata"]["shape"]}
    store["path"] = where.rstrip("/") + "/"
    return ts.open({"driver": "zarr", "kvstore": store, "metadata": shape}, read=True)


def read(path: epath.PathLike, names: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the named arrays, each as its arguments say.

    Args:
        path: the checkpoint's folder.
        names: name -> orbax's `RestoreArgs` (a NumPy array), or `ArrayRestoreArgs` (a
            `jax.Array`, of which a process reads the shards of its devices).
    """
    stored = open_arrays(path)

    def one(name):
        array, args = stored[name], names[name]
        sharding = getattr(args, "sharding", None)

        def part(index):  # TensorStore's arrays are read here.
            read = np.asarray(array[index])
            return read.astype(args.dtype or read.dtype)

        if sharding is None:
            return part(())
        return jax.make_array_from_callback(array.shape, sharding, part)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(one, names), strict=True))
