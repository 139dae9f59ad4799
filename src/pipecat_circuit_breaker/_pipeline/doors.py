#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Where frames are pushed: ``queue_frame`` of each processor."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from pipecat.frames.frames import ErrorFrame, Frame
from pipecat.processors.frame_processor import FrameCallback, FrameDirection, FrameProcessor

from pipecat_circuit_breaker._core.causality import Link, end, nest, noted
from pipecat_circuit_breaker._pipeline import releases
from pipecat_circuit_breaker._pipeline.patch import replace

_DOWNSTREAM = FrameDirection.DOWNSTREAM
_UPSTREAM = FrameDirection.UPSTREAM

#: Kinds of frame that nobody has to look at: as a rule all but a handful. A set
#: of exact classes is three times as fast as `isinstance`, and this is asked
#: twice for each frame at each processor.
UNTRACKED: set[type[Frame]] = set()

#: Kinds of frame that are messages and nothing else that a door looks for.
MESSAGES: set[type[Frame]] = set()

#: How many kinds each of the two keeps.
_MAX_KINDS = 10_000


class Keeper(Protocol):
    """Who is asked about the frames that are not plain."""

    #: Whether anything has failed lately: then plain frames carry causes too.
    is_alert: bool

    @property
    def has_news(self) -> bool:
        """Whether there is something to tell before a frame goes on."""
        ...

    def passes_on(self, frame: Frame, bit: int) -> bool:
        """Whether a message only passes a door: nobody has to look at it there."""
        ...

    def carries(self, door: "Door", frame: Frame, direction: FrameDirection) -> None:
        """Let an untracked frame carry what it is pushed on account of."""
        ...

    def asks(self, door: "Door", frame: Any, direction: FrameDirection) -> Frame:
        """Ask a model, with its tools or without; runs in the task of whoever pushes the request."""
        ...

    def admits(self, door: "Door", frame: Frame, direction: FrameDirection) -> bool:
        """Whether a tracked frame may come in; runs in the task of whoever pushes it."""
        ...

    def link_of(self, frame: Frame) -> Link | None:
        """The link that a frame has, or carries."""
        ...

    def ended(self, processor: FrameProcessor) -> None:
        """Note that an output has handled the frame that ends the pipeline."""
        ...

    async def tell(self) -> None:
        """Tell what has happened."""
        ...


