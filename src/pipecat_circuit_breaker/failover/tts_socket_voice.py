#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A TTS service whose sound, or whose words, come by another way than ``run_tts``.

Such a service sends a text over its socket and returns. Which sentence has not
been spoken then cannot be told from what comes. So each text becomes a turn of its
own at the provider, under an id that nobody else uses, and what comes under that id
is handed to whoever asked. A sentence that is given up has its socket closed: no
fragment of it can come later.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any

from loguru import logger
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.services.tts_service import TTSService, WebsocketTTSService
from websockets.protocol import State

from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker._pipeline.patch import replace
from pipecat_circuit_breaker.failover.tts_voice import TURN_TIMEOUT_SECS, Failed, Speaker, Voice
from pipecat_circuit_breaker.failover.tts_words import Word


class _Request:
    """One text at the provider."""

    def __init__(self) -> None:
        self.id = str(uuid.uuid4())
        self.came: asyncio.Queue[Frame | Word | None] = asyncio.Queue()
        self.is_open = False
        self.is_sent = False
        self.is_over = False

    def end(self) -> None:
        self.is_over = True
        self.came.put_nowait(None)


class SocketVoice(Voice):
    """One TTS service with a socket, or with word timestamps.

    Beside what :class:`Voice` replaces: what concerns audio contexts, and the ends of
    turns, which are the provider's no more.

    Args:
        service: The service.
        speaker: Who decides.
    """

    def __init__(self, service: TTSService, speaker: Speaker) -> None:
        """Stand at the service from now on."""
        super().__init__(service, speaker)
        self._request: _Request | None = None
        self._hangs_up = False
        self._append = service.append_to_audio_context
        self._create = service.create_audio_context
        self._active_id = service.get_active_audio_context_id
        self._reset_active = service.reset_active_audio_context
        self._flush = service.flush_audio
        self._begin_turn = service.on_turn_context_created
        self._complete_turn = service.on_turn_context_completed
        self._complete_context = service.on_audio_context_completed
        service._stop_frame_timeout_s = max(self._idle_secs, TURN_TIMEOUT_SECS)
        # A turn has one context; which text is whose at the provider, requests tell.
        self._reuses_id = service._reuse_context_id_within_turn
        service._reuse_context_id_within_turn = True
        # And its start is the pipeline's, also where a class yields one per provider's turn.
        self._pushes_start = service._push_start_frame
        service._push_start_frame = True
        self._replace("append_to_audio_context", self._append_to_audio_context)
        self._replace("audio_context_available", self._audio_context_available)
        self._replace("create_audio_context", self._create_audio_context)
        self._replace("remove_audio_context", self._remove_audio_context)
        self._replace("get_active_audio_context_id", self._get_active_audio_context_id)
        self._replace("reset_active_audio_context", self._reset_active_audio_context)
        self._replace("remove_active_audio_context", self._ignore)
        self._replace("flush_audio", self._flush_audio)
        self._replace("on_turn_context_created", self._ignore)
        self._replace("on_turn_context_completed", self._on_turn_context_completed)
        self._replace("on_audio_context_completed", self._ignore)
        self._replace("on_audio_context_interrupted", self._ignore)
        if isinstance(service, WebsocketTTSService):
            self._connect_websocket = service._connect_websocket
            self._replace("_connect_websocket", self._note_new_socket)
            if hasattr(service, "_close_connection_contexts"):  # 1.14.0
                # It would end the turn, which another service goes on with.
                self._replace("_close_connection_contexts", self._ignore)

    def leave(self) -> None:
        """Leave the service as it was."""
        super().leave()
        self.service._reuse_context_id_within_turn = self._reuses_id
        self.service._push_start_frame = self._pushes_start

    async def speak_alone(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Speak a text as the service does without a failover, but as a turn of its own."""
        self.words.begin(text, context_id)
        silence = ErrorFrame(f"silent for {self._idle_secs:g} s", processor=self.service)
        frames = self.speak(text, context_id, self._idle_secs, silence)
        try:
            async for said in frames:
                if isinstance(said, Word):
                    await self.words.mark(said)
                else:
                    self.words.hear(said)
                    yield said
        except Failed as failure:
            await self.report(failure)
        finally:
            await frames.aclose()
        await self.words.end()

    async def _answer(self, text: str, context_id: str) -> AsyncGenerator[Frame | Word | None]:
        request = self._request = _Request()
        try:
            async for item in self._ask(request, text):
                if isinstance(item, TTSAudioRawFrame):
                    item.context_id = context_id
                yield item
        finally:
            if self._request is request:
                self._request = None
            if not request.is_over:
                await self._hang_up()

    def _patience(self, limit_secs: float, *, has_begun: bool) -> float | None:
        # Where a provider never tells an end, its silence is one: `_ask` knows.
        return None if has_begun else limit_secs

    async def _ask(self, request: _Request, text: str) -> AsyncIterator[Frame | Word | None]:
        service = self.service
        await self._hang_up_broken()
        await self._begin_turn(request.id)
        request.is_open = self._pushes_start
        has_begun = False
        async for frame in self._run(text, request.id):
            while not request.came.empty():
                yield request.came.get_nowait()
            if isinstance(frame, TTSStartedFrame | TTSStoppedFrame):
                continue
            has_begun = has_begun or isinstance(frame, TTSAudioRawFrame)
            yield frame
        request.is_sent = True
        if has_begun:  # no socket: words beside the sound
            request.end()
        else:
            await self._end_turn(request.id)
        while True:
            try:
                async with asyncio.timeout(self._idle_secs if has_begun else None):
                    item = await request.came.get()
            except TimeoutError:
                if not getattr(service, "_push_stop_frames", False):
                    yield ErrorFrame(f"silent for {self._idle_secs:g} s", processor=service)
                request.is_over = True  # a provider that never tells the end
                break
            if item is None:
                if not has_begun and any(c.isalnum() for c in text):
                    yield ErrorFrame("ended without a sound", processor=service)
                break
            has_begun = has_begun or isinstance(item, TTSAudioRawFrame)
            yield item
        await self._complete_context(request.id)

    async def _end_turn(self, request_id: str) -> None:
        """Let the provider know that there is no more text: it speaks, and tells its end."""
        service = self.service
        turn, service._turn_context_id = service._turn_context_id, request_id
        service._is_yielding_frames_synchronously = False
        try:
            await self._complete_turn()  # type: ignore[no-untyped-call]
        finally:
            service._turn_context_id = turn

    async def _hang_up_broken(self) -> None:
        """Clear away a broken connection; ``run_tts`` makes another where there is none."""
        service = self.service
        if not isinstance(service, WebsocketTTSService):
            return
        socket, receiver = service._websocket, getattr(service, "_receive_task", None)
        if socket is None and receiver is None:
            return
        if (
            socket is None
            or socket.state is not State.OPEN
            or receiver is None
            or receiver.done()  # it has given up, and nobody starts another
            or getattr(service, "_reconnect_in_progress", False)
        ):
            await self._hang_up()

    async def _hang_up(self) -> None:
        if not isinstance(self.service, WebsocketTTSService):
            return
        transport = getattr(self.service._websocket, "transport", None)
        if transport is not None:
            # A provider that hangs would let the backup wait for its good-bye.
            transport.abort()
        self._hangs_up = True
        try:
            await self.service._disconnect()
        finally:
            self._hangs_up = False

    def _is_mine(self, context_id: str | None) -> bool:
        return self._request is not None and context_id == self._request.id

    async def _append_to_audio_context(self, context_id: str, item: Any) -> None:
        request = self._request
        if request is None or context_id != request.id:
            await self._append(context_id, item)
        elif item is None or isinstance(item, TTSStoppedFrame):
            request.end()
        elif hasattr(item, "word"):
            spaces = bool(getattr(item, "includes_inter_frame_spaces", False))
            request.came.put_nowait(Word(item.word, item.timestamp, spaces))
        elif not isinstance(item, TTSStartedFrame):
            request.came.put_nowait(item)

    def _audio_context_available(self, context_id: str) -> bool:
        request = self._request
        if request is not None and context_id == request.id:
            return request.is_open
        return self._is_available(context_id)

    async def _create_audio_context(self, context_id: str) -> None:
        request = self._request
        if request is not None and context_id == request.id:
            request.is_open = True
        else:
            await self._create(context_id)

    async def _remove_audio_context(self, context_id: str) -> None:
        if self._request is not None and self._is_mine(context_id):
            self._request.end()
        else:
            await self._remove(context_id)

    def _get_active_audio_context_id(self) -> str | None:
        # Asked for by what receives: a provider that sends no ids means its only request.
        return self._active_id() if self._request is None else self._request.id

    def _reset_active_audio_context(self) -> None:
        # Some do so at an error of the provider; the context that is played is not its.
        if self._request is None:
            self._reset_active()  # type: ignore[no-untyped-call]

    async def _flush_audio(self, context_id: str | None = None) -> None:
        if self._is_mine(context_id):
            await self._flush(context_id)
        elif context_id is not None and self._is_available(context_id):
            # There is no more text for this context, and its sound is all here.
            await self._append(context_id, TTSStoppedFrame(context_id=context_id))
            await self._append(context_id, None)

    async def _on_turn_context_completed(self) -> None:
        # Not that of the provider's class: the provider knows nothing of this turn.
        self.service._is_yielding_frames_synchronously = False
        await TTSService.on_turn_context_completed(self.service)

    def _push_frame(self, frame: Frame, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, None]:
        if isinstance(frame, TTSStartedFrame | TTSStoppedFrame) and self._is_mine(frame.context_id):
            return self._ignore()
        return super()._push_frame(frame, *args, **kwargs)

    async def _note_new_socket(self) -> None:
        # A provider does not go on with a text over another connection.
        if self._request is not None and self._request.is_sent:
            self._fail(ErrorFrame("connection lost", processor=self.service))
        await self._connect_websocket()  # type: ignore[no-untyped-call]

    async def _push_error_frame(self, error: ErrorFrame, *args: Any, **kwargs: Any) -> None:
        # Where nothing is asked nothing is lost: the next request shows it. And a turn
        # in which nobody has spoken has been told already.
        if self._request is None and not (self._speaker.acts or self._hangs_up):
            await self._push_error(error, *args, **kwargs)
        elif asyncio.current_task() is not self.service._audio_context_task:
            self._fail(error)

    def _fail(self, error: ErrorFrame) -> None:
        logger.debug(f"{self.service}: {one_line(error.error, 200)}")
        if self._request is not None:
            self._request.came.put_nowait(error)

    async def _ignore(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the provider knows nothing of the contexts of the pipeline."""

    def _replace(self, name: str, function: Callable[..., Any]) -> None:
        self._undo.append(replace(self.service, name, function))
