"""An outage that ends by itself, on every pipecat release."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from loguru import logger

RELEASE = tuple(int(part) for part in version("pipecat-ai").split(".")[:3])

#: Failures without a breaker after which a storm is a storm.
STORM = 1000

#: Seconds that a storm may take to get there, and that anything else may take at all.
LIMIT_SECS = 20.0

#: Turns of the event loop in which nothing fails and nothing is being sent: the storm is over.
QUIET_TURNS = 1000


class Outage:
    """Something that is broken, until so many sends have failed or so many seconds have passed.

    Then it heals, so that a storm dies.

    Args:
        limit: Failures after which it heals.
        secs: Seconds after which it heals, from :meth:`begin` on.
    """

    def __init__(self, limit: int = STORM, secs: float = LIMIT_SECS) -> None:
        self.on = False
        self.failures = 0
        self.sending = 0
        self._limit = limit
        self._secs = secs
        self._until = 0.0
        self._heal: Callable[[], Any] = lambda: None

    def begin(self, heal: Callable[[], Any] = lambda: None) -> None:
        self.on = True
        self._heal = heal
        self._until = time.monotonic() + self._secs

    def failed(self) -> None:
        """Count a failure."""
        self.failures += 1
        self._look()

    async def spent(self) -> None:
        """Turn the event loop until the outage has healed, or until nothing happens any more."""
        quiet, seen = 0, 0
        while self.on and quiet < QUIET_TURNS:
            await asyncio.sleep(0)
            busy = self.sending or self.failures > seen
            quiet, seen = 0 if busy else quiet + 1, self.failures
            self._look()
        self.on = False

    def _look(self) -> None:
        if self.on and (self.failures >= self._limit or time.monotonic() >= self._until):
            self.on = False
            self._heal()


class Log:
    """Counts what is logged at DEBUG and above."""

    def __init__(self) -> None:
        self.lines = 0
        self.bytes = 0
        self.errors = 0

    def __call__(self, message: Any) -> None:
        self.lines += 1
        self.bytes += len(message)
        self.errors += message.record["level"].no >= 40


@contextmanager
def counted_log() -> Iterator[Log]:
    log = Log()
    sink = logger.add(log, level="DEBUG", format="{time} | {level} | {name} - {message}")
    try:
        yield log
    finally:
        logger.remove(sink)


async def eventually(condition: Callable[[], Any], secs: float = LIMIT_SECS) -> None:
    """Wait for a peer in another thread or behind a socket."""
    async with asyncio.timeout(secs):
        while not condition():
            await asyncio.sleep(0.005)
