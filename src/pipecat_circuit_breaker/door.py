#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The door of a processor: where each frame that is pushed to it comes in, and is handled."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from pipecat.frames.frames import Frame
from pipecat.processors.frame_processor import FrameCallback, FrameDirection, FrameProcessor

from pipecat_circuit_breaker import releases
from pipecat_circuit_breaker.causality import begin, noted

_DOWNSTREAM = FrameDirection.DOWNSTREAM

# Kinds of frame that nobody has to look at: as a rule all but a handful. A set
# of exact classes is three times as fast as `isinstance`, and this is asked
# twice for each frame at each processor.
_UNTRACKED: set[type[Frame]] = set()
_MAX_UNTRACKED = 10_000

Undo = Callable[[], None]


class Doorkeeper(Protocol):
    """Who is asked about the frames that are not plain."""

    def knows(self, processor: FrameProcessor, frame: Frame) -> bool:
        """Whether a frame may come in, and nothing has to be said of it."""
        ...

    async def admits(
        self, processor: FrameProcessor, frame: Frame, direction: FrameDirection
    ) -> bool:
        """Whether a frame may come in; runs in the task of whoever pushes it."""
        ...

    def begins(self, processor: FrameProcessor, frame: Frame) -> None:
        """Note that a processor is about to handle a frame, in the task that does it."""
        ...

    def ended(self, processor: FrameProcessor, frame: Frame, *, raised: bool) -> None:
        """Note that it is done."""
        ...


class Door:
    """Stands at one processor.

    pipecat hands a frame over by calling ``queue_frame`` of the neighbour, and
    has it handled by calling ``process_frame``. Both are public and looked up
    on the instance, so a function of ours can stand before each. Before
    ``queue_frame`` one stands all the time: for a frame that is not tracked it
    costs one call, and no coroutine. Before ``process_frame`` one stands only
    from the moment a tracked frame comes in until it has been handled.

    Args:
        processor: The processor.
        keeper: Who is asked.
    """

    def __init__(self, processor: FrameProcessor, keeper: Doorkeeper) -> None:
        """Stand at the door from now on."""
        self._processor = processor
        self._keeper = keeper
        self._queue = processor.queue_frame
        self._process = processor.process_frame
        self._is_direct = releases.is_direct(processor)
        self._due = 0
        self._left_over = 0
        self._step_aside: Undo | None = None
        # What handles a frame in its pusher's task has to hide what that one handles.
        self._stays = self._is_direct and not isinstance(processor, releases.RELAYS)
        if self._stays:
            self._stand_before_handling()
        self._leave = replace(processor, "queue_frame", self._before_queue())

    def leave(self) -> None:
        """Leave the processor as it was found."""
        self._leave()
        if self._step_aside is not None:
            self._step_aside()

    def _before_queue(self) -> Callable[..., Coroutine[Any, Any, None]]:
        queue, untracked = self._queue, _UNTRACKED

        def queue_frame(
            frame: Frame,
            direction: FrameDirection = _DOWNSTREAM,
            callback: FrameCallback | None = None,
        ) -> Coroutine[Any, Any, None]:
            if type(frame) in untracked or _is_untracked(frame):
                return queue(frame, direction, callback)
            if self._keeper.knows(self._processor, frame):
                self._expect()
                return queue(frame, direction, callback)
            return self._ask(frame, direction, callback)

        return queue_frame

    async def _ask(
        self, frame: Frame, direction: FrameDirection, callback: FrameCallback | None
    ) -> None:
        if await self._keeper.admits(self._processor, frame, direction):
            self._expect()
            await self._queue(frame, direction, callback)

    def _expect(self) -> None:
        self._due += 1
        if self._step_aside is None:
            self._stand_before_handling()

    def _stand_before_handling(self) -> None:
        self._step_aside = replace(self._processor, "process_frame", self._before_process)

    def _before_process(self, frame: Frame, direction: FrameDirection) -> Awaitable[None]:
        work = self._process(frame, direction)
        if type(frame) not in _UNTRACKED:
            self._due -= 1
            self._keeper.begins(self._processor, frame)
            return self._finish(frame, work)
        if noted() is None:
            return work
        begin(self._processor, None)
        if self._is_direct:
            return self._finish(frame, work)
        self._left_over -= 1
        self._done()
        return work

    async def _finish(self, frame: Frame, work: Awaitable[None]) -> None:
        raised = True
        try:
            await work
            raised = False
        finally:
            # Where the work raises the note stays, because pipecat then
            # reports an error. The next frame in the same task replaces it.
            self._left_over += raised
            self._keeper.ended(self._processor, frame, raised=raised)
            self._done()

    def _done(self) -> None:
        if self._due <= 0 and self._left_over <= 0 and not self._stays:
            self._due = self._left_over = 0
            if self._step_aside is not None:
                self._step_aside()
                self._step_aside = None


def replace(instance: object, name: str, function: Callable[..., Any]) -> Undo:
    """Put a function in the place of an instance's method.

    Returns:
        What puts the method back. Where somebody else has put another
        function in ours's place since, that one stays.
    """
    own = vars(instance)
    before = own.get(name)
    own[name] = function

    def put_back() -> None:
        if own.get(name) is not function:
            return
        if before is None:
            del own[name]
        else:
            own[name] = before

    return put_back


def _is_untracked(frame: Frame) -> bool:
    if isinstance(frame, (*releases.TRACKED, *releases.LIFECYCLE)):
        return False
    if len(_UNTRACKED) < _MAX_UNTRACKED:
        _UNTRACKED.add(type(frame))
    return True