class Door:
    """Stands at one processor.

    pipecat hands a frame over by calling ``queue_frame`` of the neighbour, which
    is public and looked up on the instance, so a function of ours can stand
    before it. For a frame that is not tracked it costs one call, and no
    coroutine.

    Args:
        processor: The processor.
        keeper: Who is asked.
        number: The door's own number.
        hears_errors: Whether every error passes here, because somebody further
            on has to hear it.
        is_top: Whether the worker itself is behind it, and tells the application.
    """

    def __init__(
        self,
        processor: FrameProcessor,
        keeper: Keeper,
        number: int,
        *,
        hears_errors: bool,
        is_top: bool = False,
    ) -> None:
        """Stand at the door from now on."""
        self.processor = processor
        self.hears_errors = hears_errors
        self.is_output = releases.is_output(processor)
        self._bit = 1 << (2 * number)
        self._keeper = keeper
        self._queue = processor.queue_frame
        self._is_direct = releases.is_direct(processor)
        self._is_top = is_top
        hides = self._is_direct and not releases.only_hands_on(processor)
        before = self._before_direct if hides else self._before_queued()
        self.leave = replace(processor, "queue_frame", before)

    def bit(self, direction: FrameDirection) -> int:
        """What stands for this door, and the direction, in what a frame has passed."""
        return self._bit << 1 if direction is _UPSTREAM else self._bit

    def neighbour(self, direction: FrameDirection) -> FrameProcessor | None:
        """Who pushes what comes from there."""
        processor = self.processor
        return processor.next if direction is _UPSTREAM else processor.previous

    def _before_queued(self) -> Any:
        keeper, queue, untracked, messages = self._keeper, self._queue, UNTRACKED, MESSAGES
        is_top, downstream, upstream = self._is_top, self.bit(_DOWNSTREAM), self.bit(_UPSTREAM)

        def queue_frame(
            frame: Frame,
            direction: FrameDirection = _DOWNSTREAM,
            callback: FrameCallback | None = None,
            **more: Any,
        ) -> Coroutine[Any, Any, None]:
            kind = type(frame)
            # Most messages are healthy, and each passes every door.
            if kind in messages:
                if direction is _DOWNSTREAM:
                    if keeper.passes_on(frame, downstream):
                        return queue(frame, direction, callback, **more)
                elif not is_top and keeper.passes_on(frame, upstream):
                    return queue(frame, direction, callback, **more)
            elif kind in untracked or is_untracked(frame):
                if keeper.is_alert:
                    keeper.carries(self, frame, direction)
                return queue(frame, direction, callback, **more)
            # The application's handlers hear of an error there: what they do is on its account.
            comes_to_them = self._is_top and direction is _UPSTREAM
            return self._ask(frame, direction, callback, self._inside if comes_to_them else queue)

        return queue_frame

    def _before_direct(
        self,
        frame: Frame,
        direction: FrameDirection = _DOWNSTREAM,
        callback: FrameCallback | None = None,
    ) -> Coroutine[Any, Any, None]:
        if type(frame) in UNTRACKED or is_untracked(frame):
            if self._keeper.is_alert:
                self._keeper.carries(self, frame, direction)
            if noted() is None:
                return self._queue(frame, direction, callback)
            return self._inside(frame, direction, callback)
        return self._ask(frame, direction, callback, self._inside)

    def _ask(
        self,
        frame: Frame,
        direction: FrameDirection,
        callback: FrameCallback | None,
        queue: Callable[..., Coroutine[Any, Any, None]],
    ) -> Coroutine[Any, Any, None]:
        if isinstance(frame, releases.REQUESTS):
            return queue(self._keeper.asks(self, frame, direction), direction, callback)
        if isinstance(frame, releases.LIFECYCLE):
            if self.is_output:
                callback = self._and_note(callback)
            return queue(frame, direction, callback)
        admitted = self._keeper.admits(self, frame, direction)
        if self._keeper.has_news:
            return self._tell(frame, direction, callback, queue if admitted else None)
        return queue(frame, direction, callback) if admitted else _held()

    async def _tell(
        self,
        frame: Frame,
        direction: FrameDirection,
        callback: FrameCallback | None,
        queue: Any,
    ) -> None:
        await self._keeper.tell()
        if queue is not None:
            await queue(frame, direction, callback)

    async def _inside(
        self, frame: Frame, direction: FrameDirection, callback: FrameCallback | None
    ) -> None:
        """Let a frame through a processor that handles it in its pusher's task.

        What it pushes meanwhile is on account of this frame, and not of the one
        that its pusher handles.
        """
        nest(self.processor, self._keeper.link_of(frame), type(frame).__name__)
        # No `finally`: where the work raises, pipecat reports an error on its account.
        await self._queue(frame, direction, callback)
        end(self.processor)

    def _and_note(self, callback: FrameCallback | None) -> FrameCallback:
        async def handled(
            processor: FrameProcessor, frame: Frame, direction: FrameDirection
        ) -> None:
            if callback is not None:
                await callback(processor, frame, direction)
            self._keeper.ended(processor)

        return handled


async def _held() -> None:
    """What happens to a frame that is held back."""


def is_untracked(frame: Frame) -> bool:
    """Whether nobody has to look at a frame of this class; remembered for the next."""
    is_message = isinstance(frame, releases.MESSAGES)
    if isinstance(frame, (ErrorFrame, *releases.LIFECYCLE, *releases.REQUESTS)):
        return False
    known = MESSAGES if is_message else UNTRACKED
    if len(known) < _MAX_KINDS:
        known.add(type(frame))
    return not is_message
