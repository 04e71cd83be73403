"""Vocabularies that are compared by their pieces, and what T5 models ask of them."""

from __future__ import annotations

import hashlib
from typing import Any

import seqio
from sentencepiece import sentencepiece_model_pb2

from t5patches.errors import UserError

SPECIAL_IDS = {"pad": 0, "eos": 1, "unk": 2}


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


def fingerprint(vocabulary: seqio.Vocabulary) -> str:
    """Returns what tells vocabularies apart, wherever their files lie.

    Of SentencePiece's it is the kind, the number and the digest of the pieces. Extra
    ids do not count: they come after the pieces, whose ids they leave as they are.
    """
    extra, model = vocabulary.extra_ids, getattr(vocabulary, "sp_model", None) or b""
    if extra and model:
        # The module makes its classes when it is imported; type checkers miss them.
        pieces = sentencepiece_model_pb2.ModelProto.FromString(model)  # pyright: ignore
        del pieces.pieces[-extra:]
        model = pieces.SerializeToString()
    digest = hashlib.sha256(model).hexdigest()[:16]
    return f"{type(vocabulary).__name__}:{vocabulary.vocab_size - extra}:{digest}"


def of_model(model: Any) -> str:
    """Returns the fingerprint of a model's vocabulary, or of both that it has."""
    both = (model.input_vocabulary, model.output_vocabulary)
    return " and ".join(dict.fromkeys(map(fingerprint, both)))


def check_special_ids(vocabulary: seqio.Vocabulary) -> None:
    """Checks that padding, end and unknown are where T5 models have them.

    Raises:
      UserError: they are elsewhere, as where SentencePiece itself would put them.
    """
    if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
        return
    pieces = vocabulary.tokenizer
    found = {"pad": pieces.pad_id(), "eos": pieces.eos_id(), "unk": pieces.unk_id()}
    if found != SPECIAL_IDS:
        ids = ", ".join(f"{name} {place}" for name, place in found.items())
        raise UserError(
            f"{vocabulary.sentencepiece_model_file}: its special ids are {ids}; T5 "
            "models need pad 0, eos 1, unk 2: train it with spm_train --pad_id=0 "
            "--eos_id=1 --unk_id=2 --bos_id=-1"
        )
