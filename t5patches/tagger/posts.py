"""Posts with marked characters: SemEval-2021 Task 5's CSV, or JSON lines."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from t5patches import records
from t5patches.errors import UserError


class Post(NamedTuple):
    """A text and the offsets of its unwanted characters."""

    text: str
    unwanted: frozenset[int]


def read_posts(paths: records.PathLike | Sequence[records.PathLike]) -> list[Post]:
    """Returns the posts of CSV files (columns `spans`, `text`) or `.jsonl` files.

    `spans` lists character offsets into `text`: "[8, 9, 10]" in a CSV cell, a list of
    numbers in JSON (the fields of TFDS's civil_comments/CivilCommentsToxicSpans).

    Raises:
      UserError: naming file and line; or if there is no post.
    """
    posts = []
    for path in records.expand(paths, suffix=".csv"):
        is_json = ".jsonl" in os.path.basename(path)
        rows = records.read_jsonl(path) if is_json else _csv_rows(path)
        posts += [_post(row, f"{path}:{number}") for number, row in rows]
    if not posts:
        raise UserError(f"{paths}: no posts in it")
    return posts


def _csv_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # The file as lines, so that what is not UTF-8 is named; cells may hold newlines.
    reader = csv.DictReader(line for _, line in records.read_lines(path))
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not CSV: {error}") from error


def _post(row: dict[str, Any], where: str) -> Post:
    text, spans = row.get("text"), row.get("spans")
    if not isinstance(text, str):
        raise UserError(f"{where}: field 'text' is missing or no text")
    if isinstance(spans, str):
        try:
            spans = json.loads(spans)  # A Python list of numbers is a JSON list, too.
        except json.JSONDecodeError:
            spans = None
    if not isinstance(spans, list) or not all(type(place) is int for place in spans):
        raise UserError(
            f"{where}: field 'spans' must be a list of character offsets, [8, 9, 10]"
        )
    outside = [place for place in spans if not 0 <= place < len(text)]
    if outside:
        raise UserError(
            f"{where}: field 'spans' has offset {outside[0]}, outside the {len(text)} "
            "characters of 'text'"
        )
    return Post(text, frozenset(spans))


def without(posts: Iterable[Post], others: Iterable[Post]) -> list[Post]:
    """Returns the posts that are not in `others`, white space and case aside."""
    seen = {_plain(post.text) for post in others}
    return [post for post in posts if _plain(post.text) not in seen]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def spans_of(places: Iterable[int]) -> list[tuple[int, int]]:
    """Returns runs of adjacent offsets as (start, end)."""
    spans = []
    # Along a run, place and rank grow alike.
    ranked = enumerate(sorted(set(places)))
    for _, run in itertools.groupby(ranked, lambda pair: pair[1] - pair[0]):
        first, *_, last = [place for _, place in run] * 2
        spans.append((first, last + 1))
    return spans
