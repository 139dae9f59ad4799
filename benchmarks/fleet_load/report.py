#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The table of all runs, what follows for more bots, and the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.fleet_load.trial import ONSET_SECS, RECOVERY_SECS, Outcome
from benchmarks.folders import Folders
from benchmarks.machine import Machine

COMMAND = "python -m benchmarks fleet-load"

#: What the paper is for.
PAPER_BOTS = 100_000

#: What a network of 1 Gbit/s carries in a second, in MB.
GIGABIT_MB = 125.0

#: Connections that a Redis server accepts unless it is told otherwise.
DEFAULT_MAX_CLIENTS = 10_000

#: Commands a second of a process that are allowed in the mean, and in the worst second.
MOST_IDLE, MOST_IN_OUTAGE, MOST_IN_A_SECOND = 1.0, 3.0, 10.0

ASSUMPTIONS = (
    "Processes have as many bots each as in the run that a column is taken from, and the bots as"
    " much to do. Commands, CPU of the server, connections and what it sends are so many times"
    " those of that run as there are times the processes: each asks for itself, and each hears"
    " all news, of which there are as many however many report.",
    "All bots use the one provider that dies, and every process hears of its death by a failure"
    " of its own. A second one at the same time adds the onset again, and few commands.",
    "Probes do not grow: one process at a time has the lease. Who asks for it does, with the"
    " processes that fail before they have heard that another one has it.",
    "Memory is that of the server without clients, and the most that a connection took.",
    "The server has a core, which is as fast as that of this machine.",
)

#: Outages that may be written down: see what the method says of the second.
MOST_OUTAGES = 2

METHOD = """\
A bot is the breaker's core with its view of a fleet, no pipeline. It makes a request each 10 s, give
or take a fifth. While the provider is dead the request fails, and so does, 0.1 s later, what the bot
says of it, and so on until an error is held: the chain that a breaker ends. All bots use the one
provider. A *process* is one `Fleet` with its own name of an instance, task and connections. Up to
200 of them are processes of the operating system; beyond that several share one, which asks the
server for the same. The server is a real one, on the same cores as the bots and over TCP; what it
did is from its `INFO`, ten times a second. Commands are those that clients send; each runs a script
that calls about ten more. *Worst* is the worst second. `min_instances` is 3 (1 with one process).
A request that was about to fail when the provider came back fails after the outage's end: where many
processes share two cores, it may be held up for a fifth of a second. Three of them open it anew, for
a second; that is the second outage of a run that has one."""


def problems(outcome: Outcome) -> list[str]:
    """What must not be, in words; empty where everything is as it has to be."""
    processes = outcome.plan.processes
    found = {
        f"{len(outcome.openings)} outages, and there was one": (
            not 1 <= len(outcome.openings) <= MOST_OUTAGES
        ),
        f"{processes - outcome.knew} processes have not heard of it": outcome.knew != processes,
        f"{outcome.overlaps} probes at the same time": outcome.overlaps > 0,
        f"{outcome.lost_probes} probes got lost": outcome.lost_probes > 0,
        f"{outcome.still_open} circuits stay open": outcome.still_open > 0,
        f"{outcome.probes} probes for {outcome.openings} openings": (
            outcome.probes != sum(outcome.openings)
        ),
        f"{outcome.idle.requests / processes:.1f} commands a second of an idle process": (
            outcome.idle.requests > MOST_IDLE * processes
        ),
        f"{outcome.outage.requests / processes:.1f} commands a second of one in the outage": (
            outcome.outage.requests > MOST_IN_OUTAGE * processes
        ),
        f"{_worst(outcome) / processes:.1f} commands of a process in the worst second": (
            _worst(outcome) > MOST_IN_A_SECOND * processes
        ),
    }
    return [what for what, is_so in found.items() if is_so]


def _worst(outcome: Outcome) -> float:
    return max(p.peak for p in (outcome.onset, outcome.outage, outcome.recovery))


