"""A store's connections: how long they last, what cancels them, and whose turns they take."""

import asyncio
import time
from collections import Counter

import pytest

from pipecat_circuit_breaker.fleet.record import Outage
from pipecat_circuit_breaker.fleet.redis import RedisStore
from pipecat_circuit_breaker.fleet.store import StoreUnavailable
from tests.fleet.store.store_parts import STEPS, a_store, report, soon

pytestmark = pytest.mark.usefixtures("probes_at_once")


def _connections(server):
    with server.client() as client:
        return len(client.client_list()) - 1  # But this one.


async def test_the_connection_for_commands_goes_when_idle(any_server):
    async with a_store(any_server, idle_secs=0.1) as store:
        for _ in range(2):
            await report(store)
            assert _connections(any_server) == 1
            assert await soon(lambda: _connections(any_server) == 0)


async def test_the_connection_stays_while_it_is_used(redis7):
    async with a_store(redis7, idle_secs=0.2) as store:
        await report(store)
        client = store._client
        for _ in range(8):
            await asyncio.sleep(0.05)
            await report(store)
        assert store._client is client


async def test_a_refusal_keeps_the_connection_unless_another_server_is_to_be_asked(redis7):
    async with a_store(redis7) as store:
        await report(store)
        client = store._client
        redis7.fill()
        with pytest.raises(StoreUnavailable, match="OOM"):
            await report(store)
        redis7.empty()
        assert store._client is client
        redis7.become_replica()
        with pytest.raises(StoreUnavailable, match="READONLY"):
            await report(store)
        redis7.become_master()
        assert store._client is None


async def test_nothing_is_left_after_closing(any_server):
    async with a_store(any_server) as store:
        async with store.news():
            await report(store)
            assert _connections(any_server) == 2
        assert await soon(lambda: _connections(any_server) == 1)
    assert await soon(lambda: _connections(any_server) == 0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def _listen_for_good(store):
    async with store.news() as news:
        async for _ in news:
            pass


@pytest.mark.parametrize("is_hung", [False, True], ids=["well", "hung"])
@pytest.mark.parametrize("name", [*STEPS, "news", "close"])
async def test_each_method_may_be_cancelled_at_any_turn(redis7, name, is_hung):
    step = {**STEPS, "news": _listen_for_good, "close": RedisStore.close}[name]
    async with a_store(redis7, timeout_secs=0.1 if is_hung else 1.0) as store:
        turns = (0, 1, 2, 3, 5, 8, 20, 60) if is_hung else range(60)
        for turn in turns:
            if name == "close" or turn % 2:
                await report(store)  # With a connection, and without.
            if is_hung:
                redis7.stop()
            try:
                task = asyncio.create_task(step(store))
                for _ in range(turn):
                    await asyncio.sleep(0)
                began = time.monotonic()
                task.cancel()
                await asyncio.wait({task}, timeout=5)
                assert task.done()
                assert time.monotonic() - began < 0.5
                assert task.cancelled() or task.exception() is None
            finally:
                if is_hung:
                    redis7.go_on()
        assert (await store.read("t")) is not None
        began = time.monotonic()
        await store.close()
        assert time.monotonic() - began < 2
    assert await soon(lambda: _connections(redis7) == 0)


async def test_closing_never_hangs_though_the_server_does(redis7):
    async with a_store(redis7, timeout_secs=0.2) as store, store.news():
        await report(store)
        redis7.stop()
        try:
            began = time.monotonic()
            await store.close()
            assert time.monotonic() - began < 1
        finally:
            redis7.go_on()


class Turns:
    """Counts the turns of the loop."""

    def __init__(self):
        self.number = 0
        self._task = asyncio.ensure_future(self._run())

    async def _run(self):
        while True:
            await asyncio.sleep(0)
            self.number += 1

    def stop(self):
        self._task.cancel()


class Flooded:
    """A client whose channel has more to say than anybody can hear, all of it there at once."""

    def __init__(self, turns, messages):
        self._turns = turns
        self._left = messages
        self.heard_at = []

    async def initialize(self):
        pass

    def pubsub(self):
        return self

    async def subscribe(self, channel):
        pass

    async def get_message(self, timeout):
        self.heard_at.append(self._turns.number)
        self._left -= 1
        if self._left < 0:
            raise ConnectionError("over")
        if len(self.heard_at) == 1:
            return {"type": "subscribe"}
        return {"type": "message", "data": b"garbage"}

    async def aclose(self):
        pass


async def test_a_flood_of_messages_leaves_turns_of_the_loop_to_others():
    turns = Turns()
    client = Flooded(turns, 900)
    store = RedisStore(lambda: client, "test")
    async with store.news() as news:
        with pytest.raises(StoreUnavailable, match="ConnectionError"):
            await anext(news)
    turns.stop()
    assert len(client.heard_at) == 901
    assert max(Counter(client.heard_at).values()) <= 20


async def test_many_records_leave_turns_of_the_loop_to_others(redis7, monkeypatch):
    async with a_store(redis7) as store:
        for n in range(100):
            await store.open(f"s: {n}", "eva", "", 100.0)
        for n in range(50):
            await store.close_outage(f"s: {n}", "eva", "")
        turns, read_at = Turns(), []
        read = Outage.read
        monkeypatch.setattr(Outage, "read", lambda text: read_at.append(turns.number) or read(text))
        knowledge = await store.read("t")
        turns.stop()
    assert len(knowledge.outages) == 100 and len(knowledge.history) == 50
    assert len(read_at) == 150
    assert max(Counter(read_at).values()) <= 16
