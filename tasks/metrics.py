"""SeqIO metric functions: `metric_fns` of a task; T5X's `eval` computes them.

Each takes the references and the model's outputs, texts in the same order, and returns
numbers by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Scores = dict[str, float]


def rouge(targets: Sequence[str], predictions: Sequence[str]) -> Scores:
    """Returns the mean F (0-100) of ROUGE-1, ROUGE-2 and ROUGE-L, with stemming.

    ROUGE-L is the summary's, over its lines (`rougeLsum`), as papers on XSUM report it.

    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.
    """
    from rouge_score import rouge_scorer

    names = ["rouge1", "rouge2", "rougeLsum"]
    scorer = rouge_scorer.RougeScorer(names, use_stemmer=True)
    scores = [scorer.score(*pair) for pair in zip(targets, predictions, strict=True)]
    return {
        name: 100 * sum(score[name].fmeasure for score in scores) / max(len(scores), 1)
        for name in names
    }


def exact_match(targets: Sequence[str], predictions: Sequence[str]) -> Scores:
    """Returns the share (0-1) of outputs that are their reference."""
    equal = sum(a == b for a, b in zip(targets, predictions, strict=True))
    return {"exact_match": equal / max(len(targets), 1)}


def prevalence(
    annotator: Callable[[str, str], Sequence[object]],
) -> Callable[[Sequence[str], Sequence[str]], Scores]:
    """Returns a metric: the share (0-1) of outputs in which an annotator finds a span.

    In a gin file, for the phrases of a list::

        from t5patches.annotate import phrases
        from t5patches.tasks import metrics

        tasks.text_task.metric_fns = [@metrics.prevalence()]
        metrics.prevalence.annotator = @phrases.load()
        phrases.load.path = 'unwanted.txt'

    Args:
      annotator: `annotator(text, inputs)`, which must do without the inputs: SeqIO's
        metrics do not see them.
    """

    def unwanted_prevalence(
        targets: Sequence[str], predictions: Sequence[str]
    ) -> Scores:
        found = sum(bool(annotator(text, "")) for text in predictions)
        return {"unwanted_prevalence": found / max(len(predictions), 1)}

    return unwanted_prevalence
