"""The quickstart's SentencePiece vocabulary."""

import io
import os
from collections.abc import Iterable

from t5patches.errors import UserError
from t5patches.interchange import shards


def train(texts: Iterable[str], path: str | os.PathLike, size: int) -> None:
    """Trains a vocabulary with T5's special ids: padding 0, EOS 1, unknown 2.

    The same texts give the same file: one thread, no sampling.

    Args:
      texts: what the model will read and write.
      path: the SentencePiece model to write; it appears when it is whole.
      size: number of pieces.

    Raises:
      UserError: the texts do not have as many pieces as `size`.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            hard_vocab_limit=True,
            byte_fallback=True,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            f"no vocabulary of {size} pieces can be made of these texts ({error}); "
            "give more text"
        ) from error
    with shards.atomic_write(path, "wb") as file:
        file.write(model.getvalue())
