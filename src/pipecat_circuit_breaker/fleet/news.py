#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""News of a store that a subscriber has not read yet: bounded, whoever is slow."""

import asyncio
from collections.abc import AsyncIterator

from pipecat_circuit_breaker.fleet.record import ModeSet, Outage
from pipecat_circuit_breaker.fleet.store import StoreUnavailable

#: News that a subscriber may leave unread before it is told that it has lost some.
MAX_UNREAD = 256


class Unread(AsyncIterator[Outage | ModeSet | None]):
    """What was put in and not read yet; iterating waits for more.

    Raises:
        StoreUnavailable: News were lost; then, and each time after that.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._queue: asyncio.Queue[Outage | ModeSet | None] = asyncio.Queue()
        self._lost: str | None = None

    def put(self, news: Outage | ModeSet | None) -> None:
        """Add news, in the loop of whoever reads them; None is a sign of life."""
        if self._lost is not None:
            return
        if self._queue.qsize() >= MAX_UNREAD:
            self.lose("news came faster than they were read")
        else:
            self._queue.put_nowait(news)

    def lose(self, why: str) -> None:
        """Say that there will be no more; what is there can still be read."""
        if self._lost is None:
            self._lost = why
            # Whoever waits has to wake up.
            self._queue.put_nowait(None)

    async def __anext__(self) -> Outage | ModeSet | None:
        if self._lost is not None and self._queue.empty():
            raise StoreUnavailable(self._lost)
        news = await self._queue.get()
        if self._lost is not None and self._queue.empty():
            raise StoreUnavailable(self._lost)
        return news
