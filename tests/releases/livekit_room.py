"""pipecat's real `LiveKitTransport`, in a room that is not there.

Only livekit's `Room` is replaced, which would need a server; its audio sources and tracks are real.
"""

from collections.abc import Callable
from typing import Any

import pytest
from livekit import rtc
from pipecat.transports.livekit import transport as livekit_transport
from pipecat.transports.livekit.transport import LiveKitParams, LiveKitTransport

from tests.releases.room import Outage


class Participant:
    """The bot itself, in the room."""

    identity = "bot"
    sid = "bot"

    def __init__(self, outage: Outage) -> None:
        self._outage = outage
        self.arrived: list[bytes] = []

    async def publish_track(self, *_: Any) -> None:
        pass

    async def publish_data(self, data: bytes, **_: Any) -> None:
        if self._outage.on:
            self._outage.failed()
            raise rtc.PublishDataError("engine is closed")
        self.arrived.append(data)


class Room:
    """As much of livekit's `Room` as pipecat asks for."""

    def __init__(self, outage: Outage) -> None:
        self.local_participant = Participant(outage)
        self.remote_participants: dict[str, Any] = {}
        self._handlers: dict[str, Callable[..., Any]] = {}

    def on(self, event: str) -> Callable[[Callable[..., Any]], None]:
        return lambda handler: self._handlers.__setitem__(event, handler)

    def tell(self, event: str, *args: Any) -> None:
        self._handlers[event](*args)

    async def connect(self, *_: Any, **__: Any) -> None:
        pass

    async def disconnect(self) -> None:
        pass


def livekit_bot(patch: pytest.MonkeyPatch, outage: Outage) -> tuple[LiveKitTransport, Room]:
    """A transport that is ready to connect, and the room it will believe to be in."""
    room = Room(outage)
    patch.setattr(livekit_transport.rtc, "Room", lambda loop=None: room)
    transport = LiveKitTransport("wss://example.org", "token", "room", LiveKitParams())
    return transport, room
