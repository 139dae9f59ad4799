#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What ``breaker.failover()`` returns."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

from loguru import logger
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.llm_service import LLMService
from pipecat.utils.base_object import BaseObject
from pipecat.utils.text.base_text_aggregator import BaseTextAggregator
from pipecat.utils.text.simple_text_aggregator import SimpleTextAggregator
from tenacity import wait_exponential
from tenacity.wait import wait_base

from pipecat_circuit_breaker._core import backoff
from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker.failover.attempt import Attempt, Outcome, Request
from pipecat_circuit_breaker.failover.entrance import Entrance
from pipecat_circuit_breaker.failover.member import Member
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
        attempt_timeout_secs: float = 5.0,
        cooldown: wait_base | None = None,
        text_aggregator: Callable[[], BaseTextAggregator] | None = None,
        announcement: str | Frame | None = None,
    ) -> None:
        """Take up failover; see :meth:`CircuitBreakerProcessor.failover`.

        Args:
            switcher: The switcher, with LLM services only.
            clock: Monotonic seconds.
            attempt_timeout_secs: See there; so for the others.
            cooldown: See there.
            text_aggregator: See there.
            announcement: See there.

        Raises:
            TypeError: It is no switcher, or a service is no LLM service.
            ValueError: ``attempt_timeout_secs`` is not a finite number above 0, or the
                switcher has a failover already.
        """
        super().__init__()
        wait = DEFAULT_COOLDOWN if cooldown is None else cooldown
        if not isinstance(switcher, ServiceSwitcher):
            raise TypeError(f"expected a ServiceSwitcher, got {switcher!r:.100}")
        services = [service for service in switcher.services if isinstance(service, LLMService)]
        if len(services) < len(switcher.services):
            raise TypeError(f"expected a switcher of LLM services, got one of {switcher.services}")
        if not (math.isfinite(attempt_timeout_secs) and attempt_timeout_secs > 0):
            raise ValueError(
                f"attempt_timeout_secs must be finite and above 0, got {attempt_timeout_secs!r}"
            )
        if not isinstance(wait, wait_base):
            raise TypeError(f"expected cooldown to be a tenacity wait, got {wait!r:.100}")
        self._entrance = Entrance(switcher, self)
        self._switcher = switcher
        self._timeout_secs = attempt_timeout_secs
        self._text_aggregator = text_aggregator or SimpleTextAggregator
        self._announcement = announcement
        self._roster = Roster(
            len(services),
            lambda n: backoff.draw_cooldown(
                wait, n, lambda e: logger.error(f"{self}: asking `cooldown` failed: {e}")
            ),
            clock,
        )
        self._members = [Member(service) for service in services]
        self._active = switcher.strategy.active_service
        self._shadows: dict[int, asyncio.Task[None]] = {}
        for event in _EVENTS:
            self._register_event_handler(event)

    @property
    def is_out(self) -> bool:
        """Whether there is an outage: no service answered the last request."""
        return self._roster.is_out

    def leave(self) -> None:
        """Leave the switcher and its services as they were, between two calls."""
        self._entrance.leave()
        for member in self._members:
            member.leave()

    async def ask(self, frame: LLMContextFrame, direction: FrameDirection) -> None:
        """Get a request answered, by whoever can.

        Runs in the switcher's task for frames.

        Args:
            frame: The request.
            direction: Where it is going.
        """
        self._note_choice()
        request = Request()
        failed: dict[int, ErrorFrame] = {}
        outcome = Outcome.FAILED
        answers = self._members[0]
        try:
            while (service := self._roster.next(failed)) is not None:
                answers = self._members[service]
                if not failed:
                    self._start_shadows(service, frame)
                outcome, error = await self._attempt(service, request, frame, direction)
                if error is not None:
                    failed[service] = error
                if outcome is not Outcome.FAILED:
                    break
        except asyncio.CancelledError:
            # Whoever was answering may be anywhere; what it still pushes is dropped.
            outcome = Outcome.STOPPED
            if request.has_started and not request.has_ended:
                await answers.push(LLMFullResponseEndFrame())
            raise
        finally:
            await self._tell_failures(failed, saved=outcome is Outcome.ANSWERED)
        if outcome is Outcome.ANSWERED and service is not None:
            await self._note_answer(service)
        elif outcome is Outcome.BROKEN:
            await self._call_event_handler("on_request_lost", request.said)
        elif outcome is Outcome.FAILED:
            await self._lose(answers, request, [*failed.values()][-1])

    async def end(self) -> None:
        """Stop every shadow request: the call ends, or is cancelled."""
        for service in [*self._shadows]:
            await self._stop_shadow(service)

    async def _attempt(
        self, service: int, request: Request, frame: LLMContextFrame, direction: FrameDirection
    ) -> tuple[Outcome, ErrorFrame | None]:
        """Ask one service, and wait for what becomes of it."""
        member = self._members[service]
        attempt = Attempt(request, self._text_aggregator(), member.push)
        await self._stop_shadow(service)
        await self._activate(member)
        await member.before(attempt)
        await self._entrance.hand_on(frame, direction)
        await member.behind(attempt)
        try:
            outcome = await attempt.outcome(self._timeout_secs)
        except TimeoutError:
            await member.halt()
            return Outcome.FAILED, self._silence(member)
        member.forget(attempt)
        return outcome, attempt.error

    def _silence(self, member: Member) -> ErrorFrame:
        text = f"no answer within {self._timeout_secs:g} s"
        error = ErrorFrame(text, processor=member.service)
        error.exception = TimeoutError(text)
        if ErrorCategory is not None:
            error.category = ErrorCategory.CONNECTIVITY
        return error

    async def _activate(self, member: Member) -> None:
        await self._entrance.activate(member.service)
        self._active = self._switcher.strategy.active_service

    def _note_choice(self) -> None:
        """Ask first whom the application, or the strategy, has made active meanwhile."""
        active = self._switcher.strategy.active_service
        if active is not self._active:
            self._active = active
            self._roster.prefer(self._switcher.services.index(active))

    async def _note_answer(self, service: int) -> None:
        if self._roster.succeed(service):
            await self._tell_recovery(service)
        await self._tell_outage_over()

    async def _lose(self, last: Member, request: Request, error: ErrorFrame) -> None:
        """Tell everybody, once, that nobody has answered."""
        # The service has logged it already, and told its own handlers.
        await last.push(error, FrameDirection.UPSTREAM)
        # The strategy may have answered by a switch of its own.
        self._active = self._switcher.strategy.active_service
        if request.has_started and not request.has_ended:
            await last.push(LLMFullResponseEndFrame())
        is_news = self._roster.begin_outage()
        if is_news and self._announcement is not None:
            announcement = self._announcement
            if isinstance(announcement, str):
                announcement = TTSSpeakFrame(announcement)
            await self._switcher.push_frame(announcement)
        await self._call_event_handler("on_request_lost", request.said)
        if is_news:
            logger.error(f"{self}: outage, no service of {self._switcher} answers")
            await self._call_event_handler("on_outage")

    async def _tell_failures(self, failed: dict[int, ErrorFrame], *, saved: bool) -> None:
        for service, error in failed.items():
            if self._roster.fail(service):
                member = self._members[service]
                logger.warning(
                    f"{self}: {member} failed, the request was {'saved' if saved else 'not saved'}:"
                    f" {one_line(error.error, 200)}"
                )
                await self._call_event_handler("on_service_failed", member.service, error, saved)

    async def _tell_recovery(self, service: int) -> None:
        member = self._members[service]
        if not getattr(member.service, "is_usable", True):  # 1.8.0
            await member.service.set_usable(True)
        logger.info(f"{self}: {member} works again")
        await self._call_event_handler("on_service_recovered", member.service)

    async def _tell_outage_over(self) -> None:
        if self._roster.end_outage():
            logger.info(f"{self}: outage over")
            await self._call_event_handler("on_outage_over")

    def _start_shadows(self, asked: int, frame: LLMContextFrame) -> None:
        for probe in self._roster.probes(asked):
            task = self._switcher.create_task(self._shadow(probe, frame))
            self._shadows[probe.service] = task
            task.add_done_callback(self._forget_shadow)

    def _forget_shadow(self, done: asyncio.Task[None]) -> None:
        self._shadows = {s: task for s, task in self._shadows.items() if task is not done}

    async def _shadow(self, probe: Probe, frame: LLMContextFrame) -> None:
        member = self._members[probe.service]
        failure = await member.ask_in_the_shadow(frame.context, self._timeout_secs)
        if failure is not None:
            logger.debug(f"{self}: {member} still fails: {one_line(failure, 200)}")
        if self._roster.settle(probe, success=failure is None):
            await self._tell_recovery(probe.service)
            await self._tell_outage_over()

    async def _stop_shadow(self, service: int) -> None:
        if (task := self._shadows.get(service)) is not None:
            await self._switcher.cancel_task(task)
