"""Outages of pipecat's real transports, each to be run with a breaker or without.

A storm begins with one message and feeds itself. What is replaced is only what would need a network
that is not there: see `daily_room` and `livekit_room`. `measure` counts them all.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import websockets
from pipecat.frames.frames import CancelFrame, EndFrame, Frame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIObserverParams, RTVIProcessor
from pipecat.serializers.base_serializer import FrameSerializer
from pipecat.transports.websocket.client import WebsocketClientParams, WebsocketClientTransport
from pipecat.transports.websocket.server import WebsocketServerParams, WebsocketServerTransport

from pipecat_circuit_breaker.testing import running
from tests.releases.daily_room import count_failed_sends, daily_bot
from tests.releases.livekit_room import livekit_bot
from tests.releases.room import Log, Outage, counted_log, eventually
from tests.support.parts import app_message, settle

#: Messages that an application sends of its own accord where nothing feeds itself.
MESSAGES = 50


@dataclass(frozen=True)
class Seen:
    """What came of an outage."""

    failed_sends: int
    log_lines: int
    log_bytes: int
    log_errors: int
    kept: int = 0


Scenario = Callable[..., Awaitable[Seen]]


def _seen(outage: Outage, log: Log, **more: Any) -> Seen:
    return Seen(outage.failures, log.lines, log.bytes, log.errors, **more)


async def _set_off(task: Any, outage: Outage, messages: int = 1) -> Seen:
    with counted_log() as log:
        await task.queue_frames([app_message(n) for n in range(messages)])
        await outage.spent()
    return _seen(outage, log)


def _logs_to_client() -> dict[str, Any]:
    return {"rtvi_observer_params": RTVIObserverParams(system_logs_enabled=True)}


#
# Daily
#


async def daily_signalling_dead(
    patch: pytest.MonkeyPatch, outage: Outage, *before: FrameProcessor
) -> Seen:
    """The native client completes every send with an error."""
    transport, room = daily_bot(patch)
    async with running(*before, transport.input(), transport.output()) as task:
        count_failed_sends(transport, outage)
        room.signalling_dead = True
        outage.begin(heal=lambda: setattr(room, "signalling_dead", False))
        return await _set_off(task, outage)


async def daily_client_gone(
    patch: pytest.MonkeyPatch, outage: Outage, *before: FrameProcessor
) -> Seen:
    """The native client is released while the bot is in the call."""
    transport, _ = daily_bot(patch)
    client = transport._client
    async with running(*before, transport.input(), transport.output()) as task:
        count_failed_sends(transport, outage)
        native = client._client
        for _ in range(2):  # input and output share it, and each of them lets go
            await client.cleanup()
        outage.begin(heal=lambda: setattr(client, "_client", native))
        return await _set_off(task, outage)


class _Stuck(FrameProcessor):
    """Lets no `CancelFrame` through, and takes its time to clean up: a provider that hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.cleaning = asyncio.Event()
        self.may_go = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if not isinstance(frame, CancelFrame):
            await self.push_frame(frame, direction)

    async def cleanup(self) -> None:
        await super().cleanup()
        self.cleaning.set()
        await self.may_go.wait()


async def daily_torn_down_half(
    patch: pytest.MonkeyPatch, outage: Outage, *before: FrameProcessor
) -> Seen:
    """Cancelled; the input has been cleaned up, the output not yet, and a message is sent."""
    transport, _ = daily_bot(patch)
    client = transport._client
    stuck, rtvi = _Stuck(), RTVIProcessor()
    async with running(
        *before,
        transport.input(),
        stuck,
        rtvi,
        transport.output(),
        observers=[rtvi.create_rtvi_observer()],
        cancel_timeout_secs=0.1,
    ) as task:
        count_failed_sends(transport, outage)
        native = client._client
        await task.cancel()
        await asyncio.wait_for(stuck.cleaning.wait(), 10)
        await settle(500)
        outage.begin(heal=lambda: setattr(client, "_client", native))
        try:
            with counted_log() as log:
                await rtvi.send_server_message("bye")
                await outage.spent()
        finally:
            stuck.may_go.set()
        return _seen(outage, log)


