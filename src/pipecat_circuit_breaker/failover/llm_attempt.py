#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""One request at one service: what of its answer has left, and what is held."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from functools import lru_cache

from loguru import logger
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    SystemFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.utils.text.base_text_aggregator import BaseTextAggregator

from pipecat_circuit_breaker._core.text import one_line

Push = Callable[[Frame, FrameDirection], Awaitable[None]]


class Outcome(Enum):
    """What became of a request at one service.

    Parameters:
        ANSWERED: It ended without an error.
        FAILED: An error, or silence, before any text or tool call had left.
        BROKEN: An error after some of it had left.
        STOPPED: Somebody stopped it; nobody is to blame.
    """

    ANSWERED = "answered"
    FAILED = "failed"
    BROKEN = "broken"
    STOPPED = "stopped"


class Request:
    """What the caller asked, whoever answers.

    Exactly one start and one end of an answer leave, for all services together.
    Each service pushes the same start: it, and what it does with a speculative
    answer, goes by that, and the switcher lets each frame out once.
    """

    def __init__(self) -> None:
        """Start with nothing that has left."""
        self.start: Frame | None = None
        self.has_ended = False
        self.is_withdrawn = False
        #: Whether the next request waits for this one to be over.
        self.is_followed = False
        self.said = ""

    @property
    def is_open(self) -> bool:
        """Whether an answer has begun and not ended."""
        return self.start is not None and not self.has_ended


