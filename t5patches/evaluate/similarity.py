"""How alike two texts are, and two sets of texts: BLEU, ROUGE, word edits.

What is kept of a pair of texts are a few numbers (`NUMBERS`), of which every score of a
set is made: the n-gram counts of BLEU and the word edits are added up, the others are
means. So a resample of the set costs a sum, not a comparison of texts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

_WORD = re.compile(r"[^\W_]+")
ROUGE = ("rouge1", "rouge2", "rougeL")
# Of one pair: whether the texts are equal; BLEU's [length, reference length, 4 matches,
# 4 totals]; the F of each ROUGE; word edits and the reference's words.
NUMBERS = np.dtype(
    [("same", "?"), ("bleu", "i4", 10), ("rouge", "f8", 3)]
    + [("edits", "i4"), ("words", "i4")]
)


class UnicodeTokenizer:
    """Splits into lower-case words of letters and digits of any script.

    On ASCII it does what rouge_score's own tokenizer does without stemming; that one
    knows no other letters and finds no word in, say, a Russian text.
    """

    def tokenize(self, text: str) -> list[str]:
        """Returns the words of `text`."""
        return _WORD.findall(text.lower())


def numbers(reference: str, text: str) -> tuple[Any, ...]:
    """Returns the `NUMBERS` of a text and its reference.

    Sources: Post, "A Call for Clarity in Reporting BLEU Scores", WMT 2018 (sacreBLEU's
    defaults: 13a tokenisation); Lin, "ROUGE: A Package for Automatic Evaluation of
    Summaries", 2004 (rouge_score, without stemming; of ROUGE-L the sentence-level
    measure). Equal texts have a ROUGE of 1, also where they have no word. Edits are
    those of Levenshtein's distance between the words, which are what spaces part.
    """
    words = reference.split()
    if reference == text:  # As most are: what is below would give the same.
        length = len(_bleu().tokenizer(text.rstrip()).split())
        counts = [max(length - n, 0) for n in range(4)]
        return True, [length, length, *counts, *counts], (1.0,) * 3, 0, len(words)
    bleu = _bleu().sentence_score(text, [reference])
    rouge = _rouge().score(reference, text)
    return (
        False,
        [bleu.sys_len, bleu.ref_len, *bleu.counts, *bleu.totals],
        tuple(rouge[name].fmeasure for name in ROUGE),
        _edits(words, text.split()),
        len(words),
    )


def table(texts: Iterable[tuple[str, str]]) -> np.ndarray:
    """Returns `NUMBERS` [pairs] of texts, the reference of each pair first."""
    return np.array([numbers(*pair) for pair in texts], NUMBERS)


@functools.cache
def _bleu() -> Any:
    import sacrebleu

    # Effective order: where no text has as many as four words shorter n-grams decide,
    # not a score of 0.
    return sacrebleu.BLEU(effective_order=True)


@functools.cache
def _rouge() -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer([*ROUGE], tokenizer=UnicodeTokenizer())


def _edits(old: Sequence[str], new: Sequence[str]) -> int:
    from spacy.matcher import levenshtein

    # spaCy's is of characters: each word gets one.
    codes = {word: chr(i) for i, word in enumerate({*old, *new}, start=1)}
    return levenshtein(*("".join(map(codes.__getitem__, side)) for side in (old, new)))


def bleu_of_sums(sums: np.ndarray) -> float:
    """Returns corpus BLEU (0-100) of the added-up `bleu` of `NUMBERS`."""
    import sacrebleu

    length, reference_length, *counts = (int(number) for number in sums)
    score = sacrebleu.BLEU.compute_bleu(
        counts[:4], counts[4:], length, reference_length, "exp", effective_order=True
    )
    return min(score.score, 100.0)  # Of equal texts rounding gives 100.00000000000004.


def bleu_signature() -> str:
    """Returns what sacreBLEU says of how BLEU is computed, its version included."""
    _bleu().sentence_score("a", ["a"])  # It counts the references.
    return str(_bleu().get_signature())


def scores(found: np.ndarray) -> dict[str, float | None]:
    """Returns how alike texts are to their references.

    Args:
      found: `NUMBERS` [pairs].

    Returns:
      `exact_match`, `rouge1`, `rouge2`, `rougeL` (0-1, means), `bleu` (0-100, of the
      corpus) and `token_edit_rate` (0 or more, edits of all texts by words of all
      references); None where there is nothing to measure.
    """
    names = ("exact_match", "bleu", *ROUGE, "token_edit_rate")
    if not len(found):
        return dict.fromkeys(names)
    words = int(found["words"].sum())
    values = (
        float(found["same"].mean()),
        bleu_of_sums(found["bleu"].sum(axis=0, dtype=np.int64)),
        *map(float, found["rouge"].mean(axis=0)),
        int(found["edits"].sum()) / words if words else None,
    )
    return dict(zip(names, values, strict=True))
