"""Compiled programs are kept in the user's folder, which stays whole and small."""

import os
import tempfile
import time
import zlib

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from t5patches.run import compiled


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A user's cache folder, and JAX as it is when a command starts."""
    options = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in options}
    for name in options:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    jax.config.update(options[0], None)
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def write(path, data=b"program", age=3600.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_program_is_compiled_once(home):
    compiled.keep()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()
    jax.jit(lambda x: jnp.cos(x) + 1.25)(1.0)
    (folder,) = (home / "cache" / "t5patches" / "compiled").iterdir()
    assert folder.name.startswith(f"jaxlib-{jax.lib.__version__}-")
    (program,) = folder.glob("*-cache")
    compiled._decompress(program.read_bytes())
    assert folder.stat().st_mode & 0o077 == 0  # Who writes there has his code run.


def test_a_users_own_folder_and_threshold_go_before(home, monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
    compiled.keep()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 7
    jax.config.update("jax_compilation_cache_dir", str(home / "mine"))
    compiled.keep()
    assert jax.config.jax_compilation_cache_dir == str(home / "mine")


def test_a_processor_of_another_kind_has_another_folder(monkeypatch):
    folder = compiled._folder()
    assert compiled._folder() == folder
    monkeypatch.setattr(compiled.platform, "machine", lambda: "another")
    assert compiled._folder().parent == folder.parent
    assert compiled._folder() != folder


@pytest.mark.parametrize("around", [None, "relative"])
def test_without_the_variable_it_is_the_home_folder(home, monkeypatch, around):
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME")
    if around:
        monkeypatch.setenv("XDG_CACHE_HOME", around)
    compiled.keep()
    folder = home / ".cache" / "t5patches" / "compiled"
    assert os.path.dirname(jax.config.jax_compilation_cache_dir) == str(folder)


def test_without_a_folder_it_goes_on(home, monkeypatch):
    write(home / "cache")  # A file where the folder would be.
    compiled.keep()
    folder = jax.config.jax_compilation_cache_dir
    assert os.path.dirname(folder) == str(home) and os.path.isdir(folder)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # Nobody's.
    monkeypatch.delenv("XDG_CACHE_HOME")
    jax.config.update("jax_compilation_cache_dir", None)
    compiled.keep()
    assert jax.config.jax_compilation_cache_dir != folder
    assert not os.path.exists("~")


def test_what_is_half_written_goes(monkeypatch):
    folder, whole = compiled._folder(), zlib.compress(b"program")
    good = write(folder / "good-cache", whole)
    write(folder / "cut-cache", whole[:-3])
    write(folder / "empty-cache", b"")
    being_written = write(folder / "new-cache", b"", age=0)
    compiled.keep()
    assert {*folder.glob("*-cache")} == {good, being_written}
    # Those that were looked at are not read again, the other one is.
    later, read = time.time() + 3600, []
    monkeypatch.setattr(time, "time", lambda: later)
    monkeypatch.setattr(compiled, "_is_whole", read.append)
    jax.config.update("jax_compilation_cache_dir", None)
    compiled.keep()
    assert read == [being_written]
    assert {*folder.glob("*-cache")} == {good}


def test_what_was_not_used_for_longest_goes(monkeypatch):
    monkeypatch.setattr(compiled, "MAX_BYTES", 25)
    folder, data = compiled._folder(), zlib.compress(b"")  # 8 bytes.
    # Those of another version, and what JAX has for GPUs, count.
    oldest = write(folder.parent / "jaxlib-0.1-x" / "a-cache", data, age=9e5)
    rest = [write(folder / f"{age}-cache", data, age) for age in (4000, 2000)]
    rest.append(write(folder / "autotune" / "x.pb", data, age=3000))
    compiled.keep()
    assert not oldest.exists()
    assert all(path.exists() for path in rest)
    used = rest[0]
    os.utime(used, (time.time(), used.stat().st_mtime))  # It was read.
    monkeypatch.setattr(compiled, "MAX_BYTES", 17)
    jax.config.update("jax_compilation_cache_dir", None)
    compiled.keep()
    assert [path.exists() for path in rest] == [True, True, False]
