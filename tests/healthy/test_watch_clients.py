"""A watched transport with somebody there: whoever came and went, its messages are sent."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from pipecat.transports.daily import transport as daily_transport
from pipecat.transports.daily.transport import DailyParams, DailyTransport

from pipecat_circuit_breaker.testing import running
from tests.healthy.healthy_parts import numbers
from tests.releases import daily_room, livekit_room
from tests.releases.room import Outage, eventually
from tests.support.parts import app_message, settle

MESSAGES = 20


class People(daily_room.RoomlessClient):
    """daily-python's client, that says who is in the room."""

    def __init__(self, room, **kwargs):
        super().__init__(room, **kwargs)
        self._here = room.here

    def participants(self):
        return {"local": {"id": "bot"}, **self._here}

    def participant_counts(self):
        return {"present": 1 + len(self._here), "hidden": 0}


class Daily:
    """What is heard of a room comes from a thread of its own, as with daily-python."""

    def __init__(self, patch):
        self._room = daily_room.Room()
        self._room.here = {}
        patch.setattr(
            daily_transport,
            "CallClient",
            lambda event_handler: People(self._room, event_handler=event_handler),
        )
        self.transport = DailyTransport("https://example.daily.co/r", None, "bot", DailyParams())

    def arrived(self):
        return self._room.arrived

    async def come(self, who):
        self._room.here[who] = self._participant(who)
        await asyncio.to_thread(
            self.transport._client.on_participant_joined, self._participant(who)
        )

    async def go(self, who, *, still_here=False):
        if not still_here:
            del self._room.here[who]
        await asyncio.to_thread(
            self.transport._client.on_participant_left, self._participant(who), "leftCall"
        )

    def _participant(self, who):
        return {"id": who, "info": {"isLocal": False, "userName": who}}


class LiveKit:
    """What is heard comes from livekit's room."""

    def __init__(self, patch):
        self.transport, self._room = livekit_room.livekit_bot(patch, Outage())

    def arrived(self):
        return [json.loads(data) for data in self._room.local_participant.arrived]

    async def come(self, who):
        self._room.remote_participants[who] = SimpleNamespace(identity=who, sid=who)
        self._room.tell("participant_connected", self._room.remote_participants[who])

    async def go(self, who, *, still_here=False):
        participant = self._room.remote_participants[who]
        if not still_here:
            del self._room.remote_participants[who]
        self._room.tell("participant_disconnected", participant)


@pytest.fixture(params=[Daily, LiveKit])
def room(request, monkeypatch):
    room = request.param(monkeypatch)
    room.heard = []
    for event in ("on_client_connected", "on_client_disconnected"):
        room.transport.add_event_handler(event, lambda *_: room.heard.append(1))
    return room


def watch(guard, room):
    if guard.breaker is not None:
        guard.breaker.watch(room.transport)


async def happens(room, step):
    known = len(room.heard)
    await step
    await eventually(lambda: len(room.heard) > known)
    await settle()


async def sent(room, worker):
    before = len(room.arrived())
    for n in range(MESSAGES):
        await worker.queue_frame(app_message(n))
    await settle(400)
    return numbers(room.arrived()[before:], "app")


async def test__client_comes_back_under_its_id__the_old_one_goes_later__all_arrive(guard, room):
    # A phone changes its network: it is back before its old connection is given up.
    watch(guard, room)
    async with running(*guard.line(room.transport.input(), room.transport.output())) as worker:
        await happens(room, room.come("client"))
        await happens(room, room.come("client"))
        await happens(room, room.go("client", still_here=True))

        assert await sent(room, worker) == [*range(MESSAGES)]


async def test__watch_called_when_a_client_is_there__another_comes_and_goes__all_arrive(
    guard, room
):
    async with running(*guard.line(room.transport.input(), room.transport.output())) as worker:
        await happens(room, room.come("first"))
        watch(guard, room)
        await happens(room, room.come("second"))
        await happens(room, room.go("second"))

        assert await sent(room, worker) == [*range(MESSAGES)]


async def test__watch_called_when_clients_are_there__one_of_them_goes__all_arrive(guard, room):
    async with running(*guard.line(room.transport.input(), room.transport.output())) as worker:
        await happens(room, room.come("first"))
        await happens(room, room.come("second"))
        watch(guard, room)
        await happens(room, room.go("second"))

        assert await sent(room, worker) == [*range(MESSAGES)]
