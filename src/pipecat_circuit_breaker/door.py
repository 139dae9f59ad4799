#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Where frames are pushed and handled: the door of each processor, and pipecat's observer."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from pipecat.frames.frames import Frame
from pipecat.observers.base_observer import BaseObserver, FrameProcessed
from pipecat.processors.frame_processor import FrameCallback, FrameDirection, FrameProcessor

from pipecat_circuit_breaker import releases
from pipecat_circuit_breaker.causality import begin, end, noted

_DOWNSTREAM = FrameDirection.DOWNSTREAM

# Kinds of frame that nobody has to look at: as a rule all but a handful. A set
# of exact classes is three times as fast as `isinstance`, and this is asked
# twice for each frame at each processor.
_UNTRACKED: set[type[Frame]] = set()
_MAX_UNTRACKED = 10_000

Undo = Callable[[], None]
QueueFrame = Callable[..., Coroutine[Any, Any, None]]


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

    def ended(self, processor: FrameProcessor, frame: Frame) -> None:
        """Note that it has handled the frame that ends the pipeline."""
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
    """

    def __init__(self, processor: FrameProcessor, keeper: Doorkeeper) -> None:
        """Stand at the door from now on."""
        self._processor = processor
        self._keeper = keeper
        self._queue = processor.queue_frame
        self._is_direct = releases.is_direct(processor)
        hides = self._is_direct and not releases.only_hands_on(processor)
        before = self._before_direct() if hides else self._before_queued()
        self.leave = replace(processor, "queue_frame", before)

    def _before_queued(self) -> QueueFrame:
        processor, keeper, queue, untracked = self._processor, self._keeper, self._queue, _UNTRACKED

        def queue_frame(
            frame: Frame,
            direction: FrameDirection = _DOWNSTREAM,
            callback: FrameCallback | None = None,
        ) -> Coroutine[Any, Any, None]:
            if type(frame) in untracked or _is_untracked(frame) or keeper.knows(processor, frame):
                return queue(frame, direction, callback)
            return self._ask(frame, direction, callback)

        return queue_frame

    def _before_direct(self) -> QueueFrame:
        queue, untracked = self._queue, _UNTRACKED

        def queue_frame(
            frame: Frame,
            direction: FrameDirection = _DOWNSTREAM,
            callback: FrameCallback | None = None,
        ) -> Coroutine[Any, Any, None]:
            if noted() is None and (type(frame) in untracked or _is_untracked(frame)):
                return queue(frame, direction, callback)
            return self._through(frame, direction, callback)

        return queue_frame

    async def _ask(
        self, frame: Frame, direction: FrameDirection, callback: FrameCallback | None
    ) -> None:
        if await self._keeper.admits(self._processor, frame, direction):
            if isinstance(frame, releases.LIFECYCLE):
                callback = self._and_tell(callback)
            await self._handed_over(frame, direction, callback)

    async def _handed_over(
        self, frame: Frame, direction: FrameDirection, callback: FrameCallback | None
    ) -> None:
        if not self._is_direct:
            await self._queue(frame, direction, callback)
            return
        # It is handled inside this call, in the task of whoever pushes it.
        self._keeper.begins(self._processor, frame)
        await self._queue(frame, direction, callback)
        end(self._processor)

    def _and_tell(self, callback: FrameCallback | None) -> FrameCallback:
        async def handled(
            processor: FrameProcessor, frame: Frame, direction: FrameDirection
        ) -> None:
            if callback is not None:
                await callback(processor, frame, direction)
            self._keeper.ended(processor, frame)

        return handled

    async def _through(
        self, frame: Frame, direction: FrameDirection, callback: FrameCallback | None
    ) -> None:
        """Let a frame through a processor that handles it in its pusher's task.

        What it pushes meanwhile is on account of this frame, and not of the one
        that its pusher handles.
        """
        if type(frame) in _UNTRACKED or self._keeper.knows(self._processor, frame):
            await self._handed_over(frame, direction, callback)
        else:
            await self._ask(frame, direction, callback)


def listen_to(observer: BaseObserver, keeper: Doorkeeper) -> Undo:
    """Hear of each frame that a processor with a task of its own begins to handle.

    Every processor tells the worker's observer so, in the task that handles the
    frame and before it does. An observer that is added to the worker would hear
    of it later, from a queue. (pipecat's event ``on_before_process_frame`` comes
    at the same time, but a handler on each processor costs a coroutine and a
    look at the handler's signature per frame, ten times as much; and a function
    before ``process_frame`` makes every call of that method slower.)

    Returns:
        What ends it.
    """
    tell, untracked = observer.on_process_frame, _UNTRACKED

    def on_process_frame(data: FrameProcessed) -> Coroutine[Any, Any, None]:
        # A note stays until the task handles the next frame: where the work
        # raises, pipecat reports an error on account of it.
        if type(data.frame) not in untracked:
            if not releases.is_direct(data.processor):
                keeper.begins(data.processor, data.frame)
        elif noted() is not None and not releases.is_direct(data.processor):
            begin(data.processor, None)
        return tell(data)

    return replace(observer, "on_process_frame", on_process_frame)


def replace(instance: object, name: str, function: Callable[..., Any]) -> Undo:
    """Put a function in the place of an instance's method.

    Returns:
        What puts the method back. Where somebody else has put another
        function in its place since, that one stays.
    """
    # Never by `vars(instance)`: CPython then gives the instance a dictionary, and
    # every look at any of its attributes is slower from there on, which costs a
    # frame of sound half an `IdentityFilter`.
    before = getattr(instance, name)
    is_own = getattr(before, "__func__", None) is not getattr(type(instance), name, None)
    setattr(instance, name, function)

    def put_back() -> None:
        if getattr(instance, name, None) is not function:
            return
        if is_own:
            setattr(instance, name, before)
        else:
            delattr(instance, name)

    return put_back


def _is_untracked(frame: Frame) -> bool:
    if isinstance(frame, (*releases.TRACKED, *releases.LIFECYCLE)):
        return False
    if len(_UNTRACKED) < _MAX_UNTRACKED:
        _UNTRACKED.add(type(frame))
    return True
