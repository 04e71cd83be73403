"""The report: numbers shown, every text escaped, one file, a picture."""

import html.parser
import re
import struct

import pytest
from evaluate_toy import compare, join

from t5patches import report
from t5patches.annotate import PhraseAnnotator
from t5patches.errors import UserError
from t5patches.evaluate import comparison, similarity
from t5patches.report import bars, rendering, result_checks

ANNOTATOR = PhraseAnnotator(["fool", "old fool", "<b>bad</b>"])
EVIL = "<script>alert('x')</script> & \"quoted\" <img src=x onerror=alert(1)>"


def predictions(*texts):
    return [
        {"inputs": f"{EVIL} {i}", "prediction": text, "id": str(i)}
        | {"target_tokens": [3] * 9}
        for i, text in enumerate(texts)
    ]


NICE = "a nice day in the park"
OLD = predictions(f"{EVIL} fool", NICE, "a <b>bad</b> end", "hm")
PAIRS = join(
    OLD, predictions(f"{EVIL} friend", NICE, "an old fool's end", "fool"), ANNOTATOR
)
RESULTS = compare(PAIRS)
OPTIONAL = {"outcomes", "similarity", "new_faults", "by_label"}
EXAMPLES = [pair.example() for pair in PAIRS]


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes and text; checks that what opens is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    results = {"method": "TNFF", "seed": 3, **RESULTS}
    table = report.write_report(folder, results, EXAMPLES, {"data": EVIL})
    return folder, table, (folder / "report.html").read_text(encoding="utf-8")


def test_every_text_is_escaped_and_shown_whole(written):
    reader = Reader(written[2])
    assert reader.tags.count("script") == 2 and "b" in reader.tags
    assert reader.tags.count("img") == 1
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    # Inputs, outputs, a setting.
    assert reader.text.count(EVIL) >= 6
    assert "a <b>bad</b> end" in reader.text


def test_the_page_needs_nothing_else(written):
    reader = Reader(written[2])
    sources = [v for k, v in reader.attributes if k in ("src", "href", "srcset")]
    assert len(sources) == 1 and sources[0].startswith("data:image/png;base64,")
    assert "url(" not in written[2] and "@import" not in written[2]
    assert "link" not in reader.tags
    assert [v for k, v in reader.attributes if k == "lang"] == ["en"]
    assert [v[:14] for k, v in reader.attributes if k == "alt"] == ["Unwanted outpu"]


def test_unwanted_words_are_marked_on_both_sides(written):
    marked = re.findall(r"<mark title=\"(.*?)\">(.*?)</mark>", written[2])
    assert {(x, x) for x in ("fool", "old fool", "&lt;b&gt;bad&lt;/b&gt;")} <= {*marked}


def test_numbers(written):
    _, table, text = written
    for shown in (table, Reader(text).text):
        assert "50.0 %" in shown and "25.0 %" in shown
    assert "TNFF" in text
    subsets = (RESULTS["subsets"][name] for name in ("all", "clean", "marked"))
    expected = [f"{subset['rougeL']:.3f}" for subset in subsets]
    assert [line.split()[-1] for line in table.splitlines()[-3:]] == expected


