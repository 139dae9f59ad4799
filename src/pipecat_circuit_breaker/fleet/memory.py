#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A fleet within one process: what its bots find out is kept in memory, without a server."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import ClassVar
from weakref import WeakValueDictionary

from pipecat_circuit_breaker.fleet import rules
from pipecat_circuit_breaker.fleet.news import Unread
from pipecat_circuit_breaker.fleet.record import MAX_OUTAGES, FleetMode, ModeSet, Outage
from pipecat_circuit_breaker.fleet.store import Answer, Knowledge, Report

__all__ = ["MemoryStore"]

# So that its times are dates, as those of a server are, and never go back.
_EPOCH_SECS = time.time() - time.monotonic()

# Names of bots or instances that are told apart for one outage.
_MAX_NAMES = 4_096


def _now() -> float:
    return _EPOCH_SECS + time.monotonic()


@dataclass(slots=True)
class _Kept:
    """One record, and what was counted for it."""

    outage: Outage
    bots: set[str] = field(default_factory=set)
    instances: set[str] = field(default_factory=set)
    told_at: float | None = None


class MemoryStore:
    """Keeps the outages of a fleet within one process, see :class:`~.store.Store`.

    It may be used from several threads, each with a loop of its own.
    """

    _shared: ClassVar["WeakValueDictionary[str, MemoryStore]"] = WeakValueDictionary()

    def __init__(self, *, clock: Callable[[], float] = _now):
        """Begin without any outage.

        Args:
            clock: Seconds since 1970 that never go back.
        """
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self._history: deque[Outage] = deque(maxlen=rules.MAX_HISTORY)
        self._mode = ModeSet()
        self._mode_until = 0.0
        self._subscribers: set[_Subscriber] = set()
        self._lock = threading.Lock()

    @classmethod
    def shared(cls, name: str) -> "MemoryStore":
        """The one of this process for all fleets of a name, as long as any of them keeps it."""
        return cls._shared.setdefault(name, cls())

    async def report(
        self, report: Report, *, min_instances: int, vote_secs: float, hold_secs: float
    ) -> Answer:
        """Take in a report, see :meth:`.store.Store.report`."""
        report = rules.bounded(report)
        with self._lock:
            now = self._clock()
            before = self._find(report.key, now, report.token)
            if not rules.accepts(before, report, now, vote_secs):
                return Answer(before, False)
            if before is None and not self._has_room(now, report.token):
                return Answer(None, False)
            kept = self._kept.get(report.key)
            if kept is None or kept.outage.state == "closed":
                kept = _Kept(Outage(key=report.key, state="suspected", seen_at=now))
            for names, more in ((kept.bots, report.bots), (kept.instances, (report.instance,))):
                names.update(more[: max(0, _MAX_NAMES - len(names))])
            answer = rules.reported(
                before,
                report,
                now,
                min_instances=min_instances,
                vote_secs=vote_secs,
                hold_secs=rules.secs(hold_secs),
                bots=len(kept.bots),
                instance_count=len(kept.instances),
            )
            self._kept[report.key] = kept
            is_news = kept.told_at is None or now - kept.told_at >= rules.NEWS_SECS
            self._keep(answer, now, tell=is_news)
            return answer

    async def lease(self, key: str, instance: str, token: str, lease_secs: float) -> Answer:
        """Ask to be the one that probes, see :meth:`.store.Store.lease`."""
        token = rules.who(token)
        with self._lock:
            now = self._clock()
            return self._keep(
                rules.leased(
                    self._find(rules.key(key), now, token),
                    rules.who(instance),
                    token,
                    rules.secs(lease_secs),
                    now,
                ),
                now,
            )

    async def settle(
        self, key: str, token: str, generation: int, *, success: bool, waits: tuple[float, ...]
    ) -> Answer:
        """Report the outcome of a probe, see :meth:`.store.Store.settle`."""
        token = rules.who(token)
        with self._lock:
            now = self._clock()
            return self._keep(
                rules.settled(
                    self._find(rules.key(key), now, token),
                    token,
                    generation,
                    success=success,
                    waits=rules.waits(waits),
                    now=now,
                ),
                now,
            )

    async def open(self, key: str, who: str, why: str, hold_secs: float) -> Answer:
        """Open by hand, see :meth:`.store.Store.open`."""
        key = rules.key(key)
        with self._lock:
            now = self._clock()
            before = self._find(key, now)
            if before is None and not self._has_room(now):
                return Answer(None, False)
            if before is not None and before.state == "closed":
                del self._kept[key]  # With what was counted for it.
            return self._keep(
                rules.opened_by_hand(
                    before, key, rules.who(who), rules.why(why), rules.secs(hold_secs), now
                ),
                now,
            )

    async def close_outage(self, key: str, who: str, why: str) -> Answer:
        """Close by hand, see :meth:`.store.Store.close_outage`."""
        with self._lock:
            now = self._clock()
            before = self._find(rules.key(key), now)
            return self._keep(
                rules.closed_by_hand(before, rules.who(who), rules.why(why), now), now
            )

    async def set_mode(self, mode: FleetMode, who: str, why: str, hold_secs: float) -> None:
        """Say what the bots do with what the fleet knows, see :meth:`.store.Store.set_mode`."""
        with self._lock:
            now = self._clock()
            self._mode = ModeSet(mode=mode, who=who, why=why, at=now)
            self._mode_until = now + rules.secs(hold_secs)
            self._tell(self._mode)

    async def read(self, token: str = "") -> Knowledge:
        """Read all there is, see :meth:`.store.Store.read`."""
        token = rules.who(token)
        with self._lock:
            now = self._clock()
            if token:
                for key in list(self._kept):
                    self._find(key, now, token)
            found = [kept.outage for kept in self._kept.values()]
            return Knowledge(
                now=now,
                mode=self._mode if now < self._mode_until else ModeSet(),
                outages=tuple(outage for outage in found if outage.expires_at > now),
                history=tuple(self._history),
            )

    @asynccontextmanager
    async def news(self) -> AsyncIterator[AsyncIterator[Outage | ModeSet | None]]:
        """Hear of every change from now on, see :meth:`.store.Store.news`."""
        subscriber = _Subscriber()
        with self._lock:
            self._subscribers.add(subscriber)
        try:
            yield subscriber.unread
        finally:
            with self._lock:
                self._subscribers.discard(subscriber)

    async def close(self) -> None:
        """Nothing has to be let go of."""

    def _find(self, key: str, now: float, token: str = "") -> Outage | None:
        """The record of a key, once what has run out by now is put away."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.outage.is_open and kept.outage.expires_at <= now:
            kept.outage = rules.forgotten(kept.outage, token)
            self._history.appendleft(kept.outage)
            self._tell(kept.outage)
        if kept.outage.expires_at <= now:
            del self._kept[key]
            return None
        return kept.outage

    def _has_room(self, now: float, token: str = "") -> bool:
        if len(self._kept) >= MAX_OUTAGES:
            for key in list(self._kept):
                self._find(key, now, token)
        return len(self._kept) < MAX_OUTAGES

    def _keep(self, answer: Answer, now: float, *, tell: bool = False) -> Answer:
        """Keep the record after a step; whatever a step is for is news."""
        outage = answer.outage
        if outage is None:
            return answer
        kept = self._kept.setdefault(outage.key, _Kept(outage))
        kept.outage = outage
        if answer.did and outage.state == "closed":
            self._history.appendleft(outage)
        if answer.did or tell:
            kept.told_at = now
            self._tell(outage)
        return answer

    def _tell(self, news: Outage | ModeSet) -> None:
        for subscriber in list(self._subscribers):
            if not subscriber.tell(news):
                self._subscribers.discard(subscriber)


class _Subscriber:
    """Who hears of changes: told in the thread of its own loop, and never waited for."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.unread = Unread()

    def tell(self, news: Outage | ModeSet) -> bool:
        """Whether the subscriber can still be told."""
        try:
            self._loop.call_soon_threadsafe(self.unread.put, news)
        except RuntimeError:  # Its loop is closed.
            return False
        return True
