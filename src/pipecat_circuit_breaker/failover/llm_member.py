#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The surface of a service: what it pushes, reports and calls while it answers a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pipecat.frames.frames import ControlFrame, ErrorFrame, Frame, LLMContextFrame, SystemFrame
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.llm_service import LLMService

from pipecat_circuit_breaker._pipeline.patch import Undo, replace
from pipecat_circuit_breaker._pipeline.tools import without_tools
from pipecat_circuit_breaker.failover.llm_attempt import Attempt
from pipecat_circuit_breaker.failover.roster import PROBE_TIMEOUT_SECS

_DOWNSTREAM = FrameDirection.DOWNSTREAM


@dataclass
class _MarkFrame(ControlFrame):
    """Goes through a service's queue before and behind a request, and no further."""


@dataclass
class _HaltFrame(SystemFrame):
    """Stops what a service does, and goes no further."""


_OURS = (_MarkFrame, _HaltFrame)


class Shadow:
    """A request whose answer nobody hears."""

    def __init__(self) -> None:
        """Start with nothing known."""
        self.error: ErrorFrame | None = None
        self.limit: asyncio.Timeout | None = None
        self.is_over = False

    def note_life(self) -> None:
        """Note a sign of life."""
        if self.limit is not None and not self.limit.expired():
            now = asyncio.get_running_loop().time()
            self.limit.reschedule(now + PROBE_TIMEOUT_SECS)


_shadow: ContextVar[Shadow | None] = ContextVar("failover_shadow", default=None)


def _running_shadow() -> Shadow | None:
    """The shadow request that the running task answers.

    A task that it has started, and that outlives it, is the service's own.
    """
    shadow = _shadow.get()
    return None if shadow is None or shadow.is_over else shadow


