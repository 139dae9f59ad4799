"""What a call learns at its start, and how long it waits for that."""

import asyncio
import math

import pytest

from pipecat_circuit_breaker.fleet import ModeSet
from pipecat_circuit_breaker.fleet.store import StoreUnavailable
from tests.fleet.fleet_parts import KEY, Voice, outage, turns


async def test_a_call_learns_what_is_out_as_soon_as_the_fleet_is_connected(start, store, time):
    store.put(outage())
    process = await start(joins=False)
    assert (await process.fleet.outage(process.service)).key == KEY
    assert (await process.fleet.outage(KEY)).key == KEY
    assert await process.fleet.outage("another") is None
    assert store.log == ["news", "read"]


@pytest.mark.parametrize("fault", ["hang", "deaf"])
async def test_a_call_waits_no_longer_than_it_has_said(start, store, time, fault):
    store.faults["news"] = fault
    process = await start(joins=False)
    asking = asyncio.ensure_future(process.fleet.outage(KEY, timeout_secs=0.3))
    await time.pass_(0.29)
    assert not asking.done()
    tasks = len(asyncio.all_tasks())
    await time.pass_(0.01)
    assert asking.done() and asking.result() is None
    # The one who has asked, and what it waited for.
    assert len(asyncio.all_tasks()) == tasks - 3


async def test_a_call_does_not_wait_where_the_store_is_known_to_be_gone(start, store, time):
    store.faults["news"] = StoreUnavailable("gone")
    process = await start()
    asking = asyncio.ensure_future(process.fleet.outage(KEY))
    await turns()
    assert asking.done() and asking.result() is None


async def test_a_call_that_may_not_wait_does_not(start, store):
    store.faults["news"] = "hang"
    process = await start(joins=False)
    asking = asyncio.ensure_future(process.fleet.outage(KEY, timeout_secs=0))
    await turns(3)
    assert asking.done() and asking.result() is None


@pytest.mark.parametrize("mode", ["observe", "disabled"])
async def test_where_bots_are_not_to_act_a_call_is_told_of_no_outage(start, store, mode):
    store.put(outage())
    store.put(ModeSet(mode=mode, at=store.now))
    process = await start()
    assert await process.fleet.outage(process.service) is None
    assert process.fleet.outages != ()


async def test_a_label_that_raises_means_no_outage(start, store):
    store.put(outage())
    process = await start(joins=False, label=lambda processor: 1 / 0)
    assert await process.fleet.outage(process.service) is None


async def test_asking_is_cancelled_as_anything_else(start, store, time):
    store.faults["news"] = "hang"
    process = await start(joins=False)
    asking = asyncio.ensure_future(process.fleet.outage(KEY))
    await turns()
    asking.cancel()
    await turns()
    assert asking.cancelled()


@pytest.mark.parametrize("secs", [-0.1, math.nan, math.inf])
async def test_a_timeout_that_is_none_is_refused(start, secs):
    process = await start(joins=False)
    with pytest.raises(ValueError, match="timeout_secs must be finite"):
        await process.fleet.outage(KEY, timeout_secs=secs)


@pytest.mark.parametrize(("service", "secs"), [(KEY, "1"), (KEY, True), (None, 1), (Voice, 1)])
async def test_what_is_no_service_and_no_number_is_refused(start, service, secs):
    process = await start(joins=False)
    with pytest.raises(TypeError, match="expected"):
        await process.fleet.outage(service, timeout_secs=secs)
