#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Simulated bots: the breaker's own core and a real fleet, without a pipeline around them.

So ten thousand of them fit on two cores. What they ask of the server, and when, is what real
ones ask: the fleet, its store and the circuits are those that a bot has.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from loguru import logger
from pipecat.services.llm_service import LLMService
from pipecat.services.settings import LLMSettings

from pipecat_circuit_breaker import CircuitBreakerParams
from pipecat_circuit_breaker._core import backoff
from pipecat_circuit_breaker._core.breaker import Breaker
from pipecat_circuit_breaker._core.causality import Causality
from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.fleet import Fleet, FleetParams
from pipecat_circuit_breaker.fleet.redis import RedisStore
from pipecat_circuit_breaker.fleet.store import Answer

#: Seconds from a failed request until what the bot says of it fails too.
CHAIN_SECS = 0.1

_CONNECT_SECS = 120.0
_LATE_SECS = 0.005

_PARAMS = CircuitBreakerParams()


@dataclass(frozen=True)
class Plan:
    """Who takes part, and how long everything lasts.

    Parameters:
        bots: Bots in all.
        processes: Processes of the fleet: each has its own name, vote, task and connections.
        hosts: Processes of the operating system that these are run in.
        turn_secs: Seconds between two requests of a bot, give or take a fifth.
        start_secs: Seconds over which the processes of a host start, and that pass
            before anything is counted.
        idle_secs: Seconds before the provider dies.
        outage_secs: Seconds for which it is dead.
    """

    bots: int
    processes: int
    hosts: int
    turn_secs: float = 10.0
    start_secs: float = 4.0
    idle_secs: float = 15.0
    outage_secs: float = 20.0

    def params(self, instance: str) -> FleetParams:
        """The fleet's, as seen from one process."""
        return FleetParams(
            name="load",
            instance=instance,
            min_instances=min(3, self.processes),
            share=lambda failure: True,
            label=lambda service: "",
        )


@dataclass
class Told:
    """What the bots of a host came to; added up, that of all.

    Parameters:
        known: For each process, seconds from the opening on the server until it knew.
        closed: For each process, seconds from the closing there until its bots' circuits were closed.
        affected: Bots that the outage has met.
        at_first: Those whose circuit opened at their first failure.
        failures: Requests that failed, chains included.
        heard: Errors that bots let through.
        still_open: Circuits that were open in the end.
        asked: Steps that were asked of the store, by name, and those that did what they are for.
        leases: Token of each lease that was granted, and when, on the server's clock.
        settled: Token of each lease whose outcome was counted, and when.
        latest_secs: How late the event loop was at most.
    """

    known: list[float] = field(default_factory=list)
    closed: list[float] = field(default_factory=list)
    affected: int = 0
    at_first: int = 0
    failures: int = 0
    heard: int = 0
    still_open: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    leases: list[tuple[str, float]] = field(default_factory=list)
    settled: list[tuple[str, float]] = field(default_factory=list)
    latest_secs: float = 0.0

    def add(self, other: Told) -> None:
        """Take in what the bots of another host came to."""
        for name, value in vars(other).items():
            if name == "latest_secs":
                self.latest_secs = max(self.latest_secs, value)
            elif isinstance(value, Counter):
                self.asked.update(value)
            else:
                setattr(self, name, getattr(self, name) + value)


class _Service(LLMService):
    """The service that all bots use."""

    def __init__(self) -> None:
        super().__init__(settings=LLMSettings(model="any"))


class _Store(RedisStore):
    """Counts what is asked, and notes leases."""

    def __init__(self, url: str, told: Told) -> None:
        super().__init__(url, "load")
        self._told = told

    def report(self, *args: Any, **more: Any) -> Coroutine[Any, Any, Answer]:
        # At once: how old it is counts from here.
        return self._counted("report", super().report(*args, **more))

    async def lease(self, key: str, instance: str, token: str, lease_secs: float) -> Answer:
        answer = self._count("lease", await super().lease(key, instance, token, lease_secs))
        if answer.did and answer.outage is not None and answer.outage.lease is not None:
            self._told.leases.append((token, answer.outage.lease.expires_at - lease_secs))
        return answer

    async def settle(self, key: str, token: str, *args: Any, **more: Any) -> Answer:
        answer = self._count("settle", await super().settle(key, token, *args, **more))
        if answer.did:
            self._told.settled.append((token, time.time()))
        return answer

    async def read(self, token: str = "") -> Any:
        self._told.asked["read"] += 1
        return await super().read(token)

    async def _counted(self, step: str, request: Coroutine[Any, Any, Answer]) -> Answer:
        return self._count(step, await request)

    def _count(self, step: str, answer: Answer) -> Answer:
        self._told.asked[step] += 1
        self._told.asked[f"{step}, done"] += answer.did
        return answer


