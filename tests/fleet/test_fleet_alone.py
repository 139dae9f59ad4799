"""A fleet whose store is gone, hangs or is broken: its bots go on alone, and are back."""

import asyncio
import gc
from itertools import pairwise

import pytest

from pipecat_circuit_breaker.fleet.link import LASTING_SECS, LINGER_SECS, MAX_STUCK
from pipecat_circuit_breaker.fleet.store import StoreUnavailable
from tests.fleet.fleet_parts import KEY, RESET, outage, turns


async def test_a_store_that_is_absent_is_said_once(start, store, time, log):
    store.faults["news"] = StoreUnavailable("connection refused")
    process = await start()
    await time.pass_(60)

    assert process.told == ["alone"]
    warnings = [line for line in log if line[0] == "WARNING"]
    assert len(warnings) == 1 and "connection refused" in warnings[0][1]
    assert process.fleet.status()["alone_reason"] == "connection refused"


async def test_a_store_that_is_absent_is_asked_less_and_less_until_it_was_there(start, store, time):
    store.faults["news"] = StoreUnavailable("connection refused")
    await start()
    await time.pass_(60)
    assert 25 <= store.log.count("news") <= 60
    store.faults.clear()
    await time.pass_(2.01 + LASTING_SECS)
    # Lost, and there again: 0.1 s, and up to half a second.
    store.log.clear()
    store.drop_connections()
    await time.pass_(0.61)
    assert store.log == ["news", "read"]


async def test_it_is_back_within_two_seconds(start, store, time, log):
    store.faults["news"] = StoreUnavailable("connection refused")
    process = await start()
    await time.pass_(60)
    store.faults.clear()
    await time.pass_(2.01)

    assert process.told == ["alone", "connected"]
    assert [level for level, _ in log] == ["WARNING", "INFO"]
    assert process.fleet.status()["alone_reason"] is None


@pytest.mark.parametrize("method", ["read", "report", "lease", "settle", "news"])
@pytest.mark.parametrize("fault", [StoreUnavailable("OOM"), ValueError("a bug"), "hang", "deaf"])
async def test_whatever_fails_bots_go_on_alone_and_are_back(start, store, time, method, fault):
    process = await start(min_instances=1)
    process.fail()
    await time.pass_(3)
    assert process.view.knows(process.origin()) is not None
    store.faults[method] = fault
    if method == "news":
        store.drop_connections()
    for _ in range(80):
        process.fail(votes=False)
        if method in ("lease", "settle"):
            process.view.service_worked(process.service)
        await time.pass_(0.1)
    assert "alone" in process.told
    if method in ("read", "news", "report"):
        assert process.told.count("alone") == 1
        assert not process.fleet.is_connected
        assert process.view.knows(process.origin()) is None

    store.faults.clear()
    store.released.set()
    await time.pass_(4)
    assert process.fleet.is_connected
    assert process.told.count("alone") == process.told.count("connected") - 1


async def test_connections_that_do_not_last_are_made_less_and_less_often(start, store, time, log):
    process = await start()
    connected_at = []
    for _ in range(9_000):
        if store.listeners:
            connected_at.append(time.now)
            store.drop_connections()
        await time.pass_(0.1)
    waits = [after - before for before, after in pairwise(connected_at)]
    for wait, most in zip(waits, (2, 4, 7, 13, 25, 49, *[60] * 99), strict=False):
        assert most * 0.6 < wait <= most + 0.7
    # Once per wait each, however often that is.
    assert len(waits) < 25
    assert process.told[:4] == ["connected", "alone"] * 2
    assert len([line for line in log if line[0] == "WARNING"]) <= len(connected_at)


async def test_after_one_that_has_lasted_the_next_is_made_at_once(start, store, time):
    process = await start()
    for _ in range(6):
        store.drop_connections()
        await time.pass_(0.1)
        while not store.listeners:
            await time.pass_(0.1)
    for _ in range(3):
        await time.pass_(LASTING_SECS)
        store.drop_connections()
        await time.pass_(0.7)
        assert process.fleet.is_connected


async def test_failed_attempts_in_between_do_not_make_up_for_connections_that_do_not_last(
    start, store, time
):
    process = await start()
    for _ in range(5):
        store.drop_connections()
        store.faults["news"] = RESET
        await time.pass_(40)
        store.faults.clear()
        await time.pass_(2.1)
        assert process.fleet.is_connected
    store.drop_connections()
    await time.pass_(40)
    assert not process.fleet.is_connected
    await time.pass_(21)
    assert process.fleet.is_connected


async def test_news_that_end_are_a_connection_that_is_lost(start, store, time):
    process = await start()
    store.drop_connections(None)
    await turns()
    assert process.told == ["connected", "alone"]
    await time.pass_(2)
    assert process.fleet.is_connected and len(store.listeners) == 1


async def test_a_connection_that_is_lost_while_the_store_hangs_leaves_no_exception(
    start, store, time
):
    process = await start()
    unseen = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: unseen.append(what))
    store.faults["read"] = "hang"
    await time.pass_(6)
    store.drop_connections()
    await time.pass_(2)
    assert process.told == ["connected", "alone"]
    gc.collect()
    assert unseen == []


