"""Pairs of outputs in memory, and their numbers, as `evaluate_files` has them."""

from t5patches.evaluate import comparison, pairs


def join(old, new, annotator):
    """Returns the pairs of predictions, in the order of the old ones."""
    seen, read = pairs.Seen(), pairs.reader(annotator)
    old, theirs = [*seen.through(old)], {row["id"]: row for row in new}
    return [
        pairs.pair(read(row), read(theirs[row["id"]]), seen=seen.ids) for row in old
    ]


def compare(found):
    """Returns the numbers of pairs."""
    made = comparison.Comparison()
    for pair in found:
        made.add(pair)
    return made.results()
