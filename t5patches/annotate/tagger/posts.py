"""Posts with marked characters: files as SemEval-2021 Task 5 has them, or TFDS's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from t5patches.errors import UserError
from t5patches.interchange import shards, tables

# Before the name of a data set of TFDS and its split.
TFDS = "tfds:"
LONGEST = 1_000_000  # spaCy's own limit.


class Post(NamedTuple):
    """A text and the offsets of its unwanted characters."""

    text: str
    unwanted: frozenset[int]

    @property
    def marks(self) -> np.ndarray:
        """Which characters are unwanted, bool [characters]."""
        return np.isin(np.arange(len(self.text)), list(self.unwanted))


def read_posts(
    paths: Sequence[shards.PathLike], tfds_data_dir: shards.PathLike | None = None
) -> list[Post]:
    """Returns posts with the fields `text` and `spans`.

    Args:
      paths: CSV, JSON-lines (`.jsonl`) or Parquet files, whose `spans` list character
        offsets into `text` ("[8, 9, 10]" in a CSV cell); or
        `tfds:civil_comments/CivilCommentsToxicSpans:1.2.4/train`, a data set of TFDS
        and its split.
      tfds_data_dir: where TFDS's copy is; None is TFDS's default.

    Raises:
      UserError: naming file and line; TFDS has no such data; or there are no posts in
        the files.
    """
    posts = []
    for where, row in (r for p in paths for r in _rows(os.fspath(p), tfds_data_dir)):
        text = tables.text_field(row, "text", where)
        if len(text) > LONGEST:
            raise UserError(
                f"{where}: the text has {len(text):,} characters; spaCy reads at most "
                f"{LONGEST:,}: leave it out or cut it"
            )
        offsets = tables.offsets_field(row, "spans", text, where)
        posts.append(Post(text, frozenset(offsets)))
    if paths and not posts:
        raise UserError(f"{', '.join(map(str, paths))}: no posts in it")
    return posts


def _rows(
    path: str, tfds_data_dir: shards.PathLike | None
) -> Iterator[tuple[str, shards.Row]]:
    """Yields (place, row) of what one of `read_posts`' arguments names."""
    if not path.startswith(TFDS):
        for file in shards.expand(path, suffix=".csv"):
            yield from tables.read_rows(file)
        return
    import seqio

    from t5patches.tasks import sources

    if tfds_data_dir is not None:
        seqio.set_tfds_data_dir_override(os.fspath(tfds_data_dir))
    name, _, split = path.removeprefix(TFDS).rpartition("/")
    if not name:
        raise UserError(f"{path}: give data set and split, {TFDS}NAME/SPLIT")
    source = sources.TfdsSource(name, {split: split})
    for example in source.get_dataset(split, shuffle=False).as_numpy_iterator():
        where = f"{path} ({example['id_pretokenized'].decode()})"
        row = {key: example[key].tolist() for key in ("spans",) if key in example}
        if "text" in example:
            row["text"] = example["text"].decode()
        yield where, row


def without(posts: Iterable[Post], others: Iterable[Post]) -> list[Post]:
    """Returns the posts that are not in `others`, white space and case aside."""
    seen = {_plain(post.text) for post in others}
    return [post for post in posts if _plain(post.text) not in seen]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
