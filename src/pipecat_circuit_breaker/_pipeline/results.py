#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Where services push what they are there for: ``push_frame``, as long as others know them to be out.

That nothing fails is no proof for a fleet. An answer is, and it is to be seen
here alone: the breaker sends nothing to a provider, and knows of no request.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from pipecat.frames.frames import Frame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from pipecat_circuit_breaker._pipeline.patch import Undo, replace


def stand_at(service: FrameProcessor, note: Callable[[FrameProcessor, Frame], None]) -> Undo:
    """Stand where a service pushes what it has made, until the outage is over.

    Args:
        service: The service.
        note: Called with each frame that it pushes, but for those that it hands on.

    Returns:
        What ends it.
    """
    push, process = service.push_frame, service.process_frame
    given: Frame | None = None

    async def process_frame(frame: Frame, direction: FrameDirection) -> None:
        nonlocal given
        given = frame
        await process(frame, direction)

    def push_frame(frame: Frame, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, None]:
        if frame is not given:
            note(service, frame)
        return push(frame, *args, **kwargs)

    undo = (
        replace(service, "push_frame", push_frame),
        replace(service, "process_frame", process_frame),
    )

    def leave() -> None:
        for put_back in undo:
            put_back()

    return leave
