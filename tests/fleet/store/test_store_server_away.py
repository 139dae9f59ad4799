"""What a store does when its server stops, goes, hangs, is full or becomes a replica."""

import asyncio
import time

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from pipecat_circuit_breaker.fleet import redis as redis_store
from pipecat_circuit_breaker.fleet.redis import RedisStore
from pipecat_circuit_breaker.fleet.store import Report, StoreUnavailable
from tests.fleet import servers
from tests.fleet.store.store_parts import KEY, STEPS, a_store, listen, records, report, until

pytestmark = pytest.mark.usefixtures("probes_at_once")


# A server that stops -----------------------------------------------------------


async def test_what_a_stopped_server_finds_on_waking_is_not_carried_out(any_server):
    async with (
        a_store(any_server, timeout_secs=0.3) as store,
        a_store(any_server, flush=False, timeout_secs=0.3) as other,
    ):
        await report(store)
        await store.lease(KEY, "pod-1", "t", 100.0)
        before = records(any_server)
        any_server.stop()
        try:
            for step in ("report", "settle", "open", "close_outage", "set_mode"):
                for one in (store, other):  # `other` knows nothing of the server's clock yet.
                    began = time.monotonic()
                    with pytest.raises(StoreUnavailable):
                        await STEPS[step](one)
                    assert time.monotonic() - began < 1.5
        finally:
            any_server.go_on()
        # It executes what it has in its buffers before it answers anything new.
        await asyncio.sleep(0.05)
        assert records(any_server) == before
        assert (await store.read("t")).mode.mode == "guard"
        assert (await STEPS["settle"](store)).did


async def test_a_report_grows_older_until_it_is_sent(redis7):
    # So long that the server, which is stopped, would take it for a fresh one.
    async with a_store(redis7, timeout_secs=1.0) as store:
        await report(store, "pod-1", need=9)
        redis7.stop()
        late = asyncio.create_task(report(store, "pod-2", need=9))
        await asyncio.sleep(0.4)
        redis7.go_on()
        outage = (await late).outage
        assert outage.instances["pod-2"] - outage.instances["pod-1"] < 0.3


async def test_a_report_grows_older_while_the_loop_does_not_come_to_it(redis7):
    async with a_store(redis7, timeout_secs=1.0) as store:
        await report(store, "pod-1", need=9)
        what = Report(KEY, "pod-2", "t", True, 1, ("b",), age_secs=0.0, waits=(1.0,))
        late = store.report(what, min_instances=9, vote_secs=10.0, hold_secs=100.0)
        time.sleep(0.3)  # noqa: ASYNC251
        outage = (await late).outage
        assert outage.instances["pod-2"] - outage.instances["pod-1"] < 0.2


async def test_a_server_whose_clock_is_another_one_is_learned_anew(redis7):
    async with a_store(redis7) as store:
        await report(store)
        for shift in (-1000.0, 1000.0):
            store._offset += shift
            assert (await report(store)).outage is not None
            now = (await store.read("t")).now
            assert store._offset + time.monotonic() == pytest.approx(now, abs=0.2)


async def test_a_process_that_was_held_up_sends_its_step_again(redis7):
    held_up = []

    def clock():
        return time.monotonic() - (held_up.pop() if held_up else 0.0)

    async with a_store(redis7, clock=clock) as store:
        await report(store)
        held_up[:] = [1.5, 0.0, 0.0]  # Between its last look at the clock and sending.
        assert (await report(store)).outage.failures == 2
        assert held_up == []


# A server that goes -------------------------------------------------------------


async def test_a_server_that_is_away_is_told_at_once_and_found_again():
    with servers.Server("redis7") as server:
        async with a_store(server) as store:
            await report(store)
            server.kill()
            for step in STEPS.values():
                with pytest.raises(StoreUnavailable, match="ConnectionError"):
                    await step(store)
            with pytest.raises(StoreUnavailable, match="ConnectionError"):
                await listen(store)
            server.start()
            assert (await report(store)).did


async def test_news_end_with_their_connection():
    with servers.Server("redis7") as server:
        async with a_store(server) as store, store.news() as news:
            await report(store)
            assert (await anext(news)).is_open
            server.kill()
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(anext(news), 2)


async def test_a_client_that_connects_anew_by_itself_may_have_lost_news(redis7):
    def factory():
        return redis.asyncio.Redis.from_url(redis7.url, retry=Retry(NoBackoff(), 3))

    store = RedisStore(factory, "test")
    async with store.news() as news:
        with redis7.client() as client:
            client.client_kill_filter(_type="pubsub")
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(anext(news), 2)
    await store.close()


async def test_a_subscription_that_hangs_is_noticed(redis7, monkeypatch):
    monkeypatch.setattr(redis_store, "_PING_SECS", 0.05)
    async with a_store(redis7, timeout_secs=0.3) as store, store.news() as news:
        await asyncio.sleep(0.2)  # Answered pings.
        await report(store)
        assert [n async for n in until(news, KEY)][-1].is_open
        redis7.stop()
        try:
            with pytest.raises(StoreUnavailable, match="in time"):
                async with asyncio.timeout(2):
                    _ = [n async for n in until(news, "never")]
        finally:
            redis7.go_on()


async def test_a_hung_server_is_not_subscribed_to(redis7):
    async with a_store(redis7, timeout_secs=0.1) as store:
        redis7.stop()
        try:
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await listen(store)
            assert time.monotonic() - began < 1
        finally:
            redis7.go_on()


async def test_what_is_flushed_is_begun_anew(any_server):
    async with a_store(any_server) as store:
        await report(store)
        any_server.flush()
        assert (await store.read("t")).outages == ()
        assert (await report(store)).outage.failures == 1
        any_server.flush_scripts()
        assert (await report(store)).outage.failures == 2


async def test_a_full_server(any_server):
    async with a_store(any_server) as store:
        await report(store)
        any_server.fill()
        try:
            with pytest.raises(StoreUnavailable, match="OOM"):
                await report(store, "pod-2")
        finally:
            any_server.empty()
        assert (await report(store, "pod-2")).outage.failures == 2


async def test_a_server_that_has_become_a_replica(any_server):
    async with a_store(any_server) as store:
        await report(store)
        any_server.become_replica()
        try:
            with pytest.raises(StoreUnavailable, match="READONLY"):
                await report(store)
        finally:
            any_server.become_master()
        assert (await report(store)).did in (True, False)


async def test_that_a_url_is_none_is_said_without_its_password():
    for url in ("http://:hunter2@host", "redis://:hunter2@host:port/0", "hunter2"):
        with pytest.raises(ValueError) as raised:
            RedisStore(url, "test")
        assert "hunter2" not in f"{raised.value!r} {raised.value.__cause__!r}"


async def test_a_client_that_cannot_be_made_is_unavailable():
    def factory():
        raise RuntimeError("hunter2")

    store = RedisStore(factory, "test")
    for step in (*STEPS.values(), listen):
        with pytest.raises(StoreUnavailable) as raised:
            await step(store)
        assert "hunter2" not in str(raised.value)
    await store.close()
