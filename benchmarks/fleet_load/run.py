#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""``python -m benchmarks fleet-load``: ten thousand bots, a server, an outage."""

from __future__ import annotations

from rich.console import Console

from benchmarks.fleet_load.bots import Plan
from benchmarks.fleet_load.report import problems, show, write
from benchmarks.fleet_load.server import program
from benchmarks.fleet_load.trial import run
from benchmarks.folders import Folders
from benchmarks.machine import Machine

PLANS = (
    Plan(bots=10_000, processes=1, hosts=1),
    Plan(bots=10_000, processes=50, hosts=50),
    Plan(bots=10_000, processes=200, hosts=200),
    Plan(bots=500, processes=500, hosts=20),
    Plan(bots=1_000, processes=1_000, hosts=20),
)

#: Few bots that speak fast.
QUICK = Plan(
    bots=200, processes=5, hosts=5, turn_secs=1.0, start_secs=0.5, idle_secs=2.0, outage_secs=4.5
)


def measure(console: Console, *, quick: bool, folders: Folders | None) -> int:
    """Measure, print the tables, and write the page.

    Args:
        console: Where the tables go.
        quick: Half a minute, with few bots: not to be quoted.
        folders: Where the page and the figures go; None for nowhere.

    Returns:
        The exit code: 0 if everything is as it has to be, 1 if not, 2 without a server.
    """
    if program() is None:
        console.print("there is no redis-server and no valkey-server on this machine")
        return 2
    machine, outcomes = Machine.here(), []
    for plan in (QUICK,) if quick else PLANS:
        with Console(stderr=True).status(f"{plan.bots:,} bots in {plan.processes:,} processes"):
            outcomes.append(run(plan))
    show(console, machine, outcomes)
    if folders is not None:
        console.print(f"written to {write(folders, machine, outcomes)}")
    return int(any(problems(outcome) for outcome in outcomes))
