"""A call: one client, one pipeline that talks all the time, one breaker, and who is alarmed by it."""

import asyncio
from collections.abc import Callable
from typing import Any

from loguru import logger
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    MetricsFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
)
from pipecat.metrics.metrics import TTFBMetricsData
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIObserverParams
from pipecat.transports.base_transport import BaseTransport
from pipecat.workers.runner import WorkerRunner

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.instrumentation import instrument

RATE = 16000
CHUNK_SECS = 0.02
SOUND = bytes(int(2 * RATE * CHUNK_SECS))

#: What a client has heard by the time that it hangs up: messages of the application, those that
#: wait behind the sound, and RTVI's.
TALK = {"app", "caption", "metrics", "user-transcription"}

#: Messages that are on their way at the moment of it.
BURST = 20

LIMIT_SECS = 30.0

#: What a transport is made with: its sound is heard, and no silence delays its end.
AUDIO = {"audio_out_enabled": True, "audio_out_sample_rate": RATE, "audio_out_end_silence_secs": 0}


class Alarms:
    """Counts whatever would wake an operator, over all calls of a process.

    Args:
        meter_provider: Where metrics go.
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        self.lines: list[Any] = []
        self._breakers: list[CircuitBreakerProcessor] = []
        self._opened: list[Any] = []
        self._spans = InMemorySpanExporter()
        self._tracers = TracerProvider()
        self._tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self._meters = meter_provider
        logger.add(self.lines.append, level="WARNING", filter="pipecat_circuit_breaker")

    def listen_to(self, breaker: CircuitBreakerProcessor) -> None:
        """Hear of whatever a breaker tells."""
        instrument(breaker, meter_provider=self._meters, tracer_provider=self._tracers)
        breaker.add_event_handler("on_circuit_opened", lambda _, i: self._opened.append(i))
        self._breakers.append(breaker)

    @property
    def raised(self) -> dict[str, int]:
        """How many there were of each."""
        return {
            "incidents": sum(len(breaker.incidents) for breaker in self._breakers),
            "on_circuit_opened": len(self._opened),
            "openings": sum(t.openings for b in self._breakers for t in b.totals),
            "spans": len(self._spans.get_finished_spans()),
            "warnings": len(self.lines),
        }

    @property
    def unsent(self) -> int:
        """Messages that were not sent because nobody was connected."""
        return sum(t.unsent_messages for b in self._breakers for t in b.totals)

    @property
    def failures(self) -> int:
        """Failures that were counted, whether or not a circuit has opened."""
        return sum(t.failures for b in self._breakers for t in b.totals)


class Recognition(FrameProcessor):
    """Speech recognition, whose provider may refuse what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = False
        self.heard = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            self.heard.set()
            if self.refused:
                await self.push_error("Recognition failed: quota exceeded")
        await self.push_frame(frame, direction)


class Call:
    """A bot that serves one client, and talks until its pipeline is over.

    Args:
        transport: Its transport.
        alarms: Who hears of its breaker.
        watched: Whether its breaker watches the transport.
        params: Its breaker's settings.
        system_logs: Whether log lines go to the client.
    """

    def __init__(
        self,
        transport: BaseTransport,
        alarms: Alarms,
        *,
        watched: bool = True,
        params: CircuitBreakerParams | None = None,
        system_logs: bool = False,
    ) -> None:
        self.transport = transport
        self.breaker = CircuitBreakerProcessor(params=params)
        self.recognition = Recognition()
        self.over = asyncio.Event()
        self.gone = asyncio.Event()
        self.leaves = True
        self.said = 0
        self._running: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        alarms.listen_to(self.breaker)
        if watched:
            self.breaker.watch(transport)
        self.worker = PipelineWorker(
            Pipeline([self.breaker, transport.input(), self.recognition, transport.output()]),
            params=PipelineParams(enable_metrics=True),
            rtvi_observer_params=RTVIObserverParams(system_logs_enabled=system_logs),
            idle_timeout_secs=None,
        )
        self.worker.add_event_handler("on_pipeline_started", lambda *_: self._started.set())
        transport.add_event_handler("on_client_disconnected", self._on_client_disconnected)

    async def start(self) -> None:
        """Run the pipeline, and return when it has started."""
        self._running = asyncio.create_task(self._run())
        await asyncio.wait_for(self._started.wait(), LIMIT_SECS)

    async def blurt(self) -> None:
        """Send many messages at once."""
        await self.worker.queue_frames(
            [
                kind(message={"type": "app", "n": n})
                for n in range(BURST)
                for kind in (OutputTransportMessageUrgentFrame, OutputTransportMessageFrame)
            ]
        )

    async def end(self) -> None:
        """Hang up once all is played that is queued."""
        await self.worker.queue_frame(EndFrame())

    async def cancel(self) -> None:
        """Hang up at once."""
        await self.worker.cancel()

    async def ended(self) -> None:
        """Wait until the pipeline is over."""
        assert self._running is not None
        await asyncio.wait_for(self._running, LIMIT_SECS)

    async def noticed(self) -> None:
        """Wait until it has heard that its client has gone."""
        await asyncio.wait_for(self.gone.wait(), LIMIT_SECS)

    async def goes_on(self, messages: int = 10) -> None:
        """Let it say so much more."""
        until = self.said + messages
        await eventually(lambda: self.said >= until)

    async def _run(self) -> None:
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(self.worker)
        talking = asyncio.create_task(self._talk())
        try:
            await runner.run()
        finally:
            talking.cancel()
            self.over.set()

    async def _talk(self) -> None:
        await self._started.wait()
        while True:
            self.said += 1
            self.recognition.heard.clear()
            await self.worker.queue_frames(
                [
                    TranscriptionFrame(text="Do you hear me?", user_id="client", timestamp=""),
                    MetricsFrame(data=[TTFBMetricsData(processor="llm", value=0.1)]),
                    OutputTransportMessageUrgentFrame(message={"type": "app", "n": self.said}),
                    TTSAudioRawFrame(audio=SOUND, sample_rate=RATE, num_channels=1),
                    OutputTransportMessageFrame(message={"type": "caption", "n": self.said}),
                ]
            )
            await asyncio.sleep(CHUNK_SECS)
            # On a busy machine it would talk faster than it is heard, and never come to its end.
            await self.recognition.heard.wait()

    async def _on_client_disconnected(self, *_: Any) -> None:
        self.gone.set()
        if self.leaves:
            await self.worker.cancel()


async def eventually(condition: Callable[[], Any]) -> None:
    """Wait for a peer behind a socket."""
    async with asyncio.timeout(LIMIT_SECS):
        while not condition():
            await asyncio.sleep(0.005)
