#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""How a processor comes into the pipeline of a worker that somebody else has made."""

from typing import Any

from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker._pipeline import releases


async def insert_first(processor: FrameProcessor, worker: Any) -> None:
    """Insert a processor right before the application's pipeline, behind RTVI.

    Args:
        processor: The processor.
        worker: A worker whose pipeline has not started.

    Raises:
        RuntimeError: Its pipeline has started.
    """
    # The worker's own pipeline: its source, RTVI or not, the application's pipeline, its sink.
    processors: list[Any] = worker.pipeline.processors
    application = processors[-2]
    if releases.has_started(application):
        raise RuntimeError(f"expected a worker whose pipeline has not started, got {worker}")
    before = application.previous
    processors.insert(-2, processor)
    before.link(processor)
    processor.link(application)
    if releases.is_set_up(application):  # before 1.8.0: setup files come after the set-up
        await processor.setup(releases.setup_like(application, worker))
