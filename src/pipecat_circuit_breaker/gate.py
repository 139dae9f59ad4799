#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The gate: a place in the pipeline where a frame can be stopped."""

from collections.abc import Awaitable, Callable

from pipecat.frames.frames import ErrorFrame, Frame
from pipecat.processors.frame_processor import FrameCallback, FrameDirection, FrameProcessor

from pipecat_circuit_breaker.releases import MESSAGES, TRACKED

MayPass = Callable[[Frame], Awaitable[bool]]


class Gate(FrameProcessor):
    """Stands in front of a processor that has failed, and asks about each tracked frame.

    A gate has no queue and no task: a frame goes through it inside the call
    that pushes it, so nothing is delayed and nothing overtakes. Observers see
    one push to a gate and none from it.

    Args:
        may_pass: Asked about errors on their way upstream and messages on
            their way downstream.
        name: The gate's name.
    """

    def __init__(self, *, may_pass: MayPass, name: str) -> None:
        """Make a gate; :meth:`FrameProcessor.link` puts it in its place."""
        super().__init__(name=name, enable_direct_mode=True)
        self._may_pass = may_pass

    async def queue_frame(
        self,
        frame: Frame,
        direction: FrameDirection = FrameDirection.DOWNSTREAM,
        callback: FrameCallback | None = None,
    ) -> None:
        """Hand a frame on at once, unless it is held back.

        Args:
            frame: The frame.
            direction: Where it is going.
            callback: Handed on with the frame.
        """
        upstream = direction is FrameDirection.UPSTREAM
        if isinstance(frame, TRACKED):
            judged = ErrorFrame if upstream else MESSAGES
            if isinstance(frame, judged) and not await self._may_pass(frame):
                return
        neighbour = self.previous if upstream else self.next
        if neighbour is not None:
            await neighbour.queue_frame(frame, direction, callback)
