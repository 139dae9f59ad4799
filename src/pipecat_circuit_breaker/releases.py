#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""All that depends on the pipecat release, and what is read that pipecat keeps to itself."""

from pipecat.frames.frames import (
    ErrorFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
)
from pipecat.pipeline.pipeline import Pipeline, PipelineSink, PipelineSource
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor, FrameProcessorSetup
from pipecat.transports.base_transport import BaseTransport
from pipecat.utils.errors import ErrorCategory

from pipecat_circuit_breaker.origin import one_line

#: Frames with a message for the client.
MESSAGES = (OutputTransportMessageFrame, OutputTransportMessageUrgentFrame)

#: Frames whose causes are known.
TRACKED = (ErrorFrame, *MESSAGES)

#: Direct-mode processors that only hand frames on.
RELAYS = (Pipeline, PipelineSource, PipelineSink)


def worker_of(setup: FrameProcessorSetup) -> PipelineWorker:
    """The worker that runs the pipeline that is being set up."""
    return setup.pipeline_worker


def category_of(error: ErrorFrame) -> str | None:
    """Why an error occurred; None where nobody could tell."""
    category = error.category
    return None if category in (None, ErrorCategory.UNKNOWN) else category.value


def is_usable(processor: FrameProcessor) -> bool:
    """Whether a processor can still do its job."""
    return processor.is_usable


def is_direct(processor: FrameProcessor) -> bool:
    """Whether a processor handles frames in the task of whoever pushes them."""
    return bool(getattr(processor, "_enable_direct_mode", False))


async def push_send_failure(output: FrameProcessor, failure: Exception) -> None:
    """Report a failed send as pipecat reports whatever else a processor raises."""
    await output.push_error(
        error_msg=f"Error sending message: {one_line(failure, 200)}",
        exception=failure,
        category=ErrorCategory.UNKNOWN,
    )


#: Events with which transports say that somebody can be sent to.
CLIENT_CAME = ("on_client_connected", "on_connected", "on_joined")

#: Events with which they say that somebody cannot be sent to any more.
CLIENT_WENT = ("on_client_disconnected", "on_disconnected", "on_left")


def events_of(transport: BaseTransport, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the events that a transport has."""
    return tuple(name for name in names if name in transport._event_handlers)
