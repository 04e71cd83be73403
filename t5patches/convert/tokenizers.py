"""The SentencePiece model of a Hugging Face tokenizer, as SeqIO reads it.

A `spiece.model` is taken as it is. Of a `tokenizer.json` alone, which is what
Transformers 5 writes, the pieces, scores and normaliser make one. In both, tokens that
Transformers adds beside the pieces, sentinels among them, become pieces with their ids.
"""

from __future__ import annotations

import base64
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from t5patches.errors import UserError, shorten
from t5patches.interchange import json_files, vocabularies

_SENTENCEPIECE = "spiece.model"
_TOKENIZER = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"
_SENTINEL = re.compile(r"▁?(<extra_id_\d+>)")
_BYTE = re.compile("<0x[0-9A-F]{2}>")
# What T5's tokenizers have, by type: settings that matter.
_NORMALIZERS = {
    "Precompiled": {},
    "Strip": {"strip_left": False, "strip_right": True},
    "Replace": {"pattern": {"Regex": " {2,}"}, "content": "▁"},
}
_SPLITTERS = {
    "WhitespaceSplit": {},
    "Metaspace": {"replacement": "▁", "prepend_scheme": "always"},
}
_MEND = "save the tokenizer anew"

# The module makes its classes when it is imported; type checkers miss them.
_Model: Any = sentencepiece_model_pb2.ModelProto  # pyright: ignore
_Piece: Any = _Model.SentencePiece


def extra_bytes(folder: pathlib.Path, config: Mapping[str, Any]) -> int | None:
    """Returns how many ids come after those of ByT5's bytes; None of other tokenizers.

    Args:
      folder: the model's.
      config: its config.json.
    """
    settings = _settings(folder)
    names = settings.get("tokenizer_class"), config.get("tokenizer_class")
    if "ByT5Tokenizer" not in names:
        return None
    return settings.get("extra_ids", 125)


def sentencepiece_model(folder: pathlib.Path, rows: int) -> bytes:
    """Returns a folder's tokenizer as a SentencePiece model.

    Args:
      folder: the model's.
      rows: of its embedding table.

    Raises:
      UserError: there is no tokenizer, it is none of T5's, or it has more ids than the
        model has rows.
    """
    settings = _settings(folder)
    path, fast = folder / _SENTENCEPIECE, folder / _TOKENIZER
    found = json_files.read_json(fast) if fast.exists() else {}
    model = _Model()
    if path.exists():
        content = path.read_bytes()
        try:
            model.ParseFromString(content)
        except Exception as error:  # Protobuf's, of several classes.
            raise UserError(f"{path}: is no SentencePiece model; {_MEND}") from error
    elif found:
        path, content = fast, b""
        _fill(model, found, fast)
    else:
        raise UserError(
            f"{folder}: has no tokenizer ({_SENTENCEPIECE} or {_TOKENIZER}); put there "
            "that of the model that it was fine-tuned from"
        )
    added = _added(folder, found, settings, [piece.piece for piece in model.pieces])
    changed = [_add(model, place, token) for place, token in sorted(added.items())]
    if len(model.pieces) > rows:
        raise UserError(
            f"{path}: has {len(model.pieces)} ids, the model {rows} rows; the "
            "tokenizer is of another model"
        )
    if any(changed) or not content:
        model.trainer_spec.vocab_size = len(model.pieces)
        content = model.SerializeToString(deterministic=True)
    return content


def write(folder: pathlib.Path, vocabulary: str, rows: int) -> None:
    """Writes a SentencePiece model as Transformers reads it.

    Args:
      folder: the model's.
      vocabulary: the file.
      rows: of the model's embedding table: the first 100 after the pieces, if there
        are so many and the pieces have none, are sentinels.

    Raises:
      UserError: it is missing, or has more pieces than there are rows.
    """
    from_file = pathlib.Path(vocabulary)
    if not from_file.is_file():
        raise UserError(f"{vocabulary}: no such file")
    target = folder / _SENTENCEPIECE
    target.write_bytes(from_file.read_bytes())
    model = _Model.FromString(target.read_bytes())
    sentinels = any(_SENTINEL.fullmatch(piece.piece) for piece in model.pieces)
    extra = 0 if sentinels or len(model.pieces) + 100 > rows else 100
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": extra}
    json_files.write_json(folder / _SETTINGS, settings)


