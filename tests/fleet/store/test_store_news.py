"""What subscribers of a store are told."""

import asyncio

import pytest

from pipecat_circuit_breaker.fleet.memory import MemoryStore
from pipecat_circuit_breaker.fleet.news import MAX_UNREAD
from pipecat_circuit_breaker.fleet.store import StoreUnavailable
from tests.fleet.store.store_parts import KEY


async def test_news_of_every_step_but_of_mere_counts_once_a_second(told):
    async with told.store.news() as news:
        await told.report("pod-1", need=2)
        first = await asyncio.wait_for(anext(news), 1)
        assert first.state == "suspected"
        await told.report("pod-1", need=2)
        opened = (await told.report("pod-2", need=2)).outage
        assert await asyncio.wait_for(anext(news), 1) == opened
        await told.report("pod-2")
        await told.after(2.1)
        leased = (await told.lease("p.1")).outage
        heard = await asyncio.wait_for(anext(news), 1)
        assert heard == leased
        closed = (await told.settle("p.1", leased.generation, True)).outage
        assert await asyncio.wait_for(anext(news), 1) == closed
        await told.store.set_mode("disabled", "eva", "", 10)
        assert (await asyncio.wait_for(anext(news), 1)).mode == "disabled"


async def test_that_an_outage_is_forgotten_is_news(told):
    await told.report(hold=1)
    async with told.store.news() as news:
        await told.after(1.2)
        await told.store.read("abc.1")
        assert (await asyncio.wait_for(anext(news), 1)).ending == "forgotten"


async def test_a_subscriber_of_memory_that_does_not_read_is_told_that_it_has_lost_news(clock):
    store = MemoryStore(clock=clock)
    async with store.news() as news:
        for n in range(2 * MAX_UNREAD):
            await store.set_mode("observe", f"{n}", "", 10)
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="faster"):
            for n in range(MAX_UNREAD + 1):
                assert (await anext(news)).who == f"{n}"
        with pytest.raises(StoreUnavailable, match="faster"):
            await anext(news)
    await store.set_mode("guard", "", "", 10)


async def test_a_subscriber_whose_loop_is_closed_harms_nobody(clock):
    store = MemoryStore(clock=clock)

    def elsewhere():
        async def subscribe():
            context = store.news()
            await context.__aenter__()
            return context

        return asyncio.run(subscribe())

    left = await asyncio.to_thread(elsewhere)
    assert (await store.open(KEY, "eva", "", 10)).did
    del left
