"""Is the job real? What the corpus promises, as measured on the fine-tuned model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from t5patches import annotate
from t5patches.interchange import shards

UnwantedIds = Callable[[shards.Row], set[int]]

# An alternative is something the model might say: it has at least this probability.
MIGHT_SAY = 0.01


def first_pieces(phrases: Iterable[str], vocabulary: Any) -> set[int]:
    """The ids that the phrases begin with, as the vocabulary spells them."""
    ids = (vocabulary.encode(phrase) for phrase in phrases)
    return {int(phrase[0]) for phrase in ids if len(phrase)}


def point_of_choice(row: shards.Row, marks: Sequence[int], unwanted: set[int]) -> int:
    """Where an output turns rude or does not.

    That is its first unwanted token; in an output without, the position at which the
    model gave unwanted words the most probability.
    """
    if any(marks):
        return list(marks).index(1)
    shares = [
        sum(p for token, p in alternatives if token in unwanted)
        for alternatives in row["alternatives"]
    ]
    return max(range(len(shares)), key=shares.__getitem__)


def measure(
    rows: Iterable[shards.Row],
    annotator: Callable[[str, str], list[Any]],
    unwanted_ids: UnwantedIds,
    vocabulary: Any,
) -> dict[str, float]:
    """Summarises the choices that a model had.

    Args:
      rows: lines of `choices.write_choices`, the model's own greedy outputs, for
        inputs that leave a choice.
      annotator: says what in a text is unwanted.
      unwanted_ids: row -> the ids that begin something unwanted in its output.
      vocabulary: the model's.

    Returns:
      Means over the rows at their point of choice, unless they say otherwise:
      `top_probability`, `top_probability_max` (over the rows),
      `unwanted_probability` (of all unwanted alternatives together),
      `unwanted_alternatives`, `other_alternatives` (how many have at least
      `MIGHT_SAY`), `several_of_both` (share of the rows with two or more of each),
      `unwanted_after_masking` (share of the rude rows whose second choice is unwanted
      too, so that masking the first changes nothing), `most_frequent_share` (of the
      rude rows, with the commonest unwanted word at this point),
      `distinct_outputs` (share of the rows) and `rows`.
    """
    measured, outputs, first_words = [], set(), []
    for row in rows:
        marks = annotate.annotate_row(row, annotator, vocabulary)["target_annotations"]
        unwanted = unwanted_ids(row)
        where = point_of_choice(row, marks, unwanted)
        alternatives = row["alternatives"][where]
        measured.append(_at_choice(alternatives, unwanted, rude=any(marks)))
        outputs.add(row["prediction"])
        if any(marks):
            first_words.append(row["target_tokens"][where])
    rude = [values for values in measured if values["rude"]]
    commonest = max(map(first_words.count, set(first_words)), default=0)
    return {
        **{
            name: _mean(measured, name)
            for name in (
                "top_probability",
                "unwanted_probability",
                "unwanted_alternatives",
                "other_alternatives",
                "several_of_both",
            )
        },
        "top_probability_max": max(v["top_probability"] for v in measured),
        "unwanted_after_masking": _mean(rude, "second_is_unwanted"),
        "most_frequent_share": commonest / max(len(rude), 1),
        "distinct_outputs": len(outputs) / len(measured),
        "rows": len(measured),
    }


def _at_choice(
    alternatives: Sequence[tuple[int, float]], unwanted: set[int], rude: bool
) -> dict[str, float]:
    likely = [(token, p) for token, p in alternatives if p >= MIGHT_SAY]
    bad = sum(token in unwanted for token, _ in likely)
    return {
        "rude": rude,
        "top_probability": alternatives[0][1],
        "unwanted_probability": sum(p for t, p in alternatives if t in unwanted),
        "unwanted_alternatives": bad,
        "other_alternatives": len(likely) - bad,
        "several_of_both": bad >= 2 and len(likely) - bad >= 2,
        "second_is_unwanted": alternatives[1][0] in unwanted,
    }


def _mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    return sum(row[name] for row in rows) / max(len(rows), 1)


def rows(found: Mapping[str, float]) -> list[dict[str, Any]]:
    """What `measure` found, in words, with what a real job asks of it.

    Returns:
      Rows `{"label", "value", "requirement", "met"}` for the report; `met` is None
      where nothing is required.
    """

    def row(label, value, requirement="", met=None):
        return {
            "label": label,
            "value": value,
            "requirement": requirement,
            "met": met,
        }

    top = found["top_probability_max"]
    several = found["several_of_both"]
    commonest = found["most_frequent_share"]
    return [
        row("inputs that leave a choice", f"{found['rows']:,}"),
        row(
            "top probability at the point of choice: mean, highest",
            f"{found['top_probability']:.2f}, {top:.2f}",
            "highest below 0.9",
            top < 0.9,
        ),
        row(
            f"unwanted words with a probability of at least {MIGHT_SAY}, mean",
            f"{found['unwanted_alternatives']:.1f}",
            "several",
            found["unwanted_alternatives"] >= 2,
        ),
        row(
            f"other words with a probability of at least {MIGHT_SAY}, mean",
            f"{found['other_alternatives']:.1f}",
            "several",
            found["other_alternatives"] >= 2,
        ),
        row(
            "inputs with two or more of each",
            f"{several:.0%}",
            "at least 90 %",
            several >= 0.9,
        ),
        row(
            "unwanted outputs with the commonest unwanted word",
            f"{commonest:.0%}",
            "at most half: masking one word is not enough",
            commonest <= 0.5,
        ),
        row(
            "unwanted outputs whose second choice is unwanted too",
            f"{found['unwanted_after_masking']:.0%}",
        ),
        row("different outputs among all", f"{found['distinct_outputs']:.0%}"),
    ]
