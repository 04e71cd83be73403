"""What the pages and the tables for the terminal share.

A page is a template of `templates/`: one file that opens offline, in which every text
is escaped.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
import tabulate
from etils import epath

from t5patches.interchange import shards
from t5patches.report import drawing, training_curves

# The page, the picture, the numbers; picture and numbers of the training.
FILES = ("report.html", "report.png", "report.csv", "training.png", "training.csv")
# Control characters as their symbols: a page may not have them.
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_VISIBLE |= {0x7F: 0x2421, **dict.fromkeys(range(0x80, 0xA0), 0xFFFD)}
# What of the results says how they were made.
MADE = (
    "method", "use_case", "seed", "commands", "settings", "engine", "versions", "files",
    "fingerprints", "examples_file", "corpus_examples", "share_with_unwanted",
    "seconds", "stage_seconds", "peak_memory_gb", "schema_version",
)  # fmt: skip


def share(value: float | None) -> str:
    """Returns a share as percent, a dash for None."""
    return "–" if value is None else f"{100 * value:.1f} %"


def percent(value: float) -> str:
    """Returns a share that is no result, as that of an interval."""
    return f"{100 * value:g} %"


def score(value: float | None) -> str:
    """Returns a number of 0-100, a dash for None."""
    return "–" if value is None else f"{value:.1f}"


def unit(value: float | None) -> str:
    """Returns a number of 0-1, a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def general(value: float | None) -> str:
    """Returns a setting of a method, a dash for None."""
    return "–" if value is None else f"{value:g}"


def plain(value: Any) -> str:
    """Returns a setting as the page shows it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(part)}" for key, part in value.items())
    return str(value)


def highlight(text: str, spans: Iterable[Sequence[Any]]) -> markupsafe.Markup:
    """Returns `text` as HTML, escaped, with the characters of `spans` marked.

    Args:
      text: any text.
      spans: (start, end, label); they may overlap.
    """
    html, done = markupsafe.Markup(), 0
    mark = markupsafe.Markup('<mark title="{}">{}</mark>')
    for start, end, label in sorted(spans, key=lambda span: (span[0], -span[1])):
        start = max(start, done)
        if end > start:
            html += text[done:start] + mark.format(label, text[start:end])
            done = end
    return html + text[done:]


_LOADER = jinja2.PackageLoader("t5patches.report")
_TEMPLATES = jinja2.Environment(
    loader=_LOADER,
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def sha256(source: str) -> str:
    """Returns the digest of a script or a style as a security policy names it."""
    digest = hashlib.sha256(source.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _source(name: str) -> str:
    return _LOADER.get_source(_TEMPLATES, name)[0]


_FILTERS = (share, score, unit, general, plain, highlight, sha256)
_TEMPLATES.filters.update({function.__name__: function for function in _FILTERS})


def write(
    run_dir: shards.PathLike,
    template: str,
    figure: Any,
    results: Mapping[str, Any],
    settings: Mapping[str, Any] | None,
    data: str,
    runs: Sequence[training_curves.Run] = (),
    script: str = "",
    **content: Any,
) -> None:
    """Writes a report's files: those of `FILES`, the training's only if it is known.

    Args:
      run_dir: the folder to write to.
      template: name of the page's template.
      figure: the picture, of Matplotlib.
      results: the template's, and what of them belongs to the settings.
      settings: names and values for the section on settings.
      data: the numbers, CSV.
      runs: the training runs.
      script: name of the page's script, in `templates/`.
      **content: what else the template wants; all of them `title` and `sentence`.
    """
    page, png, table, *of_training = FILES
    files = {png: drawing.to_png(figure), table: data.encode()}
    if runs := [run for run in runs if run.curves]:
        made = (
            drawing.to_png(training_curves.draw(runs)),
            training_curves.to_csv(runs),
        )
        files |= zip(of_training, made, strict=True)
    pictures = {
        name: base64.b64encode(content).decode("ascii")
        for name, content in files.items()
        if name.endswith(".png")
    }
    known = {name: results[name] for name in MADE if name in results}
    html = _TEMPLATES.get_template(template).render(
        style=_source("style.css"),
        script=_source(script) if script else "",
        pictures=pictures,
        results=results,
        settings={**known, **(settings or {})},
        **content,
    )
    files[page] = html.translate(_VISIBLE).encode()
    with contextlib.ExitStack() as stack:  # All, or, where there is no room, none.
        for name, made in files.items():
            path = epath.Path(run_dir) / name
            file = stack.enter_context(shards.atomic_write(path, "wb"))
            file.write(made)
            file.flush()


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Returns a table for the terminal; its first row is the head."""
    align = ("left", *["right"] * (len(rows[0]) - 1))
    return tabulate.tabulate(rows, "firstrow", disable_numparse=True, colalign=align)
