"""The browser of the examples: what is in the page, and what it does in Chromium."""

import base64
import hashlib
import html
import json
import random
import re

import chromium
import pytest
from evaluate_toy import compare, join

from t5patches import report
from t5patches.annotate import PhraseAnnotator
from t5patches.report import examples

HOSTILE = (
    "</script><script>alert(1)</script> <!-- <img src=x onerror=alert(2)> "
    "\"'&amp; \u2028\u2029 \u202eright to left\u202c ${x} {{ 7 * 7 }} \x00\x7f"
)
OLD = [
    "a fool said 😀 that",
    HOSTILE,
    "one  two",
    "it is all as it was",
    "oh, fool 😀!",
]
NEW = ["a man said 😀 that", f"{HOSTILE} fool", "one two", OLD[3], "😀😀 old fool, no"]
KINDS = ["fixed", "broken", "changed", "unchanged", "remaining"]
FAULTS = [[], ["unwanted", "a <b> fault"], ["repeats"], [], ["repeats"]]


def pairs():
    def side(texts):
        for number, text in enumerate(texts):
            name = f"{number}&=#"
            yield {
                "id": name,
                "inputs": f"Input {number} {HOSTILE}",
                "prediction": text,
            }

    annotator = PhraseAnnotator(["fool", "old fool"])
    return join(side(OLD), side(NEW), annotator)


def rows_of(found):
    rows = [pair.example() for pair in found]
    return [{**row, "faults": faults} for row, faults in zip(rows, FAULTS, strict=True)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("browser") / "report.html"
    results = {**compare(pairs()), "verdict": "long" * 100}
    report.write_report(path.parent, results, rows_of(pairs()))
    return path


def part(page, begin, end):
    assert page.count(begin) == 1
    return page.partition(begin)[2].partition(end)[0]


def test_the_rows_are_in_the_page(written):
    page = written.read_text(encoding="utf-8")
    block = part(page, '<script type="application/json" id="rows">', "</script>")
    assert not re.search(r"[<>&\u2028\u202e]", block)
    wanted = json.loads(json.dumps(rows_of(pairs())))
    assert json.loads(block) == wanted
    assert [row["kind"] for row in wanted] == KINDS


def test_nothing_but_the_pages_own_may_run(written):
    page = written.read_text(encoding="utf-8")
    policy = html.unescape(part(page, 'Content-Security-Policy" content="', '">'))
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert {name for name, rule in rules.items() if rule == "'none'"} == {
        "default-src", "base-uri", "form-action"
    }  # fmt: skip
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        own = part(page, f"<{tag}>", f"</{tag}>")
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert "innerHTML" not in page and " style=" not in page


def test_first_of_each_kind_without_scripts(written):
    page = written.read_text(encoding="utf-8")
    first = part(page, '<section id="first">', "</section>")
    headings = re.findall("<h3>(.*?):", first)
    assert headings == [
        "Fixed", "Still unwanted", "Newly unwanted", "Changed without need", "Unchanged"
    ]  # fmt: skip
    assert "a <mark" in first and html.escape(OLD[2]) in first


def test_an_even_choice_of_many():
    rows = [{"kind": "fixed", "inputs": str(n)} for n in range(50_001)]
    found = examples.for_page(rows)
    places = [int(row["inputs"]) for row in found]
    assert len(places) == 20_000
    assert {b - a for a, b in zip(places, places[1:], strict=False)} == {2, 3}
    assert places[0] == 0 and places[-1] >= 49_998
    assert found[3]["id"] == str(places[3] + 1)
    assert len(examples.for_page(rows[:20_000])) == 20_000


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if chromium.PATH is None:
        pytest.skip("no chromium, chromium-browser or google-chrome to open pages with")
    with chromium.page(tmp_path_factory.mktemp("profile")) as found:
        size = {"width": 1200, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        found.call("Emulation.setDeviceMetricsOverride", **size)
        yield found
        assert found.errors == []


def text(page, name):
    return page.run(f"document.getElementById('{name}').textContent")


def marked(page, box, tag):
    found = f"document.querySelectorAll('#{box} {tag}')"
    return page.run(f"[...{found}].map((node) => node.textContent)")


def test_texts_are_shown_as_they_are(page, written):
    page.open(written, "#id=1%26%3D%23")
    assert page.run("get('new').textContent === rows[1].new")
    assert page.run("get('inputs').textContent === rows[1].inputs")
    assert text(page, "new").startswith("</script><script>alert(1)</script> <!--")
    assert (
        text(page, "facts") == "1 word changed · new: something unwanted, a <b> fault"
    )
    assert marked(page, "new", "mark") == ["fool"]
    assert page.run("document.querySelectorAll('img, script').length") == 3


def test_unwanted_and_changed_words_beyond_the_first_plane(page, written):
    page.open(written, "#id=4%26%3D%23")
    assert marked(page, "old", "mark") == ["fool"]
    assert "".join(marked(page, "new", "mark")) == "old fool"
    assert "".join(marked(page, "old", "del")) == "oh, fool!"
    assert "".join(marked(page, "new", "ins")) == "😀 old fool, no"
    assert text(page, "new") == NEW[4]


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ("", [0, 1, 2, 3, 4]),
        *((f"kind={kind}", [place]) for place, kind in enumerate(KINDS)),
        ("fault=repeats", [2, 4]),
        ("fault=repeats&kind=remaining", [4]),
        ("search=SAID", [0]),
        ("search=onerror=alert(2)&fault=unwanted", [1]),
        ("search=nowhere", []),
        ("sort=change", [4, 0, 1, 2, 3]),
        ("kind=nonsense", [0, 1, 2, 3, 4]),
    ],
)
def test_filters(page, written, asked, left):
    page.open(written, f"#{asked}")
    assert page.run("shown.map((row) => rows.indexOf(row))") == left
    shown = "[...document.querySelectorAll('[role=option] b')].map((b) => b.className)"
    assert page.run(shown.replace("b.className", "b.parentNode.className")) == [
        KINDS[place] for place in left
    ]
    assert text(page, "count") == f"{len(left)} of 5 examples"


