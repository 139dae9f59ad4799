#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The one task that talks to a fleet's store, so that no frame ever waits for it."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from random import uniform
from typing import Any, Protocol, TypeVar

from loguru import logger
from tenacity import wait_exponential, wait_random

from pipecat_circuit_breaker._core import backoff
from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker.fleet.outbox import Evidence, Outbox, Settlement
from pipecat_circuit_breaker.fleet.params import FleetParams
from pipecat_circuit_breaker.fleet.snapshot import Change, Snapshot
from pipecat_circuit_breaker.fleet.store import Answer, Report, Store, StoreUnavailable

_T = TypeVar("_T")

#: Seconds that one request to the store may take.
REQUEST_SECS = 1.5

#: Seconds between two looks at the store while something fails.
POLL_SECS = 3.0

#: Seconds of silence after which it is looked at while nothing does, and seconds after
#: which it is looked at in any case.
PING_SECS = 6.0
CALM_SECS = 60.0

#: Seconds between two attempts to reach the store: 0.1 s, doubling up to 2 s.
RETRY = wait_exponential(multiplier=0.1, max=1.5) + wait_random(0.0, 0.5)

#: Seconds that a connection has to last. One that is lost earlier is an attempt that has
#: failed: the server is there, and something makes each connection end.
LASTING_SECS = 10.0

#: Seconds before the next one then: up to 2 s, doubling up to 60 s for as long as none lasts.
SHORT_RETRY = wait_exponential(multiplier=1.5, max=59.5) + wait_random(0.0, 0.5)

#: Seconds for which the connection is kept when the last bot has left: the next one
#: may come soon.
LINGER_SECS = 30.0

#: Seconds that the end may take.
CLOSE_SECS = 2.0

#: Requests that have not ended though they were cancelled: redis-py swallows that on
#: Python 3.11. With so many, no more are made.
MAX_STUCK = 8

_REASON_CHARS = 200


class Listener(Protocol):
    """Who is told what a link hears."""

    async def heard(self, changes: list[Change]) -> None:
        """Something has become of an outage."""
        ...

    async def connected(self) -> None:
        """The store answers."""
        ...

    async def alone(self, reason: str) -> None:
        """The store does not answer."""
        ...


