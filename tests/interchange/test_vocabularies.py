"""What tells vocabularies apart, and their special ids."""

import shutil

import pytest
import seqio
from small_vocabulary import small_vocabulary

from t5patches.errors import UserError
from t5patches.interchange import vocabularies

VOCABULARY = small_vocabulary()


def test_a_fingerprint_is_of_the_pieces(tmp_path):
    path = tmp_path / "copy.model"
    shutil.copy(VOCABULARY.sentencepiece_model_file, path)
    copy = seqio.SentencePieceVocabulary(str(path))
    extra = seqio.SentencePieceVocabulary(str(path), extra_ids=10)
    mine = vocabularies.fingerprint(VOCABULARY)
    assert mine.startswith(f"SentencePieceVocabulary:{VOCABULARY.vocab_size}:")
    for same in (copy, extra, vocabularies.by_pieces(copy)):
        assert vocabularies.fingerprint(same) == mine
    other = small_vocabulary(model_type="bpe", seed_sentencepiece_size=1000)
    named = (other, small_vocabulary(byte_fallback=False), seqio.ByteVocabulary())
    assert mine not in map(vocabularies.fingerprint, named)
    assert vocabularies.fingerprint(seqio.ByteVocabulary(extra_ids=5)).startswith(
        "ByteVocabulary:259:"
    )


def test_special_ids(tmp_path):
    vocabularies.check_special_ids(VOCABULARY)
    vocabularies.check_special_ids(seqio.ByteVocabulary())
    default = small_vocabulary(pad_id=-1, eos_id=2, unk_id=0, bos_id=1)
    with pytest.raises(UserError, match=r"pad -1, eos 2, unk 0;.* --pad_id=0 --eos_id"):
        vocabularies.check_special_ids(default)