class Attempt:
    """One request at one service.

    Text is held until its first sentence is whole, and so is what would
    overtake it. pipecat's TTS services do not speak before, so nobody hears
    anything later, and a stream that breaks before can be asked for again.
    Whatever else a service pushes is no part of what is asked again: it leaves,
    also where the request fails.

    Args:
        request: The request.
        aggregator: Says when there is something to speak.
        push: Pushes a frame out of the service.
    """

    def __init__(self, request: Request, aggregator: BaseTextAggregator, push: Push) -> None:
        """Start with nothing said."""
        self._request = request
        self._aggregator = aggregator
        self._push = push
        self._held: list[tuple[bool, Callable[[], Awaitable[None]]]] = []
        self._done = asyncio.Event()
        self._has_left = False
        self._is_alive = False
        self._waits_for_text = False
        self._is_over = False
        self._was_stopped = False
        self._untold: list[ErrorFrame] = []
        self._limit_secs = 0.0
        self._limit: asyncio.Timeout | None = None
        self._last_sign_at = _now()
        #: Whether the application has switched to another service meanwhile.
        self.is_left = False
        #: The task of the service in which it answers; what other tasks push is not of the answer.
        self.task: asyncio.Task[object] | None = None
        self.error: ErrorFrame | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing of it may leave any more."""
        return self._is_over or (self._limit is not None and self._limit.expired())

    @property
    def may_be_busy(self) -> bool:
        """Whether silence says nothing about the provider.

        It has not been asked yet, or there was a sign of life: a thought, and
        the arguments of a tool, may take long and be no frame. Only text that
        is held, and stalls, says then that something is wrong.
        """
        return self.task is None or (self._is_alive and not self._waits_for_text)

    async def outcome(self, limit_secs: float) -> Outcome:
        """Wait until it is over.

        Args:
            limit_secs: How long it may be silent where that says something of
                the provider; where the next request waits for it and the
                application has switched to another service, in any case.

        Raises:
            TimeoutError: It was silent for that long.
        """
        self._limit_secs = limit_secs
        async with asyncio.timeout_at(self._due_at()) as self._limit:
            await self._done.wait()
        self.close()
        if self._was_stopped:
            return Outcome.STOPPED
        if self.error is None:
            return Outcome.ANSWERED
        if self._has_left:
            return Outcome.BROKEN
        await self.give_up()
        return Outcome.FAILED

    def begin(self) -> None:
        """Note that the running task of the service begins with it."""
        self.task = asyncio.current_task()
        self._last_sign_at = _now()
        self.look()

    def look(self) -> None:
        """Look again how long it is waited for."""
        if self._limit is not None and not self.is_over:
            self._limit.reschedule(self._due_at())

    def note_life(self) -> None:
        """Note a sign of life: the provider has sent something, whatever it is."""
        self._note_piece(is_text=False)

    def _note_piece(self, *, is_text: bool) -> None:
        if self.is_over:
            return
        self._is_alive = True
        self._waits_for_text = is_text and not self._has_left
        self._last_sign_at = _now()
        self.look()

    async def take(self, frame: Frame, direction: FrameDirection) -> None:
        """Take what the service pushes while it answers, and push it on, hold it or drop it."""
        if self.is_over:
            return
        if isinstance(frame, ErrorFrame):
            self.error = frame
            if self._has_left:
                await self._push(frame, direction)
            else:
                self._untold.append(frame)
        elif isinstance(frame, LLMFullResponseStartFrame):
            if self._request.start is None:
                self._request.start = frame
            await self._push(self._request.start, direction)
        elif isinstance(frame, LLMFullResponseEndFrame):
            await self._end(frame, direction)
        elif (
            self._has_left or isinstance(frame, SystemFrame) or direction is FrameDirection.UPSTREAM
        ):
            await self._let_go(frame, direction)
        elif isinstance(frame, LLMTextFrame):
            await self._hold(frame.text, lambda: self._let_go(frame, direction))
        else:
            self.note_life()
            if self._held:
                self._held.append((False, lambda: self._let_go(frame, direction)))
            else:
                await self._let_go(frame, direction)

    async def take_turn_text(self, text: str, push: Callable[[str], Awaitable[None]]) -> None:
        """Take text that may begin with whether the user has finished.

        It is held before the service reads it: one that fails has to forget
        what it has read, and does not.

        Args:
            text: The text.
            push: Reads it, and pushes what is to be spoken.
        """
        if self.is_over:
            return
        if self._has_left:
            await self._goes_on()
            await push(text)
        else:
            await self._hold(text, lambda: push(text))

    async def release(self) -> None:
        """Let leave what is held: from here on the answer is this service's."""
        await self._goes_on()
        self._has_left = True
        self.note_life()
        held, self._held = self._held, []
        for _, let_go in held:
            await let_go()

    async def give_up(self) -> None:
        """Drop the text that is held: another service is asked for it."""
        held, self._held = self._held, []
        for is_text, let_go in held:
            if not is_text:
                await let_go()

    def finish(self) -> None:
        """Note that the service is done with it, whether it has said so or not."""
        self._done.set()

    def stop(self) -> None:
        """Note that an interruption has stopped it, or dropped it, if it was not done."""
        if not self._done.is_set():
            self._was_stopped = True
            self._done.set()

    def close(self) -> None:
        """Note that nobody waits for it any more, so nothing of it may leave."""
        self._is_over = True

    def _due_at(self) -> float | None:
        if self.may_be_busy and not (self.is_left and self._request.is_followed):
            return None
        return self._last_sign_at + self._limit_secs

    async def _let_go(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, LLMTextFrame):
            await self._goes_on()
            self._request.said += frame.text
        await self._push(frame, direction)

    async def _goes_on(self) -> None:
        # Errors behind which the answer goes on were not its end.
        self.error = None
        untold, self._untold = self._untold, []
        for error in untold:
            await self._push(error, FrameDirection.UPSTREAM)

    async def _hold(self, text: str, let_go: Callable[[], Awaitable[None]]) -> None:
        await self._goes_on()
        self._held.append((True, let_go))
        self._note_piece(is_text=True)
        if await self._may_be_spoken(text):
            await self.release()

    async def _may_be_spoken(self, text: str) -> bool:
        try:
            async for _ in self._aggregator.aggregate(text):
                return True
        except Exception as e:
            # On 1.x before `sentencex` it needs data that may be missing.
            _say_once(f"cannot tell where a sentence ends, so no text is held: {one_line(e, 200)}")
            return True
        return False

    async def _end(self, frame: Frame, direction: FrameDirection) -> None:
        # Services push it in a `finally`, also where they are being cancelled.
        task = asyncio.current_task()
        self._was_stopped = task is not None and task.cancelling() > 0
        if self.error is None and not self._was_stopped:
            await self.release()
        if self.error is None or self._has_left or self._was_stopped:
            self._request.has_ended = True
            await self._push(frame, direction)
        self._done.set()


def _now() -> float:
    return asyncio.get_running_loop().time()


@lru_cache(maxsize=16)
def _say_once(line: str) -> None:
    logger.error(line)
