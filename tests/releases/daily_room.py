"""pipecat's real `DailyTransport` over daily-python's real client, with no room to join.

Only `join` is answered here: it would need a network. Everything above the native client is
pipecat's own, and a message that is sent while the signalling is dead goes down to the native
client, which answers with the error it has for that: `AppMessage(Signalling(ChannelNotOpen))`.
"""

from typing import Any

import daily
import pytest
from pipecat.transports.daily import transport as daily_transport
from pipecat.transports.daily.transport import DailyParams, DailyTransport

from tests.releases.room import Outage


class Room:
    """What the native client would reach: says what arrived, and whether it can be reached."""

    def __init__(self) -> None:
        self.signalling_dead = False
        self.arrived: list[Any] = []


class RoomlessClient:
    """daily-python's client, whose `join` and `leave` succeed without a room."""

    def __init__(self, room: Room, **kwargs: Any) -> None:
        self._room = room
        self._native = daily.CallClient(**kwargs)

    def join(self, *args: Any, completion: Any, **kwargs: Any) -> None:
        completion({"participants": {"local": {"id": "bot"}}, "meetingSession": {"id": "m"}}, None)

    def leave(self, completion: Any) -> None:
        completion(None)

    def send_app_message(self, message: Any, participant: Any = None, *, completion: Any) -> None:
        if self._room.signalling_dead:
            self._native.send_app_message(message, participant, completion=completion)
        else:
            self._room.arrived.append(message)
            completion(None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)


def daily_bot(monkeypatch: pytest.MonkeyPatch) -> tuple[DailyTransport, Room]:
    """A transport that is ready to join, and the room it will believe to be in."""
    room = Room()
    monkeypatch.setattr(
        daily_transport,
        "CallClient",
        lambda event_handler: RoomlessClient(room, event_handler=event_handler),
    )
    transport = DailyTransport("https://example.daily.co/room", None, "bot", DailyParams())
    return transport, room


def count_failed_sends(transport: DailyTransport, outage: Outage) -> None:
    """Count the sends that the transport's own client answers with an error or an exception."""
    client = transport._client
    send = client.send_message

    async def send_message(frame: Any) -> Any:
        outage.sending += 1
        try:
            error = await send(frame)
        except Exception:
            outage.failed()
            raise
        finally:
            outage.sending -= 1
        if error:
            outage.failed()
        return error

    client.send_message = send_message
