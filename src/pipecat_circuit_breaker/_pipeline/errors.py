#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Where errors are reported: ``push_error_frame`` of each processor.

pipecat calls the processor's own ``on_error`` handlers there, before the error
travels and comes to any door; likewise handlers of its pushes, and a subclass
that reports errors in its own way. What they send is on account of the error,
and they must not hear of one that feeds itself through them.
"""

from typing import Any, Protocol

from pipecat.frames.frames import ErrorFrame
from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker._core.causality import Link, nest, restore
from pipecat_circuit_breaker._pipeline import releases
from pipecat_circuit_breaker._pipeline.patch import Undo, replace


class Keeper(Protocol):
    """Who is asked whether handlers may hear of an error."""

    def may_hear(
        self, processor: FrameProcessor, error: ErrorFrame, *, lasting: bool
    ) -> Link | bool:
        """Ask for an error, in the task that reports it.

        Args:
            processor: The processor.
            error: The error.
            lasting: Whether it leaves the processor unusable.

        Returns:
            The error's link; True where nothing has to be known of it, False
            where it goes no further.
        """
        ...

    async def tell(self) -> None:
        """Tell what has happened."""
        ...


def stand_at(processor: FrameProcessor, keeper: Keeper) -> Undo:
    """Stand where a processor reports its errors.

    Args:
        processor: The processor.
        keeper: Who is asked.

    Returns:
        What ends it.
    """
    push = processor.push_error_frame

    async def push_error_frame(error: ErrorFrame, *args: Any, **kwargs: Any) -> None:
        if not releases.hears_own_errors(processor):
            await push(error, *args, **kwargs)
            return
        lasting = releases.is_lasting(processor, error, *args, **kwargs)
        link = keeper.may_hear(processor, error, lasting=lasting)
        await keeper.tell()
        if not isinstance(link, Link):
            if link:
                await push(error, *args, **kwargs)
            return
        token = nest(processor, link, type(error).__name__)
        try:
            await push(error, *args, **kwargs)
        finally:
            restore(token)

    return replace(processor, "push_error_frame", push_error_frame)
