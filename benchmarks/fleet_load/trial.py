#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""One run: a server, bots, an outage of their provider, and what the server counted meanwhile."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import redis

from benchmarks.fleet_load.bots import Plan, Told, host
from benchmarks.fleet_load.server import Sample, running_server, sample
from pipecat_circuit_breaker.fleet import Outage
from pipecat_circuit_breaker.fleet.redis import RedisStore

#: Seconds from the outage's beginning, and from its end, that are counted apart.
ONSET_SECS = 3.0
RECOVERY_SECS = 2.0

_SAMPLE_SECS = 0.1

#: Seconds for which the server has nobody but us: that is what being asked costs.
_ALONE_SECS = 1.5

#: Seconds that the bots may take to find out that the provider is back.
_PATIENCE_SECS = 120.0
_HOST_SECS = 180.0

#: Connections beside those of the bots.
_SPARE_CLIENTS = 100


@dataclass(frozen=True)
class Phase:
    """What the server did for a time, each for a second.

    Parameters:
        requests: Commands that clients sent, in the mean.
        peak: Commands that clients sent, in the worst second.
        in_script: Commands that scripts called, in the mean.
        connections: Connections that were made, in the mean.
        cpu: CPU seconds, in the mean, without what asking for all this takes.
        cpu_peak: CPU seconds, in the worst second.
        sent_bytes: What it sent, in the mean.
        sent_bytes_peak: What it sent, in the worst second.
        sockets: Open connections, at most.
        memory_bytes: Memory in use, at most.
    """

    requests: float
    peak: float
    in_script: float
    connections: float
    cpu: float
    cpu_peak: float
    sent_bytes: float
    sent_bytes_peak: float
    sockets: int
    memory_bytes: int

    @classmethod
    def of(cls, samples: Sequence[Sample], begin: float, end: float, own_cpu: float = 0.0) -> Phase:
        """What was done from the one moment to the other."""
        before = [s for s in samples if s.at <= begin][-1:] or samples[:1]
        after = [s for s in samples if s.at >= end][:1] or samples[-1:]
        first, last = before[0], after[0]
        inside = [s for s in samples if first.at <= s.at <= last.at]
        secs = last.at - first.at

        def mean(name: str) -> float:
            return round((getattr(last, name) - getattr(first, name)) / secs, 4)

        def most(name: str) -> float:
            rates = [mean(name)]
            for n, one in enumerate(inside):
                later = next((s for s in inside[n:] if s.at - one.at >= 1.0), None)
                if later is not None:
                    rates.append((getattr(later, name) - getattr(one, name)) / (later.at - one.at))
            return round(max(rates), 4)

        return cls(
            requests=mean("requests"),
            peak=most("requests"),
            in_script=mean("in_script"),
            connections=mean("connections"),
            cpu=max(0.0, mean("cpu_secs") - own_cpu),
            cpu_peak=max(0.0, most("cpu_secs") - own_cpu),
            # Less than nothing where the replies to us have grown longer.
            sent_bytes=max(0.0, mean("sent_bytes")),
            sent_bytes_peak=max(0.0, most("sent_bytes")),
            sockets=max(s.sockets for s in inside),
            memory_bytes=max(s.memory_bytes for s in inside),
        )


