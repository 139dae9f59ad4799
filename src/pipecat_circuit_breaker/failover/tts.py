#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Failover between TTS services: a text whose sound has not begun is spoken by the next.

The active service stays the one that is active. It splits the text, keeps the
order, and writes down what was spoken; another one only lends its voice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any

from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    StopFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.tts_service import TTSService

from pipecat_circuit_breaker._pipeline.patch import replace
from pipecat_circuit_breaker.failover.failover import Failover
from pipecat_circuit_breaker.failover.tts_socket_voice import SocketVoice
from pipecat_circuit_breaker.failover.tts_voice import Failed, HttpVoice, Voice, speaks_by_itself
from pipecat_circuit_breaker.failover.tts_words import Word


class TTSFailover(Failover):
    """Failover between the TTS services of a switcher; for its events see :class:`Failover`."""

    def __init__(
        self, switcher: ServiceSwitcher[Any], services: Sequence[TTSService], **settings: Any
    ) -> None:
        """Take up failover; see :meth:`.CircuitBreakerProcessor.failover`.

        Args:
            switcher: The switcher.
            services: Its services.
            **settings: Those of :class:`Failover`.

        Raises:
            TypeError: ``announcement`` is a line.
        """
        if isinstance(settings["announcement"], str | TTSSpeakFrame):
            raise TypeError(
                "expected a recorded announcement (an OutputAudioRawFrame), since no voice is left "
                f"to speak a line, got {settings['announcement']!r:.100}"
            )
        super().__init__(switcher, **settings)
        self._active: FrameProcessor = switcher.strategy.active_service
        self._last: FrameProcessor | None = None
        self._last_stopped = asyncio.Event()
        self._voices: list[Voice] = [
            (HttpVoice if speaks_by_itself(service) else SocketVoice)(service, self)
            for service in services
        ]
        self._process = switcher.process_frame
        self._leave_switcher = replace(switcher, "process_frame", self._process_frame)

    def leave(self) -> None:
        """Leave the switcher and its services as they were, between two calls."""
        self._leave_switcher()
        for voice in self._voices:
            voice.leave()

    async def speak(
        self, voice: Voice, text: str, context_id: str
    ) -> AsyncGenerator[Frame | None, None]:
        """Speak a text that a service was given, by whoever can.

        Runs in the task in which the service speaks.

        Args:
            voice: The service.
            text: The text.
            context_id: What its frames are marked with.

        Yields:
            The frames of the service that speaks.
        """
        if not self.acts:
            await self._stop_shadow(self._voices.index(voice))
            async for frame in voice.speak_alone(text, context_id):
                yield frame
            return
        if voice.service is not self._active:
            # The application, or the strategy, has chosen it: failover changes no active service.
            self._active = voice.service
            self._prefer(self._voices.index(voice))
        await self._hear_of_fleet()
        voice.words.begin(text, context_id)
        failed: dict[int, ErrorFrame] = {}
        # What is reported where nobody speaks: what the active one says of itself, if it was asked.
        own: Failed | None = None
        is_told = False
        while (service := self._roster.next(failed)) is not None:
            await self._stop_shadow(service)
            if not failed:
                self._start_shadows(service, lambda n: self._ask_in_the_shadow(n, text))
            frames = self._voices[service].speak(
                text, context_id, self._timeout_secs, self._silence(service)
            )
            try:
                async for said in frames:
                    # There is sound: told now, since the caller may interrupt it.
                    if not is_told:
                        is_told = True
                        await self._tell_failures(failed, saved=True, by=service)
                    if isinstance(said, Word):
                        await voice.words.mark(said)
                    else:
                        voice.words.hear(said)
                        yield said
            except Failed as failure:
                failed[service] = failure.error
                if own is None or self._voices[service] is voice:
                    own = failure
                if failure.has_begun:
                    break
            else:
                await voice.words.end()
                await self._tell_failures(failed, saved=True, by=service)
                await self._note_answer(service)
                return
            finally:
                await frames.aclose()
        await voice.words.end()
        await self._tell_failures(failed, saved=False, nobody_answers=service is None)
        if own is not None:
            await voice.report(own)
        await self._note_loss(text, failed, nobody_answers=service is None)

    async def stop(self, voice: Voice, stop: Coroutine[Any, Any, None]) -> None:
        """Stop a service; one that may still lend its voice, after the one that speaks.

        An ``EndFrame`` comes to the others while texts are queued at the active one.

        Args:
            voice: The service.
            stop: Stops it.
        """
        if self._last is not None and voice.service is not self._last:
            await self._last_stopped.wait()
        try:
            await stop
        finally:
            self._last_stopped.set()

    async def _ask_in_the_shadow(self, service: int, text: str) -> str | None:
        return await self._voices[service].ask_in_the_shadow(
            text, self._timeout_secs, self._silence(service)
        )

    def _process_frame(self, frame: Frame, direction: FrameDirection) -> Coroutine[Any, Any, None]:
        if isinstance(frame, EndFrame | CancelFrame | StopFrame):
            return self._end(frame, direction)
        return self._process(frame, direction)

    async def _end(self, frame: Frame, direction: FrameDirection) -> None:
        await self.end()
        self._last = self._switcher.strategy.active_service
        self._last_stopped.clear()
        await self._process(frame, direction)
