#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Follows a fleet from outside: no bot, no instance and no vote."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker.fleet.store import Knowledge, Store, StoreUnavailable

#: Seconds between two looks without news: the least after which a server that hangs is noticed.
POLL_SECS = 2.0

#: Seconds after news for which others are waited for, so that a storm of it is one look.
SETTLE_SECS = 0.2

#: Seconds until a server that could not be asked is asked again.
RETRY_SECS = 1.0

_REASON_CHARS = 200

_T = TypeVar("_T")


@dataclass(frozen=True)
class Sight:
    """What is seen of a fleet.

    Parameters:
        knowledge: What the server said last; None where it has said nothing yet.
        read_at: When that was, in monotonic seconds.
        lost: Why it cannot be asked now; None where it can.
        lost_at: Since when not, in monotonic seconds.
    """

    knowledge: Knowledge | None = None
    read_at: float = 0.0
    lost: str | None = None
    lost_at: float = 0.0

    def now(self, monotonic: float) -> float:
        """The server's clock, in its seconds.

        Args:
            monotonic: The own one.
        """
        if self.knowledge is None:
            return 0.0
        return self.knowledge.now + (monotonic - self.read_at)


async def look(store: Store, clock: Callable[[], float] = time.monotonic) -> Sight:
    """Look once.

    Args:
        store: Where the fleet keeps what it knows.
        clock: Monotonic seconds.
    """
    try:
        return Sight(await store.read(), clock())
    except StoreUnavailable as error:
        return Sight(lost=one_line(error, _REASON_CHARS), lost_at=clock())


class Follower:
    """Looks at a fleet for as long as somebody watches, server or no server."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
    ) -> None:
        """Initialize a follower that has seen nothing yet.

        Args:
            store: Where the fleet keeps what it knows.
            clock: Monotonic seconds.
            sleep: Lets seconds of that clock pass.
        """
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self.sight = Sight()

    async def run(self) -> None:
        """Follow until cancelled; what is seen is :attr:`sight`."""
        while True:
            news = asyncio.Event()
            async with _running(self._listen(news)) as listening:
                await self._look_while(listening, news)
            await self._sleep(RETRY_SECS)

    async def _listen(self, news: asyncio.Event) -> None:
        async with self._store.news() as changes:
            # Subscribed: what was before has to be read now.
            news.set()
            async for _ in changes:
                news.set()

    async def _look_while(self, listening: "asyncio.Task[None]", news: asyncio.Event) -> None:
        while True:
            seen = await look(self._store, self._clock)
            if seen.lost is None and listening.done():
                seen = self._silent(listening.exception())
            self._see(seen)
            if self.sight.lost is not None:
                return
            async with _running(self._sleep(POLL_SECS)) as poll, _running(news.wait()) as hint:
                await asyncio.wait({poll, hint, listening}, return_when=asyncio.FIRST_COMPLETED)
            if news.is_set():
                await self._sleep(SETTLE_SECS)
                news.clear()

    def _silent(self, error: BaseException | None) -> Sight:
        if error is not None and not isinstance(error, StoreUnavailable):
            raise error
        reason = "the subscription has ended" if error is None else error
        return Sight(lost=one_line(reason, _REASON_CHARS), lost_at=self._clock())

    def _see(self, seen: Sight) -> None:
        if seen.lost is not None:
            # What was known stays in sight, and says how old it is.
            since = self.sight.lost_at if self.sight.lost is not None else seen.lost_at
            seen = replace(self.sight, lost=seen.lost, lost_at=since)
        self.sight = seen


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, _T]) -> "AsyncIterator[asyncio.Task[_T]]":
    """Let something run meanwhile, and no longer."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            # Whoever waits for it has asked for it by then.
            task.exception()
