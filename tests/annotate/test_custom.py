"""A user's annotator, named on the command line; its errors name file and line."""

import pickle

import numpy as np
import pytest

from t5patches.annotate import annotate_texts, custom, workers
from t5patches.errors import UserError

SHOUTING = """\
import re

def shouting(text, inputs):
    return [(*m.span(), "shout") for m in re.finditer("[A-Z]{3,}", text)]

def broken(text, inputs):
    raise KeyError(text)

class Loaded:
    def __init__(self):
        self.word = "bad"
    def __call__(self, text, inputs):
        return [(0, 3, self.word)]
    def pipe(self, pairs):
        for text, inputs in pairs:
            yield self(text, inputs)

def banned(text, inputs, row):
    found = [(*m.span(), row["id"]) for m in re.finditer(row["ban"], text)]
    row.clear()
    return found

class ByRow:
    def __call__(self, text, inputs, *, row=None):
        return banned(text, inputs, row)

class Piped(ByRow):
    def pipe(self, triples):
        for text, inputs, row in triples:
            yield [(0, 1, row["ban"])]

number = 3
"""


WRONG_FILES = {
    "wrong.py": "1 / 0",
    "syntax.py": "def f(:",
    "ends.py": "import sys\nsys.exit('bye')",
    "needs.py": "import no_such_thing",
    "classes.py": """\
class NotCallable: pass
class Breaks:
    def __init__(self): raise OSError('no model')
class Ends:
    def __init__(self): raise SystemExit(3)
""",
}


def annotate_text(annotator, text, inputs):
    (found,) = annotate_texts(annotator, [(text, inputs)])
    if isinstance(found, UserError):
        raise found
    return found


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_annotators.py").write_text(SHOUTING)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "my_annotators.py"


@pytest.mark.parametrize("name", ["my_annotators", "my_annotators.py"])
def test_a_function_of_a_module_or_a_file(module, name):
    annotator = custom.load(f"{name}:shouting")
    assert annotate_text(annotator, "you FOOL", "") == [(4, 8, "shout")]
    again = pickle.loads(pickle.dumps(annotator))
    assert again("you FOOL", "") == [(4, 8, "shout")] and again.settings


def test_a_class_is_made_once(module):
    annotator = custom.load("my_annotators.py:Loaded")
    pairs = [("a bad", ""), ("one", "")]
    assert annotate_texts(annotator, pairs) == [[(0, 3, "bad")]] * 2


@pytest.mark.parametrize(
    ("function", "processes", "expected"),
    [
        ("banned", 1, [[(4, 7, "x")], [(0, 3, "y")]]),
        ("banned", 2, [[(4, 7, "x")], [(0, 3, "y")]]),
        ("ByRow", 1, [[(4, 7, "x")], [(0, 3, "y")]]),
        ("Piped", 1, [[(0, 1, "bad")], [(0, 1, "one")]]),
    ],
)
def test_a_function_that_takes_the_row(module, function, processes, expected):
    """With the fields of its line; what it does to the row, it does to its own."""
    annotator = custom.load(f"my_annotators.py:{function}")
    shared = {"inputs": "talk", "target_tokens": [1]}
    rows = [
        {**shared, "prediction": "one bad", "id": "x", "ban": "bad"},
        {**shared, "prediction": "one", "id": "y", "ban": "one"},
    ]
    located = [(f"f:{n}", row) for n, row in enumerate(rows)]
    with workers.several(annotator, processes) as team:
        found = list(workers.find(iter(located), team))
    assert found == list(zip(located, expected, strict=True))
    assert len(rows[0]) == 5


