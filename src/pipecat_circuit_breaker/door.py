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

from pipecat_circuit_breaker.causality import noted
from pipecat_circuit_breaker.releases import LIFECYCLE, TRACKED

_DOWNSTREAM = FrameDirection.DOWNSTREAM

# Kinds of frame that nobody has to look at: as a rule all but a handful. A set
# of exact classes is three times as fast as `isinstance`, and this is asked
# twice for each frame at each processor.
_UNTRACKED: set[type[Frame]] = set()
_MAX_UNTRACKED = 10_000

Undo = Callable[[], None]


class Doorkeeper(Protocol):
    """Who is asked about the frames that are not plain."""

    async def admits(
        self, processor: FrameProcessor, frame: Frame, direction: FrameDirection
    ) -> bool:
        """Whether a tracked frame may come in; runs in the task of whoever pushes it."""
        ...

    async def handle(self, processor: FrameProcessor, frame: Frame, work: Awaitable[None]) -> None:
        """Await a processor's work on a frame, in the task that does it."""
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
        if type(frame) in untracked or _is_untracked(frame):
            return queue(frame, direction, callback)
        return ask(frame, direction, callback)

    undo = [replace(processor, "queue_frame", queue_frame)]

    if handles:
        process = processor.process_frame

        def process_frame(frame: Frame, direction: FrameDirection) -> Awaitable[None]:
            if type(frame) in untracked and noted() is None:
                return process(frame, direction)
            return keeper.handle(processor, frame, process(frame, direction))

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
    if isinstance(frame, (*TRACKED, *LIFECYCLE)):
        return False
    if len(_UNTRACKED) < _MAX_UNTRACKED:
        _UNTRACKED.add(type(frame))
    return True
