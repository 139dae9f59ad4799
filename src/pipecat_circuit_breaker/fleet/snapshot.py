#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What this process knows of its fleet, read without waiting for anybody."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipecat_circuit_breaker.fleet.record import (
    MAX_OUTAGES,
    TOMBSTONE_SECS,
    ModeSet,
    Outage,
)
from pipecat_circuit_breaker.fleet.store import Knowledge

#: Seconds after the last contact with the store for which what it said is believed.
FRESH_SECS = 8.0

#: Which records go first where there are too many.
_LEAST_FIRST = {"closed": 0, "suspected": 1, "open": 2}


@dataclass(frozen=True, slots=True)
class Change:
    """What has become of an outage, as seen from here.

    Parameters:
        kind: ``changed`` is an open one of which a probe has begun, failed or got lost.
        outage: Its record.
    """

    kind: Literal["opened", "changed", "closed"]
    outage: Outage


@dataclass(frozen=True, slots=True)
class _Known:
    outage: Outage
    # The step in which it was heard of last.
    step: int
    # Until when one that is over is believed, on the clock of the process.
    until: float


class Snapshot:
    """The fleet's outages as they were last heard of: at most 256.

    The store's clock is told by how far it was from the process's own when it
    was read last; it is never ahead of the store's own by that.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Initialize a snapshot of which nothing is known.

        Args:
            clock: Monotonic seconds.
        """
        self._clock = clock
        self._records: dict[str, _Known] = {}
        self._open: dict[str, Outage] = {}
        self._mode = ModeSet()
        self._mode_step = 0
        self._step = 0
        self._ahead: float | None = None
        self._contact: float | None = None

    @property
    def mode(self) -> ModeSet:
        """What somebody wants the bots to do."""
        return self._mode

    @property
    def outages(self) -> tuple[Outage, ...]:
        """Those that go on, the oldest first."""
        return tuple(sorted(self._open.values(), key=_age))

    @property
    def is_any_open(self) -> bool:
        """Whether any outage goes on."""
        return bool(self._open)

    @property
    def is_calm(self) -> bool:
        """Whether nothing is open or suspected."""
        return all(known.outage.state == "closed" for known in self._records.values())

    @property
    def is_fresh(self) -> bool:
        """Whether the last contact is so young that what is known may be used."""
        return self._contact is not None and self._clock() - self._contact < FRESH_SECS

    @property
    def contact_at(self) -> float:
        """When the store was heard of last, on the clock of the process."""
        return -math.inf if self._contact is None else self._contact

    @property
    def now(self) -> float | None:
        """The store's clock, in seconds; None where it was never read."""
        return None if self._ahead is None else self._clock() + self._ahead

    def get(self, key: str) -> Outage | None:
        """The record of one outage, whatever its state."""
        known = self._records.get(key)
        return None if known is None else known.outage

    def open_at(self, key: str) -> Outage | None:
        """The record of one outage, if it goes on."""
        return self._open.get(key)

    def open_of(self, service: str) -> list[Outage]:
        """The outages of one service that go on, the oldest first.

        Args:
            service: See :func:`~pipecat_circuit_breaker.fleet.sharing.service_name`.
        """
        begins = f"{service}: "
        return sorted((o for o in self._open.values() if o.key.startswith(begins)), key=_age)

    def over_of(self, service: str) -> list[Outage]:
        """The outages of one service that were over within a minute."""
        return [
            known.outage
            for key, known in self._records.items()
            if known.outage.is_over and key.startswith(f"{service}: ")
        ]

    def is_due(self, outage: Outage) -> bool:
        """Whether it is time to see whether an outage is over, and nobody does so now."""
        now = self.now
        if now is None or outage.probe_at is None or not outage.is_open or outage.is_by_hand:
            return False
        is_leased = outage.lease is not None and outage.lease.expires_at > now
        return now >= outage.probe_at and not is_leased

    def touch(self) -> None:
        """Note that the store has answered."""
        self._contact = self._clock()

    def mark(self) -> int:
        """A mark to set before the store is read: see :meth:`apply`."""
        return self._step

    def apply(
        self, news: Knowledge | Outage | ModeSet, *, since: int | None = None
    ) -> list[Change]:
        """Take in what the store says.

        Args:
            news: All that it knows, or one record.
            since: Where that is all it knows: the mark that was set before it was
                asked. What was heard after that is newer than the answer.

        Returns:
            What that changes, in order.
        """
        self._step += 1
        self.touch()
        match news:
            case Knowledge():
                return self._apply_all(news, self._step - 1 if since is None else since)
            case ModeSet():
                if news.at >= self._mode.at:
                    self._mode, self._mode_step = news, self._step
                return []
            case Outage():
                return self._apply_one(news)

    def _apply_all(self, knowledge: Knowledge, since: int) -> list[Change]:
        if not math.isfinite(knowledge.now):
            return []
        self._ahead = knowledge.now - self._clock()
        if self._mode_step <= since:
            self._mode = knowledge.mode
        changes: list[Change] = []
        told = {outage.key for outage in knowledge.outages}
        for key, known in [*self._records.items()]:
            if key not in told and known.step <= since and not self._is_tombstone(known):
                changes += self._forget(key)
        for outage in knowledge.outages:
            before = self._records.get(outage.key)
            if before is not None and before.step <= since and not before.outage.is_over:
                # The store is right, also where it has lost what it said before.
                changes += self._keep(outage)
            else:
                changes += self._apply_one(outage)
        return changes

    def _apply_one(self, outage: Outage) -> list[Change]:
        known = self._records.get(outage.key)
        if known is not None and not self._has_lapsed(known) and _is_older(outage, known.outage):
            return []
        return self._keep(outage)

    def _keep(self, outage: Outage) -> list[Change]:
        before = self._open.get(outage.key)
        if outage.key not in self._records and not self._make_room(outage):
            return []
        self._records[outage.key] = _Known(outage, self._step, self._until(outage))
        if not outage.is_open:
            self._open.pop(outage.key, None)
            if before is None:
                return []
            return [Change("closed", outage if outage.is_over else self._forgotten(before))]
        self._open[outage.key] = outage
        if before is None:
            return [Change("opened", outage)]
        if before.opened_at != outage.opened_at:
            return [Change("closed", self._forgotten(before)), Change("opened", outage)]
        return [Change("changed", outage)] if _is_news(before, outage) else []

    def _make_room(self, outage: Outage) -> bool:
        if len(self._records) < MAX_OUTAGES:
            return True
        least = min(self._records.values(), key=lambda known: _rank(known.outage)).outage
        if _LEAST_FIRST[least.state] >= _LEAST_FIRST[outage.state] and least.state != "closed":
            return False
        del self._records[least.key]
        return True

    def _forget(self, key: str) -> list[Change]:
        del self._records[key]
        outage = self._open.pop(key, None)
        return [] if outage is None else [Change("closed", self._forgotten(outage))]

    def _forgotten(self, outage: Outage) -> Outage:
        update = {"state": "closed", "ending": "forgotten", "closed_at": self.now, "lease": None}
        # Nobody of the fleet was the one that has closed it.
        return outage.model_copy(update={**update, "changed_by": ""})

    def _is_tombstone(self, known: _Known) -> bool:
        outage = known.outage
        if outage.closed_at is None or not outage.is_over or self.now is None:
            return False
        return outage.closed_at <= self.now and not self._has_lapsed(known)

    def _has_lapsed(self, known: _Known) -> bool:
        """Whether this is the tombstone of an outage that is over for long.

        By the own clock: that of another store, after a failover, may be behind by any
        time, and then all that it knows seems to be older than this.
        """
        return known.outage.is_over and self._clock() >= known.until

    def _until(self, outage: Outage) -> float:
        known = self._records.get(outage.key)
        if known is not None and known.outage.is_over and outage.is_over:
            if known.outage.generation == outage.generation:
                return known.until
        age = 0.0
        if self.now is not None and outage.closed_at is not None:
            age = max(0.0, self.now - outage.closed_at)
        return self._clock() + TOMBSTONE_SECS - age


def _age(outage: Outage) -> tuple[float, str]:
    return outage.opened_at or 0.0, outage.key


def _rank(outage: Outage) -> tuple[int, float]:
    return _LEAST_FIRST[outage.state], outage.seen_at


def _is_older(outage: Outage, known: Outage) -> bool:
    """Whether a record says less than the one that is known."""
    began = outage.seen_at if outage.opened_at is None else outage.opened_at
    ended = max(known.seen_at, known.closed_at or known.seen_at)
    if outage.generation != known.generation:
        # A server that has lost all counts from the start again.
        return outage.generation < known.generation and began <= ended
    if known.is_over and not outage.is_over:
        return outage.is_open or began <= ended
    return outage.seen_at < known.seen_at


def _is_news(before: Outage, after: Outage) -> bool:
    fields = ("generation", "lease", "probe_at", "lost_probes", "is_by_hand")
    return any(getattr(before, field) != getattr(after, field) for field in fields)
