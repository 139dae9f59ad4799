#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What users give to a breaker, so that what one bot finds out every bot knows."""

import asyncio
import math
import os
import time
from collections.abc import Callable, Coroutine, Iterable
from itertools import count
from typing import Any, TypedDict
from urllib.parse import urlsplit
from uuid import uuid4

from loguru import logger
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.utils.base_object import BaseObject

from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker.fleet.link import Link
from pipecat_circuit_breaker.fleet.outbox import Outbox
from pipecat_circuit_breaker.fleet.params import FleetParams
from pipecat_circuit_breaker.fleet.record import FleetMode, Outage
from pipecat_circuit_breaker.fleet.sharing import service_name
from pipecat_circuit_breaker.fleet.snapshot import Change, Snapshot
from pipecat_circuit_breaker.fleet.store import Store
from pipecat_circuit_breaker.fleet.view import LOOKS_WITHIN, SecondLooks, View

_SCHEMES = ("redis", "rediss", "unix")

_EVENTS = (
    "on_fleet_outage_opened",
    "on_fleet_outage_changed",
    "on_fleet_outage_closed",
    "on_fleet_alone",
    "on_fleet_connected",
)


class OutageStatus(TypedDict):
    """One outage that goes on.

    Parameters:
        key: What fails.
        instances: Machines or pods that have seen it.
        bots: About how many bots have.
        failures: Failures that were reported.
        openings: The first, and one more for each probe that failed.
        open_secs: Seconds since it is open; None where that is not known.
        probe_in_secs: Seconds until the next probe may go, 0 where it is due; None
            where none may.
        is_probing: Whether somebody is probing.
        is_by_hand: Whether somebody has opened it by hand.
    """

    key: str
    instances: int
    bots: int
    failures: int
    openings: int
    open_secs: float | None
    probe_in_secs: float | None
    is_probing: bool
    is_by_hand: bool


class FleetStatus(TypedDict):
    """How a fleet is, as seen from this process.

    Parameters:
        name: The fleet's.
        instance: The machine or pod.
        connected: Whether its store answers.
        alone_reason: Why it does not; None where it does, or was not asked yet.
        mode: What bots do with what the fleet knows.
        bots: Bots of this process that have joined.
        outages: Those that go on, the oldest first.
    """

    name: str
    instance: str
    connected: bool
    alone_reason: str | None
    mode: FleetMode
    bots: int
    outages: list[OutageStatus]