class _Recorder(FrameProcessor):
    """Behind the output, as recorders are; keeps the `EndFrame` while it stores its recording."""

    def __init__(self) -> None:
        super().__init__()
        self.stored = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, EndFrame):
            await self.stored.wait()
        await self.push_frame(frame, direction)


async def daily_after_end_frame(
    patch: pytest.MonkeyPatch, outage: Outage, *before: FrameProcessor
) -> Seen:
    """`EndFrame` has passed the transport, it has left, its client is released: messages."""
    transport, _ = daily_bot(patch)
    recorder = _Recorder()
    left = asyncio.Event()

    @transport.event_handler("on_left")
    async def on_left(*_: Any) -> None:
        left.set()

    async with running(*before, transport.input(), transport.output(), recorder) as task:
        count_failed_sends(transport, outage)
        try:
            await task.queue_frame(EndFrame())
            await asyncio.wait_for(left.wait(), 10)
            for _ in range(2):
                await transport._client.cleanup()
            outage.begin()
            with counted_log() as log:
                for n in range(MESSAGES):
                    await task.rtvi.send_server_message({"n": n})
                await outage.spent()
            return _seen(outage, log, kept=len(transport._client._join_message_queue))
        finally:
            recorder.stored.set()


#
# LiveKit
#


async def livekit_room_gone(
    patch: pytest.MonkeyPatch, outage: Outage, *before: FrameProcessor
) -> Seen:
    """Publishing fails, which the transport logs and does not raise."""
    transport, room = livekit_bot(patch, outage)
    async with running(*before, transport.input(), transport.output()) as task:
        outage.begin()
        return await _set_off(task, outage, MESSAGES)


async def livekit_room_gone_logs_to_client(
    patch: pytest.MonkeyPatch, outage: Outage, *before: FrameProcessor
) -> Seen:
    """The same, and the client is sent each log line."""
    transport, room = livekit_bot(patch, outage)
    async with running(*before, transport.input(), transport.output(), **_logs_to_client()) as task:
        outage.begin()
        return await _set_off(task, outage)


async def livekit_room_says_so(
    patch: pytest.MonkeyPatch, outage: Outage, *before: FrameProcessor
) -> Seen:
    """The room tells that it is gone, before a message is sent."""
    transport, room = livekit_bot(patch, outage)
    gone = asyncio.Event()

    @transport.event_handler("on_disconnected")
    async def on_disconnected(*_: Any) -> None:
        gone.set()

    async with running(*before, transport.input(), transport.output(), **_logs_to_client()) as task:
        room.tell("disconnected")
        await asyncio.wait_for(gone.wait(), 10)
        outage.begin()
        return await _set_off(task, outage, MESSAGES)


#
# WebSockets
#


class _Serializer(FrameSerializer):
    """Fails as long as the outage lasts."""

    def __init__(self, outage: Outage) -> None:
        super().__init__()
        self._outage = outage

    async def serialize(self, frame: Frame) -> str | None:
        if not hasattr(frame, "message"):
            return None
        if self._outage.on:
            self._outage.failed()
            raise ValueError("not serialisable")
        return str(frame.message)

    async def deserialize(self, data: str | bytes) -> Frame | None:
        return None