@dataclass(frozen=True)
class Outcome:
    """What one run came to.

    Parameters:
        plan: Who took part.
        before: The server's memory before anybody connected, in bytes.
        idle: What it did before the outage.
        onset: In the first seconds of it.
        outage: After these, until the provider was back.
        recovery: From the closing on.
        openings: Outages that the server wrote down, each with its openings: one is right.
        opened_secs: From the provider's death until the fleet's outage began.
        known_ms: From then until a process knew, at each percentile from 0 to 100.
        knew: Processes that have heard of it.
        probes: Leases that were granted.
        lost_probes: Leases that ran out.
        overlaps: Leases that were granted while another one had no outcome yet.
        closed_secs: From the provider's return until the outage was over: the wait for a probe.
        closed_ms: From then until the circuits of a process were closed, at each percentile.
        affected: Bots that the outage has met.
        at_first: Share of them that opened at their first failure.
        heard: Errors that a bot let through, in the mean.
        still_open: Circuits that were open in the end.
        asked: Steps that were asked of the store in all, by name.
        late_ms: How late an event loop of the bots was at most.
    """

    plan: Plan
    before: int
    idle: Phase
    onset: Phase
    outage: Phase
    recovery: Phase
    openings: tuple[int, ...]
    opened_secs: float
    known_ms: tuple[float, ...]
    knew: int
    probes: int
    lost_probes: int
    overlaps: int
    closed_secs: float
    closed_ms: tuple[float, ...]
    affected: int
    at_first: float
    heard: float
    still_open: int
    asked: dict[str, int]
    late_ms: float

    def as_data(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def run(plan: Plan) -> Outcome:
    """Let bots go through an outage.

    Args:
        plan: Who takes part, and how long it lasts.

    Raises:
        RuntimeError: There is no server on this machine, or the bots do not connect.
    """
    with running_server(2 * plan.processes + _SPARE_CLIENTS) as url:
        client = redis.Redis.from_url(url, socket_timeout=30)
        before: list[Sample] = []
        _watch(client, before, until=time.time() + _ALONE_SECS)
        hosts = _Hosts(url, plan)
        try:
            hosts.hear()
            start = time.time() + plan.start_secs
            begin = start + plan.idle_secs
            back = begin + plan.outage_secs
            hosts.tell((begin, back))
            samples: list[Sample] = []
            _watch(client, samples, until=back)
            last = _wait_for_closing(client, url, samples)
            # Everybody gets it within a second, or not at all.
            _watch(client, samples, until=time.time() + RECOVERY_SECS)
            hosts.tell(last.closed_at)
            told = Told()
            for some in hosts.hear():
                told.add(some)
            # It may have begun anew.
            over = asyncio.run(_history(url))
        finally:
            hosts.end()
    assert last.opened_at is not None and last.closed_at is not None
    own_cpu = Phase.of(before, before[0].at, before[-1].at).cpu
    return Outcome(
        plan=plan,
        before=before[-1].memory_bytes,
        idle=Phase.of(samples, start, begin, own_cpu),
        onset=Phase.of(samples, begin, begin + ONSET_SECS, own_cpu),
        outage=Phase.of(samples, begin + ONSET_SECS, back, own_cpu),
        recovery=Phase.of(samples, last.closed_at - 0.5, last.closed_at + RECOVERY_SECS, own_cpu),
        openings=tuple(outage.openings for outage in over),
        opened_secs=round(last.opened_at - begin, 3),
        known_ms=_percentiles(told.known),
        knew=len(told.known),
        probes=len(told.leases),
        lost_probes=last.lost_probes,
        overlaps=_overlaps(told),
        closed_secs=round(last.closed_at - back, 3),
        closed_ms=_percentiles(told.closed),
        affected=told.affected,
        at_first=round(told.at_first / max(told.affected, 1), 4),
        heard=round(told.heard / max(told.affected, 1), 3),
        still_open=told.still_open,
        asked=dict(sorted(told.asked.items())),
        late_ms=round(1000 * told.latest_secs, 1),
    )


class _Hosts:
    """Processes of the operating system with bots in them."""

    def __init__(self, url: str, plan: Plan) -> None:
        # Forked from a process that has imported everything: two hundred start in seconds.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.fleet_load.bots"])
        self._processes = []
        self._pipes: list[Connection] = []
        for number in range(plan.hosts):
            ours, theirs = context.Pipe()
            process = context.Process(target=host, args=(url, plan, number, theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)

    def hear(self) -> list[Any]:
        """What each of them says next."""
        end = time.monotonic() + _HOST_SECS
        heard = []
        for pipe in self._pipes:
            if not pipe.poll(max(0.0, end - time.monotonic())):
                raise RuntimeError("the bots do not answer")
            heard.append(pipe.recv())
        return heard

    def tell(self, what: Any) -> None:
        """Say something to all of them."""
        for pipe in self._pipes:
            pipe.send(what)

    def end(self) -> None:
        """Let go of all of them."""
        for process in self._processes:
            process.join(10.0)
            process.kill()


def _watch(client: Any, samples: list[Sample], *, until: float) -> None:
    while time.time() < until:
        samples.append(sample(client))
        time.sleep(_SAMPLE_SECS)


def _wait_for_closing(client: Any, url: str, samples: list[Sample]) -> Outage:
    end = time.monotonic() + _PATIENCE_SECS
    while time.monotonic() < end:
        over = asyncio.run(_history(url))
        if over:
            return over[-1]
        _watch(client, samples, until=time.time() + 0.3)
    raise RuntimeError("the outage does not end")


async def _history(url: str) -> tuple[Outage, ...]:
    store = RedisStore(url, "load", timeout_secs=5.0)
    try:
        return tuple(reversed((await store.read()).history))
    finally:
        await store.close()


def _percentiles(secs: Sequence[float]) -> tuple[float, ...]:
    if not secs:
        return ()
    return tuple(round(float(q), 2) for q in np.percentile(1000 * np.array(secs), range(101)))


def _overlaps(told: Told) -> int:
    """Leases that were granted before the outcome of the one before was counted."""
    settled_at = dict(told.settled)
    granted = sorted(told.leases, key=lambda lease: lease[1])
    return sum(
        settled_at.get(token, float("inf")) > later
        for (token, _), (_, later) in zip(granted, granted[1:], strict=False)
    )
