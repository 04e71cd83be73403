"""Someone's own data: columns, cutting, splits, and what is said of wrong ones."""

import pytest

from t5patches.errors import UserError
from t5patches.interchange import json_files
from t5patches.quickstart import own_data


def test_text_is_cut_at_a_word_boundary():
    assert own_data.cut("a b c d e") == ("a b", "c d e")
    assert own_data.cut("  too few words") is None
    beginning, rest = own_data.cut(" ".join(map(str, range(100))))
    assert beginning.split() == [str(i) for i in range(own_data.LONGEST_BEGINNING)]
    assert len(rest.split()) == own_data.LONGEST_REST


def test_text_column_of_a_csv(tmp_path):
    lines = [f"[],comment number {i} says that nothing happened" for i in range(300)]
    (tmp_path / "d.csv").write_text("\n".join(["spans,text", *lines]))
    splits = own_data.read(tmp_path / "d.csv")
    assert sum(map(len, splits.values())) == 300
    assert len(splits["train"]) > 200
    assert own_data.read(tmp_path / "d.csv") == splits


def test_inputs_and_targets_of_jsonl(tmp_path):
    """The same inputs stand in one split only."""
    path = tmp_path / "d.jsonl"
    rows = ({"inputs": f"q {i % 150}", "targets": f"a\n{i}"} for i in range(300))
    json_files.write_jsonl(path, rows)
    examples = [row for rows in own_data.read(path).values() for row in rows]
    assert {"inputs": "q 7", "targets": "a 7"} in examples
    assert len(examples) == len({row["inputs"] for row in examples}) == 150


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("d.csv", "a,b\n1,2\n", "d.csv:2.*'inputs' and 'targets', or 'text'"),
        ("d.csv", "text\nfour words stand here\n", "1 different examples"),
        ("d.parquet", "", "takes a .csv or a .jsonl"),
    ],
)
def test_wrong_data(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=says):
        own_data.read(tmp_path / name)
