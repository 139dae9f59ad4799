#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Failover between LLM services: a request is asked again as long as no answer has left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from pipecat.frames.frames import (
    ErrorFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    ServiceSwitcherFrame,
)
from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.llm_service import LLMService
from pipecat.utils.text.base_text_aggregator import BaseTextAggregator
from pipecat.utils.text.simple_text_aggregator import SimpleTextAggregator

from pipecat_circuit_breaker.failover.failover import Failover
from pipecat_circuit_breaker.failover.llm_attempt import Attempt, Outcome, Request
from pipecat_circuit_breaker.failover.llm_entrance import Entrance
from pipecat_circuit_breaker.failover.llm_member import Member
from pipecat_circuit_breaker.failover.llm_repair import Repair


class LLMFailover(Failover):
    """Failover between the LLM services of a switcher; for its events see :class:`Failover`."""

    def __init__(
        self,
        switcher: ServiceSwitcher[Any],
        services: Sequence[LLMService],
        *,
        text_aggregator: Callable[[], BaseTextAggregator] | None = None,
        **settings: Any,
    ) -> None:
        """Take up failover; see :meth:`.CircuitBreakerProcessor.failover`.

        Args:
            switcher: The switcher.
            services: Its services.
            text_aggregator: See there; so for the others.
            **settings: Those of :class:`Failover`.
        """
        super().__init__(switcher, **settings)
        self._entrance = Entrance(switcher, self)
        self._text_aggregator = text_aggregator or SimpleTextAggregator
        self._members = [Member(service) for service in services]
        self._active = switcher.strategy.active_service
        self._request: Request | None = None
        self._attempted: tuple[Member, Attempt] | None = None

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
        if not self.acts:
            await self._entrance.hand_on(frame, direction)
            return
        self._note_choice()
        await self._hear_of_fleet()
        request = self._request = Request()
        failed: dict[int, ErrorFrame] = {}
        outcome = Outcome.FAILED
        answers = self._members[0]
        try:
            with Repair(frame.context) as repair, self._entrance.overtaking():
                while (service := self._roster.next(failed)) is not None:
                    if request.is_withdrawn:
                        outcome = Outcome.STOPPED
                        break
                    answers = self._members[service]
                    if not failed:
                        self._start_shadows(service, lambda n: self._ask_in_the_shadow(n, frame))
                    outcome, error = await self._attempt(service, request, frame, direction)
                    if error is not None:
                        failed[service] = error
                    if outcome is not Outcome.FAILED:
                        break
                else:
                    repair.make()
        except asyncio.CancelledError:
            # Whoever was answering may be anywhere; what it still pushes is dropped.
            outcome = Outcome.STOPPED
            if request.is_open:
                await answers.push(LLMFullResponseEndFrame())
            raise
        finally:
            is_heard = outcome is Outcome.STOPPED and request.said != ""
            is_saved = is_heard or outcome is Outcome.ANSWERED
            await self._tell_failures(
                failed,
                saved=is_saved,
                by=service if is_saved else None,
                nobody_answers=outcome is Outcome.FAILED,
            )
        if outcome is Outcome.ANSWERED and service is not None:
            await self._note_answer(service)
        elif outcome is Outcome.BROKEN:
            await self._note_loss(request.said, failed, nobody_answers=False)
        elif outcome is Outcome.FAILED:
            await self._lose(answers, request, failed)
        elif request.is_open and not request.is_withdrawn:
            await answers.push(LLMFullResponseEndFrame())
        # What the strategy has made of an error meanwhile is nobody's choice.
        self._active = self._switcher.strategy.active_service

    def withdraw(self) -> None:
        """Ask nobody else: the user goes on speaking, so there was no question yet."""
        if self._request is not None:
            self._request.is_withdrawn = True

    async def switch(self, frame: ServiceSwitcherFrame, direction: FrameDirection) -> bool:
        """Let the application switch while a request runs.

        Whoever answers may go on: without failover it does. Only where the next
        request waits for it, silence ends it from here on, and blames nobody.

        Args:
            frame: What the application has queued.
            direction: Where it is going.

        Returns:
            Whether it was meant for this switcher, and has made a service active.
        """
        if await self._switcher.strategy.handle_frame(frame, direction) is None:
            return False
        self._note_choice()
        if self._attempted is not None:
            member, attempt = self._attempted
            attempt.is_left = member.service is not self._active
            attempt.look()
        return True

    def follow(self) -> None:
        """Note that a request waits for the one that runs."""
        if self._request is not None:
            self._request.is_followed = True
        if self._attempted is not None:
            self._attempted[1].look()

    async def _attempt(
        self, service: int, request: Request, frame: LLMContextFrame, direction: FrameDirection
    ) -> tuple[Outcome, ErrorFrame | None]:
        """Ask one service, and wait for what becomes of it."""
        member = self._members[service]
        attempt = Attempt(request, self._text_aggregator(), member.push)
        await self._stop_shadow(service)
        await self._activate(member)
        self._attempted = member, attempt
        try:
            await member.before(attempt)
            await self._entrance.hand_on(frame, direction)
            await member.behind(attempt)
            outcome = await attempt.outcome(self._timeout_secs)
        except TimeoutError:
            is_to_blame = not attempt.may_be_busy
            await member.halt(attempt)
            if not is_to_blame:
                return Outcome.STOPPED, None
            await attempt.give_up()
            return Outcome.FAILED, self._silence(service)
        finally:
            attempt.close()
        member.forget(attempt)
        return outcome, attempt.error

    async def _activate(self, member: Member) -> None:
        await self._entrance.activate(member.service)
        self._active = self._switcher.strategy.active_service

    def _note_choice(self) -> None:
        """Ask first whom the application, or the strategy, has made active meanwhile."""
        active = self._switcher.strategy.active_service
        if active is not self._active:
            self._active = active
            self._prefer(self._switcher.services.index(active))

    async def _lose(self, last: Member, request: Request, failed: dict[int, ErrorFrame]) -> None:
        # The service has logged it already, and told its own handlers.
        await last.push([*failed.values()][-1], FrameDirection.UPSTREAM)
        if request.is_open:
            await last.push(LLMFullResponseEndFrame())
        await self._note_loss(request.said, failed, nobody_answers=True)

    async def _ask_in_the_shadow(self, service: int, frame: LLMContextFrame) -> str | None:
        return await self._members[service].ask_in_the_shadow(frame.context, self._timeout_secs)
