"""The picture of several methods: what is left unwanted against what stayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t5patches.report import drawing, numbers

# Colours that people who see fewer of them can tell apart (Okabe and Ito), and markers.
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a4b9d",
    "#6b7280", "#9a6b2f", "#374151", "#b3123d", "#0f766e",
    "#84a300",
)  # fmt: skip
_MARKERS = "os^Dv<>PXph8d"
_EXACT = {"color": drawing.INK, "markersize": 15, "clip_on": False, "zorder": 2.5}
# What is measured, in words; the number; where its interval is.
_PANELS = (
    (
        "clean outputs that stayed word for word",
        lambda s: s["exact_match"]["clean"],
        ("exact_match", "clean"),
    ),
    ("BLEU of all new outputs against the old", lambda s: s["bleu"], ("bleu",)),
)


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
    whiskers = "; whiskers: 95 % intervals" if "intervals" in tests[0] else ""
    figure, panels = drawing.two_panels(
        6.0,
        "Methods compared",
        "Each point is an update; lower and further right is better. Lines join a "
        "method's best points,\nthe large mark is the one chosen on validation "
        f"({tests[0]['examples']:,} test inputs{whiskers}).",
        0.015, left=0.075, right=0.985, top=0.80, bottom=0.235, wspace=0.06,
    )  # fmt: skip
    for axes, (name, similarity, path) in zip(panels, _PANELS, strict=True):
        axes.axhline(before, color=drawing.QUIET, lw=1, ls=(0, (4, 3)), zorder=1)
        _draw_panel(axes, results, titles, similarity)
        _draw_whiskers(axes, results, similarity, path)
        exact = exact_update(results)
        if exact and (x := similarity(exact)) is not None:
            y = exact["prevalence"]["after"]
            axes.plot(x, y, "*", label="exact update", **_EXACT)
        axes.set_ylim(-0.04 * top, 1.08 * top)
        axes.set_xlabel(name, fontsize=13, color=drawing.INK, labelpad=8)
    left, right = panels
    right.tick_params(labelleft=False)
    for values in (left.xaxis, left.yaxis):
        values.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    left.set_ylabel("unwanted outputs", fontsize=13, color=drawing.INK)
    left.text(
        0.01, before, "before the update", transform=left.get_yaxis_transform(),
        fontsize=11, color=drawing.QUIET, va="bottom",
    )  # fmt: skip
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", ncols=5, frameon=False, fontsize=12,
        labelcolor=drawing.INK, bbox_to_anchor=(0.53, 0.0), columnspacing=1.8,
    )  # fmt: skip
    return figure


def _draw_panel(axes: Any, results, titles, similarity) -> None:
    measured = False
    for number, method in enumerate(results["methods"]):
        marker = _MARKERS[number % len(_MARKERS)]
        colour = _COLOURS[number % len(_COLOURS)]
        style = {"color": colour, "zorder": 2, "clip_on": False}
        # By name; a point whose similarity could not be measured has no place.
        points = {
            row["name"]: (x, row["test"]["prevalence"]["after"])
            for row in results["points"]
            if row["method"] == method and (x := similarity(row["test"])) is not None
        }
        measured = measured or bool(points)
        small = {"markersize": 5, "markeredgewidth": 0, "alpha": 0.55}
        axes.plot(*_columns([*points.values()]), marker, **small, **style)
        line = best([*points.values()])
        axes.plot(*_columns(line), "-", linewidth=1.4, alpha=0.8, **style)
        chosen = [points[name] for name in points if name == results["chosen"][method]]
        large = {"markersize": 12, "markeredgecolor": "white", "linestyle": "none"}
        style["zorder"] = 3
        axes.plot(*_columns(chosen), marker, label=titles[method], **large, **style)
    if not measured:
        axes.set_xticks([])
        axes.text(
            0.5, 0.5, "nothing to measure", transform=axes.transAxes, fontsize=13,
            color=drawing.QUIET, ha="center",
        )  # fmt: skip
    axes.grid(color="#e4e8ee", linewidth=0.8, zorder=0)


def _draw_whiskers(axes: Any, results, similarity, path: Sequence[str]) -> None:
    """Draws the intervals of the chosen points, if they have any."""
    for row in results["points"]:
        number = results["methods"].index(row["method"])
        x, y = similarity(row["test"]), row["test"]["prevalence"]["after"]
        if row["name"] != results["chosen"][row["method"]] or x is None:
            continue
        style = {"color": _COLOURS[number % len(_COLOURS)], "lw": 1.2, "alpha": 0.6}
        style |= {"zorder": 2.2, "clip_on": False}
        low, high = numbers.interval(row["test"], *path)
        if low is not None:
            axes.hlines(y, low, high, **style)
        low, high = numbers.interval(row["test"], "prevalence", "after")
        if low is not None:
            axes.vlines(x, low, high, **style)


def _columns(points: Sequence[tuple[float, float]]) -> Any:
    return np.reshape(points, (-1, 2)).T


def exact_update(results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns what is known of the exact update on the test inputs, if anything."""
    found = (row["test"].get("exact_update") for row in results["points"])
    return next(filter(None, found), None)


def best(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the points (similarity, prevalence) that no other beats, in order."""
    kept: list[tuple[float, float]] = []
    # From the most similar down, each must be lower than all before.
    for x, y in sorted(points, key=lambda point: (-point[0], point[1])):
        if not kept or y < kept[-1][1]:
            kept.append((x, y))
    return kept
