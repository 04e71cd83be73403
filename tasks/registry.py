"""Registration of tasks whose files, vocabulary and name come from gin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from t5patches.errors import UserError

from .sources import Files

# Examples held for shuffling where a source does not shuffle as a whole.
SHUFFLE_BUFFER_SIZE = 10_000

# Looks at a split before it is read, given the feature lengths; says what is wrong.
Check = Callable[[str, Mapping[str, int]], None]


def register(
    name: str, spec: tuple[Any, ...], check: Check | None = None, **task: Any
) -> str:
    """Adds a task to SeqIO's registry; returns its name.

    The same again changes nothing, something else replaces it: a process can run
    several jobs.

    Args:
      name: of the task, of letters, digits, dots and underscores.
      spec: what the task is made from, to know it when it is registered again.
      check: called before a split is read.
      **task: arguments of `seqio.TaskRegistry.add`.

    Raises:
      UserError: the name is no name, or another's.
    """
    if name in seqio.TaskRegistry.names():
        there = seqio.TaskRegistry.get(name)
        if not isinstance(there, CheckedTask):
            raise UserError(
                f"a task called {name!r} is registered already; choose a name"
            )
        if there.spec == spec:
            return name
        seqio.TaskRegistry.remove(name)
    # Unless told, or where the source shuffles as a whole.
    whole = task["source"].performs_internal_shuffling
    task = {"shuffle_buffer_size": None if whole else SHUFFLE_BUFFER_SIZE, **task}
    try:
        task |= {"task_cls": CheckedTask, "spec": spec, "check": check}
        seqio.TaskRegistry.add(name, **task)
    except ValueError as error:
        raise UserError(f"task {name!r}: {error}") from error
    return name


class CheckedTask(seqio.Task):
    """A task that looks at its files first, and whose every epoch is shuffled anew."""

    def __init__(self, name: str, spec: Any, check: Check | None, **kwargs: Any):
        super().__init__(name, **kwargs)
        self.spec, self._check = spec, check

    def get_dataset(
        self, sequence_length=None, split="train", use_cached=False, shuffle=True, **kw
    ) -> tf.data.Dataset:
        lengths = dict(sequence_length or {})
        if "targets" in lengths:  # Counts for what else there is for each target.
            for feature in self.output_features:
                lengths.setdefault(feature, lengths["targets"])
        # SeqIO's cache need not have the files beside it.
        if self._check and split in self.splits and not use_cached:
            self._check(split, lengths)
        # SeqIO's cache in memory would freeze the first shuffle.
        kw["try_in_mem_cache"] = False
        ds = super().get_dataset(lengths or None, split, use_cached, shuffle, **kw)
        if shuffle and use_cached and self._shuffle_buffer_size is None:
            # The source, which shuffles, is not read.
            ds = ds.shuffle(SHUFFLE_BUFFER_SIZE, kw.get("seed"))
        return ds


def plain(files: Files) -> dict[str, str | list[str]]:
    """Returns files by split as plain values, which can be compared.

    Raises:
      UserError: `files` is no mapping, or a split has no files.
    """
    if not isinstance(files, Mapping) or not files:
        raise UserError(
            f"files must name files by split, as {{'train': 'data/train.jsonl'}}, "
            f"not {files!r}"
        )
    found: dict[str, str | list[str]] = {}
    for split, spec in files.items():
        parts = [spec] if isinstance(spec, str) else spec
        if not isinstance(parts, Sequence) or not parts or not all(map(str, parts)):
            raise UserError(f"files: split {split!r} names no files: {spec!r}")
        found[split] = spec if isinstance(spec, str) else [str(part) for part in parts]
    return found
