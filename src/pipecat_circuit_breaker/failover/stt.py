#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Failover between STT services: what was said since the last transcription goes to the next."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from loguru import logger
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    ManuallySwitchServiceFrame,
    StartFrame,
    StopFrame,
    STTMuteFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.stt_service import STTService

from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker._pipeline.patch import replace
from pipecat_circuit_breaker.failover.audio_ring import AudioRing, Mark
from pipecat_circuit_breaker.failover.failover import Failover
from pipecat_circuit_breaker.failover.stt_listener import Listener

#: As long as the window of Whisper; 16 kHz, 16 bit, mono: 32 kB for each second.
DEFAULT_REPLAY_SECS = 30.0

#: How long it may take until it is noticed that the breaker acts again.
_MODE_SECS = 1.0

#: How often it is seen whether another bot has brought a service back, or this one may.
_FLEET_SECS = 1.0

#: Frames that are not only handed on; sound comes before them.
_OURS = (
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
    STTMuteFrame,
    ManuallySwitchServiceFrame,
    StartFrame,
    EndFrame,
    StopFrame,
    CancelFrame,
)


class STTFailover(Failover):
    """Failover between the STT services of a switcher; for its events see :class:`Failover`.

    The switcher goes on as ever, so sound and marks of the VAD leave it as they
    leave it without failover. A copy of what the active service was given since
    its last final transcription is kept, and queued at the next service where
    the active one fails. ``ParallelPipeline`` lets each frame out once, whoever
    pushes it.
    """

    def __init__(
        self,
        switcher: ServiceSwitcher[Any],
        services: Sequence[STTService],
        *,
        replay_secs: float = DEFAULT_REPLAY_SECS,
        **settings: Any,
    ) -> None:
        """Take up failover; see :meth:`.CircuitBreakerProcessor.failover`.

        Args:
            switcher: The switcher.
            services: Its services.
            replay_secs: See there; so for the others.
            **settings: Those of :class:`Failover`.

        Raises:
            ValueError: ``replay_secs`` is not a finite number above 0.
        """
        super().__init__(switcher, **settings)
        if not (math.isfinite(replay_secs) and replay_secs > 0):
            raise ValueError(f"replay_secs must be finite and above 0, got {replay_secs!r}")
        self._replay_secs = replay_secs
        self._ring: AudioRing[tuple[Frame, FrameDirection]] = AudioRing(replay_secs)
        self._listeners = [Listener(service, self) for service in services]
        self._active = switcher.strategy.active_service
        # Who is heard; None while the next one is being looked for.
        self._asked: int | None = switcher.services.index(self._active)
        # Who has failed at what is being said, not told yet.
        self._failed: dict[int, ErrorFrame] = {}
        self._move: asyncio.Task[None] | None = None
        self._is_lost = False
        self._is_over = False
        self._is_muted = False
        self._has_vad = False
        # Set where nothing is being said, so another service may be asked from here on.
        self._pause = asyncio.Event()
        # Set where nobody is looked for, and nothing that was said waits for an answer that will
        # come for certain, or had to be asked for again.
        self._settled = asyncio.Event()
        self._settled.set()
        self._process = switcher.process_frame
        self._leave_switcher = replace(switcher, "process_frame", self._process_frame)

    def leave(self) -> None:
        """Leave the switcher and its services as they were, between two calls."""
        self._leave_switcher()
        for listener in self._listeners:
            listener.leave()

    async def end(self) -> None:
        """Stop what runs beside the call: it ends, or is cancelled."""
        self._is_over = True
        if self._move is not None:
            await self._switcher.cancel_task(self._move)
            self._move = None
        await super().end()

    def fails(self, listener: Listener, error: ErrorFrame) -> bool:
        """Note an error of a service.

        Args:
            listener: The service.
            error: Its error.

        Returns:
            Whether it goes no further for now: it is not heard, or another may take over.
        """
        service = self._listeners.index(listener)
        if self._is_over:
            return False
        if not self.acts:
            # It is lost, and nobody is given it later.
            self._ring.clear()
            self._note_state()
            return False
        if service != self._who():
            # Nothing depends on it now; it is asked again when its time has come.
            return True
        listener.note_leftovers()
        if self._is_lost:
            return False
        self._failed[service] = error
        self._look_for_another()
        return True

    async def hear(self, listener: Listener, frame: Frame, direction: FrameDirection) -> None:
        """Take what a service has understood.

        Args:
            listener: The service.
            frame: A transcription, final or not.
            direction: Where it is going.
        """
        service = self._listeners.index(listener)
        if service != self._who():
            # Another one has got what it says this about.
            return
        is_final = isinstance(frame, TranscriptionFrame)
        if is_final:
            if listener.hears_segments:
                self._ring.cut_utterance()
            else:
                self._ring.cut()
            self._is_lost = False
        await listener.push(frame, direction)
        if is_final:
            await self._tell(saved=True)
            await self._note_answer(service)
            self._note_state(is_final=True)

    async def note_silent(self, listener: Listener) -> None:
        """Note that a service has found no words in an utterance: nobody is to blame."""
        if self._listeners.index(listener) == self._who():
            self._ring.cut_utterance()
            await self._tell(saved=True)
            self._note_state()

    def _process_frame(self, frame: Frame, direction: FrameDirection) -> Coroutine[Any, Any, None]:
        if isinstance(frame, InputAudioRawFrame):
            if not self._is_muted:
                secs = len(frame.audio) / (2 * frame.num_channels * frame.sample_rate or 1)
                self._ring.add((frame, direction), secs)
        elif isinstance(frame, _OURS):
            return self._take(frame, direction)
        return self._process(frame, direction)

    async def _take(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, VADUserStartedSpeakingFrame):
            await self._begin()
            self._mark(frame, direction, Mark.STARTED)
        elif isinstance(frame, VADUserStoppedSpeakingFrame):
            self._mark(frame, direction, Mark.STOPPED)
        elif isinstance(frame, STTMuteFrame):
            await self._mute(frame, direction)
        elif isinstance(frame, ManuallySwitchServiceFrame):
            await self._choose(frame)
        elif isinstance(frame, StartFrame):
            self._start()
        else:
            await self._end(frame)
        await self._process(frame, direction)

    def _start(self) -> None:
        """A call begins: after another one nothing is left of that."""
        if not self._is_over:
            # A service may have failed while it was set up.
            return
        self._is_over = self._is_lost = self._is_muted = False
        self._failed = {}
        self._ring = AudioRing(self._replay_secs)
        if self._asked is None:
            self._asked = self._switcher.services.index(self._active)
        self._note_state()
        # All are taken to work now, the one that is preferred too.
        self._bring_back_all(range(len(self._listeners)))

    def _mark(self, frame: Frame, direction: FrameDirection, mark: Mark) -> None:
        self._has_vad = True
        self._ring.mark((frame, direction), mark)
        if self._is_lost and mark is Mark.STOPPED:
            # Nobody will answer it.
            self._ring.clear()
        self._note_state()

    async def _begin(self) -> None:
        """An utterance begins: each service may be asked once more."""
        if self._asked is None or self._ring.is_speaking:
            return
        await self._tell(saved=True)
        if self._is_avoided(self._asked):
            # Another bot has found out, so nothing has to be lost for it here. It has heard
            # the beginning, which a VAD notices late.
            self._listeners[self._asked].note_leftovers()
            self._bring_back_all([self._asked])
            self._look_for_another()
            return
        if self._is_lost:
            self._is_lost = False
            asked = self._who()
            if asked is not None and not self._listeners[asked].is_ready:
                self._look_for_another()

    async def _mute(self, frame: STTMuteFrame, direction: FrameDirection) -> None:
        # The switcher hands it to the active service alone; another that takes
        # over must not hear what nobody was to hear.
        self._is_muted = frame.mute
        for service in self._switcher.services:
            if service is not self._switcher.strategy.active_service:
                await service.queue_frame(frame, direction)

    async def _choose(self, frame: ManuallySwitchServiceFrame) -> None:
        """The application chooses a service, which gets what is being said from its beginning."""
        services = self._switcher.services
        if frame.service not in services:
            return
        asked, chosen = self._who(), services.index(frame.service)
        if chosen == asked:
            return
        if asked is None and self._move is not None:
            # Nobody has to be looked for any more.
            await self._switcher.cancel_task(self._move)
        elif asked is not None and self._ring.has_speech:
            self._listeners[asked].note_leftovers()
        # It may have been left in mid-utterance before, and must not hear that part twice.
        await self._listeners[chosen].prepare(self._timeout_secs)
        if self._ring.has_speech:
            await self._replay(chosen)
        if asked is None:
            self._asked = chosen
            self._note_state()

    async def _end(self, frame: Frame) -> None:
        if isinstance(frame, EndFrame):
            # What was said before it is answered before it, as ever.
            try:
                async with asyncio.timeout(self._timeout_secs * len(self._listeners)):
                    await self._settled.wait()
            except TimeoutError:
                logger.warning(f"{self}: the call ends, and an utterance is not answered")
        await self.end()

    def _who(self) -> int | None:
        """Who is heard; whoever the application, or the strategy, has made active."""
        active = self._switcher.strategy.active_service
        if self._asked is not None and active is not self._active:
            self._active = active
            self._asked = self._switcher.services.index(active)
            self._prefer(self._asked)
        return self._asked

    def _look_for_another(self) -> None:
        self._asked = None
        self._note_state()
        self._move = self._switcher.create_task(self._hand_over())

    async def _hand_over(self) -> None:
        """Find a service that takes what is being said, each once."""
        while (service := self._roster.next(self._failed)) is not None:
            error = await self._listeners[service].prepare(self._timeout_secs)
            if error is None:
                await self._ask(service)
                break
            self._failed[service] = error
        else:
            await self._lose()
        self._note_state()
        if self._asked is not None and self._has_vad and not self._ring.has_speech:
            # Nothing was being said: nothing depends on who has failed.
            await self._tell(saved=True)

    async def _ask(self, service: int) -> None:
        """Give a service what is being said, and all that comes."""
        self._asked = service
        self._is_lost = False
        self._roster.admit(service)
        await self._replay(service)
        await self._activate(service)

    async def _replay(self, service: int) -> None:
        """Queue the ring at a service, in front of all that comes."""
        processor = self._switcher.services[service]
        frames, position = self._ring.after(0)
        while frames:
            for frame, direction in frames:
                await processor.queue_frame(frame, direction)
            frames, position = self._ring.after(position)

    async def _activate(self, service: int) -> None:
        # No step of the event loop between the end of the replay and the
        # strategy's own note of who is active, which it takes at once.
        strategy = self._switcher.strategy
        self._active = self._switcher.services[service]
        if strategy.active_service is not self._active:
            await strategy._set_active_if_available(self._active)

    async def _lose(self) -> None:
        """Nobody has taken it: it is lost, and the one that is due first is asked from here on."""
        was_idle = self._has_vad and not self._ring.has_speech
        self._is_lost = True
        self._ring.clear()
        failed, self._failed = self._failed, {}
        await self._tell_failures(failed, saved=False)
        # It has logged it already, and told its own handlers. A switcher lets out
        # what its active service reports, and nothing else.
        active = self._switcher.services.index(self._switcher.strategy.active_service)
        await self._listeners[active].push(failed[active], FrameDirection.UPSTREAM)
        service = self._roster.next(())
        if service is not None:
            self._asked = service
            await self._activate(service)
        await self._note_loss(None if was_idle else "", failed, nobody_answers=True)
        self._bring_back_all(failed)

    async def _tell(self, *, saved: bool) -> None:
        failed, self._failed = self._failed, {}
        await self._tell_failures(failed, saved=saved)
        self._bring_back_all(failed)

    def _bring_back_all(self, failed: Iterable[int]) -> None:
        for service in failed:
            if service not in self._shadows and not self._is_over:
                task = self._switcher.create_task(self._bring_back(service))
                self._shadows[service] = task
                task.add_done_callback(self._forget_shadow)

    async def _bring_back(self, service: int) -> None:
        """Ask a service that has failed live again: when it is due, and nothing is being said."""
        listener = self._listeners[service]
        while True:
            while (secs := self._roster.due_in_secs(service)) > 0:
                await asyncio.sleep(secs)
            while not self.acts:
                await asyncio.sleep(_MODE_SECS)
            if not self._is_wanted(service):
                return
            if not await self._may_ask(service):
                await asyncio.sleep(_FLEET_SECS)
                continue
            self._roster.admit(service)
            if (error := await listener.prepare(self._timeout_secs)) is not None:
                logger.debug(
                    f"{self}: {listener.service} still fails: {one_line(error.error, 200)}"
                )
                self._roster.fail(service)
                self._tell_fleet_failed(service, self._failed_as.get(service))
                continue
            waits = (self._has_vad or not self._is_lost) and not self._pause.is_set()
            if waits:
                await self._pause.wait()
            await self._settled.wait()
            if not self._is_wanted(service):
                return
            if listener.is_ready or not waits:
                await self._ask(service)
                return

    def _is_avoided(self, service: int) -> bool:
        """Whether another bot has found out that a service is out, and there is a better one."""
        # The one bot that looks whether it works again goes on asking it.
        if service in self._leases or not self._is_out_in_fleet(service):
            return False
        return self._roster.next(()) != service

    async def _may_ask(self, service: int) -> bool:
        """Whether a service may be asked live: of one that is out for the fleet one bot is to."""
        await self._hear_of_fleet()
        fleet = self._fleet
        if fleet is None or not self._is_out_in_fleet(service):
            return True
        processor = self._listeners[service].service
        if not fleet.may_probe_soon(processor) or (probe := await fleet.probe(processor)) is None:
            return False
        self._leases[service] = probe
        return True

    def _is_wanted(self, service: int) -> bool:
        asked = self._who()
        if asked is None:
            return True
        if asked == service:
            return self._is_lost and not self._listeners[service].is_ready
        return not self._roster.works(asked) or self._roster.comes_before(service, asked)

    def _note_state(self, *, is_final: bool = False) -> None:
        """Note whether another service may be asked from here on, and whether the call may end."""
        if self._has_vad and self._ring.has_speech:
            self._pause.clear()
        elif self._has_vad:
            self._pause.set()
        elif is_final:
            # Without a VAD it is only known at this moment.
            self._pause.set()
            self._pause.clear()
        if self._asked is None or (
            # pipecat itself waits for one request, but for no socket.
            self._ring.stops > 0 and (self._failed or self._listeners[self._asked].hears_segments)
        ):
            self._settled.clear()
        else:
            self._settled.set()