async def test_it_is_not_said_again_at_each_call(start, store, time, log):
    process = await start()
    for _ in range(3):
        process.view.leave()
        await time.pass_(LINGER_SECS + 1)
        process.join()
        await time.pass_(3)
    store.faults["news"] = StoreUnavailable("gone")
    store.drop_connections()
    for _ in range(3):
        process.view.leave()
        await time.pass_(LINGER_SECS + 3)
        process.join()
        await time.pass_(3)
    said = [level for level, _ in log if level != "DEBUG"]
    assert said == ["INFO", "WARNING"]
    assert process.told == ["connected"] * 4 + ["alone"]


async def test_a_store_that_raises_what_it_must_not_is_reported_once(start, store, time, log):
    store.faults["read"] = ValueError("a bug")
    await start()
    await time.pass_(60)
    assert [level for level, _ in log] == ["ERROR", "WARNING"]


async def test_a_store_that_cancels_its_own_request_does_not_end_the_task(start, store, time):
    store.faults["read"] = asyncio.CancelledError()
    process = await start()
    assert process.told == ["alone"]
    store.faults.clear()
    await time.pass_(2)
    assert process.fleet.is_connected


async def test_requests_that_never_end_do_not_pile_up(start, store, time):
    store.faults["read"] = "deaf"
    process = await start()
    await time.pass_(600)
    assert store.log.count("read") == MAX_STUCK
    assert len(asyncio.all_tasks()) < MAX_STUCK + 10

    store.faults.clear()
    store.released.set()
    await time.pass_(3)
    assert process.fleet.is_connected


async def test_requests_that_hang_are_ended_and_made_again(start, store, time):
    store.faults["read"] = "hang"
    process = await start()
    await time.pass_(600)
    assert store.log.count("read") > 100
    assert len(asyncio.all_tasks()) < 10
    assert process.told == ["alone"]


@pytest.mark.parametrize("method", ["news", "read"])
async def test_a_store_that_does_not_answer_is_said_after_a_second_and_a_half(
    start, store, time, method
):
    store.faults[method] = "hang"
    process = await start()
    await time.pass_(1.49)
    assert process.told == []
    await time.pass_(0.01)
    assert process.told == ["alone"]


async def test_a_hung_store_is_noticed_before_its_knowledge_is_too_old(start, store, time):
    process = await start()
    store.put(outage())
    await turns()
    store.faults["read"] = "hang"
    await time.pass_(7.6)
    assert process.told[-1] == "alone"
    assert process.fleet.outages == ()


async def test_a_loop_that_was_held_up_uses_nothing_that_is_too_old(start, store, time):
    process = await start()
    store.put(outage())
    await turns()
    assert process.fleet.is_connected
    time.advance(8)
    assert not process.fleet.is_connected
    assert process.fleet.outages == ()


async def test_a_store_that_can_only_be_read_is_none(start, store, time):
    """As a read-only replica, or one that is full: it is said once, not at each report."""
    process = await start()
    store.faults["report"] = StoreUnavailable("READONLY")
    for _ in range(30):
        process.fail()
        await time.pass_(1)
    assert process.told == ["connected", "alone"]


async def test_so_is_one_that_is_full_when_the_probe_is_due(start, store, time):
    process = await start(min_instances=1)
    process.fail()
    await time.pass_(3)
    for method in ("lease", "report", "settle"):
        store.faults[method] = StoreUnavailable("OOM")
    for _ in range(300):
        process.fail(votes=False)
        process.view.service_worked(process.service)
        await time.pass_(0.1)
    assert [told for told in process.told if "opened" not in told] == ["connected", "alone"]


async def test_failures_told_to_nobody_are_told_when_the_store_is_back(start, store, time):
    process = await start(min_instances=1)
    store.faults["news"] = store.faults["report"] = StoreUnavailable("gone")
    store.drop_connections()
    await turns()
    process.fail()
    await time.pass_(5)
    store.faults.clear()
    await time.pass_(2)
    (report,) = store.reports
    assert 5 <= report.age_secs <= 7


async def test_and_not_where_they_are_too_old(start, store, time):
    process = await start(min_instances=1)
    store.faults["news"] = StoreUnavailable("gone")
    store.drop_connections()
    await turns()
    process.fail()
    await time.pass_(11)
    store.faults.clear()
    await time.pass_(2)
    assert process.fleet.is_connected
    assert store.reports == []


async def test_what_was_over_meanwhile_is_closed_when_the_store_is_back(start, store, time):
    process = await start(min_instances=1)
    store.put(outage())
    await turns()
    store.faults["news"] = StoreUnavailable("gone")
    store.drop_connections()
    await turns()
    store.records.clear()
    await time.pass_(5)
    assert ("closed", KEY, False) not in process.told
    store.faults.clear()
    await time.pass_(2)
    assert ("closed", KEY, False) in process.told