def test_picture(written):
    content = (written[0] / "report.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == (2400, 1000)


def test_the_exact_update_and_the_verdict(tmp_path):
    exact = compare(join(OLD, predictions(*"abcd"), ANNOTATOR))
    results = {
        **RESULTS,
        "verdict": "The update changed it.",
        "rounds": {"1": RESULTS, "2": exact},
        "exact_update": exact,
        "distance_to_exact_update": comparison.distance(
            RESULTS, exact, similarity.table([("a", "b")])
        ),
        "rejection_sampling": dict(inputs=4, samples=40, acceptance_rate=0.5,
                                   inputs_accepted=0.75, drawn=9, accepted=None),
    }  # fmt: skip
    table = report.write_report(tmp_path, results, EXAMPLES)
    page = Reader((tmp_path / "report.html").read_text(encoding="utf-8")).text
    for shown in (table, page):
        assert "The update changed it." in shown
        assert re.search(r"round 2\s+0.0 %\s+0.0 %\s", shown)
        assert "not the model conditioned on never saying a phrase" in shown
        assert "75.0 % of 4 inputs got such an output, for 9 samples" in shown
        assert "exact update, old output clean" in shown
    head, _, row, *_ = table.splitlines()
    assert head.endswith("exact update") and row.endswith("0.0 %")
    plain, marked = (bars.draw(r, "", "").axes for r in (RESULTS, results))
    assert [len(axes.patches) for axes in marked] == [3, len(plain[1].patches)]
    assert len(marked[1].lines) > len(plain[1].lines) == 0
    for change in (
        {"verdict": 3},
        {"exact_update": {**exact, "bleu": -1}},
        {"exact_update": {**exact, "examples": 9}},
        {"distance_to_exact_update": {"ratio": {"bleu": "x"}}},
        {"rejection_sampling": {"inputs": 0.5}},
        {"rounds": [RESULTS]},
        {"rounds": {"1": {**RESULTS, "prevalence": 0}}},
    ):
        with pytest.raises(UserError, match=[*change][0]):
            report.write_report(tmp_path, {**results, **change}, [])


@pytest.mark.parametrize("name", ["$x", "$\\frac{1}{$", "a$b$c", "<b>", "\n", "日"])
def test_names_of_methods_are_shown_as_they_are(tmp_path, name):
    report.write_report(tmp_path, {**RESULTS, "method": name}, [])
    assert (tmp_path / "report.png").exists()
    shown = Reader((tmp_path / "report.html").read_text()).text
    assert f"with {name.upper()}" in shown


MARKED = '<mark title="x">a&lt;b</mark>'


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], "a&lt;b c"),
        ([(0, 3, "x")], f"{MARKED} c"),
        ([(0, 3, "x"), (2, 5, "y")], f'{MARKED}<mark title="y"> c</mark>'),
        ([(0, 5, "x"), (2, 3, "y")], '<mark title="x">a&lt;b c</mark>'),
        ([(4, 5, '"')], 'a&lt;b <mark title="&#34;">c</mark>'),
    ],
)
def test_highlight(spans, expected):
    assert rendering.highlight("a<b c", spans) == expected


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("texts", [("nice",), ("fool",)])
def test_subsets_without_members_and_nothing_optional(tmp_path, texts):
    results = compare(join(predictions(*texts), predictions(*texts), ANNOTATOR))
    results["unwanted_per_1000_tokens"] = {"before": None, "after": None}
    del results["outcomes"]
    assert "–" in report.write_report(tmp_path, results, [])
    Reader((tmp_path / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prevalence": {}}, "'prevalence.before' is missing"),
        ({"prevalence": None}, "'prevalence' must be a valid dict"),
        *(
            (
                {"prevalence": {"before": wrong, "after": 0}},
                "'prevalence.before' must be",
            )
            for wrong in (float("nan"), None, 17, -0.1, True, "1", [0], 10**400)
        ),
        ({"subsets": {**RESULTS["subsets"], "more": 5}}, "'subsets.more' is unknown"),
        ({"subsets": []}, "'subsets' must be a valid dict"),
        ({"subsets": {"all": {}}}, "'subsets.all.examples' is missing"),
        *(
            ({"examples": wrong}, "'examples' must be ")
            for wrong in ("8", -1, 3.5, float("inf"))
        ),
        ({"examples": 9}, "'examples' must be 4, as 'subsets' has it"),
        ({"bleu": 1.5}, "'bleu' must be .*, as 'subsets' has it"),
        ({"prevalence": {"before": 0.1, "after": 0}}, "'prevalence.before' must be"),
        ({"outcomes": {"fixed": -1}}, "'outcomes.fixed' must be"),
        ({"bleu": "x"}, "'bleu' must be a valid number"),
        ({"bleu": 101}, "'bleu' must be less"),
        ({"unwanted_per_1000_tokens": {"before": -1, "after": 0}}, "tokens.before'"),
        ({"method": {"a": 1}}, "'method' must be a valid string"),
        ({"references": {"old": {}}}, "'references.old.exact_match' is missing"),
    ],
)
def test_results_with_something_wrong(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        report.write_report(tmp_path / "out", {**RESULTS, **change}, [])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"old": None}, "'old'"),
        ({"kind": 3}, "'kind'"),
        ({"kind": "wonderful"}, "'kind' must be 'fixed', 'remaining'"),
        ({"old_spans": 5}, "'old_spans"),
        ({"new_spans": [[0, 1]]}, "'new_spans"),
        ({"new_spans": [[0, 999, "x"]]}, "'new_spans"),
        ({"new_spans": [[0, 1, None]]}, "'new_spans"),
    ],
)
def test_examples_with_something_wrong(change, field):
    row = {"kind": "fixed", "inputs": "a", "old": "b", "new": "c"}
    row |= {"old_spans": [[0, 1, "x"]], "new_spans": []}
    result_checks.check_example(row, "e.jsonl:3")
    with pytest.raises(UserError, match=f"^e.jsonl:3: field {field}"):
        result_checks.check_example({**row, **change}, "e.jsonl:3")


# All but 'outcomes', which is not shown.
@pytest.mark.parametrize("name", sorted({*RESULTS} - OPTIONAL))
def test_results_without_something(tmp_path, name):
    results = {key: value for key, value in RESULTS.items() if key != name}
    with pytest.raises(UserError, match=f"'{name}' is missing"):
        report.write_report(tmp_path, results, [])
    assert not list(tmp_path.iterdir())
