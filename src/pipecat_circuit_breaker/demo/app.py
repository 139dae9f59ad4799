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

#: For how long a chain runs, and a provider of all bots is dead.
CHAIN_SECS = 3.0
DEAD_SECS = 8.0

#: What is an option of the chains, of the failover and of the fleet.
OPTIONS = {
    "the chains": ("chains", "position", "mode_name", "seconds"),
    "--failover": ("faults", "turns", "speed"),
    "--fleet": ("processes", "bots", "seconds"),
}
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
    help=f"How long each chain runs before the pipeline is ended [default: {CHAIN_SECS:g}], or with"
    f" --fleet, how long the provider is dead [default: {DEAD_SECS:g}].",
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
@click.option(
    "--fleet",
    is_flag=True,
    help="Let the provider of many bots in several processes die and come back, instead of the"
    " chains: each bot alone, and then with a fleet.",
)
@click.option(
    "--processes",
    type=click.IntRange(3, 32),
    default=6,
    show_default=True,
    help="How many processes of bots.",
)
@click.option(
    "--bots",
    type=click.IntRange(1, 20),
    default=5,
    show_default=True,
    help="How many bots in each process; every second one has failover.",
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
    seconds: float | None,
    failover: bool,
    faults: Sequence[str],
    turns: int,
    speed: float,
    fleet: bool,
    processes: int,
    bots: int,
    output: str | None,
) -> None:
    """Run error chains that really happen, without and with the breaker.

    Each runs in a process of its own, with limits on its time and its memory. With --failover:
    calls in which the first of two providers fails. With --fleet: bots in several processes whose
    provider dies and comes back.
    """
    _refuse_mixture(context, failover=failover, fleet=fleet)
    if seconds is not None and math.isnan(seconds):
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
    if fleet:
        _fleet(console, processes, bots, seconds or DEAD_SECS, output)
        return
    seconds = seconds or CHAIN_SECS
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


def _refuse_mixture(context: click.Context, *, failover: bool, fleet: bool) -> None:
    """Refuse options that would change nothing."""
    if failover and fleet:
        raise click.UsageError("--failover, --fleet: one at a time.")
    chosen = "--failover" if failover else "--fleet" if fleet else "the chains"
    for others, names in OPTIONS.items():
        given = [
            parameter.opts[0]
            for parameter in context.command.params
            if parameter.name in names
            and parameter.name not in OPTIONS[chosen]
            and context.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT
        ]
        if given:
            only = f"only for {others}, not with {chosen}"
            reason = f"only with {others}" if chosen == "the chains" else only
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


def _fleet(console: Console, processes: int, bots: int, seconds: float, output: str | None) -> None:
    # As above.
    from pipecat_circuit_breaker.demo.fleet import run
    from pipecat_circuit_breaker.demo.fleet.server import FleetDemoError

    try:
        report = asyncio.run(run.compare(console, processes=processes, bots=bots, seconds=seconds))
    except FleetDemoError as error:
        raise click.ClickException(str(error)) from error
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
