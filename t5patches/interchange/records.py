"""The interchange files between the steps: read, validate, write.

A *prediction* is one JSON line::

    {"inputs": "a text", "prediction": "what the model said",
     "target_tokens": [8, 21, 1], "id": "17"}

`target_tokens` are the ids that the model generated, EOS included, without padding. An
*annotated* prediction adds `annotations` (`[{"start", "end", "label"}]`, character
offsets into `prediction`) and `target_annotations` (0 or 1 per id). Annotated
predictions also become TFRecords with the int64 features `inputs`, `targets` and
`target_annotations`, which training reads, and `vocabulary`, a number that tells the
vocabulary of the ids from others.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, TypeGuard, cast

from etils import epath

from t5patches.errors import UserError
from t5patches.interchange import json_files, shards, tables
from t5patches.interchange.shards import PathLike, Row

if TYPE_CHECKING:
    from typing_extensions import ReadOnly  # Python 3.13 has it.

# The feature of TFRecords that says which vocabulary their ids are of.
VOCABULARY = "vocabulary"

# Model vocabularies are padded to a multiple of this (T5: 32,100 pieces, 32,128 ids),
# so a model can generate ids that its tokenizer does not know.
_PADDING_MULTIPLE = 128

_FORMAT_HINT = (
    "a prediction is one JSON object per line with 'inputs', 'prediction', "
    "'target_tokens' and 'id'"
)


class Prediction(TypedDict):
    """What a model said to an input; a line's other fields are kept beside these."""

    inputs: str
    prediction: str
    id: str
    target_tokens: ReadOnly[NotRequired[list[int]]]  # Not if only text is known.
    corrected: NotRequired[str]  # What it should have said.
    reencoded: NotRequired[bool]  # Whether the ids were got from the text.
    given: NotRequired[str]  # That text, where the ids decode to another.


class Annotation(TypedDict):
    """The characters `start` to `end` of a prediction, which are unwanted."""

    start: int
    end: int
    label: str


class AnnotatedPrediction(Prediction):
    """A prediction with what is unwanted in it, by characters and by ids."""

    target_tokens: list[int]
    annotations: list[Annotation]
    target_annotations: list[int]  # 0 or 1 per id.


def read_predictions(
    spec: PathLike | Sequence[PathLike], vocabulary: Any = None
) -> Iterator[Prediction]:
    """Yields validated predictions; T5X's own inference JSON is accepted too.

    Args:
      spec: files as `expand` takes them.
      vocabulary: a SeqIO vocabulary. With it, ids are checked against its size, and a
        line without ids gets those of its text (and the text that they decode to, as
        encoding may normalise; then it is in `given`) and the flag `"reencoded":
        true`. Without it such a line has no `target_tokens`.

    Yields:
      Dictionaries with `inputs`, `prediction`, `target_tokens`, `id` (all text but the
      ids) and what else the line had.

    Raises:
      UserError: naming file, line and field, and what to do; or if there is no line.
    """
    empty = True
    for _, prediction in _read(spec, vocabulary):
        yield prediction
        empty = False
    if empty:
        files = ", ".join(shards.expand(spec))
        raise UserError(f"{files}: no predictions in it; {_FORMAT_HINT}")


def read_annotated(
    spec: PathLike | Sequence[PathLike], vocabulary: Any = None
) -> Iterator[AnnotatedPrediction]:
    """Yields validated annotated predictions; a set without any line yields nothing.

    Raises:
      UserError: as `read_predictions`, and for annotations outside the text, not one 0
        or 1 per id, or marks of characters without any of ids, and the other way.
    """
    for where, prediction in _read(spec, vocabulary):
        yield check_annotations(prediction, where)


def _read(
    spec: PathLike | Sequence[PathLike], vocabulary: Any
) -> Iterator[tuple[str, Prediction]]:
    """Yields (`file:line`, prediction), each with an id of its own."""
    before, ids = 0, tables.Ids()
    for path in shards.expand(spec):
        number = 0
        for number, row in json_files.read_jsonl(path):
            where = f"{path}:{number}"
            checked = check_prediction(row, where, before + number - 1, vocabulary)
            ids.add(checked["id"], where)
            yield where, checked
        before += number


