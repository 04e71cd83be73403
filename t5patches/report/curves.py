"""The picture of several methods: what is left unwanted against what stayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t5patches.report import drawing, points
from t5patches.report.points import Setting

# Colours that people who see fewer of them can tell apart (Okabe and Ito), and markers.
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a4b9d",
    "#6b7280", "#9a6b2f", "#374151", "#b3123d", "#0f766e",
    "#84a300",
)  # fmt: skip
_MARKERS = "os^Dv<>PXph8d"
_PANELS = {
    "exact_match": "clean outputs that stayed word for word",
    "bleu": "BLEU of all new outputs against the old",
}


def look(results: Mapping[str, Any], method: str) -> tuple[str, str]:
    """Returns the colour and the marker of a method."""
    number = results["methods"].index(method)
    return _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]


def draw(results: Mapping[str, Any], titles: Mapping[str, str]) -> Any:
    """Returns the trade-off curves as a Matplotlib figure.

    Args:
      results: what `report.write_comparison` takes.
      titles: method -> its name for the reader.
    """
    tests = [row["test"] for row in results["points"]]
    before = tests[0]["prevalence"]["before"]
    # An update can leave more unwanted than it found.
    top = max(before, 0.01, *(test["prevalence"]["after"] for test in tests))
    figure, (left, right) = drawing.panels(
        6.2, "Updates compared", _caption(results, titles),
        0.015, left=0.075, right=0.985, top=0.80, bottom=0.25, wspace=0.06,
    )  # fmt: skip
    others = [("the original", "P", points.original(results))]
    for one in points.settings(results, control=True):
        others.append((points.CONTROL, "X", one.numbers()))
    if exact := points.exact_update(results):
        others.append(("exact update", "*", points.measured(exact)))
    for axes, (measure, name) in zip((left, right), _PANELS.items(), strict=True):
        axes.axhline(before, color=drawing.QUIET, lw=1, ls=(0, (4, 3)), zorder=1)
        _draw_methods(axes, results, titles, measure)
        for label, marker, numbers in others:
            _draw_point(axes, numbers, measure, drawing.INK, marker, label, zorder=2.5)
        axes.grid(color="#e4e8ee", linewidth=0.8, zorder=0)
        axes.set_ylim(-0.04 * top, 1.08 * top)
        axes.set_xlabel(name, fontsize=13, color=drawing.INK, labelpad=8)
    right.tick_params(labelleft=False)
    for values in (left.xaxis, left.yaxis):
        values.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    left.set_ylabel("unwanted outputs", fontsize=13, color=drawing.INK)
    handles, labels = left.get_legend_handles_labels()
    columns = max(5, -(-len(labels) // 3))  # There is room for three rows.
    figure.legend(
        handles, labels, loc="lower center", ncols=columns, frameon=False, fontsize=12,
        labelcolor=drawing.INK, bbox_to_anchor=(0.53, 0.0), columnspacing=1.8,
    )  # fmt: skip
    return figure


def _caption(results: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    chosen = points.chosen(results)
    count = results["points"][0]["test"]["examples"]
    whiskers = ""
    if max(len(setting.updates) for setting in chosen) > 1:
        whiskers = "; whiskers: seeds"
    elif any("intervals" in row["test"] for row in results["points"]):
        whiskers = "; whiskers: 95 % intervals"
    what = "Lower and further right is better"
    if results["rule"]:
        what += "; lines: over alpha or rate; large: chosen on validation"
    front = ", ".join(titles[method] for method in results["front"])
    what = f"{what} ({count:,} test inputs{whiskers})."
    return f"{what}\nNot beaten (Pareto front): {front}."


def _draw_methods(axes: Any, results, titles, measure: str) -> None:
    """Draws each update, each setting's line, and large what is chosen."""
    found = points.settings(results)
    measured = False
    for setting in found:
        colour, marker = look(results, setting.method)
        style = {"c": colour, "marker": marker, "ls": "none", "clip_on": False}
        for row in setting.updates:
            if place := _place(points.measured(row["test"]), measure):
                axes.plot(*place, ms=5, mew=0, alpha=0.55, zorder=2, **style)
                measured = True
    for method in results["methods"]:
        colour, marker = look(results, method)
        own = [setting for setting in found if setting.method == method]
        for line in _lines(own):
            places = [_place(setting.numbers(), measure) for setting in line]
            known = np.reshape([place for place in places if place], (-1, 2))
            axes.plot(*known.T, c=colour, lw=1.4, alpha=0.8, zorder=2)
        for setting in own:
            if points.is_chosen(results, setting):
                numbers = setting.numbers()
                _draw_point(axes, numbers, measure, colour, marker, titles[method])
    if not measured:
        axes.set_xticks([])
        axes.text(
            0.5, 0.5, "nothing to measure", transform=axes.transAxes, fontsize=13,
            color=drawing.QUIET, ha="center",
        )  # fmt: skip


def _lines(settings: Sequence[Setting]) -> list[list[Setting]]:
    """Returns a method's settings in lines: by alpha at a rate, or else by the rate."""
    lines: dict[float | None, list[Setting]] = {}
    for one in sorted(settings, key=lambda s: (s.alpha or 0, s.learning_rate or 0)):
        rate = None if one.alpha is None else one.learning_rate
        lines.setdefault(rate, []).append(one)
    return [*lines.values()]


def _place(numbers, measure: str) -> tuple[float, float] | None:
    """Returns where a point is; one whose similarity was not measured has no place."""
    x, y = numbers[measure].value, numbers["prevalence"].value
    return None if x is None else (x, y)


def _draw_point(
    axes: Any, numbers, measure: str, colour, marker, label: str, zorder: float = 3
) -> None:
    """Draws a large mark with its whiskers."""
    place = _place(numbers, measure)
    size = 19 if marker == "*" else 12
    axes.plot(
        *(place or ([], [])), marker, c=colour, ms=size, mec="white", ls="none",
        label=label, clip_on=False, zorder=zorder,
    )  # fmt: skip
    if place is None:
        return
    style = {"color": colour, "lw": 1.2, "alpha": 0.6, "zorder": 2.2, "clip_on": False}
    x, y = numbers[measure], numbers["prevalence"]
    if x.low is not None:
        axes.hlines(y.value, x.low, x.high, **style)
    if y.low is not None:
        axes.vlines(x.value, y.low, y.high, **style)
