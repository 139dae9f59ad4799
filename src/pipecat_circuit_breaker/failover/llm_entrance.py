#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The surface of a switcher: requests, and what ends or interrupts them, come in here."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    LLMContextFrame,
    ServiceSwitcherFrame,
    StopFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.processors.frame_processor import FrameCallback, FrameDirection, FrameProcessor

from pipecat_circuit_breaker._pipeline.patch import replace

try:
    from pipecat.frames.frames import EagerEndOfTurnCancelFrame  # 1.12.0
except ImportError:
    _WITHDRAWALS: tuple[type[Frame], ...] = ()
else:
    _WITHDRAWALS = (EagerEndOfTurnCancelFrame,)

#: Frames that the services have to hear which are not active, too: one may be running a tool, one
#: that answers before it is certain that the user has finished (1.12) waits for the end of the
#: turn, which may be over when it is asked, and one that judges whether the user has finished
#: has to know who is speaking.
_FOR_ALL: tuple[type[Frame], ...] = (
    InterruptionFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
    *_WITHDRAWALS,
)

#: Frames with which the call ends for the services.
_ENDS: tuple[type[Frame], ...] = (EndFrame, StopFrame, CancelFrame)

#: Frames that are not only handed on.
_OURS: tuple[type[Frame], ...] = (LLMContextFrame, *_FOR_ALL, *_ENDS)


class Driver(Protocol):
    """Who decides what becomes of a request."""

    async def ask(self, frame: LLMContextFrame, direction: FrameDirection) -> None:
        """Get a request answered."""
        ...

    def withdraw(self) -> None:
        """Ask nobody else what is being asked."""
        ...

    async def switch(self, frame: ServiceSwitcherFrame, direction: FrameDirection) -> bool:
        """Let the application switch while a request runs."""
        ...

    def follow(self) -> None:
        """Note that a request waits for the one that runs."""
        ...

    async def end(self) -> None:
        """Stop what runs beside the call."""
        ...


class Entrance:
    """Stands where frames come into a switcher.

    ``process_frame`` of the instance is replaced. Requests are driven in the
    switcher's own task for frames, so what is queued behind one waits there,
    in order, and an interruption cancels it as it cancels any other frame.
    Without failover a request leaves that task at once, and so does a switch
    by hand behind it. So while a request runs, ``queue_frame`` is replaced as
    well: a switch is made there, ahead of what waits.

    Args:
        switcher: The switcher.
        driver: Who decides.
    """

    def __init__(self, switcher: ServiceSwitcher[Any], driver: Driver) -> None:
        """Stand there from now on."""
        self.switcher = switcher
        self._driver = driver
        self._process = switcher.process_frame
        self.leave = replace(switcher, "process_frame", self._process_frame)

    async def hand_on(self, frame: Frame, direction: FrameDirection) -> None:
        """Hand a frame to the active service, as the switcher does."""
        await self._process(frame, direction)

    async def activate(self, service: FrameProcessor) -> None:
        """Make a service the active one."""
        strategy = self.switcher.strategy
        if strategy.active_service is service:
            return
        if not getattr(service, "is_usable", True):  # 1.8.0
            await service.set_usable(True)
        await strategy._set_active_if_available(service)

    @contextmanager
    def overtaking(self) -> Iterator[None]:
        """Let a switch by hand overtake the request that runs meanwhile."""
        queue = self.switcher.queue_frame

        def queue_frame(
            frame: Frame,
            direction: FrameDirection = FrameDirection.DOWNSTREAM,
            callback: FrameCallback | None = None,
        ) -> Coroutine[Any, Any, None]:
            if isinstance(frame, ServiceSwitcherFrame):
                return switch(frame, direction, callback)
            if isinstance(frame, LLMContextFrame):
                self._driver.follow()
            return queue(frame, direction, callback)

        async def switch(
            frame: ServiceSwitcherFrame, direction: FrameDirection, callback: FrameCallback | None
        ) -> None:
            if not await self._driver.switch(frame, direction):
                await queue(frame, direction, callback)
            elif callback is not None:
                await callback(self.switcher, frame, direction)

        undo = replace(self.switcher, "queue_frame", queue_frame)
        try:
            yield
        finally:
            undo()

    def _process_frame(self, frame: Frame, direction: FrameDirection) -> Coroutine[Any, Any, None]:
        if not isinstance(frame, _OURS):
            return self._process(frame, direction)
        if isinstance(frame, LLMContextFrame):
            return self._driver.ask(frame, direction)
        if isinstance(frame, _FOR_ALL):
            return self._hand_to_all(frame, direction)
        return self._end(frame, direction)

    async def _hand_to_all(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, _WITHDRAWALS):
            self._driver.withdraw()
        await self._process(frame, direction)
        for service in self.switcher.services:
            if service is not self.switcher.strategy.active_service:
                # The same frame: the switcher lets it out once.
                await service.queue_frame(frame, direction)

    async def _end(self, frame: Frame, direction: FrameDirection) -> None:
        await self._driver.end()
        await self._process(frame, direction)
