#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The surface of an STT service: what it pushes, its connection, and the segments it hears."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, Protocol

from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    InterimTranscriptionFrame,
    StartFrame,
    TranscriptionFrame,
    TranslationFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.stt_service import SegmentedSTTService, STTService, WebsocketSTTService
from websockets.protocol import State

from pipecat_circuit_breaker._pipeline import releases
from pipecat_circuit_breaker._pipeline.patch import Undo, replace

_DOWNSTREAM = FrameDirection.DOWNSTREAM

_WORDS = (TranscriptionFrame, InterimTranscriptionFrame, TranslationFrame)

#: All that is looked at of what a service pushes; sound is not.
_OURS = (*_WORDS, ErrorFrame, StartFrame)


class Hearer(Protocol):
    """Who decides which service is heard."""

    def fails(self, listener: Listener, error: ErrorFrame) -> bool:
        """Note an error; returns whether it goes no further for now."""
        ...

    async def hear(self, listener: Listener, frame: Frame, direction: FrameDirection) -> None:
        """Take what a service has understood."""
        ...

    async def note_silent(self, listener: Listener) -> None:
        """Note that there were no words in an utterance."""
        ...


class Listener:
    """One STT service of a switcher.

    It is replaced on the instance: ``push_frame``, for one with a socket
    ``_reconnect_websocket``, for one that hears whole segments ``run_stt``.

    Args:
        service: The service.
        hearer: Who decides.
    """

    def __init__(self, service: STTService, hearer: Hearer) -> None:
        """Stand at the service from now on."""
        self.service = service
        self.has_started = asyncio.Event()
        self._hearer = hearer
        self._push = service.push_frame
        self._undo: list[Undo] = [replace(service, "push_frame", self._push_frame)]
        self._is_stale = False
        self._is_preparing = False
        self._error: ErrorFrame | None = None
        self._lock = asyncio.Lock()
        # Runs of before a failure are of no interest any more.
        self._era = 0
        self._has_words = False
        if isinstance(service, WebsocketSTTService):
            self._reconnect = service._reconnect_websocket
            self._undo.append(replace(service, "_reconnect_websocket", self._reconnect_websocket))
        if isinstance(service, SegmentedSTTService):
            self._run = service.run_stt
            self._undo.append(replace(service, "run_stt", self._run_stt))

    @property
    def hears_segments(self) -> bool:
        """Whether it answers whole utterances, each by one request."""
        return isinstance(self.service, SegmentedSTTService)

    @property
    def is_ready(self) -> bool:
        """Whether it can be asked at once: connected, and nothing left of what it had failed at."""
        if self._is_stale or not releases.is_usable(self.service):
            return False
        if not isinstance(self.service, WebsocketSTTService):
            return True
        socket = self.service._websocket
        return socket is not None and socket.state is State.OPEN

    def leave(self) -> None:
        """Leave the service as it was."""
        while self._undo:
            self._undo.pop()()

    async def push(self, frame: Frame, direction: FrameDirection = _DOWNSTREAM) -> None:
        """Push a frame out of the service, whatever is decided."""
        await self._push(frame, direction)

    def note_leftovers(self) -> None:
        """Note that part of an utterance may be left in it, which another service gets."""
        self._is_stale = True

    async def prepare(self, limit_secs: float) -> ErrorFrame | None:
        """Make it fit to be asked.

        Args:
            limit_secs: How long that may take.

        Returns:
            Why it is not; None where it is.
        """
        async with self._lock:
            if self.is_ready and self.has_started.is_set():
                return None
            self._error = None
            self._is_preparing = True
            try:
                async with asyncio.timeout(limit_secs):
                    await self.has_started.wait()
                    await self._renew()
            except TimeoutError as e:
                return self._failure(f"no connection within {limit_secs:g} s", e)
            except Exception as e:
                return self._failure(f"{type(e).__name__}: {e}", e)
            finally:
                self._is_preparing = False
            if self._error is None:
                self._is_stale = False
            return self._error

    async def _renew(self) -> None:
        service = self.service
        if not releases.is_usable(service):
            await service.set_usable(True)
        if isinstance(service, SegmentedSTTService):
            self._era += 1
            service._user_speaking = False
            service._audio_buffer.clear()
            segments: asyncio.Queue[Any] | None = getattr(service, "_segment_queue", None)  # 1.14
            while segments is not None and not segments.empty():
                segments.get_nowait()
        if isinstance(service, WebsocketSTTService):
            # What a provider has heard of an utterance that another service has
            # got is gone with its session.
            await service._disconnect()
            await service._connect()

    def _push_frame(
        self, frame: Frame, direction: FrameDirection = _DOWNSTREAM
    ) -> Coroutine[Any, Any, None]:
        # Sound comes this way, so no call more than it takes.
        if not isinstance(frame, _OURS):
            return self._push(frame, direction)
        if isinstance(frame, _WORDS):
            self._has_words = True
            return self._hearer.hear(self, frame, direction)
        if isinstance(frame, StartFrame):
            self.has_started.set()
        elif isinstance(frame, ErrorFrame) and frame.processor is self.service:
            if self._is_preparing:
                self._error = frame
                return _nothing()
            if self._hearer.fails(self, frame):
                return _nothing()
        return self._push(frame, direction)

    async def _reconnect_websocket(self, *args: Any, **kwargs: Any) -> bool:
        # pipecat reports no error where this succeeds, but what was said until
        # then is lost with the old connection.
        self._hearer.fails(self, self._failure("connection lost", ConnectionError()))
        return await self._reconnect(*args, **kwargs)

    def _run_stt(self, audio: bytes) -> AsyncIterator[Frame | None]:
        return self._hear_segment(self._run(audio))

    async def _hear_segment(
        self, frames: AsyncGenerator[Frame | None, None]
    ) -> AsyncGenerator[Frame | None, None]:
        era = self._era
        self._has_words = False
        try:
            async for frame in frames:
                if era != self._era:
                    return
                if isinstance(frame, ErrorFrame):
                    self._has_words = True
                yield frame
        finally:
            await frames.aclose()
        if era == self._era and not self._has_words:
            await self._hearer.note_silent(self)

    def _failure(self, text: str, exception: Exception) -> ErrorFrame:
        error = ErrorFrame(text, processor=self.service)
        error.exception = exception
        return error


async def _nothing() -> None:
    """What happens to a frame that goes no further."""
