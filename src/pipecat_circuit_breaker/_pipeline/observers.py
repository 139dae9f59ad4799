#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Where frames are handled: what every processor tells the worker's observer.

Every processor tells it so in the task that handles the frame, and before it
does. An observer that is added to the worker hears of it later, from a queue.
(pipecat's event ``on_before_process_frame`` comes at the same time, but a
handler on each processor costs a coroutine and a look at the handler's
signature per frame, ten times as much; and a function before
``process_frame`` makes every call of that method slower.)
"""

from collections.abc import Coroutine
from typing import Any, Protocol

from pipecat.frames.frames import Frame
from pipecat.observers.base_observer import BaseObserver, FrameProcessed
from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker._core.causality import Link, begin, nest, noted, restore
from pipecat_circuit_breaker._pipeline import releases
from pipecat_circuit_breaker._pipeline.doors import UNTRACKED
from pipecat_circuit_breaker._pipeline.patch import Undo, replace


class Keeper(Protocol):
    """Who is told what is handled."""

    #: Whether anything has failed lately: then plain frames carry causes too.
    is_alert: bool

    def handles(self, processor: FrameProcessor, frame: Frame) -> None:
        """Note what a processor is about to handle."""
        ...

    def link_of(self, frame: Frame) -> Link | None:
        """The link that a frame has, or carries."""
        ...


def listen_to(observer: BaseObserver, keeper: Keeper) -> Undo:
    """Hear of each frame that a processor with a task of its own begins to handle.

    Args:
        observer: The worker's observer.
        keeper: Who is told.

    Returns:
        What ends it.
    """
    tell, untracked = observer.on_process_frame, UNTRACKED

    def on_process_frame(data: FrameProcessed) -> Coroutine[Any, Any, None]:
        # A note stays until the task handles the next frame: where the work
        # raises, pipecat reports an error on account of it.
        if type(data.frame) not in untracked or keeper.is_alert:
            if not releases.is_direct(data.processor):
                keeper.handles(data.processor, data.frame)
        elif noted() is not None and not releases.is_direct(data.processor):
            begin(data.processor, None)
        return tell(data)

    return replace(observer, "on_process_frame", on_process_frame)


class _Observer:
    """An observer, as far as a note needs to know who does something."""

    id = 0

    def __init__(self, observer: BaseObserver) -> None:
        self.name = type(observer).__name__


def carry_into(observer: BaseObserver, keeper: Keeper) -> Undo:
    """Let what an observer sends on account of a frame be caused by that frame.

    It hears of frames from a queue of its own, which no context crosses.

    Args:
        observer: One of the observers behind the worker's.
        keeper: Who knows the frames.

    Returns:
        What ends it.
    """
    hear, who = observer.on_push_frame, _Observer(observer)

    async def on_push_frame(data: Any) -> None:
        link = keeper.link_of(data.frame)
        if link is None:
            await hear(data)
            return
        if link.passes is False:
            return  # it was held back: it has come to nobody
        token = nest(who, link)
        try:
            await hear(data)
        finally:
            restore(token)

    return replace(observer, "on_push_frame", on_push_frame)
