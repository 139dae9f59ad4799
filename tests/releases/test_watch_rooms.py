"""`watch` on rooms, where the bot is a participant itself: its own joining is no client."""

import asyncio
from types import SimpleNamespace

import pytest

from pipecat_circuit_breaker import (
    CircuitBreakerParams,
    CircuitBreakerProcessor,
)
from pipecat_circuit_breaker.testing import running
from tests.releases.daily_room import daily_bot
from tests.releases.livekit_room import livekit_bot
from tests.releases.room import Outage, eventually
from tests.support.parts import app_message, settle

pytestmark = pytest.mark.releases


class DailyRoom:
    """Says what daily-python says, from a thread of its own as daily-python does."""

    def __init__(self, patch):
        self.transport, self._room = daily_bot(patch)
        self.heard = []

        @self.transport.event_handler("on_participant_joined")
        async def on_participant_joined(*_):
            self.heard.append("came")

        @self.transport.event_handler("on_participant_left")
        async def on_participant_left(*_):
            self.heard.append("went")

    def arrived(self):
        return [message["n"] for message in self._room.arrived]

    async def come(self, who):
        native = self.transport._client
        await asyncio.to_thread(native.on_participant_joined, self._participant(who))

    async def go(self, who):
        native = self.transport._client
        await asyncio.to_thread(native.on_participant_left, self._participant(who), "leftCall")

    def _participant(self, who):
        return {"id": who, "info": {"isLocal": False, "userName": who}}


class LiveKitRoom:
    """Says what livekit's room says."""

    def __init__(self, patch):
        self.transport, self._room = livekit_bot(patch, Outage())
        self.heard = []

        @self.transport.event_handler("on_participant_connected")
        async def on_participant_connected(*_):
            self.heard.append("came")

        @self.transport.event_handler("on_participant_disconnected")
        async def on_participant_disconnected(*_):
            self.heard.append("went")

    def arrived(self):
        return [int(data.split(b'"n": ')[1][:-1]) for data in self._room.local_participant.arrived]

    async def come(self, who):
        self._room.remote_participants[who] = SimpleNamespace(identity=who, sid=who)
        self._room.tell("participant_connected", self._room.remote_participants[who])

    async def come_before(self, who):
        self._room.remote_participants[who] = SimpleNamespace(identity=who, sid=who)

    async def go(self, who):
        self._room.tell("participant_disconnected", self._room.remote_participants.pop(who))


@pytest.mark.parametrize("room_type", [DailyRoom, LiveKitRoom])
async def test__watched_room__last_client_leaves_and_one_comes_back__held_then_sent(
    clock, monkeypatch, room_type
):
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    room = room_type(monkeypatch)
    breaker.watch(room.transport)
    opened = []

    @breaker.event_handler("on_circuit_opened")
    async def on_circuit_opened(_, incident):
        opened.append(incident.trigger)

    async def happens(what, who):
        known = len(room.heard)
        await what(who)
        await eventually(lambda: len(room.heard) > known)
        await settle(500)

    async with running(breaker, room.transport.input(), room.transport.output()) as task:

        async def say(n):
            await task.queue_frame(app_message(n))
            await settle(500)

        await happens(room.come, "first")
        await happens(room.come, "second")
        await say(1)
        await happens(room.go, "first")
        await say(2)
        assert opened == []
        assert room.arrived() == [1, 2]

        await happens(room.go, "second")
        await say(3)
        assert sum(totals.unsent_messages for totals in breaker.totals) == 1
        assert room.arrived() == [1, 2]

        await happens(room.come, "third")
        await say(4)
        assert opened == [], "that nobody is there is no failure"
        assert room.arrived() == [1, 2, 4]


async def test__watched_livekit_room__one_of_two_who_were_there_before_the_bot_leaves__is_sent(
    clock, monkeypatch
):
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    room = LiveKitRoom(monkeypatch)
    await room.come_before("first")
    await room.come_before("second")
    breaker.watch(room.transport)
    async with running(breaker, room.transport.input(), room.transport.output()) as task:
        await room.go("first")
        await eventually(lambda: "went" in room.heard)
        await settle(500)
        await task.queue_frame(app_message(1))
        await settle(500)

        assert room.arrived() == [1]
