"""A main worker with a client, and agents beside it, all on one bus."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pipecat.bus import AsyncQueueBus
from pipecat.bus.bridge_processor import BusBridgeProcessor
from pipecat.bus.bus import WorkerBus
from pipecat.bus.serializers.json import JSONMessageSerializer
from pipecat.frames.frames import ErrorFrame, Frame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner

from pipecat_circuit_breaker import CircuitBreakerProcessor
from pipecat_circuit_breaker.testing.running import running_workers
from tests.cut.cut_parts import Storm
from tests.support.guard import Guard
from tests.support.parts import settle


class JSONBus(WorkerBus):
    """Serialises each message, as pipecat's network buses do; the network is a queue."""

    def __init__(self) -> None:
        super().__init__()
        self._serializer = JSONMessageSerializer()
        self._wire: asyncio.Queue[bytes] = asyncio.Queue()
        self._reading: Any = None

    async def start(self) -> None:
        await super().start()
        self._reading = self.create_task(self._read())

    async def stop(self) -> None:
        await super().stop()
        if self._reading is not None:
            await self.cancel_task(self._reading)
            self._reading = None

    async def publish(self, message: Any) -> None:
        self._wire.put_nowait(self._serializer.serialize(message))

    async def _read(self) -> None:
        while True:
            message = self._serializer.deserialize(await self._wire.get())
            if message is not None:
                self.on_message_received(message)


BUSES: dict[str, Callable[[], WorkerBus]] = {"local": AsyncQueueBus, "serialised": JSONBus}


class Counts(FrameProcessor):
    """Counts the errors that pass on their way up, and lets none pass when it is enough."""

    def __init__(self, storm: Storm) -> None:
        super().__init__()
        self._storm = storm

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, ErrorFrame) and not self._storm.turn():
            return
        await self.push_frame(frame, direction)


@dataclass
class Bots:
    """What runs."""

    main: PipelineWorker
    agents: list[PipelineWorker]
    breakers: list[CircuitBreakerProcessor]
    errors: list[str] = field(default_factory=list)


@asynccontextmanager
async def bots(
    guard: Guard,
    storm: Storm,
    bus: WorkerBus,
    output: FrameProcessor,
    *agents: Sequence[FrameProcessor],
) -> AsyncIterator[Bots]:
    """Run a worker with a client and a bridge, and an active agent for each of the sequences.

    Each has a breaker of its own, or none has.
    """
    breakers = []

    def line(*processors: FrameProcessor) -> Pipeline:
        breaker = guard.new()
        if breaker is not None:
            breakers.append(breaker)
        return Pipeline(guard.line(*processors, breaker=breaker))

    bridge = BusBridgeProcessor(bus=bus, worker_name="main")
    main = PipelineWorker(line(bridge, output), name="main", idle_timeout_secs=None)
    others = [
        PipelineWorker(
            line(Counts(storm), *agent), name=f"agent-{n}", bridged=(), idle_timeout_secs=None
        )
        for n, agent in enumerate(agents)
    ]
    workers = [main, *others]
    seen = Bots(main, others, breakers)
    for worker in workers:
        worker.add_event_handler("on_pipeline_error", lambda _, e: seen.errors.append(e.error))
    async with running_workers(*workers, runner=WorkerRunner(bus=bus, handle_sigint=False)):
        await settle()
        yield seen
