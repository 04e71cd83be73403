"""`report.html`: one file that opens offline. Every text of a model is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from t5patches.report import picture

_KINDS = {
    "fixed": "Unwanted before, clean now",
    "remaining": "Unwanted before and now",
    "broken": "Clean before, unwanted now",
    "changed": "Clean before and now, but other words",
    "unchanged": "The same before and now",
}

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --quiet: #52606d; --paper: #fff;
  --panel: #f5f7fa; --line: #d8dee6; --bad: #8f1d1d; --bad-paper: #fde3e3;
  --good: #1d6b41; --accent: #2c5a97; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --quiet: #aab4c0;
  --paper: #14181d; --panel: #1d232a; --line: #3a434e; --bad: #ffb4b4;
  --bad-paper: #5a1e1e; --good: #7fd6a5; --accent: #8db8f2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 68rem;
  color: var(--ink); background: var(--paper); font: 1rem/1.55
  system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0 0 .25rem; font-size: 2rem; line-height: 1.2; }
h2 { margin: 3rem 0 .75rem; font-size: 1.35rem; }
h3 { margin: 2rem 0 .5rem; font-size: 1.05rem; }
p { max-width: 46rem; } .quiet { color: var(--quiet); }
.lead { margin-top: 0; font-size: 1.15rem; color: var(--quiet); }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit,
  minmax(13rem, 1fr)); margin: 1.75rem 0; padding: 0; list-style: none; }
.cards li { padding: 1rem 1.15rem; background: var(--panel); border-radius: .6rem; }
.cards b { display: block; font-size: 1.8rem; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.cards .bad { color: var(--bad); } .cards .good { color: var(--good); }
figure { margin: 1.5rem 0; } img { display: block; width: 100%; height: auto;
  border: 1px solid var(--line); border-radius: .6rem; background: #fff; }
.wide { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; }
th, td { padding: .5rem .75rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { font-weight: 600; border-bottom: 2px solid var(--line); }
tbody th { font-weight: 400; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.pair td { width: 34%; overflow-wrap: anywhere; white-space: pre-wrap; }
.pair tbody th { width: 32%; overflow-wrap: anywhere; white-space: pre-wrap;
  color: var(--quiet); }
mark { padding: 0 .2em; border-radius: .25em; background: var(--bad-paper);
  color: var(--bad); font-weight: 600; text-decoration: underline;
  text-decoration-thickness: 2px; text-underline-offset: .15em; }
.met { color: var(--good); font-weight: 600; } .missed { color: var(--bad);
  font-weight: 600; }
code { overflow-wrap: anywhere; font: .9em/1.5 ui-monospace, "SF Mono", Menlo, Consolas,
  monospace; }
"""


