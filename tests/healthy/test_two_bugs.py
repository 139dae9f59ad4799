"""Two failures of one processor, or over one bridge, must not hide each other."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from pipecat.bus.bridge_processor import BusBridgeProcessor
from pipecat.bus.bus import WorkerBus
from pipecat.bus.serializers import JSONMessageSerializer
from pipecat.frames.frames import TextFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.workers.runner import WorkerRunner

from pipecat_circuit_breaker.testing import Output, running
from tests.healthy.healthy_parts import queue
from tests.support.guard import MAX_ERRORS
from tests.support.parts import settle


class Orders(FrameProcessor):
    """Reads a number of each text, and books it. Both can go wrong in the same way."""

    def __init__(self):
        super().__init__()
        self.books_are_broken = False

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if type(frame) is TextFrame:
            self._book(self._read(frame.text))
        await self.push_frame(frame, direction)

    def _read(self, text):
        if not text.isdecimal():
            raise ValueError(f"not a number: {text}")
        return int(text)

    def _book(self, order):
        if self.books_are_broken:
            raise ValueError(f"not in the books: {order}")


class ReportsOrders(Orders):
    """The same, but it reports by itself what goes wrong."""

    async def process_frame(self, frame, direction):
        await FrameProcessor.process_frame(self, frame, direction)
        if type(frame) is TextFrame:
            try:
                self._book(self._read(frame.text))
            except ValueError as e:
                await self.push_error(str(e), exception=e)
        await self.push_frame(frame, direction)


@pytest.mark.parametrize("orders_type", [Orders, ReportsOrders])
async def test__six_malformed_messages__then_a_real_fault_of_the_processor__heard(
    guard, orders_type
):
    orders, heard = orders_type(), []
    async with running(*guard.line(orders, Output())) as worker:
        worker.add_event_handler("on_pipeline_error", lambda _, error: heard.append(error.error))
        for _ in range(MAX_ERRORS + 1):
            await queue(worker, TextFrame("ten"))
        orders.books_are_broken = True
        await queue(worker, TextFrame("10"))

    assert len([text for text in heard if "not in the books: 10" in text]) == 1


class NetworkBus(WorkerBus):
    """Says everything as JSON, as pipecat's bus over Redis does; the network is a queue."""

    def __init__(self):
        super().__init__()
        self._serializer = JSONMessageSerializer()
        self._wire = asyncio.Queue()
        self._reading = None

    async def start(self):
        await super().start()
        self._reading = self.create_task(self._read())

    async def stop(self):
        await super().stop()
        if self._reading is not None:
            await self.cancel_task(self._reading)
            self._reading = None

    async def publish(self, message):
        self._wire.put_nowait(self._serializer.serialize(message))

    async def _read(self):
        while True:
            message = self._serializer.deserialize(await self._wire.get())
            if message is not None:
                self.on_message_received(message)


class Agent(FrameProcessor):
    """Fails with each text; says which worker it is of."""

    def __init__(self, worker):
        super().__init__()
        self._worker = worker

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if type(frame) is TextFrame:
            await self.push_error(f"{self._worker}: the model does not answer")
        await self.push_frame(frame, direction)


@asynccontextmanager
async def bridged(guard, *names):
    """A worker with a client and a bridge, and remote ones that are on the same bus."""
    bus = NetworkBus()
    bridge = BusBridgeProcessor(bus=bus, worker_name="main")
    main = PipelineWorker(
        Pipeline(guard.line(bridge, Output())), name="main", idle_timeout_secs=None
    )
    # Each takes nothing from the others, which are at work for the same client.
    remotes = [
        PipelineWorker(Pipeline([Agent(name)]), name=name, bridged=(name,), idle_timeout_secs=None)
        for name in names
    ]
    workers = [main, *remotes]
    started = []
    for worker in workers:
        worker.add_event_handler("on_pipeline_started", lambda *_: started.append(1))
    runner = WorkerRunner(bus=bus, handle_sigint=False)
    await runner.add_workers(*workers)
    run = asyncio.create_task(runner.run())
    try:
        async with asyncio.timeout(10):
            while len(started) < len(workers):
                await asyncio.sleep(0)
        await settle()
        yield main, remotes
    finally:
        await runner.cancel()
        await asyncio.wait_for(run, 20)


async def test__two_remote_workers_over_one_bridge__one_storms__the_other_is_heard(guard):
    # The bridge pushes the errors of both, and JSON has dropped who failed: but for the worker
    # one says what the other says.
    names, heard = ("agent-1", "agent-2"), []
    async with bridged(guard, *names) as (main, (storming, other)):
        main.add_event_handler("on_pipeline_error", lambda _, error: heard.append(error.error))
        for _ in range(MAX_ERRORS + 1):
            await queue(storming, TextFrame("hello"))
            await settle()
        for _ in range(2):
            await queue(other, TextFrame("hello"))
            await settle()

    assert len([text for text in heard if text.startswith(f"{names[1]}:")]) == 2
    # And of the first what comes until its circuit is open, where there is one.
    first = len([text for text in heard if text.startswith(f"{names[0]}:")])
    assert first == (MAX_ERRORS + 1 if guard.position == "without" else MAX_ERRORS)