def check_prediction(
    row: Row, where: str, index: int, vocabulary: Any = None
) -> Prediction:
    """Returns `row` as a prediction in this project's form, or says what is wrong.

    Args:
      row: a line of a predictions file, in this project's form or T5X's.
      where: `file:line`, for messages.
      index: number of the line in the whole set, from 0, blank lines included: the id
        of T5X's lines without one.
      vocabulary: a SeqIO vocabulary or None.

    Raises:
      UserError: naming `where` and the field.
    """
    if isinstance(row.get("inputs"), dict):
        row = _from_t5x(row, where, index, vocabulary)
    for field in ("inputs", "prediction", *({"corrected", "given"} & row.keys())):
        tables.text_field(row, field, where)
    checked = {**row, "id": tables.id_field(row, "id", where)}
    if not checked["id"]:
        raise UserError(
            f"{where}: field 'id' must be a text or a whole number; {_FORMAT_HINT}"
        )
    if "target_tokens" in row:
        _check_tokens(row["target_tokens"], where, vocabulary)
    elif vocabulary is not None:
        checked["target_tokens"] = encode(vocabulary, row["prediction"])
        # Encoding may normalise: the text becomes what its ids decode to.
        checked["prediction"] = vocabulary.decode(checked["target_tokens"])
        checked["reencoded"] = True
        if checked["prediction"] != row["prediction"]:
            checked["given"] = row["prediction"]
    return cast(Prediction, checked)


def check_annotations(prediction: Prediction, where: str) -> AnnotatedPrediction:
    """Checks `annotations` and `target_annotations` of a prediction; returns it.

    Raises:
      UserError: naming `where` and the field.
    """
    row = cast(Row, prediction)
    spans, marks = row.get("annotations"), row.get("target_annotations")
    if not isinstance(spans, list):
        raise UserError(f"{where}: field 'annotations' must be a list of spans")
    for number, span in enumerate(spans):
        check_span(span, len(row["prediction"]), f"{where}: annotations[{number}]")
    tokens = row.get("target_tokens")
    if tokens is None:
        raise UserError(f"{where}: field 'target_tokens' is missing; {_FORMAT_HINT}")
    if not isinstance(marks, list) or not all(
        _is_int(mark) and mark in (0, 1) for mark in marks
    ):
        raise UserError(
            f"{where}: field 'target_annotations' must be a list of 0 and 1"
        )
    if len(marks) != len(tokens):
        raise UserError(
            f"{where}: field 'target_annotations' has {len(marks)} values for "
            f"{len(tokens)} ids in 'target_tokens'; there must be one per id"
        )
    _check_agreement(row, where)
    return cast(AnnotatedPrediction, row)


def _check_agreement(row: Row, where: str) -> None:
    """Checks that a prediction is marked by characters where it is by ids."""
    texts = [row["prediction"][s["start"] : s["end"]] for s in row["annotations"]]
    marked = any(row["target_annotations"])
    # A space alone may belong to a token that is not marked.
    if marked != bool(texts) and (marked or any(text.strip(" ") for text in texts)):
        raise UserError(
            f"{where}: {len(texts)} spans in 'annotations', but "
            f"{sum(row['target_annotations'])} ids marked in 'target_annotations'; "
            "annotate the predictions anew"
        )


def check_span(span: Any, length: int, where: str) -> None:
    """Raises UserError if `span` is no `{"start", "end", "label"}` in a text."""
    if not isinstance(span, dict) or not isinstance(span.get("label"), str):
        raise UserError(f'{where}: must be {{"start", "end", "label"}}, not {span!r}')
    start, end = span.get("start"), span.get("end")
    if not _is_int(start) or not _is_int(end) or not 0 <= start < end <= length:
        raise UserError(
            f"{where}: start {start!r} and end {end!r} are not a span of the "
            f"{length} characters of 'prediction'"
        )


