"""Real pipelines for tests: a worker that runs, and parts that record what reaches them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from pipecat.frames.frames import (
    EndFrame,
    Frame,
    OutputAudioRawFrame,
    OutputTransportMessageUrgentFrame,
    StartFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner


async def settle(turns: int = 200) -> None:
    """Let the event loop do what is there to do; no time passes."""
    for _ in range(turns):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(*processors: FrameProcessor, **kwargs: Any) -> AsyncIterator[PipelineWorker]:
    """Run a worker over these processors, and cancel it in the end."""
    worker = PipelineWorker(Pipeline([*processors]), idle_timeout_secs=None, **kwargs)
    started = asyncio.Event()
    worker.add_event_handler("on_pipeline_started", lambda *_: started.set())
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    try:
        await asyncio.wait_for(started.wait(), 10)
        await settle()
        yield worker
    finally:
        await runner.cancel()
        await asyncio.wait_for(running, 20)


async def ended(worker: PipelineWorker) -> None:
    """Send an EndFrame and wait until it is through."""
    finished = asyncio.Event()
    worker.add_event_handler("on_pipeline_finished", lambda *_: finished.set())
    await worker.queue_frame(EndFrame())
    await asyncio.wait_for(finished.wait(), 10)


class Output(BaseOutputTransport):
    """An output transport that records what it sends, and fails where it is told to."""

    def __init__(
        self, fails: Callable[[Any], Exception | None] = lambda message: None, **kwargs: Any
    ) -> None:
        super().__init__(
            TransportParams(
                audio_out_enabled=True, audio_out_sample_rate=16000, audio_out_end_silence_secs=0
            ),
            **kwargs,
        )
        self.fails = fails
        self.sent: list[Any] = []
        self.failed: list[Any] = []
        self.audio = bytearray()

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def send_message(self, frame: Any) -> None:
        failure = self.fails(frame.message)
        if failure is not None:
            self.failed.append(frame.message)
            raise failure
        self.sent.append(frame.message)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        self.audio += frame.audio
        await asyncio.sleep(0)
        return True


def dead(message: Any) -> Exception | None:
    return ConnectionError("the client is gone")


class Tap(FrameProcessor):
    """Records every frame that reaches it, with its direction."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seen: list[tuple[Frame, FrameDirection]] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        self.seen.append((frame, direction))
        await self.push_frame(frame, direction)

    def frames(self, kind: type[Frame]) -> list[Any]:
        return [frame for frame, _ in self.seen if isinstance(frame, kind)]


class Failing(FrameProcessor):
    """Pushes an error for each frame of a kind."""

    def __init__(self, kind: type[Frame], say: Callable[[int], dict[str, Any]], **kw: Any) -> None:
        super().__init__(**kw)
        self._kind = kind
        self._say = say
        self.errors = 0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, self._kind):
            self.errors += 1
            await self.push_error(**self._say(self.errors))
        await self.push_frame(frame, direction)


def app_message(n: int = 0, kind: str = "app") -> OutputTransportMessageUrgentFrame:
    return OutputTransportMessageUrgentFrame(message={"type": kind, "n": n})


def of_type(messages: list[Any], kind: str) -> list[Any]:
    return [m for m in messages if m.get("type") == kind]