class Fleet(BaseObject):
    """Shares outages with the bots of other processes, or only with those of this one.

    One of these serves all the bots of a process. It has one task in the
    background, and no frame ever waits for it. Where the store does not answer,
    bots behave as if there were no fleet.

    Event handlers available:

    - on_fleet_outage_opened(fleet, outage, first): Called when an outage of the fleet has begun.
      ``outage`` is an :class:`Outage`, and ``first`` a bool. It is True in exactly one process, that whose report
      has opened it; in none where it was opened by hand.
    - on_fleet_outage_changed(fleet, outage): Called when somebody probes, or a probe has failed or
      was lost.
    - on_fleet_outage_closed(fleet, outage, first): Called when it is over. ``first`` is True in that
      process alone whose probe has closed it, or which has found out that it is forgotten.
    - on_fleet_alone(fleet, reason): Called once when the store does not answer any more. ``reason`` is
      a text.
    - on_fleet_connected(fleet): Called once when it does.

    Example::

        fleet = Fleet("redis://localhost:6379")
        breaker = CircuitBreakerProcessor(fleet=fleet)

        @fleet.event_handler("on_fleet_outage_opened")
        async def on_fleet_outage_opened(fleet, outage, first):
            if first:
                await page_somebody(outage.key)
    """

    def __init__(
        self,
        url: str | Callable[[], Any] | None = None,
        *,
        params: FleetParams | None = None,
        store: Store | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
    ) -> None:
        """Initialize a fleet; it connects when the first bot joins, or at :meth:`start`.

        Args:
            url: Of a Redis or Valkey server, ``redis://``, ``rediss://`` or ``unix://``;
                or what makes a client of redis-py's for asyncio, where Sentinel, a
                cluster or credentials need more than a URL says. None shares within
                this process: there each bot has a vote.
            params: What is shared, and with whom. Defaults to :class:`FleetParams`.
            store: Where the fleet keeps what it knows, instead of ``url``.
            clock: Monotonic seconds; tests inject their own.
            sleep: Lets seconds of that clock pass.

        Raises:
            ImportError: A ``url`` was given, and redis-py is not installed.
            TypeError: An argument is of another type.
            ValueError: The URL is none of a Redis server, or both ``url`` and
                ``store`` were given.
        """
        super().__init__()
        if url is not None and store is not None:
            raise ValueError("expected either `url` or `store`, got both")
        self._params = FleetParams() if params is None else params
        if not isinstance(self._params, FleetParams):
            raise TypeError(f"expected FleetParams, got {one_line(repr(params), 100)}")
        self._url, self._store = url, store
        self._clock, self._sleep = clock, sleep
        self._is_shared = url is not None or store is not None
        self._set_up()
        for event in _EVENTS:
            self._register_event_handler(event)

    def _set_up(self) -> None:
        """Be a process of the fleet: nobody else has its token, and nobody its connections."""
        params, clock = self._params, self._clock
        self._pid = os.getpid()
        self._token = uuid4().hex[:12]
        self._numbers = count(1)
        self._snapshot = Snapshot(clock)
        self._outbox = Outbox(
            self._snapshot,
            token=self._token,
            vote_secs=params.vote_secs,
            cooldown=params.cooldown,
            clock=clock,
            on_error=lambda e: logger.error(f"{self}: drawing a wait failed: {e}"),
        )
        self._looks = SecondLooks(LOOKS_WITHIN * params.vote_secs, clock)
        self._views: set[View] = set()
        self._is_kept = False
        self._was_connected = False
        self._link = Link(
            _store(self._url, params) if self._store is None else self._store,
            params,
            self._snapshot,
            self._outbox,
            _Voice(self),
            token=self._next_name,
            clock=clock,
            sleep=self._sleep,
        )

    def _start(self) -> None:
        if self._pid != os.getpid():
            # Made before this process was forked: then all of them would be one.
            self._set_up()
        self._link.start()

    @property
    def params(self) -> FleetParams:
        """Its settings."""
        return self._params

    @property
    def is_connected(self) -> bool:
        """Whether the store answers."""
        return self._link.is_connected

    @property
    def mode(self) -> FleetMode:
        """What bots do with what the fleet knows, as somebody has set it for all."""
        return self._snapshot.mode.mode

    @property
    def outages(self) -> tuple[Outage, ...]:
        """The outages that go on, the oldest first; empty where the store does not answer."""
        return self._snapshot.outages if self.is_connected else ()

    async def start(self) -> None:
        """Connect now, and stay connected until :meth:`close`, also without any bot.

        Raises:
            RuntimeError: The fleet is used by another event loop.
        """
        self._start()
        self._is_kept = True
        self._link.use(True)

    async def close(self) -> None:
        """Tell what waits, and let go of the store; in a few seconds at most.

        Bots that have joined go on as if alone. May be called more than once.
        """
        self._is_kept = False
        self._link.use(False)
        await self._link.close()

    async def outage(
        self, service: FrameProcessor | str, timeout_secs: float = 0.3
    ) -> Outage | None:
        """Ask whether something is out, as at the start of a call, to take another at once.

        It waits only where the fleet is just connecting.

        Args:
            service: The service, or the key of an outage.
            timeout_secs: Seconds that it may take, 0 or above.

        Returns:
            The outage, the oldest one of a service; None where there is none, the
            store does not answer, or somebody has set another mode than ``guard``.

        Raises:
            RuntimeError: The fleet is used by another event loop.
            TypeError: ``service`` is neither a processor nor a text, or ``timeout_secs`` is no number.
            ValueError: ``timeout_secs`` is not a finite number of 0 or above.
        """
        if not isinstance(service, FrameProcessor | str):
            raise TypeError(f"expected a service or a key, got {one_line(repr(service), 100)}")
        if not isinstance(timeout_secs, int | float) or isinstance(timeout_secs, bool):
            raise TypeError(
                f"expected timeout_secs to be a number, got {one_line(repr(timeout_secs), 100)}"
            )
        if not (math.isfinite(timeout_secs) and timeout_secs >= 0):
            raise ValueError(f"timeout_secs must be finite and 0 or above, got {timeout_secs!r}")
        self._start()
        await self._link.wait_until_told(timeout_secs)
        if not self.is_connected or self.mode != "guard":
            return None
        if isinstance(service, str):
            return self._snapshot.open_at(service)
        try:
            name = service_name(service, self._params.label(service))
        except Exception as e:
            logger.error(f"{self}: `label` failed: {one_line(repr(e), 200)}")
            return None
        return next(iter(self._snapshot.open_of(name)), None)

    def status(self) -> FleetStatus:
        """How the fleet is, for a status page: nothing but what JSON can say."""
        return FleetStatus(
            name=self._params.name,
            instance=self._params.instance,
            connected=self.is_connected,
            alone_reason=self._link.alone_reason,
            mode=self.mode,
            bots=len(self._views),
            outages=[self._status_of(outage) for outage in self.outages],
        )

    def join(
        self,
        bot: str,
        services: Callable[[], Iterable[FrameProcessor]],
        on_closed: Callable[[frozenset[Origin]], None],
    ) -> View:
        """Let a bot take part; its breaker does.

        Args:
            bot: The bot's name.
            services: Asked which processors of its pipeline may be listened to, to
                hear whether they answer.
            on_closed: Called with the origins that it has asked about when their
                outage is over.

        Raises:
            RuntimeError: The fleet is used by another event loop, or none is running.
        """
        self._start()
        name = self._next_name()
        instance = self._params.instance
        view = View(
            self._params,
            self._link,
            self._snapshot,
            self._outbox,
            self._looks,
            name=name,
            # Within one process a bot has a vote: three processes never come together.
            instance=instance if self._is_shared else one_line(f"{bot} {name}", 64),
            services=services,
            on_closed=on_closed,
            look_again=self._look_again,
            on_left=self._leave,
            clock=self._clock,
        )
        self._views.add(view)
        self._link.use(True)
        return view

    def _look_again(self) -> None:
        for view in [*self._views]:
            view.changed()

    def _leave(self, view: View) -> None:
        self._views.discard(view)
        if not self._views and not self._is_kept:
            self._link.use(False)
            self._link.wake()

    def _next_name(self) -> str:
        return f"{self._token}.{next(self._numbers)}"

    def _status_of(self, outage: Outage) -> OutageStatus:
        now = self._snapshot.now or 0.0
        probe_in = None if outage.probe_at is None else max(0.0, outage.probe_at - now)
        return OutageStatus(
            key=outage.key,
            instances=outage.instance_count,
            bots=outage.bots,
            failures=outage.failures,
            openings=outage.openings,
            open_secs=None if outage.opened_at is None else max(0.0, now - outage.opened_at),
            probe_in_secs=None if outage.is_by_hand else probe_in,
            is_probing=outage.lease is not None and outage.lease.expires_at > now,
            is_by_hand=outage.is_by_hand,
        )

    async def _hear(self, changes: list[Change]) -> None:
        for change in changes:
            outage = change.outage
            first = outage.changed_by.partition(".")[0] == self._token
            match change.kind:
                case "opened":
                    level = "WARNING" if first else "DEBUG"
                    logger.log(level, f"{self}: an outage of the fleet has begun: {outage.key}")
                    self._look_again()
                    await self._call_event_handler("on_fleet_outage_opened", outage, first)
                case "changed":
                    await self._call_event_handler("on_fleet_outage_changed", outage)
                case "closed":
                    level = "INFO" if first else "DEBUG"
                    logger.log(level, f"{self}: an outage of the fleet is over: {outage.key}")
                    for view in [*self._views]:
                        view.closed(outage.key)
                        view.changed()
                    await self._call_event_handler("on_fleet_outage_closed", outage, first)

    async def _get_connected(self) -> None:
        # Not at each call: without a bot for a while, it lets go of the store.
        level = "DEBUG" if self._was_connected else "INFO"
        self._was_connected = True
        logger.log(level, f"{self}: connected to fleet {self._params.name!r}")
        # What was heard until now could not be used.
        self._look_again()
        await self._call_event_handler("on_fleet_connected")

    async def _go_alone(self, reason: str) -> None:
        self._was_connected = False
        logger.warning(f"{self}: bots go on alone, without fleet {self._params.name!r}: {reason}")
        await self._call_event_handler("on_fleet_alone", reason)


class _Voice:
    """Passes on what a link hears."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def heard(self, changes: list[Change]) -> None:
        await self._fleet._hear(changes)

    async def connected(self) -> None:
        await self._fleet._get_connected()

    async def alone(self, reason: str) -> None:
        await self._fleet._go_alone(reason)


def _store(url: str | Callable[[], Any] | None, params: FleetParams) -> Store:
    if url is None:
        from pipecat_circuit_breaker.fleet.memory import MemoryStore

        return MemoryStore.shared(params.name)
    if isinstance(url, str):
        scheme = urlsplit(url).scheme
        if scheme not in _SCHEMES:
            # The rest of it may hold a password.
            raise ValueError(
                f"expected a URL that begins with redis://, rediss:// or unix://, "
                f"got one of scheme {one_line(repr(scheme), 40)}"
            )
    elif not callable(url):
        raise TypeError(f"expected a URL, or what makes a client, got {one_line(repr(url), 100)}")
    try:
        import redis  # noqa: F401
    except ImportError as e:
        raise ImportError(
            "a fleet over Redis needs redis-py: pip install pipecat-circuit-breaker[fleet]"
        ) from e
    from pipecat_circuit_breaker.fleet.redis import RedisStore

    return RedisStore(url, params.name)
