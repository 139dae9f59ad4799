#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What is shown: the table in the terminal, and the page with its plots."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.folders import Folders
from benchmarks.machine import Machine
from benchmarks.plots import draw
from benchmarks.result import Row, Section, Value

COMMAND = "python3.11 -m venv .venv && .venv/bin/pip install -q -e '.[bench]' && .venv/bin/python -m benchmarks"


def show(console: Console, machine: Machine, sections: Sequence[Section]) -> None:
    """Print the table."""
    table = Table(title=_where(machine), box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("what")
    for heading in ("measured", "spread", "goal"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    table.add_column("", overflow="fold", style="dim")
    for section in sections:
        table.add_row(f"[bold]{section.title}[/]", "", "", "", "", f"{section.secs:.0f} s")
        for row in section.rows:
            table.add_row(row.what, _measured(row), _spread(row), _goal(row), _met(row), row.note)
        table.add_section()
    console.print(table)
    goals = [row.is_met for section in sections for row in section.rows if row.is_met is not None]
    console.print(f"{sum(goals)} of {len(goals)} goals met")


def write(folders: Folders, machine: Machine, sections: Sequence[Section]) -> Path:
    """Write the page, its plots, and the figures as JSON.

    Args:
        folders: Where the page and the figures go.
        machine: Where the figures come from.
        sections: The figures.

    Returns:
        The page's path.
    """
    images = folders.pages / "images"
    images.mkdir(parents=True, exist_ok=True)
    figures = {"machine": asdict(machine), "sections": [asdict(section) for section in sections]}
    link = folders.keep("benchmarks.json", figures)
    page = folders.pages / "benchmarks.md"
    page.write_text("\n".join(_page(images, link, machine, sections)) + "\n")
    return page


def read(path: Path) -> tuple[Machine, list[Section]]:
    """Read figures back that `write` wrote."""
    figures = json.loads(path.read_text(encoding="utf-8"))
    return Machine(**figures["machine"]), [_section(values) for values in figures["sections"]]


def _section(values: dict[str, Any]) -> Section:
    rows = [
        Row(**{**row, "value": Value(**row["value"]) if row["value"] else None})
        for row in values["rows"]
    ]
    return Section(**{**values, "rows": rows})


def _page(images: Path, link: str, machine: Machine, sections: Sequence[Section]) -> Iterator[str]:
    goals = [row for section in sections for row in section.rows if row.is_met is not None]
    minutes = sum(section.secs for section in sections) / 60
    yield "# What the breaker costs, and what it saves"
    yield ""
    yield "Measured, not written by hand: this page, its plots and"
    yield f"[the figures as JSON]({link}) are made by one command, in a checkout:"
    yield ""
    yield f"```sh\n{COMMAND}\n```"
    yield ""
    yield f"It took {minutes:.0f} minutes. `--quick` takes about one, and `--only healthy,growth` measures"
    yield "a part; both show their table and leave this page as it is."
    yield ""
    yield f"**Where:** {_where(machine)}."
    yield f"**Goals:** {sum(bool(row.is_met) for row in goals)} of {len(goals)} met."
    yield "**Spread:** quartiles, or least to most where there are few runs; an exact count has none."
    yield "A spread that contains zero shows nothing: **?**, and the goal does not count as met."
    yield ""
    yield "| | measured | spread | goal | | |"
    yield "| --- | --: | --: | --: | :-: | --- |"
    for section in sections:
        yield f"| **[{section.title}](#{section.title.lower().replace(' ', '-')})** | | | | | |"
        for row in section.rows:
            cells = (row.what, _measured(row), _spread(row), _goal(row), _met(row), row.note)
            yield "| " + " | ".join(cells) + " |"
    for section in sections:
        yield ""
        yield f"## {section.title}"
        yield ""
        yield section.method
        if section.name == "storms":
            yield ""
            yield from _storms(section.plot)
        if section.plot:
            picture = draw(section, images)
            yield ""
            yield f"![{section.title}](images/{picture.name})"


def _storms(plot: dict[str, Any]) -> Iterator[str]:
    yield "| chain | breaker | sends | syntheses | log | CPU | `EndFrame` | peak memory |"
    yield "| --- | --- | --: | --: | --: | --: | --: | --: |"
    for name, pair in plot.items():
        for key, outcome in pair.items():
            figures, end = outcome["figures"], outcome["end_frame_ms"]
            cells = (
                name if key == "without" else "",
                key if key == "without" else f"**{key}**",
                f"{figures['sends']:,}",
                f"{figures['synthesis']:,}" if figures["synthesis"] else "",
                f"{figures['log_bytes'] / 1024:,.1f} KiB",
                f"{figures['cpu_secs']:.2f} s",
                f"{end:.1f} ms" if end is not None else outcome["killed"] or "not through",
                f"{outcome['peak_rss_mib']:.0f} MiB",
            )
            yield "| " + " | ".join(cells) + " |"


def _where(machine: Machine) -> str:
    at = f", commit {machine.commit}" if machine.commit else ""
    return (
        f"{machine.cpu}, {machine.cores} cores, {machine.system}, {machine.python}, "
        f"pipecat {machine.pipecat}, {machine.date}{at}, load {machine.load} at the start"
    )


def _measured(row: Row) -> str:
    if row.value is None:
        return "never"
    return f"{_number(row.value.middle)} {row.unit}".strip()


def _spread(row: Row) -> str:
    if row.value is None or row.value.low is None or row.value.high is None:
        return ""
    return f"{_number(row.value.low)} to {_number(row.value.high)}"


def _goal(row: Row) -> str:
    return "" if row.at_most is None else f"≤ {_number(row.at_most)}"


def _met(row: Row) -> str:
    if row.is_met is False and row.value is not None and row.value.is_noise:
        return "?"
    return {None: "", True: "✓", False: "✗"}[row.is_met]


def _number(value: float) -> str:
    if value == int(value):
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 else f"{value:.3f}"
