#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The command that runs the chains side by side, without and with the breaker, and compares."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import click
from loguru import logger
from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from pipecat_circuit_breaker.demo.chains import CHAINS, Position
from pipecat_circuit_breaker.demo.contained import ContainedError, run_contained
from pipecat_circuit_breaker.demo.run import Outcome
from pipecat_circuit_breaker.demo.tally import Figures
from pipecat_circuit_breaker.incident import Incident
from pipecat_circuit_breaker.show.terminal import tree

TREE_CHAIN = "send-raises"
NARROWEST = 100


@dataclass(frozen=True)
class Comparison:
    """One chain, run twice.

    Parameters:
        chain: Its name.
        without: What came of it without a breaker.
        guarded: What came of it with one.
    """

    chain: str
    without: Outcome
    guarded: Outcome


@click.command()
@click.option(
    "--chain",
    "chains",
    multiple=True,
    type=click.Choice([*CHAINS]),
    metavar="NAME",
    help=f"A chain to run. Can be repeated; the default is all: {', '.join(CHAINS)}.",
)
@click.option(
    "--position",
    type=click.Choice(["first", "last"]),
    default="first",
    show_default=True,
    help="Where the breaker is in the pipeline: first, or last before the output.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 60.0),
    default=3.0,
    show_default=True,
    help="How long each chain runs before the pipeline is ended.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
def demo(chains: Sequence[str], position: Position, seconds: float, as_json: bool) -> None:
    """Run error chains that really happen, without and with the breaker.

    Each runs in a process of its own, with limits on its time and its memory.
    """
    if math.isnan(seconds):
        # It is not outside of any range, so the range lets it pass.
        raise click.BadParameter("nan is not a number of seconds.", param_hint="'--seconds'")
    logger.remove()
    # A chain that is named twice is still one chain.
    names = list(dict.fromkeys(chains)) or [*CHAINS]
    try:
        if as_json:
            silent = Console(file=sys.stderr, quiet=True)
            results = _compare(names, position, seconds, silent)
            click.echo(json.dumps(_document(results, position, seconds), indent=2))
        else:
            console = Console()
            if not console.is_terminal:
                # What has no width of its own gets the one that the table is made for.
                console.width = max(console.width, NARROWEST)
            results = _compare(names, position, seconds, console)
            _show(console, results, position, seconds)
    except ContainedError as error:
        raise click.ClickException(f"a chain did not start: {error}") from error


def _compare(
    names: Sequence[str], position: Position, seconds: float, console: Console
) -> list[Comparison]:
    results = []
    with _board(console) as board:
        for name in names:
            console.print(Text.assemble((name, "bold"), f"  {CHAINS[name].title}"), soft_wrap=False)
            without, guarded = (
                _run(name, protected, position, seconds, board, console)
                for protected in (False, True)
            )
            results.append(Comparison(name, without, guarded))
    return results


@contextmanager
def _board(console: Console) -> Iterator[Progress | None]:
    """Show how the current chain gets on, where there is a terminal to show it on."""
    if not console.is_terminal:
        yield None
        return
    board = Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[status]}"),
        auto_refresh=False,
    )
    with Live(board, console=console, refresh_per_second=10, transient=True):
        yield board


def _run(
    name: str,
    protected: bool,
    position: Position,
    seconds: float,
    board: Progress | None,
    console: Console,
) -> Outcome:
    label = "with" if protected else "without"
    task: TaskID | None = None
    if board is not None:
        task = board.add_task(label, total=seconds, status="starting")

    def follow(figures: Figures) -> None:
        if board is not None and task is not None:
            board.update(task, completed=figures.elapsed, status=_status(figures))

    outcome = run_contained(
        name, protected=protected, position=position, duration=seconds, on_figures=follow
    )
    if board is not None and task is not None:
        board.remove_task(task)
    console.print(Text(f"  {label:<8} {_status(outcome.figures)}"), style=_colour(protected))
    return outcome


def _status(figures: Figures) -> str:
    parts = [f"{figures.sends:>8,} sends", f"{figures.log_lines:>8,} log lines"]
    if figures.synthesis:
        parts.append(f"{figures.synthesis:>8,} syntheses")
    if figures.audio_chunks:
        parts.append(f"{figures.audio_chunks:>4} chunks of sound")
    return " ".join(parts)


def _show(
    console: Console, results: Sequence[Comparison], position: Position, seconds: float
) -> None:
    console.print()
    console.print(_table(results, position, seconds))
    for note in _notes(results):
        console.print(note, style="dim")
    incident = _incident(results)
    if incident is not None:
        console.print()
        console.print(tree(incident), width=min(console.width, NARROWEST))


def _table(results: Sequence[Comparison], position: Position, seconds: float) -> Table:
    table = Table(
        title=f"{seconds:g} s each, Pipecat {version('pipecat-ai')}, breaker {position}",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("chain", no_wrap=True)
    table.add_column("breaker", no_wrap=True)
    for heading in (
        "sends",
        "failed\nsends",
        "errors",
        "log\nlines",
        "log size",
        "EndFrame\nms",
        "peak\nMiB",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        _add_row(table, result.chain, False, result.without)
        _add_row(table, "", True, result.guarded)
        table.add_section()
    return table


def _add_row(table: Table, name: str, protected: bool, outcome: Outcome) -> None:
    figures = outcome.figures
    end = "not through" if outcome.end_frame_ms is None else f"{outcome.end_frame_ms:.1f}"
    memory = f"{outcome.peak_rss_mib:.0f}" if outcome.peak_rss_mib else "?"
    table.add_row(
        Text(name, style="bold"),
        ("with" if protected else "without") + (" †" if outcome.killed else ""),
        f"{figures.sends:,}",
        f"{figures.failed_sends:,}",
        f"{figures.errors:,}",
        f"{figures.log_lines:,}",
        _size(figures.log_bytes),
        end,
        memory,
        style=_colour(protected),
    )


def _notes(results: Sequence[Comparison]) -> Iterator[str]:
    reasons = sorted(
        {
            outcome.killed
            for result in results
            for outcome in (result.without, result.guarded)
            if outcome.killed
        }
    )
    if reasons:
        yield f"† had to be killed, with the figures from before: {', '.join(reasons)}"
    for result in results:
        without, guarded = result.without.figures, result.guarded.figures
        if without.synthesis:
            yield (
                f"{result.chain}: {without.synthesis:,} syntheses without, "
                f"{guarded.synthesis:,} with"
            )
        if without.audio_chunks or guarded.audio_chunks:
            yield (
                f"{result.chain}: {without.audio_chunks_after} chunks of sound after the message "
                f"without, {guarded.audio_chunks_after} with"
            )


def _incident(results: Sequence[Comparison]) -> Incident | None:
    """Choose the incident to explain: the plainest chain's, else the longest of the first."""
    for result in sorted(results, key=lambda result: result.chain != TREE_CHAIN):
        if result.guarded.incidents:
            return max(result.guarded.incidents, key=lambda incident: len(incident.chain))
    return None


def _document(results: Sequence[Comparison], position: Position, seconds: float) -> dict[str, Any]:
    return {
        "pipecat": version("pipecat-ai"),
        "position": position,
        "seconds": seconds,
        "chains": [
            {
                "chain": result.chain,
                "title": CHAINS[result.chain].title,
                "without": result.without.as_json(),
                "with": result.guarded.as_json(),
            }
            for result in results
        ],
    }


def _colour(protected: bool) -> str:
    return "green" if protected else "red"


def _size(count: int) -> str:
    """Write a number of bytes as people do."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