def rows(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, ...]]:
    """What was measured: its name, and a value for each run."""

    def row(what: str, *values: str) -> tuple[str, ...]:
        return (what, *values)

    yield row("bots", *(f"{o.plan.bots:,}" for o in outcomes))
    yield row("processes", *(f"{o.plan.processes:,}" for o in outcomes))
    yield row("of the operating system", *(f"{o.plan.hosts:,}" for o in outcomes))
    yield row("sockets", *(f"{o.outage.sockets:,}" for o in outcomes))
    yield row("commands/s, idle", *(f"{o.idle.requests:,.0f}" for o in outcomes))
    yield row(
        f"commands/s, first {ONSET_SECS:.0f} s of the outage (worst)",
        *(f"{o.onset.requests:,.0f} ({o.onset.peak:,.0f})" for o in outcomes),
    )
    yield row(
        "commands/s, in the outage (worst)",
        *(f"{o.outage.requests:,.0f} ({o.outage.peak:,.0f})" for o in outcomes),
    )
    yield row(
        f"commands/s, {RECOVERY_SECS:.0f} s after its end (worst)",
        *(f"{o.recovery.requests:,.0f} ({o.recovery.peak:,.0f})" for o in outcomes),
    )
    yield row("new connections/s, idle", *(f"{o.idle.connections:,.1f}" for o in outcomes))
    yield row(
        "CPU of the server: idle, in the outage (worst)",
        *(
            f"{o.idle.cpu:.1%}, {o.outage.cpu:.1%} ({max(o.onset.cpu_peak, o.outage.cpu_peak):.0%})"
            for o in outcomes
        ),
    )
    yield row(
        "kB/s that it sends: idle, in the outage (worst)",
        *(
            f"{o.idle.sent_bytes / 1e3:,.1f}, {o.outage.sent_bytes / 1e3:,.0f}"
            f" ({max(o.onset.sent_bytes_peak, o.outage.sent_bytes_peak) / 1e3:,.0f})"
            for o in outcomes
        ),
    )
    yield row(
        "memory of the server, MB: idle, at most",
        *(
            f"{o.idle.memory_bytes / 1e6:.1f}, {max(o.onset.memory_bytes, o.outage.memory_bytes) / 1e6:.1f}"
            for o in outcomes
        ),
    )
    yield row(
        "provider dead until the outage is open, s", *(f"{o.opened_secs:.2f}" for o in outcomes)
    )
    yield row("until all processes know, ms: p50, p99", *map(_known, outcomes))
    yield row("bots open at their first failure", *(f"{o.at_first:.1%}" for o in outcomes))
    yield row("errors that a bot lets through", *(f"{o.heard:.2f}" for o in outcomes))
    yield row("outages written down", *(f"{len(o.openings)}" for o in outcomes))
    yield row(
        "probes: leases granted, of so many asked for",
        *(f"{o.probes:,} of {o.asked.get('lease', 0):,}" for o in outcomes),
    )
    yield row(
        "provider back until a probe has found out, s", *(f"{o.closed_secs:.1f}" for o in outcomes)
    )
    yield row("until all circuits are closed, ms: p50, p99", *map(_closed, outcomes))


def _known(outcome: Outcome) -> str:
    return f"{outcome.known_ms[50]:,.0f}, {outcome.known_ms[99]:,.0f}"


def _closed(outcome: Outcome) -> str:
    return f"{outcome.closed_ms[50]:,.0f}, {outcome.closed_ms[99]:,.0f}"


@dataclass(frozen=True)
class Paper:
    """What a server would have to do for more bots than were measured.

    Parameters:
        bots: Bots in all.
        processes: Processes of the fleet.
        sockets: Connections.
        idle: Commands a second while nothing fails.
        onset: Commands in the worst second of an outage.
        outage: Commands a second as it goes on.
        cpu_idle: CPU of the server while nothing fails, in cores.
        cpu_worst: In the worst second.
        cpu_outage: As it goes on.
        sent_mb: What the server sends in a second of the outage, in MB.
        sent_mb_worst: In the worst second.
        memory_mb: Its memory, in MB.
    """

    bots: int
    processes: int
    sockets: int
    idle: float
    onset: float
    outage: float
    cpu_idle: float
    cpu_worst: float
    cpu_outage: float
    sent_mb: float
    sent_mb_worst: float
    memory_mb: float

    @classmethod
    def of(cls, outcome: Outcome, bots: int = PAPER_BOTS) -> Paper:
        """Work it out from a run, see :data:`ASSUMPTIONS`."""
        times = bots / outcome.plan.bots
        phases = (outcome.onset, outcome.outage, outcome.recovery)
        used = max(p.memory_bytes for p in (outcome.idle, *phases)) - outcome.before
        return cls(
            bots=bots,
            processes=round(outcome.plan.processes * times),
            sockets=round(outcome.outage.sockets * times),
            idle=outcome.idle.requests * times,
            onset=_worst(outcome) * times,
            outage=outcome.outage.requests * times,
            cpu_idle=outcome.idle.cpu * times,
            cpu_worst=max(p.cpu_peak for p in phases) * times,
            cpu_outage=outcome.outage.cpu * times,
            sent_mb=outcome.outage.sent_bytes * times / 1e6,
            sent_mb_worst=max(p.sent_bytes_peak for p in phases) * times / 1e6,
            memory_mb=(outcome.before + used * times) / 1e6,
        )

    @property
    def verdict(self) -> str:
        """Whether a server can bear it."""
        if self.cpu_outage >= 1:
            return f"no: {self.cpu_outage:.1f} cores in the outage; split it by `name`"
        needs = []
        if self.sent_mb > GIGABIT_MB:
            needs.append(f"{self.sent_mb / GIGABIT_MB:.1f} Gbit/s of network")
        if self.sockets > DEFAULT_MAX_CLIENTS:
            needs.append(f"`maxclients` above {self.sockets:,}")
        if self.cpu_worst >= 1:
            needs.append(f"{self.cpu_worst:.1f} s for the worst second")
        return f"with {', '.join(needs)}" if needs else "yes, as it is installed"


