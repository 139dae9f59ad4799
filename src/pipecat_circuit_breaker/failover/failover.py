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
from typing import TYPE_CHECKING, Any

from loguru import logger
from pipecat.frames.frames import ErrorFrame, Frame, TTSSpeakFrame
from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.utils.base_object import BaseObject
from tenacity import wait_exponential
from tenacity.wait import wait_base

from pipecat_circuit_breaker._core import backoff
from pipecat_circuit_breaker._core.causality import nest, restore
from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker._core.services import Services
from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker._pipeline import releases
from pipecat_circuit_breaker._pipeline.guard import Guard
from pipecat_circuit_breaker.failover.roster import Probe, Roster

if TYPE_CHECKING:
    from pipecat_circuit_breaker.fleet.view import Probe as FleetProbe
    from pipecat_circuit_breaker.fleet.view import View

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

    - on_service_failed(failover, service, error, saved): Called when a service that worked has
      failed a request. ``service`` is the processor; ``error``, its ``ErrorFrame``; and ``saved``, a bool: whether the caller got an
      answer all the same.
    - on_service_recovered(failover, service): Called when a service that had failed works again.
    - on_request_lost(failover, partial): Called when a request has got no answer, or not the whole
      of it. ``partial`` is the text that had left of it, empty where nothing had.
    - on_outage(failover): Called once when no service answers any more.
    - on_outage_over(failover): Called once when one does again.

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
        """Take up failover; see :meth:`.CircuitBreakerProcessor.failover`.

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
            self._is_out_in_fleet,
        )
        # What the application has chosen, which knows more than the fleet.
        self._chosen: int | None = None
        # How each has failed last, as far as the fleet is concerned.
        self._failed_as: dict[int, Origin] = {}
        # Where this bot is the one of all that looks whether a service works again.
        self._leases: dict[int, FleetProbe] = {}
        self._guard: Guard | None = None
        self._services: Services | None = None
        self._shadows: dict[int, asyncio.Task[None]] = {}
        for event in _EVENTS:
            self._register_event_handler(event)

    @property
    def is_out(self) -> bool:
        """Whether there is an outage, in which no service answered the last request."""
        return self._roster.is_out

    @property
    def switcher(self) -> ServiceSwitcher[Any]:
        """The switcher whose services stand in for each other."""
        return self._switcher

    @property
    def acts(self) -> bool:
        """Whether it does anything, which it does in the breaker's mode ``GUARD`` alone.

        In any other a request goes to the active service, as without failover.
        Whether another would have answered nobody knows who has not asked it.
        """
        return self._guard is None or self._guard.mode is Mode.GUARD

    def join(self, guard: Guard) -> None:
        """Tell what happens by incidents of a pipeline, which is being set up.

        Args:
            guard: Who guards the pipeline.
        """
        self._guard = guard
        self._roster.take_changes()
        self._services = guard.services(
            self._switcher, zip(self._switcher.services, self._roster.circuits, strict=True)
        )

    @abstractmethod
    def leave(self) -> None:
        """Leave the switcher and its services as they were, between two calls."""

    async def end(self) -> None:
        """Stop every shadow request: the call ends, or is cancelled."""
        for service in [*self._shadows]:
            await self._stop_shadow(service)

    @property
    def _fleet(self) -> View | None:
        return None if self._guard is None else self._guard.fleet

    def _is_out_in_fleet(self, service: int) -> bool:
        """Whether other bots have found a service to be out."""
        fleet = self._fleet
        if fleet is None or service == self._chosen:
            return False
        return fleet.is_out(self._switcher.services[service])

    def _prefer(self, service: int) -> None:
        """Ask first whom the application, or the strategy, has made active."""
        self._chosen = service
        self._roster.prefer(service)

    async def _hear_of_fleet(self) -> None:
        """Take back those services that work again, as another bot has found out."""
        if (fleet := self._fleet) is None:
            return
        for service in self._roster.failing:
            secs = self._roster.failing_secs(service)
            if fleet.came_back(self._switcher.services[service], secs):
                if self._roster.bring_back(service):
                    await self._tell_recovery(service)

    def _tell_fleet_answered(self, service: int) -> None:
        if self._fleet is not None:
            if (lease := self._leases.pop(service, None)) is not None:
                self._fleet.settle(lease, success=True)
            self._fleet.service_worked(self._switcher.services[service])

    def _tell_fleet_failed(self, service: int, origin: Origin | None) -> None:
        if self._fleet is not None:
            if (lease := self._leases.pop(service, None)) is not None:
                self._fleet.settle(lease, success=False)
            if origin is not None:
                self._failed_as[service] = origin
                self._fleet.service_failed(self._switcher.services[service], origin)

    def _silence(self, service: int) -> ErrorFrame:
        """What is told of a service that was silent for too long."""
        text = f"no answer within {self._timeout_secs:g} s"
        error = ErrorFrame(text, processor=self._switcher.services[service])
        try:
            # Up to 1.7 pipecat dies at one that was never raised.
            raise TimeoutError(text)
        except TimeoutError as e:
            error.exception = e
        if ErrorCategory is not None:
            error.category = ErrorCategory.CONNECTIVITY
        return error

    async def _note_answer(self, service: int) -> None:
        others = self._roster.in_place_of(service)
        self._note(lambda services: services.answered(service, others))
        self._tell_fleet_answered(service)
        if self._roster.succeed(service):
            await self._tell_recovery(service)
        await self._tell_outage_over()

    async def _note_loss(
        self, partial: str | None, failed: dict[int, ErrorFrame], *, nobody_answers: bool
    ) -> None:
        """Tell the application what was lost, and the caller once in each outage.

        Args:
            partial: What had left of it; None where nothing was lost.
            failed: The error of each service that has failed it.
            nobody_answers: Whether none is left to ask.
        """
        is_news = nobody_answers and self._roster.begin_outage()
        self._note(lambda services: services.lost(self._roster.failing))
        await self._write_down(nobody_answers=nobody_answers)
        if is_news and self._announcement is not None:
            announcement = self._announcement
            if isinstance(announcement, str):
                announcement = TTSSpeakFrame(announcement)
            await self._switcher.push_frame(announcement)
        if partial is not None:
            last = [*failed][-1]
            await self._answer(last, failed[last], "on_request_lost", partial)
        if is_news:
            await self._call_event_handler("on_outage")

    async def _tell_failures(
        self,
        failed: dict[int, ErrorFrame],
        *,
        saved: bool,
        by: int | None = None,
        nobody_answers: bool = False,
    ) -> None:
        """Tell which services have failed a request.

        Args:
            failed: The error of each.
            saved: Whether the caller gets an answer all the same.
            by: Who gives it; None where that is not known, or nobody does.
            nobody_answers: Whether none is left to ask.
        """
        news = [service for service in failed if self._roster.fail(service)]
        if self._chosen in failed:
            self._chosen = None
        await self._write_down(failed, by=by, nobody_answers=nobody_answers)
        for service in news:
            processor = self._switcher.services[service]
            await self._answer(
                service, failed[service], "on_service_failed", processor, failed[service], saved
            )

    async def _answer(self, service: int, error: ErrorFrame, event: str, *args: Any) -> None:
        """Let the application answer a failure, on whose account it does what it does then."""
        token = None
        if (guard := self._guard) is not None:
            try:
                link = guard.link_of_failure(error, self._switcher.services[service])
                if not guard.may_answer(link):
                    logger.debug(f"{self}: {event} is no more called, it makes the next failure")
                    return
                token = nest(self._switcher, link, type(error).__name__)
            except Exception as e:
                guard.report("noting what becomes of a request", e)
        try:
            await self._call_event_handler(event, *args)
        finally:
            if token is not None:
                restore(token)

    async def _write_down(
        self,
        failed: dict[int, ErrorFrame] | None = None,
        *,
        by: int | None = None,
        nobody_answers: bool = False,
    ) -> None:
        """Let the breaker's incidents, totals and log say what has happened."""
        guard = self._guard
        if guard is None:
            return

        def note(services: Services) -> None:
            links = {
                service: guard.link_of_failure(error, self._switcher.services[service])
                for service, error in (failed or {}).items()
            }
            services.changed(self._roster.take_changes(), links)
            for service, link in links.items():
                self._tell_fleet_failed(service, link.origin)
            if by is not None:
                services.took_over(by, self._roster.in_place_of(by))
            if nobody_answers:
                services.went_out()

        self._note(note)
        await guard.tell()

    def _note(self, note: Callable[[Services], None]) -> None:
        """Have something written down; that it cannot be keeps no request from its answer."""
        if self._guard is None or self._services is None:
            return
        try:
            note(self._services)
        except Exception as e:
            self._guard.report("noting what becomes of a request", e)

    async def _tell_recovery(self, service: int) -> None:
        processor = self._switcher.services[service]
        await _make_usable(processor)
        self._note(Services.came_back)
        await self._write_down()
        await self._call_event_handler("on_service_recovered", processor)

    async def _tell_outage_over(self) -> None:
        self._note(Services.came_back)
        await self._write_down()
        if self._roster.end_outage():
            await self._call_event_handler("on_outage_over")

    def _start_shadows(
        self, asked: int, ask: Callable[[int], Coroutine[Any, Any, str | None]]
    ) -> None:
        """Ask those whose cooldown is over what another is asked live.

        Args:
            asked: Who is asked live.
            ask: Asks a service; returns why it failed, None where it did not.
        """
        for service in range(len(self._switcher.services)):
            if service != asked and service not in self._shadows and self._may_look(service):
                self._start_shadow(service, self._look_for_fleet(service, ask(service)))
        for probe in self._roster.probes(asked):
            self._start_shadow(probe.service, self._shadow(probe, ask(probe.service)))

    def _start_shadow(self, service: int, shadow: Coroutine[Any, Any, None]) -> None:
        task = self._switcher.create_task(shadow)
        self._shadows[service] = task
        task.add_done_callback(self._forget_shadow)

    def _may_look(self, service: int) -> bool:
        """Whether it is time that one of the fleet asks a service that is out."""
        fleet = self._fleet
        if fleet is None or not self._is_out_in_fleet(service):
            return False
        return fleet.may_probe_soon(self._switcher.services[service])

    async def _look_for_fleet(self, service: int, ask: Coroutine[Any, Any, str | None]) -> None:
        """Ask a service that is out for the whole fleet, if no other bot does."""
        fleet, processor = self._fleet, self._switcher.services[service]
        try:
            probe = None if fleet is None else await fleet.probe(processor)
            if fleet is None or probe is None:
                return
            failure = await ask
        finally:
            ask.close()
        if failure is not None:
            logger.debug(f"{self}: {processor} still fails: {one_line(failure, 200)}")
        fleet.settle(probe, success=failure is None)
        if failure is None:
            if self._roster.succeed(service):
                await self._tell_recovery(service)
            await self._tell_outage_over()

    def _forget_shadow(self, done: asyncio.Task[None]) -> None:
        self._shadows = {s: task for s, task in self._shadows.items() if task is not done}

    async def _shadow(self, probe: Probe, ask: Coroutine[Any, Any, str | None]) -> None:
        failure = await ask
        if failure is not None:
            service = self._switcher.services[probe.service]
            logger.debug(f"{self}: {service} still fails: {one_line(failure, 200)}")
            # The second look confirms the first.
            self._tell_fleet_failed(probe.service, self._failed_as.get(probe.service))
        else:
            self._tell_fleet_answered(probe.service)
        if self._roster.settle(probe, success=failure is None):
            await self._tell_recovery(probe.service)
            await self._tell_outage_over()

    async def _stop_shadow(self, service: int) -> None:
        if (task := self._shadows.get(service)) is not None:
            await self._switcher.cancel_task(task)


async def _make_usable(service: FrameProcessor) -> None:
    if not releases.is_usable(service):
        await service.set_usable(True)