def render(
    results: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
    png: bytes,
    properties: Sequence[Mapping[str, Any]] = (),
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Returns the page; arguments as for `write_report`, and the picture as PNG."""
    title = "Report of a targeted update"
    method = results.get("method")
    sentence = picture.headline(results)
    return document(
        f"{title} with {str(method).upper()}" if method else title,
        f"{sentence}.",
        [
            _cards(results),
            figure(png, f"{sentence}."),
            _similarity(results),
            _examples(examples),
            properties_section(properties),
            settings_section(results, settings or {}),
        ],
    )


def document(title: str, lead: str, parts: Iterable[str]) -> str:
    """Returns a page that loads nothing and runs nothing.

    Args:
      title: its heading, plain text.
      lead: the sentence below it, plain text.
      parts: what follows, HTML; empty ones are left out.
    """
    page = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # Even if a text got past the escaping, nothing in this page may run or load.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">",
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(lead)}</p>',
        *parts,
        "</main></body></html>\n",
    ]
    return "\n".join(part for part in page if part)


def figure(png: bytes, alternative: str) -> str:
    """Returns a picture as part of the page, with a text that stands for it."""
    image = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{image}" '
        f'alt="{escape(alternative, quote=True)}"></figure>'
    )


def highlight(text: str, spans: Iterable[Sequence[Any]]) -> str:
    """Returns `text` as HTML, escaped, with the characters of `spans` marked.

    Args:
      text: any text.
      spans: (start, end, label); they may overlap.
    """
    parts, done = [], 0
    for start, end, label in sorted(spans, key=lambda span: (span[0], -span[1])):
        start = max(start, done)
        if end <= start:
            continue
        parts.append(escape(text[done:start]))
        marked = escape(text[start:end])
        parts.append(f'<mark title="{escape(str(label), quote=True)}">{marked}</mark>')
        done = end
    return "".join(parts) + escape(text[done:])


def number(value: float | None, kind: str = "share") -> str:
    """Returns a number as the reports show it: 'share', 'score' or 'unit'."""
    if value is None:
        return "–"
    return {
        "share": f"{100 * value:.1f} %",
        "score": f"{value:.1f}",
        "unit": f"{value:.3f}",
    }[kind]


def _cards(results: Mapping[str, Any]) -> str:
    prevalence, exact = results["prevalence"], results["exact_match"]
    cards = [
        ("bad", number(prevalence["before"]), "of outputs unwanted before"),
        ("good", number(prevalence["after"]), "of outputs unwanted after"),
        ("", number(exact["clean"]), "of clean outputs the same, word for word"),
        ("", number(results["bleu"], "score"), "BLEU of new against old outputs"),
    ]
    items = (
        f'<li><b class="{style}">{value}</b>{escape(text)}</li>'
        for style, value, text in cards
    )
    return f'<ul class="cards">{"".join(items)}</ul>'


SCORES = ("exact match", "BLEU", "ROUGE-L")
_SUBSETS = {
    "all": "all inputs",
    "clean": "old output clean",
    "marked": "old output unwanted",
}


def similarity_rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns a row of texts for each subset: its name, how many inputs, `SCORES`."""
    return [
        (_SUBSETS[name], f"{part['examples']:,}", *_scores(part))
        for name, part in results["subsets"].items()
    ]


def _scores(part: Mapping[str, Any]) -> tuple[str, str, str]:
    return (
        number(part["exact_match"]),
        number(part["bleu"], "score"),
        number(part["rougeL"], "unit"),
    )


def _similarity(results: Mapping[str, Any]) -> str:
    text = (
        "New outputs against old ones. Exact match: the same word for word. BLEU from "
        "0 to 100 and ROUGE-L from 0 to 1, with the old outputs as the references."
    )
    rows = table(("", "inputs", *SCORES), similarity_rows(results))
    stayed = f"<h2>What stayed</h2><p>{text}</p>{rows}"
    if "references" in results:
        rows = [
            (f"{side} outputs", *_scores(part))
            for side, part in results["references"].items()
        ]
        head = ("against references", *SCORES)
        stayed += f"<h3>Against the references</h3>{table(head, rows)}"
    rates = results["unwanted_per_1000_tokens"]
    if rates["before"] is not None and rates["after"] is not None:
        stayed += (
            f'<p class="quiet">Unwanted spans per 1,000 generated tokens: '
            f"{rates['before']:.2f} before, {rates['after']:.2f} after.</p>"
        )
    return stayed


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table of plain texts: the first column text, the others numbers."""
    cells = "".join(
        f'<th scope="col"{" class=number" if i else ""}>{escape(name)}</th>'
        for i, name in enumerate(head)
    )
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f'<td class="number">{escape(value)}</td>' for value in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def text_table(rows: Sequence[Sequence[str]], first: int = 31, width: int = 11) -> str:
    """Returns a table for the terminal, its first row the head.

    Args:
      rows: plain texts, as many in each.
      first: least width of the first column.
      width: least width of the others.
    """
    first = max(first, *(len(row[0]) for row in rows))
    widths = [
        max(width, *(len(row[i]) for row in rows)) for i in range(1, len(rows[0]))
    ]
    lines = [
        row[0].ljust(first)
        + "".join(
            cell.rjust(size + 2) for cell, size in zip(row[1:], widths, strict=True)
        )
        for row in rows
    ]
    return "\n".join([lines[0], "─" * len(lines[0]), *lines[1:]])


def _examples(examples: Sequence[Mapping[str, Any]]) -> str:
    if not examples:
        return ""
    parts = [
        "<h2>Examples</h2>",
        "<p>Outputs for test inputs, before and after the update. What is unwanted is "
        "<mark>marked</mark>.</p>",
    ]
    for kind, title in _KINDS.items():
        rows = [example for example in examples if example["kind"] == kind]
        if not rows:
            continue
        body = "".join(
            f'<tr><th scope="row">{escape(row["inputs"])}</th>'
            f"<td>{highlight(row['old'], row['old_spans'])}</td>"
            f"<td>{highlight(row['new'], row['new_spans'])}</td></tr>"
            for row in rows
        )
        parts.append(
            f'<h3>{title}</h3><div class="wide"><table class="pair"><thead><tr>'
            '<th scope="col">input</th><th scope="col">before</th>'
            f'<th scope="col">after</th></tr></thead><tbody>{body}</tbody>'
            "</table></div>"
        )
    return "".join(parts)


def properties_section(properties: Sequence[Mapping[str, Any]]) -> str:
    """Returns the section on the corpus; nothing where nothing was measured."""
    if not properties:
        return ""
    required = any("requirement" in row for row in properties)
    head = '<th scope="col">property</th><th scope="col" class="number">measured</th>'
    if required:
        head += '<th scope="col">required</th><th scope="col">verdict</th>'
    body = "".join(_property(row, required) for row in properties)
    return (
        "<h2>The corpus, as measured</h2><p>What makes the job a real one, measured on "
        "the data and on the fine-tuned model.</p>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _property(row: Mapping[str, Any], required: bool) -> str:
    cells = (
        f'<th scope="row">{escape(str(row["label"]))}</th>'
        f'<td class="number">{escape(str(row["value"]))}</td>'
    )
    if required:
        met = row.get("met")
        verdict = "" if met is None else ("met" if met else "not met")
        cells += (
            f"<td>{escape(str(row.get('requirement', '')))}</td>"
            f'<td class="{"met" if met else "missed"}">{verdict}</td>'
        )
    return f"<tr>{cells}</tr>"


def settings_section(results: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Returns the section on how the results were made."""
    known = {"method", "seed", "seconds", "peak_memory_gb"}
    rows = {key: results[key] for key in results if key in known} | dict(settings)
    if not rows:
        return ""
    body = "".join(
        f'<tr><th scope="row">{escape(str(key).replace("_", " "))}</th>'
        f"<td><code>{escape(_plain(value))}</code></td></tr>"
        for key, value in rows.items()
    )
    return (
        f'<h2>Settings</h2><div class="wide"><table><tbody>{body}</tbody></table></div>'
    )


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(part)}" for key, part in value.items())
    return str(value)
