"""SentencePiece models of Hugging Face tokenizers: id for id."""

import base64
import json
import pathlib
import random

import hf_toy
import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from t5patches.convert import tokenizers
from t5patches.errors import UserError

WHITE_SPACE = {"type": "WhitespaceSplit"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}


def tokenizer_json(model, version=5, extra=100, added=()):
    """What Transformers writes of a SentencePiece model."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    vocab = [[piece.piece, piece.score] for piece in proto.pieces]
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(extra))]
    characters = base64.b64encode(proto.normalizer_spec.precompiled_charsmap)
    normalizer = {"type": "Precompiled", "precompiled_charsmap": characters.decode()}
    splitter = {"type": "Sequence", "pretokenizers": [WHITE_SPACE, METASPACE]}
    if version == 4:
        strip = {"type": "Strip", "strip_left": False, "strip_right": True}
        runs = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
        every = [normalizer, strip, runs]
        normalizer = {"type": "Sequence", "normalizers": every}
        splitter = METASPACE
    tokens = [*enumerate(["<pad>", "</s>", "<unk>"])]
    tokens += [*enumerate(sentinels, start=len(vocab)), *added]
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": text} for i, text in tokens],
        "normalizer": normalizer,
        "pre_tokenizer": splitter,
        "model": {
            "type": "Unigram",
            "unk_id": 2,
            "vocab": vocab + [[text, 0.0] for text in sentinels],
            "byte_fallback": False,
        },
    }


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, value in files.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(value))
    return folder


def processor(folder, rows=1000):
    model = tokenizers.sentencepiece_model(folder, rows)
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def corpus():
    """Words, every character of the first planes, and characters at random."""
    yield from (
        "the cat sat",
        "  the   cat \n sat\t",
        "",
        " ",
        "▁the ▁",
        "naïve ﬁsh № 5",
    )
    for start in range(1, 0x20000, 64):
        yield "".join(
            f"a{chr(c)}t {chr(c)} "
            for c in range(start, start + 64)
            if not 0xD800 <= c < 0xE000
        )
    rng = random.Random(0)
    for _ in range(300):
        some = rng.choices([*range(32, 127), 0x300, 0x3000], k=20)
        yield "".join(map(chr, some))


@pytest.mark.parametrize("version", [4, 5])
def test_a_tokenizer_json_alone_gives_the_ids_of_its_sentencepiece_model(
    version, tmp_path
):
    original = hf_toy.pieces()
    write(tmp_path, tokenizer=tokenizer_json(original, version))
    found = processor(tmp_path)
    expected = sentencepiece.SentencePieceProcessor(model_proto=original)
    lines = list(corpus())
    assert found.EncodeAsIds(lines) == expected.EncodeAsIds(lines)
    ids = [expected.EncodeAsIds(line) for line in lines]
    assert [found.Decode(i) for i in ids] == [expected.Decode(i) for i in ids]
    size = expected.GetPieceSize()
    assert found.GetPieceSize() == size + 100
    special = (found.pad_id(), found.eos_id(), found.unk_id(), found.bos_id())
    assert special == (0, 1, 2, -1)
    assert found.EncodeAsIds("the <extra_id_0> cat <extra_id_99>") == [
        *expected.EncodeAsIds("the"),
        size + 99,
        *expected.EncodeAsIds("cat"),
        size,
    ]


def test_added_tokens_keep_their_ids(tmp_path):
    original = hf_toy.pieces()
    size = sentencepiece.SentencePieceProcessor(model_proto=original).GetPieceSize()
    added = [(size + 100, "<sep>"), (size + 101, "\n"), (size + 104, "<mine>")]
    write(tmp_path, tokenizer=tokenizer_json(original, added=added))
    found = processor(tmp_path)
    assert found.GetPieceSize() == size + 105
    for place, text in added:
        assert found.PieceToId(text) == place
        assert place in found.EncodeAsIds(f"the cat{text} sat")


def test_a_sentencepiece_model_gets_what_transformers_adds(tmp_path):
    """As files of each age say it: sentinels by number, listed, in the pieces."""
    original = hf_toy.pieces()
    size = sentencepiece.SentencePieceProcessor(model_proto=original).GetPieceSize()
    decoder = {str(size): {"content": "<extra_id_0>"}}
    for name, files, sentinel in (
        ("t5", {}, size + 99),
        ("mt5", {"tokenizer_config": {"extra_ids": 0}}, None),
        ("umt5", {"tokenizer_config": {"extra_ids": 300}}, size + 299),
        ("listed", {"tokenizer_config": {"added_tokens_decoder": decoder}}, size),
        ("both", {"tokenizer": tokenizer_json(original)}, size + 99),
        ("added", {"added_tokens": {"<sep>": size + 100}}, size + 99),
    ):
        folder = write(tmp_path / name, **files)
        (folder / "spiece.model").write_bytes(original)
        found = processor(folder)
        if sentinel is None:
            assert tokenizers.sentencepiece_model(folder, 1000) == original
            continue
        assert found.PieceToId("▁<extra_id_0>") == sentinel, name
        assert found.GetPieceSize() == sentinel + 1 + (name == "added")
    whole = tokenizers.sentencepiece_model(tmp_path / "t5", 1000)
    (tmp_path / "mt5" / "spiece.model").write_bytes(whole)
    assert tokenizers.sentencepiece_model(tmp_path / "mt5", 1000) == whole
    (tmp_path / "mt5" / "tokenizer_config.json").unlink()
    assert tokenizers.sentencepiece_model(tmp_path / "mt5", 1000) == whole


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": {"type": "BPE"}}, "is of the type 'BPE', not a T5's Unigram"),
        ({"normalizer": {"type": "Lowercase"}}, "'Lowercase'} is not what T5's"),
        (
            {"normalizer": {"type": "Replace", "pattern": {"String": "a"}}},
            "'Replace', .* is not what T5's",
        ),
        ({"pre_tokenizer": METASPACE | {"prepend_scheme": "never"}}, "is not what T5"),
        ({"normalizer": None}, "'WhitespaceSplit'} is not what T5's"),
    ],
)
def test_other_tokenizers_are_refused(change, message, tmp_path):
    write(tmp_path, tokenizer=tokenizer_json(hf_toy.pieces()) | change)
    with pytest.raises(UserError, match=f"{tmp_path}/tokenizer.json: .*{message}"):
        tokenizers.sentencepiece_model(tmp_path, 1000)


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    with pytest.raises(UserError, match="has no tokenizer .* put there"):
        tokenizers.sentencepiece_model(tmp_path, 1000)
    write(tmp_path, tokenizer=tokenizer_json(hf_toy.pieces()))
    with pytest.raises(UserError, match=r"json: has \d+ ids, the model 99 rows"):
        tokenizers.sentencepiece_model(tmp_path, 99)
    (tmp_path / "spiece.model").write_bytes(b"\x0aa pointer to a large file")
    with pytest.raises(UserError, match="spiece.model: is no SentencePiece model"):
        tokenizers.sentencepiece_model(tmp_path, 1000)
    write(tmp_path, tokenizer_config={"auto_map": {"AutoTokenizer": ["x.Y", None]}})
    with pytest.raises(UserError, match="tokenizer_config.json: auto_map names code"):
        tokenizers.sentencepiece_model(tmp_path, 1000)


def test_bytes_have_no_file(tmp_path):
    assert tokenizers.extra_bytes(tmp_path, {}) is None
    assert tokenizers.extra_bytes(tmp_path, {"tokenizer_class": "ByT5Tokenizer"}) == 125
    settings = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 7}
    write(tmp_path, tokenizer_config=settings)
    assert tokenizers.extra_bytes(pathlib.Path(tmp_path), {}) == 7