class Link:
    """Listens to a store, and tells it what is to be told."""

    def __init__(
        self,
        store: Store,
        params: FleetParams,
        snapshot: Snapshot,
        outbox: Outbox,
        listener: Listener,
        *,
        token: Callable[[], str],
        clock: Callable[[], float],
        sleep: Callable[[float], Coroutine[Any, Any, None]],
    ) -> None:
        """Initialize a link that is not up yet.

        Args:
            store: Where the fleet keeps what it knows.
            params: The fleet's.
            snapshot: Takes in what is heard.
            outbox: What is to be told.
            listener: Who is told of changes.
            token: Makes tokens that begin with that of the process.
            clock: Monotonic seconds.
            sleep: Lets seconds pass.
        """
        self._store = store
        self._params = params
        self._snapshot = snapshot
        self._outbox = outbox
        self._listener = listener
        self._token = token
        self._clock = clock
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Future[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._told = asyncio.Event()
        self._stuck: set[asyncio.Task[Any]] = set()
        self._is_connected = False
        self._connected_at = 0.0
        self._alone_reason: str | None = None
        self._is_used = False
        self._unused_since = 0.0
        self._read_at = 0.0
        self._jitter = 1.0
        self._faults: set[str] = set()

    @property
    def is_running(self) -> bool:
        """Whether the task goes on, or is about to."""
        return self._task is not None and not self._task.done()

    @property
    def is_connected(self) -> bool:
        """Whether what is known may be used: the store has answered, and not long ago."""
        return self._is_connected and self._snapshot.is_fresh

    @property
    def alone_reason(self) -> str | None:
        """Why the store does not answer; None where it does, or was not asked yet."""
        return self._alone_reason

    def start(self) -> None:
        """Bring the link up, in a task of its own on the running loop.

        Raises:
            RuntimeError: It is up on another loop, or no loop is running.
        """
        loop = asyncio.get_running_loop()
        before = self._running_task(loop)
        self._unused_since = self._clock()
        if before is not None and self._end is not None and not self._end.done():
            return
        if self._loop is not loop:
            self._stuck.clear()
        self._loop, self._told = loop, asyncio.Event()
        self._end, self._wake = loop.create_future(), loop.create_future()
        # A context of its own: this one may be that of a bot which is handling an error.
        self._task = loop.create_task(
            self._run(self._end, before), context=contextvars.Context(), name="fleet"
        )

    def use(self, is_used: bool) -> None:
        """Say whether anybody needs the link; it goes down by itself where nobody does."""
        self._is_used, self._unused_since = is_used, self._clock()

    def wake(self) -> None:
        """Have a look at what is to be told."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def wait_until_told(self, timeout_secs: float) -> None:
        """Wait until it is known whether the store answers, for a time."""
        if self.is_running and not self._told.is_set() and timeout_secs > 0:
            told = asyncio.ensure_future(self._told.wait())
            try:
                await self._within(timeout_secs, told)
            finally:
                told.cancel()

    async def close(self) -> None:
        """Tell what waits, and take the link down; in no more than a few seconds."""
        task, end = self._running_task(asyncio.get_running_loop()), self._end
        if task is None or end is None:
            return
        if not end.done():
            end.set_result(None)
        await self._within(CLOSE_SECS, task)
        if not task.done():
            task.cancel()
            await self._within(CLOSE_SECS, task)

    async def lease(self, key: str, timeout_secs: float) -> tuple[str, Answer] | None:
        """Ask to be the one that probes; None where the store does not answer in time."""
        if not self.is_connected:
            return None
        token = self._token()
        params = self._params
        try:
            answer = await self._ask(
                self._store.lease(key, params.instance, token, params.lease_secs), timeout_secs
            )
            await self._heard(answer)
        except StoreUnavailable:
            return None
        except Exception as e:
            self._report_fault(e)
            return None
        return token, answer

    def _running_task(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
        if self._task is None or self._task.done() or self._loop is None or self._loop.is_closed():
            return None
        if self._loop is not loop:
            raise RuntimeError(
                "this fleet is used by another event loop: make one Fleet for each loop"
            )
        return self._task

    async def _run(self, end: asyncio.Future[None], before: asyncio.Task[None] | None) -> None:
        if before is not None:
            # It is just letting go of the store.
            await self._within(2 * CLOSE_SECS, before)
        try:
            await self._stay_connected(end)
        except Exception as e:
            self._report_fault(e)
        finally:
            self._is_connected = False
            end.cancel()
            await self._let_go()

    async def _stay_connected(self, end: asyncio.Future[None]) -> None:
        attempts = short = 0
        while not self._is_over(end):
            try:
                await self._connection(end)
                return
            except StoreUnavailable as e:
                reason = one_line(str(e) or "the store does not answer", _REASON_CHARS)
            except Exception as e:
                self._report_fault(e)
                reason = one_line(f"{type(e).__name__}: {e}", _REASON_CHARS)
            was_connected, attempts = self._is_connected, attempts + 1
            if was_connected:
                has_lasted = self._clock() - self._connected_at >= LASTING_SECS
                attempts, short = 1, 0 if has_lasted else short + 1
            await self._go_alone(reason)
            wait, number = (SHORT_RETRY, short) if was_connected and short else (RETRY, attempts)
            secs = backoff.draw_cooldown(wait, min(number, 10), self._report_fault)
            await self._within(secs, end)

    async def _connection(self, end: asyncio.Future[None]) -> None:
        """Be connected until the end; raises where the store does not answer."""
        loop = asyncio.get_running_loop()
        entered: asyncio.Future[None] = loop.create_future()
        over: asyncio.Future[None] = loop.create_future()
        for task in self._stuck:
            task.cancel()
        if len(self._stuck) >= MAX_STUCK:
            raise StoreUnavailable(f"{MAX_STUCK} requests do not end")
        news = loop.create_task(self._listen(entered, over))
        try:
            await self._within(REQUEST_SECS, entered, news)
            self._check(news)
            if not entered.done():
                raise StoreUnavailable(f"no answer within {REQUEST_SECS:g} s")
            await self._read()
            # A store that can be read, and not written, helps nobody.
            await self._send()
            if not end.done():
                await self._get_connected()
            while not self._is_over(end):
                await self._idle(end, news)
                self._check(news)
                if self._clock() >= self._read_due_at:
                    await self._read()
                await self._send()
            await self._send(is_last=True)
        finally:
            over.set_result(None)
            await self._stop(news)

    async def _listen(self, entered: asyncio.Future[None], over: asyncio.Future[None]) -> None:
        async with self._store.news() as news:
            entered.set_result(None)
            # It may have been cancelled, and the client has swallowed that.
            if over.done():
                return
            async for record in news:
                if over.done():
                    return
                if record is None:
                    self._snapshot.touch()
                    continue
                await self._listener.heard(self._snapshot.apply(record))
                self.wake()

    def _check(self, news: asyncio.Task[None]) -> None:
        if news.done():
            if not news.cancelled():
                news.result()
            raise StoreUnavailable("the connection was lost")

    async def _idle(self, end: asyncio.Future[None], news: asyncio.Task[None]) -> None:
        secs = min(self._outbox.secs_to_next(), self._read_due_at - self._clock())
        if not self._is_used:
            secs = min(secs, self._unused_since + LINGER_SECS - self._clock())
        assert self._wake is not None
        await self._within(max(0.0, secs), self._wake, end, news)
        if self._wake.done():
            self._wake = asyncio.get_running_loop().create_future()

    @property
    def _read_due_at(self) -> float:
        if not self._snapshot.is_calm:
            return self._read_at + self._jitter * POLL_SECS
        # Any sign of life will do, for a time.
        silent_since = max(self._read_at, self._snapshot.contact_at)
        return min(silent_since + self._jitter * PING_SECS, self._read_at + CALM_SECS)

    async def _read(self) -> None:
        mark = self._snapshot.mark()
        knowledge = await self._ask(self._store.read(self._token()), REQUEST_SECS)
        self._read_at, self._jitter = self._clock(), uniform(0.8, 1.2)
        await self._listener.heard(self._snapshot.apply(knowledge, since=mark))

    async def _send(self, *, is_last: bool = False) -> None:
        if self._snapshot.mode.mode == "disabled":
            self._outbox.drop()
        while (step := self._outbox.next(is_last=is_last)) is not None:
            try:
                await self._tell(step)
            except BaseException:
                self._outbox.put_back(step)
                raise

    async def _tell(self, step: Report | Evidence | Settlement) -> None:
        params = self._params
        match step:
            case Evidence():
                await self._probe(step)
                return
            case Report():
                request = self._store.report(
                    step,
                    min_instances=params.min_instances,
                    vote_secs=params.vote_secs,
                    hold_secs=params.hold_secs,
                )
            case Settlement():
                request = self._store.settle(
                    step.key,
                    step.token,
                    step.generation,
                    success=step.success,
                    waits=self._outbox.waits(),
                )
        await self._heard(await self._ask(request, REQUEST_SECS))

    async def _probe(self, evidence: Evidence) -> None:
        """Make a request that was made anyway the fleet's probe."""
        token, params = self._token(), self._params
        answer = await self._ask(
            self._store.lease(evidence.key, params.instance, token, params.lease_secs),
            REQUEST_SECS,
        )
        await self._heard(answer)
        outage = answer.outage
        if answer.did and outage is not None and outage.generation == evidence.generation:
            until = self._clock() + params.lease_secs
            self._outbox.settle(Settlement(evidence.key, token, outage.generation, True, until))

    async def _heard(self, answer: Answer) -> None:
        self._snapshot.touch()
        if answer.outage is not None:
            await self._listener.heard(self._snapshot.apply(answer.outage))

    async def _get_connected(self) -> None:
        if not self._is_connected:
            self._is_connected, self._alone_reason = True, None
            self._connected_at = self._clock()
            self._told.set()
            await self._listener.connected()

    async def _go_alone(self, reason: str) -> None:
        is_news = self._alone_reason is None
        self._is_connected, self._alone_reason = False, reason
        self._told.set()
        if is_news:
            await self._listener.alone(reason)

    def _is_over(self, end: asyncio.Future[None]) -> bool:
        is_unused = not self._is_used and self._clock() - self._unused_since >= LINGER_SECS
        if is_unused and not end.done():
            end.set_result(None)
        return end.done()

    async def _ask(self, request: Coroutine[Any, Any, _T], secs: float) -> _T:
        """Make a request, and wait so long for it, whatever becomes of its cancellation."""
        if len(self._stuck) >= MAX_STUCK:
            request.close()
            raise StoreUnavailable(f"{MAX_STUCK} requests do not end")
        task = asyncio.ensure_future(request)
        try:
            await self._within(secs, task)
            if not task.done():
                raise StoreUnavailable(f"no answer within {secs:g} s")
            if task.cancelled():
                raise StoreUnavailable("the request was cancelled")
            return task.result()
        finally:
            self._abandon(task)

    async def _let_go(self) -> None:
        try:
            await self._ask(self._store.close(), REQUEST_SECS)
        except Exception as e:
            logger.debug(f"closing the fleet's store: {one_line(e, _REASON_CHARS)}")

    async def _stop(self, task: asyncio.Task[None]) -> None:
        try:
            # Once may be swallowed.
            for secs in (0.1, REQUEST_SECS):
                if not task.done():
                    task.cancel()
                    await self._within(secs, task)
        finally:
            self._abandon(task)

    def _abandon(self, task: asyncio.Task[Any]) -> None:
        if task.done():
            self._forget(task)
            return
        task.cancel()
        self._stuck.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._stuck.discard(task)
        if not task.cancelled():
            task.exception()

    async def _within(self, secs: float, *futures: asyncio.Future[Any]) -> None:
        """Wait for the first of some futures, and no longer than that."""
        timer = asyncio.ensure_future(self._sleep(secs))
        try:
            await asyncio.wait({timer, *futures}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()

    def _report_fault(self, e: Exception) -> None:
        """Say once of each kind that the link itself is at fault; bots go on as if alone."""
        if type(e).__name__ not in self._faults and len(self._faults) < 16:
            self._faults.add(type(e).__name__)
            logger.opt(exception=e).error(
                f"fleet {self._params.name!r} failed, its bots go on alone"
            )
