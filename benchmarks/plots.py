#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The plots of the page, one for each section."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from benchmarks.result import Section  # noqa: E402

# Told apart by people who do not see all colours.
_OURS, _THEIRS, _PLAIN, _BAD = "#0072B2", "#E69F00", "#999999", "#D55E00"


def draw(section: Section, folder: Path) -> Path:
    """Draw a section's plot into a folder.

    Returns:
        The picture's path.
    """
    figure = _PLOTS[section.name](section.plot)
    path = folder / f"benchmark-{section.name}.png"
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return path


def _healthy(plot: dict[str, Any]) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 3.6))
    width = 0.26
    for n, (variant, label, colour) in enumerate(
        (
            ("filters", "one IdentityFilter", _PLAIN),
            ("first", "breaker first", _OURS),
            ("last", "breaker last", "#56B4E9"),
        )
    ):
        heights = [speed[variant] for speed in plot.values()]
        places = [place + (n - 1) * width for place in range(len(heights))]
        bars = axes.bar(places, heights, width, label=label, color=colour)
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    for place, speed in enumerate(plot.values()):
        axes.hlines(speed["filters"] / 2, place - 0.42, place + 0.42, color=_BAD, ls="--", lw=1)
    axes.plot([], [], color=_BAD, ls="--", lw=1, label="goal: half an IdentityFilter")
    axes.set_xticks(
        range(len(plot)), [f"{name}\n(alone {s['alone']:.0f} µs)" for name, s in plot.items()]
    )
    axes.set_ylabel("µs of CPU added per frame")
    axes.legend(fontsize=8)
    _plain(axes)
    return figure


def _decision(plot: dict[str, Any]) -> Figure:
    figure, panels = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    for axes, path in zip(panels, ("closed", "open", "error"), strict=True):
        here = {n: v for n, v in plot.items() if v["path"] == path and "bare" not in n}
        here = dict(sorted(here.items(), key=lambda item: -item[1]["us"]))
        bars = axes.barh(
            [name.partition(": ")[2] for name in here],
            [value["us"] for value in here.values()],
            color=[_OURS if value["ours"] else _THEIRS for value in here.values()],
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
        axes.axvline(2.0, color=_BAD, ls="--", lw=1)
        axes.set_xscale("log")
        axes.set_xlim(0.03, 150)
        axes.set_xlabel("µs (dashed: 2 µs)")
        axes.set_title(
            {"closed": "circuit closed", "open": "circuit open", "error": "errors"}[path]
        )
        axes.tick_params(axis="y", labelsize=8)
        _plain(axes)
    return figure


def _growth(plot: dict[str, Any]) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 4.6))
    for n, (axis, series) in enumerate(plot.items()):
        costs = series["costs"]
        axes.plot(
            series["sizes"],
            [cost / costs[0] for cost in costs],
            marker="osD^v<>PX*h"[n % 11],
            color=plt.get_cmap("tab20")(n / 11),
            ms=4,
            lw=1.2,
            label=axis,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("how much there is of it")
    axes.set_ylabel("cost per frame / cost with least of it")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    _plain(axes)
    return figure


def _storms(plot: dict[str, Any]) -> Figure:
    figure, panels = plt.subplots(1, 3, figsize=(13, 3.8), sharey=True, layout="constrained")
    names = [*plot][::-1]

    def messages(outcome: dict[str, Any]) -> float:
        return float(outcome["figures"]["sends"] + outcome["figures"]["synthesis"])

    for axes, title, left, value in (
        (panels[0], "messages and syntheses", 1, messages),
        (panels[1], "bytes of log", 100, lambda o: o["figures"]["log_bytes"]),
        (panels[2], "CPU seconds", 1e-3, lambda o: o["figures"]["cpu_secs"]),
    ):
        for shift, key, colour in ((0.2, "without", _BAD), (-0.2, "with", _OURS)):
            axes.barh(
                [place + shift for place in range(len(names))],
                [max(value(plot[name][key]), 1e-3) for name in names],
                0.4,
                color=colour,
                label=key,
            )
        axes.set_xscale("log")
        axes.set_xlim(left=left)
        axes.set_title(title)
        _plain(axes)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].legend(fontsize=8)
    return figure


def _fleet(plot: dict[str, Any]) -> Figure:
    figure, axes = plt.subplots(figsize=(9, 4.2))
    colours = iter((_PLAIN, "#000000", _BAD, _OURS, _THEIRS, "#56B4E9"))
    for case, fleet in plot.items():
        late = [max(value, 0.05) for value in fleet["quantiles_ms"]]
        style = "-" if case.endswith("with") else ":"
        axes.plot(range(101), late, style, label=case, color=next(colours), lw=1.8)
    axes.axhline(20, color=_BAD, ls="--", lw=1)
    axes.set_yscale("log")
    axes.set_xlabel("percentile of all frames")
    axes.set_ylabel("ms late (dashed: one frame, 20 ms)")
    axes.legend(fontsize=8)
    _plain(axes)
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


_PLOTS: dict[str, Callable[[dict[str, Any]], Figure]] = {
    "healthy": _healthy,
    "decision": _decision,
    "growth": _growth,
    "storms": _storms,
    "fleet": _fleet,
}