@pytest.mark.parametrize("function", ["shouting", "remembering", "partial", "Loaded"])
def test_settings_change_with_the_file(module, function):
    text = f"""{SHOUTING}
import functools
remembering = functools.lru_cache(shouting)
partial = functools.partial(shouting)
"""
    module.write_text(text)
    annotator = custom.load(f"my_annotators.py:{function}")
    assert annotator.file == str(module)
    before = annotator.settings
    assert custom.load(f"my_annotators.py:{function}").settings == before
    assert custom.load("my_annotators.py:broken").settings != before
    module.write_text(text.replace("{3,}", "{4,}").replace('"bad"', '"sad"'))
    assert custom.load(f"my_annotators.py:{function}").settings != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shouting", "names no function; give module:function"),
        ("my_annotators.py:", "names no function"),
        ("missing_module:f", "missing_module: no such module"),
        ("missing.py:f", "missing.py: no such file"),
        ("my_annotators.py:absent", "'absent' is no function there"),
        ("my_annotators.py:number", "'number' is of type int there"),
        ("wrong.py:f", "importing it raised ZeroDivisionError"),
        ("syntax.py:f", "importing it raised SyntaxError"),
        ("needs.py:f", "it imports 'no_such_thing', which is missing"),
        ("classes.py:NotCallable", "a class whose objects cannot be called"),
        ("classes.py:Breaks", "making it raised OSError: no model"),
        ("ends.py:f", "importing it raised SystemExit: bye"),
        ("classes.py:Ends", "making it raised SystemExit: 3"),
    ],
)
def test_what_cannot_be_loaded(module, name, message):
    for file, text in WRONG_FILES.items():
        (module.parent / file).write_text(text)
    with pytest.raises(UserError) as caught:
        custom.load(name)
    assert message in str(caught.value)


def test_an_error_names_its_file_and_line(module):
    annotator = custom.load("my_annotators.py:broken")
    with pytest.raises(UserError, match=r"raised KeyError.*my_annotators\.py:7\)"):
        annotate_text(annotator, "x", "")


def late(text, inputs):
    yield 0, 1, "x"
    raise RuntimeError("late")


def ending(text, inputs):
    raise SystemExit("bye")


@pytest.mark.parametrize(
    ("function", "message"),
    [(late, "raised RuntimeError: late"), (ending, "raised SystemExit: bye")],
)
@pytest.mark.parametrize("several", [False, True])
def test_what_raises_late_or_ends(function, message, several):
    """Alone, and among the texts that go through `pipe` together."""

    def annotator(text, inputs):
        return function(text, inputs) if text == "bad" else [(0, 1, "x")]

    if several:
        annotator.pipe = lambda pairs: (annotator(*pair) for pair in pairs)
    first, second = annotate_texts(annotator, [("good", ""), ("bad", "")])
    assert first == [(0, 1, "x")]
    assert isinstance(second, UserError)
    assert message in str(second) and "test_custom.py:" in str(second)


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


def test_what_cannot_be_printed():
    def annotator(text, inputs):
        if text:
            return [(0, 1, Unprintable())]
        raise Unprintable

    with pytest.raises(UserError, match=r"raised Unprintable \(.*test_custom\.py:"):
        annotate_text(annotator, "", "")
    with pytest.raises(UserError, match="the label <Unprintable>"):
        annotate_text(annotator, "text", "")


class Odd:
    def __iter__(self):
        raise RuntimeError("odd")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "returned None, not a list"),
        (3, "returned 3, not a list"),
        ("bad", "returned 'b', not (start, end, label)"),
        ([(0, 1)], "returned (0, 1), not (start, end, label)"),
        ([(0, 1, "x", 2)], "not (start, end, label)"),
        ([(0.0, 1.0, "x")], "start and end whole numbers"),
        ([(False, True, "x")], "start and end whole numbers"),
        ([("0", "1", "x")], "start and end whole numbers"),
        ([(0, 1, None)], "label None, which is no text"),
        ([(0, 1, "\ud800")], "label '\\ud800', which has half of a surrogate"),
        ([Odd()], "not (start, end, label)"),
        ([(2, 1, "x")], "(2, 1), which is no span of the 4 characters"),
        ([(2, 2, "x")], "(2, 2), which is no span"),
        ([(-1, 2, "x")], "(-1, 2), which is no span"),
        ([(0, 5, "x")], "(0, 5), which is no span"),
    ],
)
def test_nonsense(returned, message):
    with pytest.raises(UserError) as caught:
        annotate_text(lambda text, inputs: returned, "text", "")
    assert message in str(caught.value)


def test_what_is_a_span():
    returned = ((np.int64(0), np.int32(4), "x") for _ in range(1))
    assert annotate_text(lambda *_: returned, "text", "") == [(0, 4, "x")]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_pipe_that_loses_texts_is_not_used(count):
    def annotator(text, inputs):
        return [(0, 1, "one by one")]

    annotator.pipe = lambda pairs: iter([[(0, 1, "pipe")]] * count)
    found = annotate_texts(annotator, [("ab", ""), ("cd", "")])
    assert found == [[(0, 1, "one by one")]] * 2