def paper_rows(papers: Sequence[Paper]) -> Iterator[tuple[str, ...]]:
    """What follows for more bots: its name, and a value for each deployment."""
    yield ("bots in a process", *(f"{p.bots / p.processes:,.0f}" for p in papers))
    yield ("processes", *(f"{p.processes:,}" for p in papers))
    yield (
        f"sockets (`maxclients` is {DEFAULT_MAX_CLIENTS:,} by default)",
        *(f"{p.sockets:,}" for p in papers),
    )
    yield ("commands/s, idle", *(f"{p.idle:,.0f}" for p in papers))
    yield ("commands in the worst second", *(f"{p.onset:,.0f}" for p in papers))
    yield ("commands/s, in the outage", *(f"{p.outage:,.0f}" for p in papers))
    yield (
        "cores of the server: idle, worst second, outage",
        *(f"{p.cpu_idle:.2f}, {p.cpu_worst:.2f}, {p.cpu_outage:.2f}" for p in papers),
    )
    yield (
        "MB/s that it sends in the outage (worst)",
        *(f"{p.sent_mb:,.1f} ({p.sent_mb_worst:,.1f})" for p in papers),
    )
    yield ("memory of the server, MB", *(f"{p.memory_mb:,.0f}" for p in papers))
    yield ("one server bears it", *(p.verdict for p in papers))


def papers(outcomes: Sequence[Outcome]) -> list[Paper]:
    """What follows for more bots, of every run that has more than one process."""
    return [Paper.of(outcome) for outcome in outcomes if outcome.plan.processes > 1]


def show(console: Console, machine: Machine, outcomes: Sequence[Outcome]) -> None:
    """Print the tables, and what must not be."""
    table = Table(title=f"A fleet's load: {where(machine)}", box=box.SIMPLE, show_header=False)
    for cells in rows(outcomes):
        table.add_row(*cells)
    console.print(table)
    table = Table(title=f"{PAPER_BOTS:,} bots, on paper", box=box.SIMPLE, show_header=False)
    for cells in paper_rows(papers(outcomes)):
        table.add_row(*cells)
    console.print(table)
    for assumption in ASSUMPTIONS:
        console.print(f"- {assumption}")
    for outcome in outcomes:
        for problem in problems(outcome):
            console.print(f"[bold red]{outcome.plan.processes} processes: {problem}[/]")


def write(folders: Folders, machine: Machine, outcomes: Sequence[Outcome]) -> Path:
    """Write the page, and the figures as JSON; returns the page's path."""
    figures = {
        "machine": asdict(machine),
        "runs": [outcome.as_data() for outcome in outcomes],
        "paper": [asdict(paper) for paper in papers(outcomes)],
    }
    link = folders.keep("fleet-load.json", figures)
    page = folders.pages / "fleet-load.md"
    page.write_text("\n".join(_page(link, machine, outcomes)) + "\n")
    return page


def where(machine: Machine) -> str:
    """The machine, in a line."""
    return (
        f"{machine.cpu}, {machine.cores} cores, {machine.python}, {machine.date},"
        f" load {machine.load} at the start"
    )


def _page(link: str, machine: Machine, outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield "# What a fleet asks of its server"
    yield ""
    yield f"Measured, not written by hand: this page and [the figures as JSON]({link}) are made by"
    yield "one command, in a checkout, on a machine that has a `redis-server`:"
    yield ""
    yield f"```sh\n{COMMAND}\n```"
    yield ""
    yield f"**Where:** {where(machine)}."
    yield ""
    yield from _markdown(rows(outcomes))
    yield ""
    yield METHOD
    yield ""
    yield "Times are those of a machine on which two cores run the server and all bots: of thousands of"
    yield "processes most wait for a turn of theirs, not for the server."
    yield ""
    yield f"## {PAPER_BOTS:,} bots, on paper"
    yield ""
    yield "Worked out from the runs above by the same command, and not measured."
    yield ""
    yield from _markdown(paper_rows(papers(outcomes)))
    yield ""
    yield "Assumed:"
    yield ""
    for assumption in ASSUMPTIONS:
        yield f"- {assumption}"


def _markdown(table: Iterator[tuple[str, ...]]) -> Iterator[str]:
    for n, cells in enumerate(table):
        yield "| " + " | ".join(cells) + " |"
        if n == 0:
            yield "| --- |" + " --: |" * (len(cells) - 1)
