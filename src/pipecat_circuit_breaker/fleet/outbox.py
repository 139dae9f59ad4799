#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What this process has to tell its fleet, and when: no I/O, and no more than the store can bear."""

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tenacity.wait import wait_base

from pipecat_circuit_breaker._core import backoff
from pipecat_circuit_breaker.fleet.record import MAX_OUTAGES, Outage
from pipecat_circuit_breaker.fleet.snapshot import Snapshot
from pipecat_circuit_breaker.fleet.store import Report

#: Seconds between two reports of one failure, as long as it is not known to be an outage.
SUSPECTED_SECS = 1.0

#: And while it is: then they only say that it goes on, and whom it concerns.
OPEN_SECS = 5.0

#: Seconds between two requests of this process for one lease.
LEASE_SECS = 1.0

#: Failures that wait to be reported, and bots that one report names.
MAX_PENDING = 256
MAX_BOTS = 100

#: Openings in a row for which waits are drawn; the last one goes on.
_WAITS = 8


@dataclass(frozen=True, slots=True)
class Evidence:
    """What became of a request that was made when the outage's probe was due.

    Parameters:
        key: The outage.
        generation: Its generation then.
        at: When, on the clock of the process.
    """

    key: str
    generation: int
    at: float


@dataclass(frozen=True, slots=True)
class Settlement:
    """The outcome of a probe with a lease.

    Parameters:
        key: The outage.
        token: That of the lease.
        generation: The outage's when it was granted.
        success: Whether the probe was answered.
        until: When the lease runs out, on the clock of the process.
    """

    key: str
    token: str
    generation: int
    success: bool
    until: float


@dataclass(slots=True)
class _Line:
    """What one instance has seen of one failure."""

    failures: int = 0
    votes: bool = False
    bots: dict[str, None] = field(default_factory=dict)
    latest_at: float = -math.inf
    sent_at: float = -math.inf
    jitter: float = 1.0


