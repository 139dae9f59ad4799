"""How a fleet ends: it lingers, tells what waits, and leaves nothing."""

import asyncio
import gc
import weakref

import pytest

from pipecat_circuit_breaker.fleet.link import LINGER_SECS
from pipecat_circuit_breaker.fleet.store import StoreUnavailable
from tests.fleet.fleet_parts import KEY, FakeStore, Process, Time, outage, turns


async def test_it_lingers_for_the_next_call(start, store, time):
    process = await start()
    for _ in range(5):
        process.view.leave()
        await time.pass_(LINGER_SECS - 1)
        process.join()
    assert store.log.count("news") == 1
    process.view.leave()
    await time.pass_(LINGER_SECS + 0.1)
    assert store.log[-1] == "close"
    assert not process.fleet.is_connected
    assert store.listeners == set()


async def test_as_long_as_it_lingers_it_knows_what_goes_on(start, store, time):
    process = await start()
    process.view.leave()
    for _ in range(28):
        await time.pass_(1)
        assert process.fleet.is_connected


async def test_it_lingers_no_longer_where_the_store_is_gone(start, store, time):
    store.faults["news"] = StoreUnavailable("gone")
    process = await start()
    process.view.leave()
    await time.pass_(LINGER_SECS + 2.1)
    assert store.log[-1] == "close"


async def test_one_who_only_asks_keeps_it_as_long(start, store, time):
    process = await start(joins=False)
    for _ in range(4):
        await process.fleet.outage(KEY)
        await time.pass_(LINGER_SECS - 1)
    assert store.log.count("news") == 1
    await time.pass_(1.1)
    assert store.log[-1] == "close"


async def test_a_bot_that_comes_as_it_goes_down_is_served(start, store, time):
    process = await start()
    process.view.leave()
    store.faults["close"] = "hang"
    await time.pass_(LINGER_SECS + 0.1)
    process.join()
    store.faults.clear()
    store.released.set()
    await time.pass_(1)
    assert process.fleet.is_connected
    assert store.log.count("news") == 2


async def test_a_view_that_leaves_twice_leaves_once(start, store, time):
    process = await start()
    other = process.fleet.join("other", lambda: (), lambda origins: None)
    process.view.leave()
    process.view.leave()
    assert process.fleet.status()["bots"] == 1
    await time.pass_(10 * LINGER_SECS)
    assert process.fleet.is_connected
    other.leave()


async def test_an_end_tells_what_waits(start, store, time):
    process = await start(min_instances=3)
    process.fail()
    await turns()
    process.fail()
    await process.fleet.close()
    assert [report.failures for report in store.reports] == [1, 1]
    assert store.log[-1] == "close"


async def test_an_end_that_comes_twice_or_before_any_start_is_one(start, store):
    process = await start(joins=False)
    await process.fleet.close()
    process.join()
    await turns()
    await asyncio.gather(process.fleet.close(), process.fleet.close())
    await process.fleet.close()
    assert store.log.count("close") == 1


async def test_bots_that_are_still_there_go_on_alone_and_a_start_takes_them_up(start, store):
    process = await start()
    store.put(outage())
    await turns()
    await process.fleet.close()
    assert process.view.knows(process.origin()) is None
    process.fail()
    await process.fleet.start()
    await turns()
    assert process.view.knows(process.origin()) is not None
    assert len(store.reports) == 1


@pytest.mark.parametrize("fault", ["hang", "deaf"])
@pytest.mark.parametrize("method", ["news", "read", "report", "close"])
async def test_an_end_takes_a_few_seconds_whatever_hangs(time, method, fault):
    store = FakeStore(time)
    process = Process(store, time)
    store.faults[method] = fault
    process.join()
    process.fail()
    await turns()
    closing = asyncio.ensure_future(process.fleet.close())
    await time.pass_(4)
    assert closing.done()
    assert not process.fleet.is_connected
    store.released.set()
    await turns()
    assert len(asyncio.all_tasks()) == 1


async def test_an_end_does_not_wait_until_all_is_told(start, store, time):
    process = await start()
    store.faults["report"] = "slow"
    for number in range(100):
        process.view.failed(process.origin(f"kind {chr(65 + number % 26)}{number}"), votes=True)
    closing = asyncio.ensure_future(process.fleet.close())
    await time.pass_(2.1)
    assert closing.done()
    assert 1 <= len(store.reports) <= 3
    assert store.log[-1] == "close"


@pytest.mark.parametrize("fault", [None, StoreUnavailable("gone"), "hang"])
@pytest.mark.parametrize("method", ["news", "read", "report", "close"])
async def test_an_end_may_be_cancelled_at_every_turn(time, method, fault):
    for number in range(40):
        store = FakeStore(time)
        process = Process(store, time, min_instances=1)
        process.join()
        await turns(number)
        process.fail()
        store.faults[method] = fault
        closing = asyncio.ensure_future(process.fleet.close())
        await turns(1 + number % 7)
        closing.cancel()
        await asyncio.wait({closing})
        # Its end goes on.
        await time.pass_(6)
        store.released.set()
        await turns()
        assert asyncio.all_tasks() == {asyncio.current_task()}, number
        assert store.listeners == set()


async def test_its_task_may_be_cancelled_at_every_turn(time):
    """As asyncio.run() does with all that is left."""
    for number in range(60):
        store = FakeStore(time)
        process = Process(store, time, min_instances=1)
        process.join()
        process.fail()
        await turns(number)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await time.pass_(6)
        assert asyncio.all_tasks() == {asyncio.current_task()}, number
        assert store.listeners == set()
        assert not process.fleet.is_connected
        # A bot that joins later is served.
        process.join()
        await time.pass_(0)
        assert process.fleet.is_connected
        await process.fleet.close()


async def test_another_loop_is_refused_in_one_sentence(start):
    process = await start()

    async def elsewhere():
        with pytest.raises(RuntimeError, match="another event loop"):
            process.join()
        with pytest.raises(RuntimeError, match="another event loop"):
            await process.fleet.outage(KEY)

    await asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(elsewhere()))
    assert process.fleet.is_connected


def test_a_loop_after_the_other_is_served():
    time = Time()
    store = FakeStore(time)
    process = Process(store, time)

    async def call():
        process.join()
        await turns()
        assert process.fleet.is_connected

    asyncio.run(call())
    asyncio.run(call())
    assert store.log.count("news") == 2


def test_requests_that_a_loop_has_left_behind_are_nothing_to_the_next():
    time = Time()
    store = FakeStore(time)
    process = Process(store, time)
    store.faults["read"] = "deaf"

    async def leave_behind():
        process.join()
        await time.pass_(60)
        assert process.fleet._link._stuck

    # As a program that stops in the middle: nobody waits for what does not end.
    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_behind())
    loop.close()
    store.faults.clear()
    store.released = asyncio.Event()

    async def call():
        process.join()
        await turns()
        assert process.fleet.is_connected

    asyncio.run(call())


def test_a_bot_without_a_loop_cannot_join(time):
    with pytest.raises(RuntimeError, match="no running event loop"):
        Process(FakeStore(time), time).join()


async def test_nothing_is_left_of_a_fleet_that_is_over(store, time):
    process = Process(store, time)
    process.join()
    await turns()
    await process.fleet.close()
    process.view.leave()
    await turns()
    assert len(asyncio.all_tasks()) == 1
    fleet = weakref.ref(process.fleet)
    del process
    # What other tests have left may hold it for as long as it takes to log that it is destroyed.
    for _ in range(3):
        gc.collect()
    assert fleet() is None
