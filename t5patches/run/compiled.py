"""Compiled programs, kept from one command to the next in a user's cache folder.

    $XDG_CACHE_HOME or ~/.cache, t5patches/compiled/jaxlib-VERSION-PROCESSOR/

It is JAX's persistent compilation cache. A program for a CPU is for one kind of it: a
home folder may be shared by machines of several kinds, each of which has a folder.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import pathlib
import platform
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator

MAX_BYTES = 2**30
# What takes less long to compile is not kept; the start of a small training has a dozen
# programs that take longer.
_MIN_SECONDS = 0.1
# When the files of a folder were last looked at is this one's time.
_CHECKED = "checked"
# A file may be being written for so long.
_WRITING_SECONDS = 60.0
# Of /proc/cpuinfo: what XLA's code for a processor depends on.
_PROCESSOR_FIELDS = {
    *("vendor_id", "cpu family", "model", "flags"),
    *("CPU implementer", "CPU architecture", "CPU part", "Features"),
}


def keep() -> None:
    """Has JAX keep what it compiles from now on, unless the user has chosen a folder.

    Where no folder can be written to, programs are kept until the command ends.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is not None:
        return
    try:
        folder = _folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_broken(folder)
        _remove_oldest(folder.parent)
    except OSError:
        folder = tempfile.mkdtemp(prefix="t5patches-compiled-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_SECONDS)


def _folder() -> pathlib.Path:
    import jaxlib

    around = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(around):  # To be ignored, the specification says.
        around = os.path.expanduser("~/.cache")
    if not os.path.isabs(around):
        raise FileNotFoundError("a user without a home folder")
    name = f"jaxlib-{jaxlib.__version__}-{_processor()}"
    return pathlib.Path(around, "t5patches", "compiled", name)


def _processor() -> str:
    """Returns a digest of the processor's kind and the instructions that it has."""
    found = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if not line.strip():  # The next one is the same.
                break
            name, _, value = line.partition(":")
            if name.strip() in _PROCESSOR_FIELDS:
                found.append(value.strip())
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]


def _entries(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, os.stat_result]]:
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # Another command removed it.
            if path.is_file() and path.name != _CHECKED:
                yield path, path.stat()


def _remove_broken(folder: pathlib.Path) -> None:
    """Removes what a command that was killed, or a full disk, has left half written.

    JAX would neither read nor replace it, and say so each time.

    Raises:
      OSError: the folder cannot be written to.
    """
    mark, until = folder / _CHECKED, time.time() - _WRITING_SECONDS
    since = mark.stat().st_mtime if mark.exists() else 0.0
    for path, stat in _entries(folder):
        new = since < stat.st_mtime <= until
        if new and path.name.endswith("-cache") and not _is_whole(path):
            path.unlink(missing_ok=True)
    mark.touch()
    os.utime(mark, (until, until))


def _is_whole(path: pathlib.Path) -> bool:
    try:
        _decompress(path.read_bytes())
    except Exception:  # Each library has its own.
        return False
    return True


def _decompress(data: bytes) -> None:
    if not data.startswith(b"\x28\xb5\x2f\xfd"):
        zlib.decompress(data)
        return
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        import zstandard

        zstandard.ZstdDecompressor().decompress(data)
    else:
        zstd.decompress(data)


def _remove_oldest(folder: pathlib.Path) -> None:
    """Removes what was not used for longest, beyond `MAX_BYTES`."""
    used = sorted(
        (
            (max(s.st_atime, s.st_mtime), s.st_size, path)
            for path, s in _entries(folder)
        ),
        reverse=True,
    )
    total = 0
    for _, size, path in used:
        total += size
        if total > MAX_BYTES:
            path.unlink(missing_ok=True)