class Outbox:
    """Failures that are not told yet, coalesced, and outcomes of probes."""

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        token: str,
        vote_secs: float,
        cooldown: wait_base,
        clock: Callable[[], float],
        on_error: Callable[[Exception], None],
    ) -> None:
        """Initialize an outbox with nothing in it.

        Args:
            snapshot: What is known of each outage.
            token: That of the process.
            vote_secs: Age above which nobody wants to hear of a failure, in seconds.
            cooldown: See :class:`~pipecat_circuit_breaker.fleet.FleetParams`.
            clock: Monotonic seconds.
            on_error: Told of an exception while waits are drawn.
        """
        self._snapshot = snapshot
        self._token = token
        self._vote_secs = vote_secs
        self._cooldown = cooldown
        self._clock = clock
        self._on_error = on_error
        self._lines: dict[tuple[str, str], _Line] = {}
        self._evidence: dict[str, Evidence] = {}
        self._asked_at: dict[str, float] = {}
        self._settlements: deque[Settlement] = deque(maxlen=MAX_PENDING)

    def __len__(self) -> int:
        """How many failures, requests and outcomes wait to be told."""
        waiting = sum(line.failures > 0 for line in self._lines.values())
        return waiting + len(self._evidence) + len(self._settlements)

    def fail(self, key: str, instance: str, bot: str, *, votes: bool) -> bool:
        """Note a failure.

        Args:
            key: What has failed.
            instance: The machine or pod.
            bot: Whose request it was.
            votes: See :class:`~pipecat_circuit_breaker.fleet.store.Report`.

        Returns:
            Whether somebody has to look when to send it: not where one like it waits.
        """
        line = self._lines.get((key, instance))
        if line is None:
            if len(self._lines) >= MAX_PENDING and not self._make_room():
                # More than the store would bear: a hundred of one process a second.
                return False
            line = self._lines[key, instance] = _Line()
        is_first = line.failures == 0
        line.failures += 1
        line.votes = line.votes or votes
        line.latest_at = self._clock()
        if len(line.bots) < MAX_BOTS:
            line.bots[bot] = None
        return is_first

    def try_out(self, outage: Outage) -> bool:
        """Note a request that was answered, if that is what everybody waits for.

        Args:
            outage: The outage that it tells something of.

        Returns:
            Whether it is to be told now.
        """
        if outage.key in self._evidence or not self._snapshot.is_due(outage):
            return False
        if self._clock() - self._asked_at.get(outage.key, -math.inf) < LEASE_SECS:
            return False
        self._evidence[outage.key] = Evidence(outage.key, outage.generation, self._clock())
        return True

    def settle(self, settlement: Settlement) -> None:
        """Note the outcome of a probe with a lease."""
        self._settlements.append(settlement)

    def waits(self) -> tuple[float, ...]:
        """Seconds to wait for the first probe, for the second, and so on."""
        return tuple(
            backoff.draw_cooldown(self._cooldown, n, self._on_error) for n in range(1, _WAITS + 1)
        )

    def next(self, *, is_last: bool = False) -> Report | Evidence | Settlement | None:
        """Take out what is to be told now; None where nothing is.

        Args:
            is_last: Whether there is no other time for what waits.
        """
        while self._settlements:
            settlement = self._settlements.popleft()
            if self._clock() < settlement.until:
                return settlement
        while self._evidence:
            _, evidence = self._evidence.popitem()
            outage = self._snapshot.open_at(evidence.key)
            if (
                outage is not None
                and outage.generation == evidence.generation
                and self._clock() - evidence.at <= self._vote_secs
                and self._snapshot.is_due(outage)
            ):
                self._note_asked(evidence.key)
                return evidence
        for (key, instance), line in [*self._lines.items()]:
            if line.failures and self._clock() - line.latest_at > self._vote_secs:
                self._clear(line)
            if line.failures and (is_last or self._due_at(key, line) <= self._clock()):
                return self._report(key, instance, line)
            if not line.failures and self._clock() - line.sent_at > 2 * OPEN_SECS:
                del self._lines[key, instance]
        return None

    def secs_to_next(self) -> float:
        """Seconds until :meth:`next` has something; infinite where nothing waits."""
        if self._settlements or self._evidence:
            return 0.0
        due = [self._due_at(key, line) for (key, _), line in self._lines.items() if line.failures]
        return max(0.0, min(due) - self._clock()) if due else math.inf

    def put_back(self, step: Report | Evidence | Settlement) -> None:
        """Take back what could not be told: it may have been told, and may be told twice."""
        if isinstance(step, Settlement):
            self._settlements.appendleft(step)
            return
        if isinstance(step, Evidence):
            self._evidence.setdefault(step.key, step)
            return
        line = self._lines.get((step.key, step.instance))
        if line is None:
            return
        # How old it is the line knows: it never gets younger.
        line.failures += step.failures
        line.votes = line.votes or step.votes
        line.bots = dict.fromkeys([*line.bots, *step.bots][:MAX_BOTS])
        line.sent_at = -math.inf

    def drop(self) -> None:
        """Forget all that waits, but outcomes of probes: who has taken a lease owes one."""
        self._lines.clear()
        self._evidence.clear()

    def _due_at(self, key: str, line: _Line) -> float:
        is_open = self._snapshot.open_at(key) is not None
        return line.sent_at + line.jitter * (OPEN_SECS if is_open else SUSPECTED_SECS)

    def _report(self, key: str, instance: str, line: _Line) -> Report:
        report = Report(
            key=key,
            instance=instance,
            token=self._token,
            votes=line.votes,
            failures=line.failures,
            bots=tuple(line.bots),
            age_secs=max(0.0, self._clock() - line.latest_at),
            waits=self.waits(),
        )
        self._clear(line)
        line.sent_at = self._clock()
        line.jitter = random.uniform(1.0, 1.5)
        self._lines[key, instance] = self._lines.pop((key, instance))
        return report

    def _clear(self, line: _Line) -> None:
        line.failures, line.votes, line.bots = 0, False, {}

    def _make_room(self) -> bool:
        """Let go of the line that was told longest ago, if it may be told again by now."""
        oldest = next(iter(self._lines))
        line = self._lines[oldest]
        if line.failures or self._due_at(oldest[0], line) > self._clock():
            return False
        del self._lines[oldest]
        return True

    def _note_asked(self, key: str) -> None:
        if len(self._asked_at) >= MAX_OUTAGES:
            del self._asked_at[next(iter(self._asked_at))]
        self._asked_at[key] = self._clock()
