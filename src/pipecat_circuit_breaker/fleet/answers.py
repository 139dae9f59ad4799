#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Where services push what they are there for: ``push_frame``, as long as a fleet has to know.

That nothing fails is no proof for a fleet. A whole answer is, and it is to be
seen here alone: the breaker sends nothing to a provider, and knows of no request.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    FunctionCallsStartedFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    URLImageRawFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.image_service import ImageGenService
from pipecat.services.llm_service import LLMService
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService

from pipecat_circuit_breaker._pipeline.patch import Undo, replace

_BEGINS = (LLMFullResponseStartFrame, TTSStartedFrame)
_ENDS = (LLMFullResponseEndFrame, TTSStoppedFrame)

#: What an answer has to hold between its beginning and its end.
_HOLDS: tuple[tuple[type[FrameProcessor], tuple[type[Frame], ...]], ...] = (
    (LLMService, (LLMTextFrame, FunctionCallsStartedFrame)),
    (TTSService, (TTSAudioRawFrame,)),
)

#: Answers that are one frame.
_WHOLE: tuple[tuple[type[FrameProcessor], type[Frame]], ...] = (
    (STTService, TranscriptionFrame),
    (ImageGenService, URLImageRawFrame),
)


def are_heard(service: FrameProcessor) -> bool:
    """Whether it can be heard that a processor answers: of models, voices, ears and painters."""
    return isinstance(service, LLMService | TTSService | STTService | ImageGenService)


def stand_at(service: FrameProcessor, note: Callable[[FrameProcessor], None]) -> Undo:
    """Stand where a service pushes what it has made.

    Args:
        service: The service, one of those that :func:`are_heard`.
        note: Called when it has answered: from the beginning of an answer to its
            end, without an error. An answer that had begun before is none.

    Returns:
        What ends it.
    """
    push, process = service.push_frame, service.process_frame
    holds = next((frames for kind, frames in _HOLDS if isinstance(service, kind)), ())
    whole = tuple(frame for kind, frame in _WHOLE if isinstance(service, kind))
    given: Frame | None = None
    has_begun = has_something = False

    async def process_frame(frame: Frame, direction: FrameDirection) -> None:
        nonlocal given
        given = frame
        await process(frame, direction)

    def push_frame(frame: Frame, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, None]:
        nonlocal has_begun, has_something
        # What it only hands on is another's.
        if frame is not given:
            if isinstance(frame, whole):
                note(service)
            elif isinstance(frame, _BEGINS):
                has_begun, has_something = True, False
            elif isinstance(frame, ErrorFrame):
                has_begun = False
            elif has_begun and isinstance(frame, holds):
                has_something = True
            elif has_begun and isinstance(frame, _ENDS):
                has_begun = False
                if has_something:
                    note(service)
        return push(frame, *args, **kwargs)

    undo = (
        replace(service, "push_frame", push_frame),
        replace(service, "process_frame", process_frame),
    )

    def leave() -> None:
        for put_back in undo:
            put_back()

    return leave
