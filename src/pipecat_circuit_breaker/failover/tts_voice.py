#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The surface of a TTS service that answers each text by itself: ``run_tts`` and its errors."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextvars import ContextVar
from typing import Any, Protocol

from pipecat.frames.frames import EndFrame, ErrorFrame, Frame, TTSAudioRawFrame
from pipecat.services.tts_service import TTSService, WebsocketTTSService

from pipecat_circuit_breaker._pipeline.patch import Undo, replace
from pipecat_circuit_breaker.failover.roster import PROBE_TIMEOUT_SECS
from pipecat_circuit_breaker.failover.tts_words import Word, Words


class _Step:
    """What a service does by itself while it is asked for the next piece of sound."""

    def __init__(self, *, is_shadow: bool) -> None:
        self.is_shadow = is_shadow
        self.errors: list[tuple[ErrorFrame, dict[str, Any]]] = []
        # A task that was born in it, such as one that receives, outlives it.
        self.is_over = False


_step: ContextVar[_Step | None] = ContextVar("failover_tts_step", default=None)


#: A turn may wait for every service, one after the other. pipecat's own limit (3 s), which
#: counts while nobody is asked, is kept here.
TURN_TIMEOUT_SECS = 60.0


class Speaker(Protocol):
    """Who decides which service speaks a text."""

    @property
    def acts(self) -> bool:
        """Whether another service may be asked at all."""
        ...

    def speak(self, voice: Voice, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Speak a text that a service was given."""
        ...

    async def stop(self, voice: Voice, stop: Coroutine[Any, Any, None]) -> None:
        """Stop a service when nobody needs its voice any more."""
        ...


class Failed(Exception):
    """A text was not spoken to its end.

    Parameters:
        error: Why.
        how: What the service has said of it beside (``force_treat_as_permanent``).
        has_begun: Whether some of it was heard.
    """

    def __init__(self, error: ErrorFrame, how: dict[str, Any], *, has_begun: bool) -> None:
        """Say why."""
        super().__init__(error.error)
        self.error = error
        self.how = how
        self.has_begun = has_begun


class Voice:
    """One TTS service of a switcher, whatever it is.

    These are replaced on the instance: ``run_tts``, ``push_error_frame`` and ``stop``.

    Args:
        service: The service.
        speaker: Who decides.
    """

    def __init__(self, service: TTSService, speaker: Speaker) -> None:
        """Stand at the service from now on."""
        self.service = service
        self._speaker = speaker
        self.words = Words(service)
        self._run = service.run_tts
        self._stop = service.stop
        self._push_error = service.push_error_frame
        self._push = service.push_frame
        self._idle_secs = service._stop_frame_timeout_s
        self._is_available = service.audio_context_available
        self._remove = service.remove_audio_context
        # When each turn is over whose end nobody tells.
        self._ends: dict[str, asyncio.TimerHandle] = {}
        self._undo: list[Undo] = [
            replace(service, "run_tts", self._run_tts),
            replace(service, "push_error_frame", self._push_error_frame),
            replace(service, "push_frame", self._push_frame),
            replace(service, "stop", self._stop_service),
        ]

    def leave(self) -> None:
        """Leave the service as it was."""
        while self._undo:
            self._undo.pop()()
        for context_id in [*self._ends]:
            self._go_on(context_id)
        self.service._stop_frame_timeout_s = self._idle_secs

    async def report(self, failure: Failed) -> None:
        """Report a failure of whichever service as this one's, which is the one that speaks."""
        mine = copy.copy(failure.error)
        mine.processor = self.service
        await self._push_error(mine, **failure.how)

    def speak_alone(self, text: str, context_id: str) -> AsyncIterator[Frame | None]:
        """Speak a text as the service does without a failover."""
        return self._run(text, context_id)

    async def speak(
        self,
        text: str,
        context_id: str,
        limit_secs: float,
        silence: ErrorFrame,
        *,
        is_shadow: bool = False,
    ) -> AsyncGenerator[Frame | Word | None, None]:
        """Speak a text: nothing comes before its first sound.

        Args:
            text: The text.
            context_id: What its frames are marked with.
            limit_secs: How long it may take until there is sound, and more of it.
            silence: What is wrong where it takes longer.
            is_shadow: Whether nobody hears it: what the service pushes by itself
                meanwhile (metrics, some the sound) goes no further.

        Yields:
            Frames and marked words, from the first sound on, and what came before it.

        Raises:
            Failed: It has reported an error, or was silent.
        """
        held: list[Frame | Word | None] = []
        has_begun = False
        frames = self._answer(text, context_id)
        try:
            while True:
                step = _Step(is_shadow=is_shadow)
                errors = step.errors
                token = _step.set(step)
                try:
                    # Within one step of the generator: a timeout must not span a `yield`.
                    secs = self._patience(limit_secs, has_begun=has_begun)
                    async with asyncio.timeout(secs) as limit:
                        frame = await anext(frames)
                except StopAsyncIteration:
                    frame = None
                    if not errors:
                        break
                except Exception as e:
                    if limit.expired():
                        errors.append((silence, {}))
                    else:
                        error = ErrorFrame(f"{type(e).__name__}: {e}", processor=self.service)
                        error.exception = e
                        errors.append((error, {}))
                finally:
                    step.is_over = True
                    _step.reset(token)
                if not errors and isinstance(frame, ErrorFrame):
                    errors.append((frame, {}))
                if errors:
                    raise Failed(*errors[0], has_begun=has_begun)
                held.append(frame)
                has_begun = has_begun or isinstance(frame, TTSAudioRawFrame)
                while has_begun and held:
                    yield held.pop(0)
        finally:
            await frames.aclose()
        for frame in held:
            yield frame

    async def ask_in_the_shadow(
        self, text: str, limit_secs: float, silence: ErrorFrame
    ) -> str | None:
        """Have a text spoken that nobody hears; returns why it failed, None where it did not."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECS):
                async for _ in self.speak(
                    text, str(uuid.uuid4()), limit_secs, silence, is_shadow=True
                ):
                    pass
        except (Failed, TimeoutError) as e:
            return str(e) or silence.error
        return None

    def _answer(self, text: str, context_id: str) -> AsyncGenerator[Frame | Word | None, None]:
        """Have the service speak a text."""
        return self._run(text, context_id)

    def _patience(self, limit_secs: float, *, has_begun: bool) -> float | None:
        """How long the next piece of sound may take; None for as long as it likes."""
        return limit_secs

    def _stop_service(self, frame: EndFrame) -> Coroutine[Any, Any, None]:
        return self._speaker.stop(self, self._stop(frame))

    async def _run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        self._go_on(context_id)
        frames = self._speaker.speak(self, text, context_id)
        try:
            async for frame in frames:
                yield frame
        finally:
            await frames.aclose()
            if self.service._stop_frame_timeout_s > self._idle_secs:
                self._ends[context_id] = asyncio.get_running_loop().call_later(
                    self._idle_secs, self._end_in_silence, context_id
                )

    def _go_on(self, context_id: str) -> None:
        """Note that there is more to say in a turn."""
        if (end := self._ends.pop(context_id, None)) is not None:
            end.cancel()

    def _end_in_silence(self, context_id: str) -> None:
        # As pipecat would, but that it would not know that the next service is being asked.
        del self._ends[context_id]
        if self._is_available(context_id):
            self.service.create_task(self._remove(context_id))

    async def _push_error_frame(self, error: ErrorFrame, *args: Any, **kwargs: Any) -> None:
        step = _step.get()
        if step is None or step.is_over:
            await self._push_error(error, *args, **kwargs)
        else:
            step.errors.append((error, kwargs))

    def _push_frame(self, frame: Frame, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, None]:
        step = _step.get()
        if step is None or step.is_over or not step.is_shadow:
            return self._push(frame, *args, **kwargs)
        return _nothing()


class HttpVoice(Voice):
    """One TTS service that answers each text with its sound.

    From 1.8 on ``on_turn_context_completed`` is replaced as well.

    Args:
        service: The service.
        speaker: Who decides.
    """

    def __init__(self, service: TTSService, speaker: Speaker) -> None:
        """Stand at the service from now on."""
        super().__init__(service, speaker)
        if hasattr(service, "_record_context_audio_outcome"):  # 1.8.0
            # It would call a turn silent while the next service is being asked.
            service._stop_frame_timeout_s = max(self._idle_secs, TURN_TIMEOUT_SECS)
            self._complete = service.on_turn_context_completed
            self._undo.append(
                replace(service, "on_turn_context_completed", self._on_turn_context_completed)
            )

    async def _on_turn_context_completed(self) -> None:
        # All texts have been answered, or given up.
        self.service._is_yielding_frames_synchronously = True
        await self._complete()  # type: ignore[no-untyped-call]


async def _nothing() -> None:
    """What happens to a frame that goes no further."""


def speaks_by_itself(service: TTSService) -> bool:
    """Whether a service answers each text with its sound.

    One that has a socket sends the text and returns; one that marks words says
    by itself, later, what has been spoken.
    """
    return not isinstance(service, WebsocketTTSService) and bool(
        getattr(service, "_push_text_frames", False)
    )
