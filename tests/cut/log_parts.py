"""Transports that only log that sending fails, and ways in which a log is sent to the client."""

import asyncio
import json
import queue
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, WebSocket
from loguru import logger
from pipecat.frames.frames import Frame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIServerMessageFrame
from pipecat.serializers.base_serializer import FrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from websockets.asyncio.client import connect

from pipecat_circuit_breaker.testing import Output, running
from tests.cut.cut_parts import Storm, message
from tests.releases.livekit_room import livekit_bot
from tests.support.guard import Guard

#
# Transports
#


class NamesTheClient(FrameSerializer):
    """Puts the client's name into each message, which has half a surrogate pair in it.

    The server's `send` cannot encode that, so the transport logs that it fails.
    """

    def __init__(self, storm: Storm) -> None:
        super().__init__()
        self._storm = storm

    async def serialize(self, frame: Frame) -> str | None:
        if not hasattr(frame, "message"):
            return None
        name = "\ud800" if self._storm.turn() else "somebody"
        return json.dumps({"to": name, "message": frame.message}, ensure_ascii=False)

    async def deserialize(self, data: str | bytes) -> Frame | None:
        return None


@asynccontextmanager
async def fastapi_bot(
    guard: Guard, storm: Storm, *before: FrameProcessor, patch: pytest.MonkeyPatch, **kwargs: Any
) -> AsyncIterator[Any]:
    """A bot behind a real server and a real WebSocket, whose client stays."""
    app, started, over = FastAPI(), asyncio.Queue(), asyncio.Event()

    @app.websocket("/")
    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        transport = FastAPIWebsocketTransport(
            websocket, FastAPIWebsocketParams(serializer=NamesTheClient(storm))
        )
        order = guard.line(transport.input(), *before, transport.output())
        async with running(*order, **kwargs) as worker:
            started.put_nowait(worker)
            await over.wait()

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", ws="websockets"))
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(20):
            while not server.started:
                await asyncio.sleep(0)
            port = server.servers[0].sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}", proxy=None):
            yield await asyncio.wait_for(started.get(), 20)
            over.set()
    finally:
        over.set()
        server.should_exit = True
        await asyncio.wait_for(serving, 20)


@asynccontextmanager
async def livekit_room(
    guard: Guard, storm: Storm, *before: FrameProcessor, patch: pytest.MonkeyPatch, **kwargs: Any
) -> AsyncIterator[Any]:
    """A bot in a room whose engine is closed: the transport logs each failure to publish."""

    class Gone:
        on = True
        failed = storm.turn

    gone = Gone()
    type(gone).on = property(lambda _: not storm.calm)
    transport, _ = livekit_bot(patch, gone)
    order = guard.line(transport.input(), *before, transport.output())
    async with running(*order, **kwargs) as worker:
        yield worker


@asynccontextmanager
async def plain_output(
    guard: Guard, storm: Storm, *before: FrameProcessor, patch: pytest.MonkeyPatch, **kwargs: Any
) -> AsyncIterator[Any]:
    """An output transport that logs a warning."""

    class Logs(Output):
        async def send_message(self, frame: Any) -> None:
            storm.tried.append(frame.message)
            if storm.turn():
                logger.warning(f"{self}: sending failed, the client is gone")

    async with running(*guard.line(*before, Logs()), **kwargs) as worker:
        yield worker


TRANSPORTS = {"fastapi": fastapi_bot, "livekit": livekit_room}


#
# Forwarders
#


class Pushes(FrameProcessor):
    """A log forwarder in the pipeline: a sink, a queue, and a task that pushes what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: asyncio.Queue[str] = asyncio.Queue()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)

    async def forward(self) -> None:
        while True:
            await self.push_frame(message("log", text=await self.lines.get()))


@asynccontextmanager
async def pushed(worker: Any, forwarder: Pushes, storm: Storm) -> AsyncIterator[None]:
    storm.pending = lambda: not forwarder.lines.empty()
    sink = logger.add(lambda line: forwarder.lines.put_nowait(str(line)), level="WARNING")
    task = forwarder.create_task(forwarder.forward())
    yield
    logger.remove(sink)
    await forwarder.cancel_task(task)


@asynccontextmanager
async def queued(worker: Any, forwarder: Pushes, storm: Storm) -> AsyncIterator[None]:
    """The application's task calls `worker.queue_frame`; it was there before anything failed."""
    lines: asyncio.Queue[Any] = asyncio.Queue()
    storm.pending = lambda: not lines.empty()

    async def forward() -> None:
        while True:
            record = (await lines.get()).record
            await worker.queue_frame(
                message("log", entries=[{"level": record["level"].name, "text": record["message"]}])
            )

    sink = logger.add(lines.put_nowait, level="WARNING")
    task = asyncio.create_task(forward())
    yield
    logger.remove(sink)
    task.cancel()


@asynccontextmanager
async def through_a_thread(worker: Any, forwarder: Pushes, storm: Storm) -> AsyncIterator[None]:
    """A thread reads the lines, and hands them to the event loop."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    under_way = [0]
    loop = asyncio.get_running_loop()
    storm.pending = lambda: under_way[0]

    async def send(text: str) -> None:
        await worker.queue_frame(message("log", text=f"from the log: {text}"))
        under_way[0] -= 1

    def read() -> None:
        while (text := lines.get()) is not None:
            asyncio.run_coroutine_threadsafe(send(text), loop)

    def note(line: Any) -> None:
        under_way[0] += 1
        lines.put(line.record["message"])

    thread = threading.Thread(target=read)
    thread.start()
    sink = logger.add(note, level="WARNING")
    yield
    logger.remove(sink)
    lines.put(None)
    await asyncio.to_thread(thread.join, 10)


@asynccontextmanager
async def by_rtvi(worker: Any, forwarder: Pushes, storm: Storm) -> AsyncIterator[None]:
    """Each line is a `RTVIServerMessageFrame`, of which RTVI's observer makes a message."""

    async def forward(line: Any) -> None:
        await worker.queue_frame(RTVIServerMessageFrame(data={"log": str(line)}))

    sink = logger.add(forward, level="WARNING")
    yield
    logger.remove(sink)


FORWARDERS = {
    "task that pushes": pushed,
    "worker.queue_frame": queued,
    "thread": through_a_thread,
    "rtvi": by_rtvi,
}
