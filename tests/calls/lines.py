"""The lines over which calls are made: pipecat's own transports, on loopback or in a room."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, WebSocket
from pipecat.frames.frames import (
    InputTransportMessageFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
)
from pipecat.serializers.base_serializer import FrameSerializer
from pipecat.transports.base_transport import BaseTransport
from pipecat.transports.daily import transport as daily_transport
from pipecat.transports.daily.transport import DailyParams, DailyTransport
from pipecat.transports.livekit import transport as livekit_transport
from pipecat.transports.livekit.transport import LiveKitParams, LiveKitTransport
from pipecat.transports.websocket.fastapi import (
    FastAPIWebsocketParams,
    FastAPIWebsocketTransport,
)
from pipecat.transports.websocket.server import (
    SingleClientWebsocketServerParams,
    SingleClientWebsocketServerTransport,
)
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.calls.call import AUDIO, TALK, Call, eventually
from tests.releases import daily_room, livekit_room
from tests.releases.room import Outage

Answer = Callable[[BaseTransport], Call]

MESSAGES = (OutputTransportMessageFrame, OutputTransportMessageUrgentFrame)


class Json(FrameSerializer):
    """Messages as text and sound as it is."""

    async def serialize(self, frame):
        if isinstance(frame, OutputAudioRawFrame):
            return frame.audio
        return json.dumps(frame.message) if isinstance(frame, MESSAGES) else None

    async def deserialize(self, data):
        return InputTransportMessageFrame(message=json.loads(data))


class Line:
    """One client, and the bot that it talks to.

    Args:
        answer: Makes the bot that serves a transport.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.calls: list[Call] = []

    @classmethod
    def laid(cls, answer: Answer) -> AbstractAsyncContextManager["Line"]:
        """Lay it, for one client at a time."""
        raise NotImplementedError

    @property
    def call(self) -> Call:
        """The call that is under way."""
        return self.calls[-1]

    async def dial(self) -> None:
        """Call, and be in mid-sentence."""
        raise NotImplementedError

    async def hang_up(self) -> None:
        """Say goodbye, as a client does that is closed."""
        raise NotImplementedError

    async def vanish(self) -> None:
        """Be gone without a word, as a client that has lost its network."""
        raise NotImplementedError

    async def come_back(self) -> None:
        """Call again after that."""
        raise NotImplementedError

    async def _start(self, transport: BaseTransport) -> None:
        self.calls.append(self._answer(transport))
        await self.call.start()


class WebsocketLine(Line):
    """A client that listens over a WebSocket."""

    port: int

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self._client: Any = None
        self._listening: asyncio.Task[None] | None = None

    async def _connect(self) -> None:
        self._client = await connect(f"ws://127.0.0.1:{self.port}", proxy=None)
        heard: set[str] = set()

        async def listen() -> None:
            with suppress(ConnectionClosed):
                async for message in self._client:
                    sound = isinstance(message, bytes)
                    heard.add("sound" if sound else json.loads(message)["type"])

        self._listening = asyncio.create_task(listen())
        await eventually(lambda: heard >= {*TALK, "sound"})

    async def hang_up(self) -> None:
        await self._client.close()

    async def vanish(self) -> None:
        self._client.transport.abort()