class Member:
    """One LLM service of a switcher.

    It is replaced on the instance: ``push_frame``, ``push_error_frame``,
    ``run_function_calls``, ``stop_ttfb_metrics``, ``_push_turn_text`` and
    ``_start_interruption``; during a shadow request ``_call_event_handler`` too,
    which each frame of sound calls.

    Args:
        service: The service.
    """

    def __init__(self, service: LLMService) -> None:
        """Stand at the service from now on."""
        self.service = service
        self._attempt: Attempt | None = None
        self._asked: set[Attempt] = set()
        self._push = service.push_frame
        self._push_error = service.push_error_frame
        self._call = service.run_function_calls
        self._stop_ttfb = service.stop_ttfb_metrics
        self._push_text = service._push_turn_text
        self._call_handlers = service._call_event_handler
        self._interrupt: Any = service._start_interruption
        self._undo: list[Undo] = [
            replace(service, "push_frame", self._push_frame),
            replace(service, "push_error_frame", self._push_error_frame),
            replace(service, "run_function_calls", self._run_function_calls),
            replace(service, "stop_ttfb_metrics", self._stop_ttfb_metrics),
            replace(service, "_push_turn_text", self._push_turn_text),
            replace(service, "_start_interruption", self._start_interruption),
        ]

    def __str__(self) -> str:
        """The service's name."""
        return str(self.service)

    def leave(self) -> None:
        """Leave the service as it was."""
        while self._undo:
            self._undo.pop()()

    async def push(self, frame: Frame, direction: FrameDirection = _DOWNSTREAM) -> None:
        """Push a frame out of the service, past all that is held."""
        await self._push(frame, direction)

    async def before(self, attempt: Attempt) -> None:
        """Note that the frame which is queued next begins an attempt."""
        if self._attempt is not None:
            # An interruption may overtake a request that is on its way here,
            # which is then answered for nobody.
            await self.halt(self._attempt)
        self._asked.add(attempt)

        async def begin(*_: object) -> None:
            self._attempt = attempt
            attempt.begin()

        await self.service.queue_frame(_MarkFrame(), _DOWNSTREAM, begin)

    async def behind(self, attempt: Attempt) -> None:
        """Note that the frame which was queued last was the attempt's."""
        await self._behind(attempt, attempt.finish)

    async def _behind(self, attempt: Attempt, note: Callable[[], None]) -> None:
        async def note_end(*_: object) -> None:
            # The frame behind it, in the same task, is none of it.
            self._asked.discard(attempt)
            self.forget(attempt)
            note()

        await self.service.queue_frame(_MarkFrame(), _DOWNSTREAM, note_end)

    def forget(self, attempt: Attempt) -> None:
        """Note that an attempt has ended by itself."""
        if self._attempt is attempt:
            self._attempt = None

    async def halt(self, attempt: Attempt) -> None:
        """Stop an attempt, and nothing else: tools that run go on."""

        async def stop(*_: object) -> None:
            if self._attempt is not attempt:
                return  # not begun, or over: the service is doing something else
            # In the task that handles interruptions too: two at once would
            # leave the service with two tasks for one queue.
            await self.service._start_interruption()
            await self.service.stop_all_metrics()

        await self.service.queue_frame(_HaltFrame(), _DOWNSTREAM, stop)

    async def ask_in_the_shadow(self, context: LLMContext, limit_secs: float) -> str | None:
        """Ask for an answer that nobody hears.

        It runs beside the service's queue, in a task of its own: a frame that
        ends or interrupts the call does not wait for it.

        Args:
            context: What to ask.
            limit_secs: How long it may take to send anything.

        Returns:
            Why it failed; None where it did not.
        """
        shadow = Shadow()
        _shadow.set(shadow)
        # A service may repair the context of a request that was refused.
        copy = LLMContext([*context.get_messages()], context.tools, context.tool_choice)
        request = LLMContextFrame(copy)
        # A call in the shadow is no round of the turn that goes on.
        request = without_tools(self.service, request, heard=False)
        hear_handlers = replace(self.service, "_call_event_handler", self._call_event_handler)
        try:
            async with asyncio.timeout(limit_secs) as shadow.limit:
                await self.service.process_frame(request, _DOWNSTREAM)
        except TimeoutError:
            return "the provider is silent"
        except Exception as e:
            return f"{type(e).__name__}: {e}"
        finally:
            shadow.is_over = True
            hear_handlers()
        return None if shadow.error is None else shadow.error.error

    def _push_frame(
        self, frame: Frame, direction: FrameDirection = _DOWNSTREAM
    ) -> Coroutine[Any, Any, None]:
        # Sound comes this way, so no call more than it takes.
        shadow = _shadow.get()
        if isinstance(frame, _OURS) or (shadow is not None and not shadow.is_over):
            return _nothing()
        attempt = self._attempt
        if attempt is None or attempt.task is not asyncio.current_task():
            return self._push(frame, direction)
        return attempt.take(frame, direction)

    def _push_error_frame(
        self, error: ErrorFrame, *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, None]:
        if (shadow := _running_shadow()) is None:
            return self._push_error(error, *args, **kwargs)
        # Nobody asked, so nobody hears: neither `on_error`, nor the log.
        shadow.error = error
        return _nothing()

    async def _run_function_calls(
        self, function_calls: Sequence[Any], *args: Any, **kwargs: Any
    ) -> None:
        if _running_shadow() is not None:
            return
        attempt = self._mine()
        if attempt is not None:
            if attempt.is_over:
                return
            await attempt.release()
        await self._call(function_calls, *args, **kwargs)

    def _stop_ttfb_metrics(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, None]:
        # Each service calls it when the first piece of an answer is there.
        if (shadow := _running_shadow()) is not None:
            shadow.note_life()
        elif (attempt := self._mine()) is not None:
            attempt.note_life()
        return self._stop_ttfb(*args, **kwargs)

    def _push_turn_text(self, text: str) -> Coroutine[Any, Any, None]:
        # Where the service reads whether the user has finished, and remembers it.
        if _running_shadow() is not None:
            return _nothing()
        attempt = self._mine()
        if attempt is None:
            return self._push_text(text)
        return attempt.take_turn_text(text, self._push_text)

    async def _start_interruption(self) -> None:
        await self._interrupt()
        for attempt in [*self._asked]:
            # When this comes, the attempt is done, or it was dropped with its marks.
            await self._behind(attempt, attempt.stop)

    def _call_event_handler(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, None]:
        if _running_shadow() is not None:
            return _nothing()
        return self._call_handlers(*args, **kwargs)

    def _mine(self) -> Attempt | None:
        """The attempt that the running task is answering."""
        attempt = self._attempt
        if attempt is None or attempt.task is not asyncio.current_task():
            return None
        return attempt


async def _nothing() -> None:
    """What happens to a frame that goes no further."""
