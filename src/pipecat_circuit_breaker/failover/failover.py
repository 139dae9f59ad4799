#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What ``breaker.failover()`` returns, whatever the services are."""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any

from loguru import logger
from pipecat.frames.frames import ErrorFrame, Frame, TTSSpeakFrame
from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.utils.base_object import BaseObject
from tenacity import wait_exponential
from tenacity.wait import wait_base

from pipecat_circuit_breaker._core import backoff
from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker._pipeline import releases
from pipecat_circuit_breaker.failover.roster import Probe, Roster

try:
    from pipecat.utils.errors import ErrorCategory  # 1.8.0
except ImportError:
    ErrorCategory = None  # type: ignore[assignment, misc]

#: 5 s, doubling up to a minute.
DEFAULT_COOLDOWN = wait_exponential(multiplier=5.0, max=60.0)

_EVENTS = (
    "on_service_failed",
    "on_service_recovered",
    "on_request_lost",
    "on_outage",
    "on_outage_over",
)


class Failover(BaseObject):
    """Asks the next service of a switcher what the first has failed to answer.

    As long as nothing of an answer has left the switcher, a request that fails
    is asked again of the next service, and the caller hears one answer.

    Event handlers available:

    - on_service_failed: Called when a service that worked has failed a request. ``saved`` says
      whether the caller got an answer all the same.
    - on_service_recovered: Called when a service that had failed works again.
    - on_request_lost: Called when a request has got no answer, or not the whole of it. ``partial``
      is what had left of it, an empty string where nothing had.
    - on_outage: Called once when no service answers any more.
    - on_outage_over: Called once when one does again.

    Example::

        failover = breaker.failover(switcher, announcement="One moment, please.")

        @failover.event_handler("on_service_failed")
        async def on_service_failed(failover, service, error, saved):
            print(service, error.error, saved)

        @failover.event_handler("on_request_lost")
        async def on_request_lost(failover, partial):
            ...
    """

    def __init__(
        self,
        switcher: ServiceSwitcher[Any],
        *,
        clock: Callable[[], float],
        attempt_timeout_secs: float,
        cooldown: wait_base | None,
        announcement: str | Frame | None,
    ) -> None:
        """Take up failover; see :meth:`CircuitBreakerProcessor.failover`.

        Args:
            switcher: The switcher.
            clock: Monotonic seconds.
            attempt_timeout_secs: See there; so for the others.
            cooldown: See there.
            announcement: See there.

        Raises:
            TypeError: ``cooldown`` is no tenacity wait.
            ValueError: ``attempt_timeout_secs`` is not a finite number above 0.
        """
        super().__init__()
        wait = DEFAULT_COOLDOWN if cooldown is None else cooldown
        if not isinstance(wait, wait_base):
            raise TypeError(f"expected cooldown to be a tenacity wait, got {wait!r:.100}")
        if not (math.isfinite(attempt_timeout_secs) and attempt_timeout_secs > 0):
            raise ValueError(
                f"attempt_timeout_secs must be finite and above 0, got {attempt_timeout_secs!r}"
            )
        self._switcher = switcher
        self._timeout_secs = attempt_timeout_secs
        self._announcement = announcement
        self._roster = Roster(
            len(switcher.services),
            lambda n: backoff.draw_cooldown(
                wait, n, lambda e: logger.error(f"{self}: asking `cooldown` failed: {e}")
            ),
            clock,
        )
        self._shadows: dict[int, asyncio.Task[None]] = {}
        for event in _EVENTS:
            self._register_event_handler(event)

    @property
    def is_out(self) -> bool:
        """Whether there is an outage: no service answered the last request."""
        return self._roster.is_out

    @abstractmethod
    def leave(self) -> None:
        """Leave the switcher and its services as they were, between two calls."""

    async def end(self) -> None:
        """Stop every shadow request: the call ends, or is cancelled."""
        for service in [*self._shadows]:
            await self._stop_shadow(service)

    def _silence(self, service: int) -> ErrorFrame:
        """What is told of a service that was silent for too long."""
        text = f"no answer within {self._timeout_secs:g} s"
        error = ErrorFrame(text, processor=self._switcher.services[service])
        error.exception = TimeoutError(text)
        if ErrorCategory is not None:
            error.category = ErrorCategory.CONNECTIVITY
        return error

    async def _note_answer(self, service: int) -> None:
        if self._roster.succeed(service):
            await self._tell_recovery(service)
        await self._tell_outage_over()

    async def _note_loss(self, partial: str | None, *, nobody_answers: bool) -> None:
        """Tell the application what was lost, None for nothing; the caller once in each outage."""
        is_news = nobody_answers and self._roster.begin_outage()
        if is_news and self._announcement is not None:
            announcement = self._announcement
            if isinstance(announcement, str):
                announcement = TTSSpeakFrame(announcement)
            await self._switcher.push_frame(announcement)
        if partial is not None:
            await self._call_event_handler("on_request_lost", partial)
        if is_news:
            logger.error(f"{self}: outage, no service of {self._switcher} answers")
            await self._call_event_handler("on_outage")

    async def _tell_failures(self, failed: dict[int, ErrorFrame], *, saved: bool) -> None:
        for service, error in failed.items():
            if self._roster.fail(service):
                processor = self._switcher.services[service]
                logger.warning(
                    f"{self}: {processor} failed, the request was "
                    f"{'saved' if saved else 'not saved'}: {one_line(error.error, 200)}"
                )
                await self._call_event_handler("on_service_failed", processor, error, saved)

    async def _tell_recovery(self, service: int) -> None:
        processor = self._switcher.services[service]
        await _make_usable(processor)
        logger.info(f"{self}: {processor} works again")
        await self._call_event_handler("on_service_recovered", processor)

    async def _tell_outage_over(self) -> None:
        if self._roster.end_outage():
            logger.info(f"{self}: outage over")
            await self._call_event_handler("on_outage_over")

    def _start_shadows(
        self, asked: int, ask: Callable[[int], Coroutine[Any, Any, str | None]]
    ) -> None:
        """Ask those whose cooldown is over what another is asked live.

        Args:
            asked: Who is asked live.
            ask: Asks a service; returns why it failed, None where it did not.
        """
        for probe in self._roster.probes(asked):
            task = self._switcher.create_task(self._shadow(probe, ask(probe.service)))
            self._shadows[probe.service] = task
            task.add_done_callback(self._forget_shadow)

    def _forget_shadow(self, done: asyncio.Task[None]) -> None:
        self._shadows = {s: task for s, task in self._shadows.items() if task is not done}

    async def _shadow(self, probe: Probe, ask: Coroutine[Any, Any, str | None]) -> None:
        failure = await ask
        if failure is not None:
            service = self._switcher.services[probe.service]
            logger.debug(f"{self}: {service} still fails: {one_line(failure, 200)}")
        if self._roster.settle(probe, success=failure is None):
            await self._tell_recovery(probe.service)
            await self._tell_outage_over()

    async def _stop_shadow(self, service: int) -> None:
        if (task := self._shadows.get(service)) is not None:
            await self._switcher.cancel_task(task)


async def _make_usable(service: FrameProcessor) -> None:
    if not releases.is_usable(service):
        await service.set_usable(True)
