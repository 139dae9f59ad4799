#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Where services push what they are there for: ``push_frame``, as long as a fleet has to know.

That nothing fails is no proof for a fleet. A whole answer is, and it is to be
seen here alone: the breaker sends nothing to a provider, and knows of no request.
"""

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import WeakKeyDictionary

from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    FunctionCallsStartedFrame,
    InterruptionFrame,
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

_Frames = tuple[type[Frame], ...]

#: With what an answer begins, what it has to hold, and with what it ends. Of a model
#: that speaks it may hold sound alone.
_SPANS: tuple[tuple[type[FrameProcessor], tuple[_Frames, _Frames, _Frames]], ...] = (
    (
        LLMService,
        (
            (LLMFullResponseStartFrame,),
            (LLMTextFrame, FunctionCallsStartedFrame, TTSAudioRawFrame),
            (LLMFullResponseEndFrame,),
        ),
    ),
    (TTSService, ((TTSStartedFrame,), (TTSAudioRawFrame,), (TTSStoppedFrame,))),
)

#: Answers that are one frame.
_WHOLE: tuple[tuple[type[FrameProcessor], _Frames], ...] = (
    (STTService, (TranscriptionFrame,)),
    (ImageGenService, (URLImageRawFrame,)),
)

_Note = Callable[[FrameProcessor], None]

#: Frames of others of which a service knows that it has been given them: a voice hands
#: on what comes behind its sound when that is over.
_GIVEN = 256


#: Those that could not be taken away, so that none is put in front of another.
_LEFT_BEHIND: WeakKeyDictionary[FrameProcessor, Callable[[_Note], Undo]] = WeakKeyDictionary()


def are_heard(service: FrameProcessor) -> bool:
    """Whether it can be heard that a processor answers: of models, voices, ears and painters."""
    return isinstance(service, LLMService | TTSService | STTService | ImageGenService)


def stand_at(service: FrameProcessor, note: _Note) -> Undo:
    """Stand where a service pushes what it has made.

    Args:
        service: The service, one of those that :func:`are_heard`.
        note: Called when it has answered: from the beginning of an answer to its
            end, without an error. An answer that had begun before is none.

    Returns:
        What ends it.
    """
    if (resume := _LEFT_BEHIND.pop(service, None)) is not None:
        return resume(note)
    push, process = service.push_frame, service.process_frame
    begins, holds, ends = next(
        (span for kind, span in _SPANS if isinstance(service, kind)), ((), (), ())
    )
    whole = next((frames for kind, frames in _WHOLE if isinstance(service, kind)), ())
    tells = (*begins, *holds, *ends, *whole, ErrorFrame)
    given: deque[int] = deque(maxlen=_GIVEN)
    has_begun = has_something = has_left = False
    listener = note

    async def process_frame(frame: Frame, direction: FrameDirection) -> None:
        nonlocal has_begun
        if isinstance(frame, tells):
            given.append(frame.id)
        elif isinstance(frame, InterruptionFrame):
            # People interrupt what hangs: nobody knows what would have come of it.
            has_begun = False
        await process(frame, direction)

    def push_frame(frame: Frame, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, None]:
        nonlocal has_begun, has_something
        # What it only hands on is another's.
        if isinstance(frame, tells) and frame.id not in given and not has_left:
            if isinstance(frame, whole):
                listener(service)
            elif isinstance(frame, begins):
                has_begun, has_something = True, False
            elif isinstance(frame, ErrorFrame):
                has_begun = False
            elif isinstance(frame, holds):
                has_something = True
            elif has_begun and isinstance(frame, ends):
                has_begun = False
                if has_something:
                    listener(service)
        return push(frame, *args, **kwargs)

    undo = (
        replace(service, "push_frame", push_frame),
        replace(service, "process_frame", process_frame),
    )

    def leave() -> None:
        nonlocal has_left
        has_left = True
        for put_back in undo:
            put_back()
        if service.push_frame != push or service.process_frame != process:
            # Somebody else has put a function in front of ours.
            _LEFT_BEHIND[service] = again

    def again(note: _Note) -> Undo:
        nonlocal listener, has_left, has_begun
        listener, has_left, has_begun = note, False, False
        return leave

    return leave