class WebsocketServer(WebsocketLine):
    """A bot that is a WebSocket server itself; its client may come back to it."""

    @classmethod
    @asynccontextmanager
    async def laid(cls, answer: Answer) -> AsyncIterator["WebsocketServer"]:
        yield cls(answer)

    async def dial(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        params = SingleClientWebsocketServerParams(serializer=Json(), **AUDIO)
        transport = SingleClientWebsocketServerTransport(params, "127.0.0.1", self.port)
        ready = asyncio.Event()
        transport.add_event_handler("on_websocket_ready", lambda *_: ready.set())
        await self._start(transport)
        await ready.wait()
        await self._connect()

    async def come_back(self) -> None:
        await self._connect()


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[int]:
    """Serve an application with uvicorn on loopback, and say at which port."""
    config = uvicorn.Config(
        app,
        port=0,
        log_level="critical",
        ws="websockets",
        # Where a test fails its client is still connected, and uvicorn would wait for it.
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


class FastAPILine(WebsocketLine):
    """A web server with a bot, and a pipeline, for each connection."""

    @classmethod
    @asynccontextmanager
    async def laid(cls, answer: Answer) -> AsyncIterator["FastAPILine"]:
        app, line = FastAPI(), cls(answer)
        app.websocket("/")(line._serve)
        async with served(app) as line.port:
            yield line

    async def _serve(self, websocket: WebSocket) -> None:
        await websocket.accept()
        params = FastAPIWebsocketParams(serializer=Json(), **AUDIO)
        await self._start(FastAPIWebsocketTransport(websocket, params))
        await self.call.ended()

    async def dial(self) -> None:
        await self._connect()

    async def come_back(self) -> None:
        await self._connect()


class RaisingLine(FastAPILine):
    """The same, with a transport that raises where pipecat's own only logs that a send fails."""

    async def _serve(self, websocket: WebSocket) -> None:
        await websocket.accept()
        params = FastAPIWebsocketParams(serializer=Json(), **AUDIO)
        transport = FastAPIWebsocketTransport(websocket, params)
        self.broken = False

        async def send_message(frame: Any) -> None:
            if self.broken:
                raise ConnectionError("the network is down")
            await websocket.send_text(json.dumps(frame.message))

        transport.output().send_message = send_message
        await self._start(transport)
        await self.call.ended()


class Room(Line):
    """A room in which the bot is, and that the client enters and leaves."""

    @classmethod
    @asynccontextmanager
    async def laid(cls, answer: Answer) -> AsyncIterator["Room"]:
        yield cls(answer)

    async def hang_up(self) -> None:
        await self._leave("leftCall")

    async def vanish(self) -> None:
        await self._leave("hidden")

    async def come_back(self) -> None:
        await self._enter()
        heard = len(self._arrived)
        await eventually(lambda: _kinds(self._arrived[heard:]) >= TALK)

    async def _dial(self, transport: BaseTransport) -> None:
        await self._start(transport)
        await self._enter()
        # What RTVI says once the sound is being played.
        await eventually(lambda: _kinds(self._arrived) >= {*TALK, "bot-started-speaking"})

    _arrived: list[Any]

    async def _enter(self) -> None:
        raise NotImplementedError

    async def _leave(self, reason: str) -> None:
        raise NotImplementedError


class DailyRoom(Room):
    """Says what daily-python says, from a thread of its own as daily-python does."""

    async def dial(self) -> None:
        room = daily_room.Room()
        self._arrived = room.arrived
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                daily_transport,
                "CallClient",
                lambda event_handler: daily_room.RoomlessClient(room, event_handler=event_handler),
            )
            params = DailyParams(**AUDIO)
            transport = DailyTransport("https://example.daily.co/room", None, "bot", params)
        await self._dial(transport)

    @property
    def _native(self) -> Any:
        return self.call.transport._client  # type: ignore[attr-defined]

    async def _enter(self) -> None:
        await asyncio.to_thread(self._native.on_participant_joined, _PARTICIPANT)

    async def _leave(self, reason: str) -> None:
        await asyncio.to_thread(self._native.on_participant_left, _PARTICIPANT, reason)


_PARTICIPANT = {"id": "client", "info": {"isLocal": False, "userName": "client"}}


class LiveKitRoom(Room):
    """Says what livekit's room says."""

    async def dial(self) -> None:
        self._room = livekit_room.Room(Outage())
        self._arrived = self._room.local_participant.arrived
        transport = LiveKitTransport("wss://example.org", "token", "room", LiveKitParams(**AUDIO))
        set_up = transport._client.setup

        async def setup(setup: Any) -> None:
            # It waits for nothing in there: no other call has its room made meanwhile.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(livekit_transport.rtc, "Room", lambda loop=None: self._room)
                await set_up(setup)

        transport._client.setup = setup
        await self._dial(transport)

    async def _enter(self) -> None:
        client = SimpleNamespace(identity="client", sid="client")
        self._room.remote_participants["client"] = client
        self._room.tell("participant_connected", client)

    async def _leave(self, reason: str) -> None:
        self._room.tell("participant_disconnected", self._room.remote_participants.pop("client"))


def _kinds(messages: list[Any]) -> set[str]:
    return {
        (json.loads(message) if isinstance(message, bytes) else message)["type"]
        for message in messages
    }


LINES = [WebsocketServer, FastAPILine, DailyRoom, LiveKitRoom]

#
# How a call ends
#


async def client_hangs_up(line: Line) -> None:
    """As pipecat's examples have it, the bot ends when its client has gone."""
    await line.call.blurt()
    await line.hang_up()


async def client_vanishes(line: Line) -> None:
    """The bot takes its time to end, and goes on as if nothing had happened."""
    line.call.leaves = False
    await line.call.blurt()
    await line.vanish()
    await line.call.noticed()
    await line.call.goes_on()
    await line.call.end()


async def bot_hangs_up(line: Line) -> None:
    await line.call.blurt()
    await line.call.end()


async def bot_cancels(line: Line) -> None:
    await line.call.blurt()
    await line.call.cancel()


async def both_at_once(line: Line) -> None:
    await line.call.blurt()
    await asyncio.gather(line.hang_up(), line.call.end())


async def client_comes_back(line: Line) -> None:
    """To the bot that still waits for it, or to another where each connection has one."""
    line.call.leaves = False
    await line.call.blurt()
    await line.vanish()
    await line.call.noticed()
    await line.call.goes_on()
    await line.come_back()
    await asyncio.gather(*(call.end() for call in line.calls))


WAYS = [
    client_hangs_up,
    client_vanishes,
    bot_hangs_up,
    bot_cancels,
    both_at_once,
    client_comes_back,
]


async def make_call(
    line_type: type[Line], way: Callable[[Line], Awaitable[None]], answer: Answer
) -> Line:
    """Make one call that ends in one way, and wait until its pipelines are over."""
    async with line_type.laid(answer) as line:
        await line.dial()
        await way(line)
        for call in line.calls:
            await call.ended()
    return line
