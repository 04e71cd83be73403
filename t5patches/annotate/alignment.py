"""From unwanted characters to unwanted ids, exactly.

The ids are the ones that the model generated, never a re-tokenisation of the text: the
same text can come from several id sequences, and the update must act on the one that
the model chose.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from t5patches.errors import UserError, shorten

Span = tuple[int, int, str]


def align(
    ids: Sequence[int], text: str, spans: Iterable[Span], vocabulary: Any
) -> list[int]:
    """Marks the ids whose characters overlap an unwanted span.

    The space that begins a token does not count, so the token of the word after a span
    that ends in a space stays unmarked; a token of nothing but spaces counts. All bytes
    of a multi-byte character count as that character. EOS, and other ids that decode to
    nothing, are never marked.

    Example, with a vocabulary of the pieces "▁you", "▁du", "mm", "y":

      text  = "you dummy", spans = [(4, 9, "dummy")]
      ids   = [▁you, ▁du, mm, y, EOS]
      marks = [   0,   1,  1, 1,   0]

    Args:
      ids: generated ids, up to and including EOS.
      text: what they decode to.
      spans: (start, end, label) in characters of `text`.
      vocabulary: `seqio.SentencePieceVocabulary` or `seqio.ByteVocabulary`.

    Returns:
      0 or 1 for each id.

    Raises:
      UserError: `ids` decode to another text, or `vocabulary` is of another kind.
    """
    _is_byte_level(vocabulary)  # Refuses what cannot be aligned, also without spans.
    spans = list(spans)
    if spans:
        ranges, decoded = token_ranges(ids, vocabulary)
    else:  # Most outputs are clean, and decoding alone is several times as fast.
        ranges, decoded = [(0, 0)] * len(ids), vocabulary.decode(ids)
    if decoded != text:
        raise UserError(
            f"field 'target_tokens': the ids decode to {shorten(decoded)}, not to "
            f"{shorten(text)}; give the vocabulary that the model generated with"
        )
    unwanted = bytearray(len(text))
    for start, end, _ in spans:
        unwanted[start:end] = b"\1" * (end - start)
    return [int(any(unwanted[start:end])) for start, end in ranges]


def token_ranges(
    ids: Sequence[int], vocabulary: Any
) -> tuple[list[tuple[int, int]], str]:
    """Finds the characters that each id stands for.

    Args:
      ids: generated ids; those after EOS stand for nothing.
      vocabulary: `seqio.SentencePieceVocabulary` or `seqio.ByteVocabulary`.

    Returns:
      For each id its (start, end) in characters, a leading space left out, empty for an
      id without characters; and the text, which equals `vocabulary.decode(ids)`.

    Raises:
      UserError: `vocabulary` is of another kind.
    """
    length = len(ids)
    if vocabulary.eos_id in ids:
        ids = ids[: ids.index(vocabulary.eos_id) + 1]
    if _is_byte_level(vocabulary):
        surfaces, shared = _byte_surfaces(ids)
    else:
        surfaces, shared = _sentencepiece_surfaces(ids, vocabulary.tokenizer)
    ranges, end = [], 0
    for surface in surfaces:
        start, end = end, end + len(surface)
        bare = surface.lstrip(" ")
        ranges.append((end - len(bare) if bare else start, end))
    for index, last in shared.items():
        ranges[index] = ranges[last]
    ranges += [(end, end)] * (length - len(ranges))
    return ranges, "".join(surfaces)


def _is_byte_level(vocabulary: Any) -> bool:
    import seqio

    if isinstance(vocabulary, seqio.ByteVocabulary):
        return True
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        return False
    raise UserError(
        "annotations can be aligned with SentencePiece and byte vocabularies, "
        f"not with {type(vocabulary).__name__}"
    )


class Pieces:
    """What each id of a vocabulary stands for, in the middle of a text.

    Attributes:
      texts: of each id; "" for those that stand for nothing, or for a byte that is no
        character.
      byte_ids: the ids that are bytes, by the byte.
      replacement: what a byte that is of no character is read as.
    """

    def __init__(self, vocabulary: Any):
        """Reads a `seqio.SentencePieceVocabulary` or `seqio.ByteVocabulary`."""
        if _is_byte_level(vocabulary):
            self.byte_ids = {byte: byte + 3 for byte in range(256)}
            self.texts = [""] * vocabulary.vocab_size
            self.replacement = self._unknown = ""
        else:
            pieces, ids = vocabulary.tokenizer, range(vocabulary.vocab_size)
            # Spaces are left out at the beginning of a text: there stands another id.
            start = next(i for i in ids if not pieces.is_control(i))
            self.texts = _sentencepiece_surfaces([start, *ids], pieces)[0][1:]
            self.byte_ids = {
                int(pieces.id_to_piece(i)[1:-1], 16): i
                for i in ids
                if pieces.is_byte(i)
            }
            self.replacement = "\ufffd"
            self._unknown = self.texts[pieces.unk_id()]
        for byte, token in self.byte_ids.items():
            self.texts[token] = chr(byte) if byte < 128 else ""
        self._bytes = {token: byte for byte, token in self.byte_ids.items()}

    def byte_of(self, token: int) -> int | None:
        """Returns the byte that an id is, or None."""
        return self._bytes.get(token)

    def text(self, token: int) -> str:
        """Returns what an id stands for; those beyond the vocabulary are unknown."""
        return self.texts[token] if token < len(self.texts) else self._unknown


# Both functions below return the text of each id (a character of several bytes is the
# text of its last byte) and a map from a character's other bytes to its last.
_Surfaces = tuple[list[str], dict[int, int]]


def _sentencepiece_surfaces(ids: Sequence[int], tokenizer: Any) -> _Surfaces:
    size, unknown = tokenizer.get_piece_size(), tokenizer.unk_id()
    # SeqIO decodes ids beyond the vocabulary, which a padded model can generate, so.
    known = [int(token) if token < size else unknown for token in ids]
    # SentencePiece 0.2.3 renamed it, and Apache Beam's protobuf needs an older one.
    decode = getattr(tokenizer, "decode_ids_as_proto", None)
    decode = decode or tokenizer.decode_ids_as_immutable_proto
    pieces = decode(known).pieces if known else []  # The older one gives text for [].
    surfaces = [piece.surface for piece in pieces]
    shared: dict[int, int] = {}
    pending: list[int] = []
    for index, token in enumerate(known):
        if not tokenizer.is_byte(token):
            pending.clear()
        elif surfaces[index]:
            shared.update(dict.fromkeys(pending, index))
            pending.clear()
        else:
            pending.append(index)
    return surfaces, shared


def _byte_surfaces(ids: Sequence[int]) -> _Surfaces:
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    surfaces = [""] * len(ids)
    shared: dict[int, int] = {}
    bytes_at: list[int] = []
    for index, token in enumerate(ids):
        # 0, 1, 2 are padding, EOS and unknown; beyond the bytes come the extra ids.
        if not 3 <= token < 259:
            continue
        bytes_at.append(index)
        surfaces[index] = decoder.decode(bytes([token - 3]))
        # A byte that cuts a character short can only be a whole character itself, so at
        # most one character comes out, and the last bytes make it up.
        width = len(surfaces[index].encode())
        shared.update(dict.fromkeys(bytes_at[-width:-1] if width else [], index))
    return surfaces, shared
