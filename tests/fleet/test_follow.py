"""Who watches a fleet: told by news, and of a server that goes away and comes back."""

import asyncio

import pytest

from pipecat_circuit_breaker.fleet.store import StoreUnavailable
from pipecat_circuit_breaker.fleet_console.follow import (
    POLL_SECS,
    RETRY_SECS,
    SETTLE_SECS,
    Follower,
    look,
)
from tests.fleet.fleet_parts import KEY, FakeStore, Time, outage


@pytest.fixture
async def follower(store, time):
    follower = Follower(store, clock=time, sleep=time.sleep)
    running = asyncio.create_task(follower.run())
    await time.pass_(SETTLE_SECS)
    yield follower
    store.released.set()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not store.listeners


def keys(follower):
    return [record.key for record in follower.sight.knowledge.outages]


async def test__news__is_seen_at_once__and_a_storm_of_it_is_one_look(follower, store, time):
    before = store.log.count("read")

    for n in range(100):
        store.put(outage(f"Voice: {n}"))
    await time.pass_(SETTLE_SECS)

    assert len(keys(follower)) == 100
    assert store.log.count("read") == before + 1


async def test__no_news__it_looks_now_and_then(follower, store, time):
    store.records[KEY] = outage()

    await time.pass_(POLL_SECS)

    assert keys(follower) == [KEY]


async def test__server_gone__says_so_keeps_what_it_knew__and_is_back(follower, store, time):
    store.put(outage())
    await time.pass_(SETTLE_SECS)
    store.faults["read"] = store.faults["news"] = StoreUnavailable("connection refused")
    store.drop_connections()
    await time.pass_(POLL_SECS)

    gone = follower.sight
    assert (gone.lost, keys(follower)) == ("connection refused", [KEY])
    await time.pass_(10 * RETRY_SECS)
    assert follower.sight.lost_at == gone.lost_at

    store.faults.clear()
    store.records.clear()
    await time.pass_(RETRY_SECS + SETTLE_SECS)
    assert (follower.sight.lost, keys(follower)) == (None, [])
    store.put(outage("Voice: news again"))
    await time.pass_(SETTLE_SECS)
    assert keys(follower) == ["Voice: news again"]


async def test__only_the_subscription_is_lost__is_told_and_taken_up_again(follower, store, time):
    store.faults["news"] = StoreUnavailable("no permission")
    store.drop_connections()
    await time.pass_(0)
    assert follower.sight.lost == "connection reset"
    await time.pass_(RETRY_SECS)
    assert follower.sight.lost in ("connection reset", "no permission")

    store.faults.clear()
    await time.pass_(2 * RETRY_SECS)

    assert follower.sight.lost is None and len(store.listeners) == 1


async def test__the_servers_clock__goes_on_between_two_looks(follower, time):
    then = follower.sight.now(time.now)

    assert follower.sight.now(time.now + 5) == then + 5


async def test__a_server_that_never_answered__has_said_nothing():
    store = FakeStore(Time())
    store.faults["read"] = StoreUnavailable("no\nsuch\x1b[31m host")

    seen = await look(store)

    assert seen.knowledge is None and seen.lost == "no such [31m host"
