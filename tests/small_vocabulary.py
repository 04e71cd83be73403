"""A SentencePiece vocabulary of a few hundred pieces, with or without byte fallback."""

import functools
import io
import os
import tempfile
from typing import Any

import sentencepiece
import seqio

SENTENCES = (
    "hello stupid world, you fool",
    "the café is naïve and dumb, what a day",
    "what an idiot you are, you silly old fool",
    "we talk about the weather   and the news of the day",
)


@functools.cache
def small_vocabulary(
    byte_fallback: bool = True, extra_ids: int = 0, **options: Any
) -> seqio.SentencePieceVocabulary:
    """Trains on SENTENCES; `options` are SentencePiece's."""
    model = io.BytesIO()
    options = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1) | options
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        vocab_size=340 if byte_fallback else 90,
        hard_vocab_limit=False,
        byte_fallback=byte_fallback,
        character_coverage=1.0,
        minloglevel=2,
        **options,
    )
    handle, path = tempfile.mkstemp(suffix=".model")
    with os.fdopen(handle, "wb") as file:
        file.write(model.getvalue())
    return seqio.SentencePieceVocabulary(path, extra_ids=extra_ids)
