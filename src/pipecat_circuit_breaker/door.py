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
        """Note that it is done; called in direct mode, and at the end of a pipeline."""
        ...


def stand_at(processor: FrameProcessor, keeper: Doorkeeper, *, handles: bool) -> Undo:
    """Stand at the door of a processor.

    pipecat hands a frame over by calling ``queue_frame`` of the neighbour, and
    has it handled by calling ``process_frame``. Both are public and looked up
    on the instance, so a function of ours can stand before each. For a frame
    that is not tracked it costs one call and makes no coroutine of its own:
    pipecat's event handlers would cost ten times that at every frame.

    Args:
        processor: The processor.
        keeper: Who is asked.
        handles: Whether what the processor handles is to be noted; False for
            those that only hand on.

    Returns:
        What takes it all back.
    """
    queue = processor.queue_frame
    untracked = _UNTRACKED

    async def ask(frame: Frame, direction: FrameDirection, callback: FrameCallback | None) -> None:
        if await keeper.admits(processor, frame, direction):
            await queue(frame, direction, callback)

    def queue_frame(
        frame: Frame,
        direction: FrameDirection = _DOWNSTREAM,
        callback: FrameCallback | None = None,
    ) -> Coroutine[Any, Any, None]:
        if type(frame) in untracked or _is_untracked(frame) or keeper.knows(processor, frame):
            return queue(frame, direction, callback)
        return ask(frame, direction, callback)

    undo = [replace(processor, "queue_frame", queue_frame)]

    if handles:
        process = processor.process_frame
        is_direct = releases.is_direct(processor)

        async def finish(frame: Frame, work: Awaitable[None]) -> None:
            raised = True
            try:
                await work
                raised = False
            finally:
                keeper.ended(processor, frame, raised=raised)

        def process_frame(frame: Frame, direction: FrameDirection) -> Awaitable[None]:
            # A note stays when a queued processor is done, and where the work
            # raises: pipecat then reports an error. The next frame replaces it.
            if type(frame) in untracked:
                if noted() is None:
                    return process(frame, direction)
                begin(processor, None)
            else:
                keeper.begins(processor, frame)
            work = process(frame, direction)
            if is_direct or isinstance(frame, releases.LIFECYCLE):
                return finish(frame, work)
            return work

        undo.append(replace(processor, "process_frame", process_frame))

    def leave() -> None:
        for step in undo:
            step()

    return leave


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
