"""Clients of clusters and sentinels, and such as decode or cannot subscribe."""

import asyncio

import pytest
import redis.asyncio
from redis.asyncio.sentinel import Sentinel

from pipecat_circuit_breaker.fleet import redis as redis_store
from pipecat_circuit_breaker.fleet.redis import RedisStore
from pipecat_circuit_breaker.fleet.store import StoreUnavailable
from tests.fleet import servers
from tests.fleet.store.store_parts import STEPS, report

pytestmark = pytest.mark.usefixtures("probes_at_once")


async def goes_through_its_life(store):
    try:
        async with store.news() as news:
            opened = await report(store)
            assert opened.did
            assert (await asyncio.wait_for(anext(news), 5)).is_open
            assert (await STEPS["lease"](store)).did
            assert (await STEPS["settle"](store)).did
            while (await asyncio.wait_for(anext(news), 5)).is_open:
                pass
        assert len((await store.read("t")).history) == 1
        await store.set_mode("observe", "eva", "", 10.0)
        assert (await store.read("t")).mode.mode == "observe"
    finally:
        await store.close()


@pytest.mark.parametrize("kind", ["redis7", "valkey"])
async def test_a_cluster(kind):
    with servers.cluster(kind) as server:
        await goes_through_its_life(
            RedisStore(
                lambda: redis.asyncio.RedisCluster(
                    host="127.0.0.1", port=server.port, socket_timeout=1.0
                ),
                "test",
            )
        )


async def test_a_client_that_cannot_subscribe_is_polled(redis7, monkeypatch):
    monkeypatch.setattr(redis_store, "_POLL_SECS", 0.05)

    class Mute:
        def __init__(self):
            self._client = redis.asyncio.Redis.from_url(redis7.url)

        def __getattr__(self, name):
            if name == "pubsub":
                raise AttributeError(name)
            return getattr(self._client, name)

    redis7.flush()
    store = RedisStore(Mute, "test")
    await goes_through_its_life(store)
    async with store.news() as news:
        await store.set_mode("disabled", "eva", "", 10.0)
        assert (await asyncio.wait_for(anext(news), 2)).mode == "disabled"
        await store.close()
        redis7.stop()
        try:
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(anext(news), 5)
        finally:
            redis7.go_on()
    await store.close()


@pytest.mark.parametrize("kind", ["redis7", "valkey"])
async def test_a_sentinel(kind):
    with servers.Server(kind, port=servers.free_port()) as server, servers.sentinel(server) as port:
        watched = Sentinel([("127.0.0.1", port)], socket_timeout=1.0)
        await goes_through_its_life(
            RedisStore(lambda: watched.master_for("fleet", socket_timeout=1.0), "test")
        )
        for client in watched.sentinels:
            await client.aclose()


async def test_a_client_that_decodes(redis7):
    redis7.flush()
    await goes_through_its_life(RedisStore(f"{redis7.url}?decode_responses=True", "test"))
    redis7.flush()
    await goes_through_its_life(
        RedisStore(lambda: redis.asyncio.Redis.from_url(redis7.url, decode_responses=True), "test")
    )
