"""SentencePiece vocabularies that are compared by their pieces."""

from __future__ import annotations

import seqio


class SentencePieceVocabulary(seqio.SentencePieceVocabulary):
    """SeqIO's, but equal to any other with the same pieces.

    SeqIO compares paths, and T5X refuses a task whose vocabulary is not the model's: of
    `spm.model`, `./spm.model` and a copy in a bucket each would be another.
    """

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, seqio.SentencePieceVocabulary):
            return False
        return super().__eq__(other) or self.sp_model == other.sp_model


def by_pieces(vocabulary: seqio.SentencePieceVocabulary) -> SentencePieceVocabulary:
    """Returns the same vocabulary, settings and all, compared by its pieces.

    Through it gin's bindings of `seqio.SentencePieceVocabulary` (`extra_ids`) reach the
    model's vocabulary.
    """
    same = SentencePieceVocabulary.__new__(SentencePieceVocabulary)
    same.__setstate__(vocabulary.__getstate__())
    return same
