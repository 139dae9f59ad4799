#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Bots for measuring: real workers, with RTVI as it is on by default, fed by hand."""

from __future__ import annotations

import asyncio

from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    OutputTransportMessageUrgentFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIServerMessageFrame
from pipecat.transports.base_transport import TransportParams

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import Clock, Output

#: 20 ms of silence, as telephones and browsers send it.
_AUDIO = bytes(640)
FRAMES_PER_SEC = 50

#: Filters in front of the output in a pipeline of eight processors.
FILTERS = 7

#: Pipelines that are compared: alone, with filters more, with a breaker first or last.
VARIANTS = ("alone", "filters", "first", "last")

#: The cost of one more filter is taken from so many, so that it stands out from the noise.
FILTERS_MORE = 4


class Listener(Output):
    """The end of a bot: it counts the sound that comes through, and sends messages to nobody."""

    def __init__(self) -> None:
        """Initialize the output."""
        super().__init__(params=TransportParams(audio_out_end_silence_secs=0))
        self.heard = 0
        self._expected = 0
        self._arrived = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Count the sound that comes through."""
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            self.heard += 1
            if self.heard == self._expected:
                self._arrived.set()

    async def hears(self, frames: int) -> None:
        """Wait until so many more frames of sound came through than before the last wait."""
        self._expected += frames
        if self.heard < self._expected:
            self._arrived.clear()
            await self._arrived.wait()


class Bot:
    """A pipeline that ends in an output, and its worker.

    Args:
        filters: How many `IdentityFilter`s are in front of the output.
        breaker: A circuit breaker, or None.
        last: Whether the breaker is directly in front of the output, and not the first of all.
        output: The output, where it is not to be just any.
        clock: The breaker's clock, where it is one that is moved by hand.
    """

    def __init__(
        self,
        *,
        filters: int,
        breaker: FrameProcessor | None = None,
        last: bool = False,
        output: Listener | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Build the bot; `running_workers` runs it."""
        chain: list[FrameProcessor] = [IdentityFilter() for _ in range(filters)]
        if breaker is not None:
            chain.insert(filters if last else 0, breaker)
        self.chain = chain
        self.clock = clock
        self.output = output or Listener()
        self.worker = PipelineWorker(Pipeline([*chain, self.output]), idle_timeout_secs=None)

    @classmethod
    def variant(cls, name: str, *, clock: Clock | None = None) -> Bot:
        """Build one of the `VARIANTS`."""
        match name:
            case "alone":
                return cls(filters=FILTERS)
            case "filters":
                return cls(filters=FILTERS + FILTERS_MORE)
        params = CircuitBreakerParams(clock=clock) if clock is not None else None
        breaker = CircuitBreakerProcessor(params=params)
        return cls(filters=FILTERS, breaker=breaker, last=name == "last", clock=clock)

    @property
    def middle(self) -> FrameProcessor:
        """The processor in the middle, which neither hears nor speaks to anybody."""
        return self.chain[len(self.chain) // 2]

    async def take(self, frames: list[Frame]) -> None:
        """Pass frames through, and wait until all the sound among them is at the output."""
        for frame in frames:
            await self.worker.queue_frame(frame)
        await self.output.hears(sum(isinstance(f, InputAudioRawFrame) for f in frames))

    async def fails_once(self) -> None:
        """Let a processor in the middle report one error."""
        await self.middle.push_error("it failed once")
        await self.settled()

    async def settled(self) -> None:
        """Turn the event loop until what is there to do is done."""
        for _ in range(100):
            await asyncio.sleep(0)


def audio() -> InputAudioRawFrame:
    """20 ms of sound."""
    return InputAudioRawFrame(audio=_AUDIO, sample_rate=16000, num_channels=1)


def app_message(n: int = 0) -> OutputTransportMessageUrgentFrame:
    """What an application tells its client directly."""
    return OutputTransportMessageUrgentFrame(message={"type": "app", "n": n})


def speech(frames: int, *, talks: bool) -> list[Frame]:
    """A stretch of sound.

    Args:
        frames: Number of frames of sound.
        talks: Whether messages to the client are among it, four in a second: two from the
            application, and two that it sends by RTVI.
    """
    stretch: list[Frame] = []
    for n in range(frames):
        stretch.append(audio())
        if talks and n % 25 == 8:
            stretch.append(app_message(n))
        if talks and n % 25 == 20:
            stretch.append(RTVIServerMessageFrame(data={"n": n}))
    return stretch