def _from_t5x(row: Row, where: str, index: int, vocabulary: Any) -> Row:
    """T5X nests the input, calls the ids `prediction_tokens` and may run past EOS."""
    nested = row["inputs"]
    if "inputs_pretokenized" not in nested:
        raise UserError(
            f"{where}: field 'inputs' has no 'inputs_pretokenized'; T5X writes it when "
            "the task keeps the text (seqio.preprocessors.tokenize does)"
        )
    if "prediction" not in row:
        raise UserError(
            f"{where}: field 'prediction' is missing; run T5X's inference in mode "
            "'predict'"
        )
    converted: Row = {
        "inputs": nested["inputs_pretokenized"],
        "prediction": row["prediction"],
        "id": nested.get("id_pretokenized", row.get("id", str(index))),
    }
    tokens = row.get("prediction_tokens")
    if isinstance(tokens, list):
        eos_id = 1 if vocabulary is None else vocabulary.eos_id
        converted["target_tokens"] = generated_ids(tokens, eos_id)
    elif tokens is not None:
        raise UserError(f"{where}: field 'prediction_tokens' must be a list of ids")
    return converted


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_tokens(tokens: Any, where: str, vocabulary: Any) -> None:
    if not isinstance(tokens, list) or not all(map(_is_int, tokens)):
        raise UserError(f"{where}: field 'target_tokens' must be a list of ids")
    limit = float("inf") if vocabulary is None else max_vocabulary_size(vocabulary)
    for token in tokens:
        if not 0 <= token < limit:
            size = "" if vocabulary is None else f" of {limit} ids"
            raise UserError(
                f"{where}: field 'target_tokens' has id {token}, outside the "
                f"vocabulary{size}; give the vocabulary that the model generated with"
            )
    if tokens[:1] == [0]:
        raise UserError(
            f"{where}: field 'target_tokens' begins with padding (id 0); Hugging Face "
            "writes the decoder's start token first: leave it out"
        )
    if vocabulary is not None and vocabulary.eos_id in tokens[:-1]:
        raise UserError(
            f"{where}: field 'target_tokens' goes on after EOS (id "
            f"{vocabulary.eos_id}); it must end there"
        )


def max_vocabulary_size(vocabulary: Any) -> int:
    """Returns how many ids a model over `vocabulary` may have, its padding included."""
    return -(-vocabulary.vocab_size // _PADDING_MULTIPLE) * _PADDING_MULTIPLE


def load_vocabulary(path: PathLike, extra_ids: int = 0) -> Any:
    """Returns the SeqIO vocabulary of a SentencePiece model, or ByT5's for 'bytes'.

    Raises:
      UserError: the file is missing, no SentencePiece model, or not for T5 models.
    """
    import seqio

    from t5patches.interchange import vocabularies

    text = os.fspath(path)
    if text == "bytes":
        return seqio.ByteVocabulary(extra_ids=extra_ids)
    if not epath.Path(text).is_file():
        raise UserError(f"{text}: no such vocabulary; give a SentencePiece .model file")
    vocabulary = seqio.SentencePieceVocabulary(text, extra_ids=extra_ids)
    try:
        vocabulary.load_model()
    except Exception as error:  # protobuf and sentencepiece raise types of their own
        raise UserError(f"{text}: not a SentencePiece model ({error})") from error
    vocabularies.check_special_ids(vocabulary)
    return vocabulary


def encode(vocabulary: Any, text: str) -> list[int]:
    """Returns the ids of `text`, EOS appended."""
    return [*map(int, vocabulary.encode(text)), vocabulary.eos_id]


def generated_ids(tokens: Sequence[int], eos_id: int | None) -> list[int]:
    """Returns the ids up to and including the first EOS, without padding.

    Args:
      tokens: int [length], as a decoder returns them.
      eos_id: the id that ends a sequence; without it, trailing zeros are cut.
    """
    ids = list(tokens)
    if eos_id is not None and eos_id in ids:
        return ids[: ids.index(eos_id) + 1]
    while ids and ids[-1] == 0:
        ids.pop()
    return ids


def vocabulary_mark(vocabulary: Any) -> int:
    """Returns the fingerprint of a vocabulary as a number, to be kept in TFRecords."""
    from t5patches.interchange import vocabularies

    digest = hashlib.sha256(vocabularies.fingerprint(vocabulary).encode())
    return int.from_bytes(digest.digest()[:7])


def training_features(
    row: AnnotatedPrediction, vocabulary: Any
) -> dict[str, list[int]]:
    """Returns the TFRecord features of an annotated prediction.

    They are `inputs`, `targets`, `target_annotations` and, where the row says in
    `corrected` what the output should have been, `corrected_targets`.
    """
    features = {
        "inputs": encode(vocabulary, row["inputs"]),
        "targets": row["target_tokens"],
        "target_annotations": row["target_annotations"],
    }
    if "corrected" in row:
        features["corrected_targets"] = encode(vocabulary, row["corrected"])
    return features