def test_keys_and_the_address(page, written):
    page.open(written)
    for key in "jjjk":
        page.press(key)
    assert text(page, "link") == "id 2&=#"
    page.wait("location.hash === '#id=2%26%3D%23'")
    page.press("/")
    assert page.run("document.activeElement.id") == "search"
    page.press("w")
    assert text(page, "count") == "2 of 5 examples"
    assert text(page, "link") == "id 2&=#"
    page.press("Escape")
    page.press("j")
    assert page.wait("location.hash.startsWith('#search=w') && location.hash") == (
        "#search=w&id=3%26%3D%23"
    )
    page.open(written, "#id=unknown")
    assert text(page, "count") == "5 of 5 examples; none has the id unknown"


def lcs(one, other):
    """The length of a longest common subsequence, by the textbook."""
    row = [0] * (len(other) + 1)
    for a in one:
        last = row
        row = [0]
        for place, b in enumerate(other):
            row.append(last[place] + 1 if a == b else max(row[-1], last[place + 1]))
    return row[-1]


def test_changed_words_are_those_outside_a_longest_common_subsequence(page, written):
    page.open(written)
    generator = random.Random(0)
    for _ in range(40):
        sides = [generator.choices("abcd", k=generator.randint(0, 9)) for _ in range(2)]
        gone, come = page.run(f"changedWords({json.dumps(sides[0])}, {sides[1]})")
        kept = [
            [word for place, word in enumerate(side) if place not in changed]
            for side, changed in zip(sides, (gone, come), strict=True)
        ]
        assert kept[0] == kept[1] and len(kept[0]) == lcs(*sides)
    long = "changedWords([...Array(3000).keys()], [...Array(3001).keys()].reverse())"
    assert page.run(f"{long}.map((side) => side.length)") == [3000, 3001]


def test_nodes_for_what_is_in_view(page, tmp_path):
    count = 20_000
    row = rows_of(pairs())[0]
    rows = [{**row, "id": str(number)} for number in range(count)]
    results = compare(pairs())
    report.write_report(tmp_path, results, rows)
    page.open(tmp_path / "report.html", "#id=15000")
    assert text(page, "link") == "id 15000"
    nodes = page.run("document.querySelectorAll('[role=option]').length")
    assert 5 < nodes < 40
    box = "document.querySelector('[aria-selected=true]').getBoundingClientRect()"
    view = "get('list').getBoundingClientRect()"
    assert page.run(f"{box}.top >= {view}.top && {box}.bottom <= {view}.bottom")


def test_on_paper_and_on_phones(page, written):
    page.open(written)
    visible = "['browser', 'first'].map((id) => get(id).offsetHeight > 0)"
    assert page.run(visible) == [True, False]
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.run(visible) == [False, True]
    page.call("Emulation.setEmulatedMedia", media="screen")
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.call("Emulation.setDeviceMetricsOverride", **size)
    page.open(written)
    assert page.run("document.documentElement.scrollWidth") <= 390