def _settings(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / _SETTINGS
    found = json_files.read_json(path) if path.exists() else {}
    if found.get("auto_map"):
        raise UserError(
            f"{path}: auto_map names code of the model's folder, which is never run"
        )
    return found


def _fill(model: Any, found: Mapping[str, Any], path: pathlib.Path) -> None:
    """Makes a model of a tokenizer.json."""
    kind = found.get("model", {})
    if kind.get("type") != "Unigram":
        raise UserError(
            f"{path}: is of the type {shorten(kind.get('type'))}, not a T5's Unigram"
        )
    bytewise = kind.get("byte_fallback", False)
    for place, (text, score) in enumerate(kind["vocab"]):
        piece = model.pieces.add(piece=text, score=score)
        if place == kind["unk_id"]:
            piece.type = _Piece.UNKNOWN
        elif place in vocabularies.SPECIAL_IDS.values():
            piece.type = _Piece.CONTROL
        elif bytewise and _BYTE.fullmatch(text):
            piece.type = _Piece.BYTE
    special = vocabularies.SPECIAL_IDS
    spec = model.trainer_spec
    spec.model_type, spec.byte_fallback = spec.UNIGRAM, bytewise
    spec.pad_id, spec.eos_id, spec.bos_id = special["pad"], special["eos"], -1
    spec.unk_id = kind["unk_id"]
    names = [piece.piece for piece in model.pieces[:3]]
    spec.pad_piece, spec.eos_piece, spec.unk_piece = names
    model.normalizer_spec.precompiled_charsmap = _characters(found, path)
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = True
    model.normalizer_spec.escape_whitespaces = True


def _characters(found: Mapping[str, Any], path: pathlib.Path) -> bytes:
    """Returns SentencePiece's map of characters in a tokenizer.json.

    What else Transformers has beside it (runs of spaces, spaces at the ends, words)
    SentencePiece does by itself.

    Raises:
      UserError: characters are changed in another way.
    """
    normalizers = _parts(found.get("normalizer"), "normalizers")
    splitters = _parts(found.get("pre_tokenizer"), "pretokenizers")
    wrong = [part for part in normalizers if not _is_usual(part, _NORMALIZERS)]
    wrong += [part for part in splitters if not _is_usual(part, _SPLITTERS)]
    maps = [part for part in normalizers if part["type"] == "Precompiled"]
    if not maps:  # SentencePiece would not take other white space for a space.
        wrong += [part for part in splitters if part["type"] == "WhitespaceSplit"]
    if wrong:
        raise UserError(
            f"{path}: {shorten(wrong[0])} is not what T5's tokenizers do with text; "
            "only those are converted"
        )
    return base64.b64decode(maps[0]["precompiled_charsmap"] or "") if maps else b""


def _is_usual(part: Mapping[str, Any], usual: Mapping[str, Any]) -> bool:
    expected = usual.get(part["type"])
    return expected is not None and expected.items() <= part.items()


def _parts(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return part[name] if part["type"] == "Sequence" else [part]


def _added(
    folder: pathlib.Path,
    found: Mapping[str, Any],
    settings: Mapping[str, Any],
    pieces: list[str],
) -> dict[int, str]:
    """Returns the tokens that Transformers adds beside the pieces, by their ids."""
    listed = folder / "added_tokens.json"
    if "added_tokens" in found:
        added = {token["id"]: token["content"] for token in found["added_tokens"]}
    elif "added_tokens_decoder" in settings:
        tokens = settings["added_tokens_decoder"].items()
        added = {int(place): token["content"] for place, token in tokens}
    else:  # As before version 4.34.
        extra = settings.get("extra_ids", 100)
        if any(map(_SENTINEL.fullmatch, pieces)):
            extra = 0
        added = {len(pieces) + i: f"<extra_id_{extra - 1 - i}>" for i in range(extra)}
        if listed.exists():
            added |= {i: text for text, i in json_files.read_json(listed).items()}
    return {
        i: t for i, t in added.items() if i not in vocabularies.SPECIAL_IDS.values()
    }


def _add(model: Any, place: int, token: str) -> bool:
    """Makes a token a piece that is never split; returns whether that changed any.

    A sentinel is a word of its own, as SeqIO has it.
    """
    while len(model.pieces) <= place:
        # Where ids were left out, no text has one.
        name = f"<unused_{len(model.pieces)}>"
        model.pieces.add(piece=name, score=0.0, type=_Piece.UNUSED)
    if sentinel := _SENTINEL.fullmatch(token):
        token = f"▁{sentinel[1]}"
    piece, before = model.pieces[place], model.pieces[place].SerializeToString()
    piece.piece, piece.type = token, _Piece.USER_DEFINED
    return piece.SerializeToString() != before
