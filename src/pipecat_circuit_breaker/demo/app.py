#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The command that runs the chains side by side, without and with the breaker, and compares."""

import asyncio
import json
import math
from collections.abc import Sequence
from typing import Any, Protocol

import click
from click.core import ParameterSource
from rich.console import Console
from rich.text import Text

from pipecat_circuit_breaker import Incident, Mode
from pipecat_circuit_breaker.demo.board import Board
from pipecat_circuit_breaker.demo.chains import CHAINS, Position
from pipecat_circuit_breaker.demo.contained import ContainedError, run_contained
from pipecat_circuit_breaker.demo.failover.faults import FAULTS
from pipecat_circuit_breaker.demo.run import Outcome
from pipecat_circuit_breaker.demo.table import Comparison, Report, colour, counts, label
from pipecat_circuit_breaker.show.terminal import tree

TREE_CHAIN = "send-raises"
NARROWEST = 80

#: Quick to play, and both are faults that pipecat's own failover leaves alone.
DEFAULT_FAULTS = ("http-500", "one-in-five")

#: What is an option of the chains alone, and of the failover alone.
OF_CHAINS = ("chains", "position", "mode_name", "seconds")
OF_FAILOVER = ("faults", "turns", "speed")
WIDEST_TREE = 100


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
    "--mode",
    "mode_name",
    type=click.Choice([Mode.GUARD.value, Mode.OBSERVE.value]),
    default=Mode.GUARD.value,
    show_default=True,
    help="What the breaker does: end the chains, or let them storm and only tell.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 60.0),
    default=3.0,
    show_default=True,
    help="How long each chain runs before the pipeline is ended.",
)
@click.option(
    "--failover",
    is_flag=True,
    help="Play calls whose first of two LLM providers fails, instead of the chains: without help,"
    " with Pipecat's own failover, with the breaker's.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    type=click.Choice([*FAULTS, "all"]),
    metavar="NAME",
    help=f"What is wrong with the first provider. Can be repeated; the default is"
    f" {' and '.join(DEFAULT_FAULTS)}; there are all, {', '.join(FAULTS)}.",
)
@click.option(
    "--turns",
    type=click.IntRange(1, 500),
    default=50,
    show_default=True,
    help="How many questions the caller asks, one every 4 s.",
)
@click.option(
    "--speed",
    type=click.FloatRange(1.0, 20.0),
    default=10.0,
    show_default=True,
    help="How many times faster than in a call the time goes.",
)
@click.option("--json", "output", flag_value="json", help="Print JSON instead of a table.")
@click.option(
    "--markdown", "output", flag_value="markdown", help="Print the table as Markdown and no more."
)
@click.pass_context
def demo(
    context: click.Context,
    chains: Sequence[str],
    position: Position,
    mode_name: str,
    seconds: float,
    failover: bool,
    faults: Sequence[str],
    turns: int,
    speed: float,
    output: str | None,
) -> None:
    """Run error chains that really happen, without and with the breaker.

    Each runs in a process of its own, with limits on its time and its memory. With --failover:
    calls in which the first of two providers fails.
    """
    _refuse_mixture(context, failover)
    if math.isnan(seconds):
        # It is not outside of any range, so the range lets it pass.
        raise click.BadParameter("nan is not a number of seconds.", param_hint="'--seconds'")
    # What a program is to read has the standard output for itself.
    console = Console(stderr=output is not None)
    if not console.is_terminal:
        # What has no width of its own gets the least that the table is made for.
        console.width = max(console.width, NARROWEST)
    if failover:
        _failover(console, faults, turns, speed, output)
        return
    # A chain that is named twice is still one chain.
    names = list(dict.fromkeys(chains)) or [*CHAINS]
    mode = Mode(mode_name)
    try:
        comparisons = _compare(console, names, mode, position, seconds)
    except ContainedError as error:
        raise click.ClickException(f"a chain did not start: {error}") from error
    report = Report(comparisons, mode, position, seconds)
    if not _print(report, output):
        show_report(console, report)


def _refuse_mixture(context: click.Context, failover: bool) -> None:
    """Refuse options that would change nothing."""
    others = OF_CHAINS if failover else OF_FAILOVER
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in others
        and context.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT
    ]
    if given:
        reason = "only for the chains, not with --failover" if failover else "only with --failover"
        raise click.UsageError(f"{', '.join(given)}: {reason}.")


def _failover(
    console: Console, faults: Sequence[str], turns: int, speed: float, output: str | None
) -> None:
    # Not at the top: OpenAI's client takes seconds to import, and the chains do without it.
    from pipecat_circuit_breaker.demo.failover import run

    names = [*FAULTS] if "all" in faults else list(dict.fromkeys(faults)) or [*DEFAULT_FAULTS]
    report = asyncio.run(run.compare(console, names, turns=turns, speed=speed))
    if not _print(report, output):
        run.show_report(console, report)


class _Printable(Protocol):
    def as_json(self) -> dict[str, Any]: ...

    def as_markdown(self) -> str: ...


def _print(report: _Printable, output: str | None) -> bool:
    """Print a report for a program; returns whether one asked for it."""
    if output == "json":
        click.echo(json.dumps(report.as_json(), indent=2))
    elif output == "markdown":
        click.echo(report.as_markdown(), nl=False)
    return output is not None


def _compare(
    console: Console, names: Sequence[str], mode: Mode, position: Position, seconds: float
) -> list[Comparison]:
    board = Board(console, runs=2 * len(names), seconds=seconds)
    comparisons = []

    def run(name: str, mode: Mode | None) -> Outcome:
        with board.run(name, mode) as follow:
            outcome = run_contained(
                name, mode=mode, position=position, duration=seconds, on_progress=follow
            )
        line = f"  {label(mode):<9}  {counts(outcome.figures)}"
        console.print(Text(line, style=colour(mode)))
        return outcome

    with board.shown():
        for name in names:
            console.print(Text.assemble((name, "bold"), f"  {CHAINS[name].title}"))
            comparisons.append(Comparison(name, without=run(name, None), guarded=run(name, mode)))
    return comparisons


def show_report(console: Console, report: Report) -> None:
    """Show an incident and the table, which is last, and so on the screen when all is over.

    Args:
        console: Where.
        report: What came of the chains.
    """
    chain, incident = _incident(report.comparisons)
    if incident is not None:
        console.rule(f"what the breaker told of {chain}", style="dim")
        console.print(tree(incident), width=min(console.width, WIDEST_TREE))
    console.rule(style="dim")
    console.print(report.as_table(console.width))
    console.print()
    console.print(Text(report.caption))
    for note in report.notes:
        console.print(Text(note, style="dim"))


def _incident(comparisons: Sequence[Comparison]) -> tuple[str, Incident | None]:
    """Choose the incident to explain: the plainest chain's, else the longest of the first."""
    for comparison in sorted(comparisons, key=lambda one: one.chain != TREE_CHAIN):
        if comparison.guarded.incidents:
            longest = max(comparison.guarded.incidents, key=lambda one: len(one.chain))
            return comparison.chain, longest
    return "", None