@asynccontextmanager
async def _server() -> AsyncIterator[tuple[str, list[Any], list[Any]]]:
    """A real server: where it is, its connections, and what has arrived."""
    connections: list[Any] = []
    arrived: list[Any] = []

    async def serve(connection: Any) -> None:
        connections.append(connection)
        try:
            async for message in connection:
                arrived.append(message)
        except websockets.ConnectionClosed:
            pass

    async with websockets.serve(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"ws://127.0.0.1:{port}", connections, arrived


async def _websocket_client(
    outage: Outage, before: tuple[FrameProcessor, ...], lose: Any, messages: int, **kwargs: Any
) -> Seen:
    async with _server() as (uri, connections, arrived):
        params = WebsocketClientParams(serializer=_Serializer(outage))
        transport = WebsocketClientTransport(uri, params)
        async with running(*before, transport.input(), transport.output(), **kwargs) as task:
            await task.queue_frame(app_message())
            await eventually(lambda: arrived)
            if lose is not None:
                gone = asyncio.Event()

                @transport.event_handler("on_disconnected")
                async def on_disconnected(*_: Any) -> None:
                    gone.set()

                await lose(connections[0])
                await asyncio.wait_for(gone.wait(), 10)
            else:
                outage.begin()
            with counted_log() as log:
                await task.queue_frames([app_message(n) for n in range(messages)])
                if lose is None:
                    await outage.spent()
                else:
                    await settle(1000)
            return _seen(outage, log)


async def _close(connection: Any) -> None:
    await connection.close()


async def _abort(connection: Any) -> None:
    connection.transport.abort()


async def websocket_client_serializer_raises(
    patch: pytest.MonkeyPatch, outage: Outage, *before: FrameProcessor
) -> Seen:
    """`serialize()` is called outside the transport's own `try`."""
    return await _websocket_client(outage, before, None, 1)


async def websocket_client_server_closes(
    patch: pytest.MonkeyPatch, outage: Outage, *before: FrameProcessor
) -> Seen:
    """The server closes the connection, and the application goes on sending."""
    return await _websocket_client(outage, before, _close, MESSAGES, **_logs_to_client())


async def websocket_client_server_aborts(
    patch: pytest.MonkeyPatch, outage: Outage, *before: FrameProcessor
) -> Seen:
    """The connection breaks, and the application goes on sending."""
    return await _websocket_client(outage, before, _abort, MESSAGES, **_logs_to_client())


async def _websocket_server(
    outage: Outage, before: tuple[FrameProcessor, ...], vanish: bool, messages: int, **kwargs: Any
) -> Seen:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    params = WebsocketServerParams(serializer=_Serializer(outage))
    transport = WebsocketServerTransport(params, host="127.0.0.1", port=port)
    ready, connected = asyncio.Event(), asyncio.Event()

    @transport.event_handler("on_websocket_ready")
    async def on_websocket_ready(*_: Any) -> None:
        ready.set()

    @transport.event_handler("on_client_connected")
    async def on_client_connected(*_: Any) -> None:
        connected.set()

    async with running(*before, transport.input(), transport.output(), **kwargs) as task:
        await asyncio.wait_for(ready.wait(), 10)
        async with websockets.connect(f"ws://127.0.0.1:{port}") as client:
            await asyncio.wait_for(connected.wait(), 10)
            await task.queue_frame(app_message())
            await asyncio.wait_for(client.recv(), 10)
            if vanish:
                client.transport.abort()
            else:
                outage.begin()
            with counted_log() as log:
                await task.queue_frames([app_message(n) for n in range(messages)])
                if vanish:
                    await settle(1000)
                else:
                    await outage.spent()
            return _seen(outage, log)


async def websocket_server_client_vanishes(
    patch: pytest.MonkeyPatch, outage: Outage, *before: FrameProcessor
) -> Seen:
    """The client's connection breaks in mid-sentence; log lines go to the client as well."""
    return await _websocket_server(outage, before, True, MESSAGES, **_logs_to_client())


async def websocket_server_serializer_raises(
    patch: pytest.MonkeyPatch, outage: Outage, *before: FrameProcessor
) -> Seen:
    """Here `serialize()` is called inside the transport's own `try`: it is logged."""
    return await _websocket_server(outage, before, False, MESSAGES)


async def websocket_server_serializer_raises_logs_to_client(
    patch: pytest.MonkeyPatch, outage: Outage, *before: FrameProcessor
) -> Seen:
    """The same, and the client is sent each log line."""
    return await _websocket_server(outage, before, False, 1, **_logs_to_client())


SCENARIOS: dict[str, Scenario] = {
    "daily, signalling dead": daily_signalling_dead,
    "daily, client gone": daily_client_gone,
    "daily, half torn down": daily_torn_down_half,
    "daily, after EndFrame": daily_after_end_frame,
    "livekit, publishing fails": livekit_room_gone,
    "livekit, publishing fails, logs to client": livekit_room_gone_logs_to_client,
    "livekit, room says it is gone": livekit_room_says_so,
    "websocket client, serializer raises": websocket_client_serializer_raises,
    "websocket client, server closes": websocket_client_server_closes,
    "websocket client, connection breaks": websocket_client_server_aborts,
    "websocket server, client vanishes": websocket_server_client_vanishes,
    "websocket server, serializer raises": websocket_server_serializer_raises,
    "websocket server, serializer raises, logs to client": (
        websocket_server_serializer_raises_logs_to_client
    ),
}
