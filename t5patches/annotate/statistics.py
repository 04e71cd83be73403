"""What is counted when predictions are annotated; `stats.json` has the sums.

What the feature lengths of training will cut off is counted here, and only here.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator, Mapping
from typing import Any

from t5patches.errors import UserError
from t5patches.interchange.records import AnnotatedPrediction

SKIPPED = "skipped.txt"
# What a shard's findings have.
FINDINGS = {"counts": dict, "labels": dict, "skipped": list}
FINDINGS |= {"lost": dict, "changed": list}


class Statistics:
    """Counts over annotated predictions; the counts of shards add up.

    Attributes:
      lengths: of features in training.
      counts: of predictions and tokens.
      labels: how many annotations have each label.
      lost: how many of each character encoding has changed.
      changed: the first text that it has changed.
      skipped: what was left out, a message each.
    """

    def __init__(self, lengths: Mapping[str, int]):
        """Starts at nothing; `lengths` are those of features in training."""
        self.lengths = dict(lengths)
        self.counts: collections.Counter[str] = collections.Counter()
        self.labels: collections.Counter[str] = collections.Counter()
        self.lost: collections.Counter[str] = collections.Counter()
        self.changed: list[str] = []
        self.skipped: list[str] = []

    def count(self, row: AnnotatedPrediction, input_ids: list[int], where: str) -> None:
        """Counts one annotated prediction, which stands `where`."""
        if "given" in row:
            self._count_lost(row["given"], row["prediction"], where)
        marks = row["target_annotations"]
        limits = {"inputs": len(input_ids), "targets": len(marks)} | self.lengths
        kept = marks[: limits["targets"]]
        self.labels.update(span["label"] for span in row["annotations"])
        self.counts.update(
            examples=1,
            examples_with_unwanted=any(marks),
            tokens=len(marks),
            unwanted_tokens=sum(marks),
            empty=not row["prediction"].strip(),
            reencoded=bool(row.get("reencoded")),
            changed_by_encoding="given" in row,
            truncated_inputs=len(input_ids) > limits["inputs"],
            truncated_targets=len(marks) > limits["targets"],
            dropped_unwanted_tokens=sum(marks) - sum(kept),
            examples_without_unwanted_left=any(marks) and not any(kept),
        )

    def _count_lost(self, given: str, text: str, where: str) -> None:
        lost = collections.Counter(given) - collections.Counter(text)
        self.lost.update({c: count for c, count in lost.items() if not c.isspace()})
        if not self.changed:
            at = max(len(os.path.commonprefix([given, text])) - 20, 0)
            pieces = (f"{part[at : at + 40]!r}" for part in (given, text))
            self.changed = [f"{where}: {' became '.join(pieces)}"]

    def skip(self, error: UserError) -> None:
        """Notes a line or a file that is left out."""
        text = " ".join(str(error).split())
        # File names and messages may hold what is no text.
        self.skipped.append(text.encode("utf-8", "backslashreplace").decode())

    def findings(self) -> dict[str, Any]:
        """Returns the counts as JSON, for `add`."""
        counts = {name: int(count) for name, count in self.counts.items()}
        found = {"counts": counts, "labels": self.labels, "skipped": self.skipped}
        return {**found, "lost": self.lost, "changed": self.changed}

    def add(self, findings: Mapping[str, Any]) -> None:
        """Adds the counts of a shard."""
        self.counts.update(findings["counts"])
        self.labels.update(findings["labels"])
        self.skipped += findings["skipped"]
        self.lost.update(findings["lost"])
        self.changed = self.changed or findings["changed"]

    def report(self) -> dict[str, Any]:
        """Returns what `stats.json` has."""

        def counts(*names: str) -> dict[str, int]:
            return {name: self.counts[name] for name in names}

        with_unwanted = self.counts["examples_with_unwanted"]
        tried = ("alternatives_tried", "unwanted_alternatives", "positions_with_them")
        return {
            **counts("examples", "examples_with_unwanted"),
            "share_with_unwanted": with_unwanted / max(self.counts["examples"], 1),
            **counts("tokens", "unwanted_tokens"),
            **(counts(*tried) if tried[0] in self.counts else {}),
            "annotations_by_label": dict(self.labels.most_common()),
            **counts("written", "empty", "reencoded", "changed_by_encoding"),
            "lost_characters": dict(self.lost.most_common()),
            "skipped": len(self.skipped),
            "truncation": {
                "feature_lengths": self.lengths,
                **counts("truncated_inputs", "truncated_targets"),
                **counts("dropped_unwanted_tokens", "examples_without_unwanted_left"),
            },
        }

    def warnings(self) -> Iterator[str]:
        """Yields what a user should know."""
        counts = self.counts
        if self.skipped:
            count, first = len(self.skipped), self.skipped[0]
            yield f"{count} skipped and listed in {SKIPPED}; the first: {first}"
        if counts["reencoded"]:
            yield (
                f"{counts['reencoded']} of {counts['examples']} texts had no ids and "
                "were encoded. For references that is right; for a model's outputs it "
                "need not give the ids that were generated (T5X writes them with "
                "output_ids = True)"
            )
        if self.changed:
            lost = " ".join(c for c, _ in self.lost.most_common(20)) or "white space"
            yield (
                f"{counts['changed_by_encoding']} of {counts['examples']} texts are "
                f"others once they are encoded; lost or changed: {lost}. The first is "
                f"{self.changed[0]}; the whole texts are in the field 'given'"
            )
        if counts["dropped_unwanted_tokens"]:
            yield (
                f"Feature length {self.lengths['targets']} of targets would cut off "
                f"{counts['dropped_unwanted_tokens']} of {counts['unwanted_tokens']} "
                "unwanted tokens"
            )
        if 2 * counts["empty"] > counts["examples"]:
            yield (
                f"{counts['empty']} of {counts['examples']} predictions are empty: see "
                "whether the model generated as it should"
            )
        if not counts["unwanted_tokens"]:
            yield f"Nothing unwanted was found (examples: {counts['examples']})"
