#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What all processes have told of one outage, and what it comes to."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from pipecat_circuit_breaker.demo.fleet.events import Event, What


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the provider that dies.

    Parameters:
        at: When, on the machine's monotonic clock, in seconds.
        has_failover: Whether by a bot that has a second provider.
        is_refused: Whether the provider was dead.
    """

    at: float
    has_failover: bool
    is_refused: bool


@dataclass
class _Call:
    begun_at: float
    has_failover: bool
    openings: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Phase:
    """What has happened while the provider worked, was dead, or worked again.

    Parameters:
        name: Which of the three.
        secs: How long it took.
        requests: Requests to the provider by bots without failover, and by those with it.
        heard: Errors that applications heard.
        unanswered: Questions that were not answered, of bots with failover.
    """

    name: str
    secs: float
    requests: tuple[int, int]
    heard: int
    unanswered: int


@dataclass
class Trial:
    """One run of all bots, in which their provider dies and comes back.

    Parameters:
        is_fleet: Whether they tell each other.
        bots: How many there are at any time.
        events: What was told, in order of its coming.
        requests: Those to the provider that dies.
        began_at: When all bots talked; infinite before, as the others.
        died_at: When the provider died.
        back_at: When it was back.
        ended_at: When no more was counted.
    """

    is_fleet: bool
    bots: int
    events: list[Event] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    began_at: float = math.inf
    died_at: float = math.inf
    back_at: float = math.inf
    ended_at: float = math.inf
    _open: Counter[tuple[str, int]] = field(default_factory=Counter)

    def note(self, event: Event) -> None:
        """Take in what a process has told."""
        if event.at > self.ended_at:
            return  # the pipelines are being ended
        self.events.append(event)
        _follow(self._open, event)

    @property
    def name(self) -> str:
        """What it is called."""
        return "with the fleet" if self.is_fleet else "each bot alone"

    def is_open(self, pod: str, bot: int) -> bool:
        """Whether a circuit of a bot is open now."""
        return self._open[pod, bot] > 0

    @property
    def is_any_open(self) -> bool:
        """Whether a circuit of any bot is open now."""
        return any(self._open.values())

    def openings(self) -> Iterator[tuple[float, int]]:
        """How many bots have an open circuit, from each moment on at which that changes."""
        now: Counter[tuple[str, int]] = Counter()
        for event in sorted(self.events, key=lambda event: event.at):
            _follow(now, event)
            yield event.at, sum(count > 0 for count in now.values())

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What has happened before, in and after the outage."""
        ends = (self.began_at, self.died_at, self.back_at, self.ended_at)
        return tuple(
            self._phase(name, ends[n], ends[n + 1])
            for n, name in enumerate(("before", "outage", "after"))
        )

    @property
    def outage(self) -> Phase:
        """What has happened in the outage."""
        return self.phases[1]

    def failures(self, *, since: float = -math.inf) -> list[int]:
        """At which failure the circuit of each call without failover has opened first.

        Args:
            since: Only of calls begun after that.
        """
        return [
            call.openings[0]
            for call in self._calls(False)
            if call.openings and call.begun_at >= since
        ]

    @property
    def new_calls(self) -> tuple[int, int]:
        """Calls with failover begun in the outage: those that asked the dead provider, and all."""
        new = [call for call in self._calls(True) if self.died_at <= call.begun_at < self.back_at]
        return sum(bool(call.openings) for call in new), len(new)

    @property
    def alarms(self) -> int:
        """How often an application would have paged somebody."""
        if self.is_fleet:
            return self._count(What.FLEET_OPENED, first=True)
        return self._count(What.OPENED)

    @property
    def probes(self) -> int:
        """How often somebody looked whether the provider is back."""
        if not self.is_fleet:
            return self._count(What.PROBED)
        probes: dict[str, int] = {}
        for event in self.events:
            if event.key:
                probes[event.key] = max(event.probes, probes.get(event.key, 0))
        return sum(probes.values())

    @property
    def return_secs(self) -> float | None:
        """Seconds from the provider's return until no circuit was open; None where one still was."""
        if self.is_any_open:
            return None
        closed = [event.at for event in self.events if event.what is What.CLOSED]
        return max(0.0, max(closed, default=self.back_at) - self.back_at)

    @property
    def is_alone(self) -> bool:
        """Whether a process could not reach the fleet's store."""
        return self._count(What.ALONE) > 0

    def _count(self, what: What, **more: object) -> int:
        return sum(
            event.what is what and all(getattr(event, key) == more[key] for key in more)
            for event in self.events
        )

    def _phase(self, name: str, begin: float, end: float) -> Phase:
        requests = Counter(r.has_failover for r in self.requests if begin <= r.at < end)
        events = [event for event in self.events if begin <= event.at < end]
        return Phase(
            name,
            round(end - begin, 3),
            (requests[False], requests[True]),
            sum(event.what is What.HEARD for event in events),
            sum(event.what is What.UNANSWERED and event.has_failover for event in events),
        )

    def _calls(self, has_failover: bool) -> list[_Call]:
        calls: dict[tuple[str, int], list[_Call]] = {}
        for event in self.events:
            if event.bot < 0 or event.has_failover is not has_failover:
                continue
            place = calls.setdefault((event.pod, event.bot), [])
            if event.what is What.CALL:
                place.append(_Call(event.at, has_failover))
            elif event.what is What.OPENED and place:
                place[-1].openings.append(event.failures)
        return [*chain.from_iterable(calls.values())]


def _follow(now: Counter[tuple[str, int]], event: Event) -> None:
    """Count the open circuits of each bot."""
    place = event.pod, event.bot
    match event.what:
        case What.OPENED:
            now[place] += 1
        case What.CLOSED:
            now[place] = max(0, now[place] - 1)
        case What.CALL | What.HUNG_UP:
            now[place] = 0