class _Bot:
    """A breaker's core with its view of the fleet."""

    def __init__(self, process: _Process, name: str) -> None:
        self.breaker = Breaker(
            max_errors=_PARAMS.max_errors,
            window_secs=_PARAMS.window_secs,
            probe_timeout_secs=_PARAMS.probe_timeout_secs,
            max_circuits=_PARAMS.max_circuits,
            cooldown=_draw,
            channel_cooldown=_draw,
            gives_up=None,
            clock=time.monotonic,
            mode=_PARAMS.mode,
            grace_secs=_PARAMS.grace_secs,
        )
        self.causality = Causality(window_secs=_PARAMS.window_secs, max_text=_PARAMS.max_text)
        self.process = process
        self.failures = 0
        self.view = process.fleet.join(name, process.look, self._close)
        self.breaker.shared = self.view

    def request(self, works: bool, told: Told) -> bool:
        """Ask the service; whether the bot says something of it that is a request too."""
        if works:
            self.view.service_worked(self.process.service)
            return False
        origin, was_open = self.process.origin, self.breaker.any_open
        self.view.learn(origin, self.process.service, exception=ConnectionError())
        link = self.causality.born(
            self, self.process.service, None, at=time.monotonic(), text="out", origin=origin
        )
        verdict = self.breaker.judge_error(link)
        while self.breaker.has_news:
            self.breaker.take_news()
        told.failures += 1
        told.heard += verdict.passes
        told.affected += self.failures == 0
        self.failures += 1
        if not was_open and self.breaker.any_open:
            told.at_first += self.failures == 1
        return verdict.passes

    def _close(self, origins: frozenset[Origin]) -> None:
        self.breaker.over_in_fleet(origins)
        self.process.note_closed()


def _draw(openings: int) -> float:
    return backoff.draw_cooldown(_PARAMS.cooldown, openings, lambda error: None)


class _Process:
    """A fleet of its own, with its connections, and some bots."""

    def __init__(self, url: str, plan: Plan, number: int, told: Told, service: _Service) -> None:
        self.service = service
        self.origin = Origin.of(service, "ConnectError", where="httpx:connect")
        self.fleet = Fleet(store=_Store(url, told), params=plan.params(f"pod-{number}"))
        self.known_at: float | None = None
        self.opened_at: float | None = None
        self.closed_at: float | None = None
        first, end = (plan.bots * n // plan.processes for n in (number, number + 1))
        self.bots = [_Bot(self, f"bot-{n}") for n in range(first, end)]

    def look(self) -> tuple[()]:
        """Note when it is told that the outage has begun; there is no pipeline to listen to."""
        if self.known_at is None and self.fleet.outages:
            self.known_at = time.time()
            self.opened_at = self.fleet.outages[0].opened_at
        return ()

    def note_closed(self) -> None:
        """Note when a bot's circuit was closed last."""
        self.closed_at = time.time()


async def _requests(
    bots: list[_Bot], plan: Plan, begin: float, end: float, over: asyncio.Event, told: Told
) -> None:
    """Let all bots make their requests."""
    now = time.time()
    due = [(now + random.uniform(0, plan.turn_secs), n) for n in range(len(bots))]
    heapq.heapify(due)
    while not over.is_set():
        at, number = due[0]
        late = time.time() - at
        if late < 0:
            await asyncio.sleep(min(-late, 0.5))
            continue
        told.latest_secs = max(told.latest_secs, late)
        says_so = bots[number].request(not begin <= time.time() < end, told)
        secs = CHAIN_SECS if says_so else plan.turn_secs * random.uniform(0.8, 1.2)
        heapq.heapreplace(due, (max(at, time.time() - _LATE_SECS) + secs, number))
        # The fleets have to have their turn too.
        await asyncio.sleep(0)


def host(url: str, plan: Plan, number: int, pipe: Connection) -> None:
    """Run some of the processes of a plan, in this process of the operating system.

    Says ``True`` once all are connected; is told when the provider dies and when it is back,
    and then that it is over; and answers with what has come of it.

    Args:
        url: The server's.
        plan: Who takes part.
        number: Which of the plan's hosts this is.
        pipe: To who has started it.
    """
    logger.remove()
    pipe.send(asyncio.run(_host(url, plan, number, pipe)))


async def _host(url: str, plan: Plan, number: int, pipe: Connection) -> Told:
    told, service = Told(), _Service()
    first, end = (plan.processes * n // plan.hosts for n in (number, number + 1))
    async with _connected(url, plan, range(first, end), told, service) as processes:
        # Thousands of bots in one process are this benchmark's: looking through them is too.
        gc.collect()
        gc.freeze()
        pipe.send(True)
        begin, back = await _said(pipe)
        bots = [bot for process in processes for bot in process.bots]
        over = asyncio.Event()
        asking = asyncio.create_task(_requests(bots, plan, begin, back, over, told))
        closed_at = await _said(pipe)
        over.set()
        await asking
        told.still_open = sum(bot.breaker.any_open for bot in bots)
        for process in processes:
            if process.known_at is not None and process.opened_at is not None:
                told.known.append(process.known_at - process.opened_at)
            if process.closed_at is not None and closed_at is not None:
                told.closed.append(process.closed_at - closed_at)
        return told


@asynccontextmanager
async def _connected(
    url: str, plan: Plan, numbers: range, told: Told, service: _Service
) -> AsyncIterator[list[_Process]]:
    processes = []
    try:
        for number in numbers:
            await asyncio.sleep(random.uniform(0, 2 * plan.start_secs / len(numbers)))
            processes.append(_Process(url, plan, number, told, service))
        async with asyncio.timeout(_CONNECT_SECS):
            while not all(process.fleet.is_connected for process in processes):
                await asyncio.sleep(0.05)
        yield processes
    finally:
        await asyncio.gather(*(process.fleet.close() for process in processes))


async def _said(pipe: Connection) -> Any:
    """What is said next, without the loop being held up."""
    loop, said = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pipe.fileno(), said.set)
    try:
        await said.wait()
    finally:
        loop.remove_reader(pipe.fileno())
    return pipe.recv()
