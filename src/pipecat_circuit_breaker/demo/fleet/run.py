#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Runs the bots twice, without a fleet and with it, and lets their provider die both times."""

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipecat_circuit_breaker.demo.failover.faults import NONE, Fault
from pipecat_circuit_breaker.demo.failover.provider import Provider
from pipecat_circuit_breaker.demo.fleet.board import Board
from pipecat_circuit_breaker.demo.fleet.events import Event
from pipecat_circuit_breaker.demo.fleet.pod import Plan
from pipecat_circuit_breaker.demo.fleet.report import Report
from pipecat_circuit_breaker.demo.fleet.server import FleetDemoError, find_server, running_server
from pipecat_circuit_breaker.demo.fleet.timeline import timelines
from pipecat_circuit_breaker.demo.fleet.trial import Request, Trial

#: Seconds of a run before the provider dies, and those that bots may take to find out that it is
#: back, beside those for which it was dead.
HEALTHY_SECS = 2.0
LONGEST_RETURN_SECS = 12.0

#: How long the pipelines and processes may take.
_START_SECS = 90.0
_END_SECS = 20.0

#: A first word comes after a tenth of a second.
_SPEED = 3.0


class _Dying:
    """The provider that dies: two servers, so that one can tell who asks."""

    def __init__(self) -> None:
        self.is_dead = False
        self.note: Callable[[Request], None] = lambda request: None
        self.servers = [
            Provider("primary", self._fault(has_failover), _SPEED) for has_failover in (False, True)
        ]

    def _fault(self, has_failover: bool) -> Fault:
        def status(turn: int, secs: float) -> int:
            self.note(Request(time.monotonic(), has_failover, self.is_dead))
            return 503 if self.is_dead else 200

        return Fault("dying", "dies and comes back", status)


class _Process:
    """One process of bots, as seen from outside."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._said: dict[str, asyncio.Event] = {}
        self.note: Callable[[Event], None] = lambda event: None

    async def read(self) -> None:
        """Take in what it tells; raises where it ends."""
        assert self._process.stdout is not None
        complaint = asyncio.create_task(self._last_complaint())
        try:
            async for line in self._process.stdout:
                if not line.startswith(b"{"):
                    continue  # libraries print too
                values = json.loads(line)
                if "is" in values:
                    self._said.setdefault(values["is"], asyncio.Event()).set()
                else:
                    self.note(Event.from_json(values))
            raise FleetDemoError(f"a process of bots has ended: {await complaint}")
        finally:
            complaint.cancel()

    async def _last_complaint(self) -> str:
        assert self._process.stderr is not None
        last = b"it has said nothing"
        async for line in self._process.stderr:
            last = line.strip() or last
        return last.decode(errors="replace")

    async def wait_for(self, what: str, secs: float) -> None:
        """Wait until it says so."""
        said = self._said.setdefault(what, asyncio.Event())
        try:
            await asyncio.wait_for(said.wait(), secs)
        except TimeoutError:
            raise FleetDemoError(f"bots were not {what} within {secs:g} s") from None
        said.clear()

    async def order(self, **order: object) -> None:
        """Tell it what to do."""
        assert self._process.stdin is not None
        self._process.stdin.write((json.dumps(order) + "\n").encode())
        await self._process.stdin.drain()


async def compare(console: Console, *, processes: int, bots: int, seconds: float) -> Report:
    """Let the provider of all bots die twice.

    Args:
        console: Where to show it meanwhile.
        processes: How many processes of bots, 3 or more: so many have to see an outage.
        bots: How many in each.
        seconds: For how long the provider is dead.

    Returns:
        What came of it.

    Raises:
        FleetDemoError: The server or the bots did not start, or one of their processes has ended.
    """
    program, server = find_server()
    report = Report(processes, bots, seconds, None if program is None else server)
    console.print(Text(report.title, style="bold"))
    if program is None:
        console.print(Text(f"{server}, so: {report.where}", style="yellow"))
    else:
        console.print(Text(report.where))
    pods = tuple(f"pod-{n + 1}" for n in range(processes))
    board = Board(pods, bots)
    try:
        async with AsyncExitStack() as stack:
            url = None
            if program is not None:
                url = await stack.enter_async_context(running_server(program))
            dying, backup = _Dying(), Provider("backup", NONE, _SPEED)
            urls = []
            for provider in (*dying.servers, backup):
                urls.append(await provider.start())
                stack.push_async_callback(provider.stop)
            # In memory, what one knows is known within one process alone.
            shares = (
                [range(processes)] if url is None else [range(n, n + 1) for n in range(processes)]
            )
            plans = [
                Plan(tuple(pods[n] for n in share), tuple(share), processes, bots, url, *urls)
                for share in shares
            ]
            stack.enter_context(Live(board, console=console, transient=True))
            children = await stack.enter_async_context(_processes(plans))
            for is_fleet in (False, True):
                report.trials.append(Trial(is_fleet, processes * bots))
                board.follow(report.trials)
                await _play(report.trials[-1], dying, children, seconds)
    except ExceptionGroup as errors:
        first = errors.exceptions[0]
        raise first if isinstance(first, FleetDemoError) else errors from None
    return report


def show_report(console: Console, report: Report) -> None:
    """Show both runs over time, and then the table.

    Args:
        console: Where.
        report: What came of them.
    """
    console.print(timelines(report.trials))
    console.print(report.as_table())
    console.print(Text(report.caption, style="dim"))


async def _play(
    trial: Trial,
    dying: _Dying,
    children: list[_Process],
    seconds: float,
) -> None:
    dying.note = trial.requests.append
    for child in children:
        child.note = trial.note
        await child.order(do="play", is_fleet=trial.is_fleet)
    for child in children:
        await child.wait_for("up", _START_SECS)
    trial.began_at = time.monotonic()
    await asyncio.sleep(HEALTHY_SECS)
    dying.is_dead, trial.died_at = True, time.monotonic()
    for child in children:
        # The last ones have time to ask a question of their own.
        await child.order(do="change callers", secs=0.8 * seconds)
    await asyncio.sleep(seconds)
    dying.is_dead, trial.back_at = False, time.monotonic()
    # Waits grow with the outage.
    give_up_at = trial.back_at + LONGEST_RETURN_SECS + seconds
    while trial.is_any_open and time.monotonic() < give_up_at:
        await asyncio.sleep(0.05)
    await asyncio.sleep(1.0)
    trial.ended_at = time.monotonic()
    for child in children:
        await child.order(do="end")
    for child in children:
        await child.wait_for("over", _END_SECS)


@asynccontextmanager
async def _processes(plans: list[Plan]) -> AsyncIterator[list[_Process]]:
    """Have a process for each plan; all are gone in the end, whatever happens."""
    started: list[asyncio.subprocess.Process] = []
    try:
        async with asyncio.TaskGroup() as group:
            for plan in plans:
                process = await asyncio.create_subprocess_exec(
                    *plan.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    # Ctrl-C is for the demo, which stops them.
                    start_new_session=True,
                )
                started.append(process)
            children = [_Process(process) for process in started]
            readers = [group.create_task(child.read()) for child in children]
            for child in children:
                await child.wait_for("ready", _START_SECS)
            yield children
            for reader in readers:
                reader.cancel()
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
        for process in started:
            await process.wait()
