"""Similarity of texts, of at least one pair: exact match, BLEU, ROUGE-L."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+")


class UnicodeTokenizer:
    """Splits into lower-case words of letters and digits of any script.

    On ASCII it does what rouge_score's own tokenizer does without stemming; that one
    knows no other letters and finds no word in, say, a Russian text.
    """

    def tokenize(self, text: str) -> list[str]:
        """Returns the words of `text`."""
        return _WORD.findall(text.lower())


def exact_match(old: Sequence[str], new: Sequence[str]) -> float:
    """Returns the share of pairs that are equal."""
    return sum(a == b for a, b in zip(old, new, strict=True)) / len(old)


def bleu(old: Sequence[str], new: Sequence[str]) -> float:
    """Returns sacreBLEU's corpus BLEU (0-100) of `new` with `old` as its reference.

    Source: Post, "A Call for Clarity in Reporting BLEU Scores", WMT 2018; sacreBLEU's
    defaults (13a tokenisation, exponential smoothing), but where no text has as many
    as four words shorter n-grams decide, not a score of 0.
    """
    import sacrebleu

    metric = sacrebleu.BLEU(effective_order=True)
    # On the same texts rounding gives 100.00000000000004.
    return min(metric.corpus_score(list(new), [list(old)]).score, 100.0)


def rouge_l(old: Sequence[str], new: Sequence[str]) -> float:
    """Returns the mean ROUGE-L F (0-1) of `new` with `old` as its reference.

    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004; the
    sentence-level measure of rouge_score, without stemming. Equal texts score 1, also
    where they have no word.
    """
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=UnicodeTokenizer())
    total = 0.0
    for reference, text in zip(old, new, strict=True):
        same = reference == text
        total += 1.0 if same else scorer.score(reference, text)["rougeL"].fmeasure
    return total / len(old)
