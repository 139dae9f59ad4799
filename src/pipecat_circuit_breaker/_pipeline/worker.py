#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Where frames come into a pipeline: the worker's queue, and the bus.

Neither carries a context, so the frames carry their causes themselves.
"""

from collections.abc import Awaitable, Callable
from contextvars import Token
from typing import Any, Protocol

from pipecat.frames.frames import Frame

from pipecat_circuit_breaker._core.causality import Note, noted, restore
from pipecat_circuit_breaker._pipeline.doors import UNTRACKED
from pipecat_circuit_breaker._pipeline.patch import Undo, replace
from pipecat_circuit_breaker._pipeline.releases import Worker


class Keeper(Protocol):
    """Who is told of frames that come in."""

    def queued(self, frame: Frame) -> None:
        """Note a frame that is queued with the worker, in the task that queues it."""
        ...

    def arrives(self, subscriber: Any, message: Any) -> "Token[Note | None]":
        """Note a message that comes over the bus, in the task that takes it in."""
        ...


def listen_to_queue(worker: Worker, keeper: Keeper) -> Undo:
    """Hear of what is queued with the worker (``queue_frames`` comes through here too).

    Returns:
        What ends it.
    """
    queue = worker.queue_frame

    def queue_frame(frame: Frame, *args: Any, **kwargs: Any) -> Awaitable[None]:
        if noted() is not None or type(frame) not in UNTRACKED:
            keeper.queued(frame)
        return queue(frame, *args, **kwargs)

    return replace(worker, "queue_frame", queue_frame)


def listen_to_cleanup(pipeline: Any, after: Callable[[], Awaitable[None]]) -> Undo:
    """Hear of the end of a pipeline, once all of its processors are cleaned up.

    Until then any of them may still push and send: a cancelled pipeline may have
    a processor that hangs.

    Returns:
        What ends it.
    """
    cleanup = pipeline.cleanup

    async def clean_up(*args: Any, **kwargs: Any) -> None:
        try:
            await cleanup(*args, **kwargs)
        finally:
            await after()

    return replace(pipeline, "cleanup", clean_up)


def listen_to_bus(subscriber: Any, keeper: Keeper) -> Undo | None:
    """Hear of what comes over the bus, for a worker or a bridge in its pipeline.

    Args:
        subscriber: Whoever may be one that listens to the bus.
        keeper: Who is told.

    Returns:
        What ends it; None for one that does not listen to a bus (1.3.0 has the first).
    """
    take: Callable[[Any], Awaitable[None]] | None = getattr(subscriber, "on_bus_message", None)
    if take is None:
        return None

    async def on_bus_message(message: Any) -> None:
        token = keeper.arrives(subscriber, message)
        try:
            await take(message)
        finally:
            restore(token)

    return replace(subscriber, "on_bus_message", on_bus_message)
