"""A fleet's one task: connected, alone, and back; who is first; and how it ends."""

import asyncio
import contextvars
import gc
import math
import subprocess
import sys
import weakref
from itertools import pairwise
from pathlib import Path

import pytest
from fleet_parts import AHEAD, KEY, RESET, FakeStore, Process, Time, Voice, outage, turns
from loguru import logger

from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.fleet import Fleet, FleetParams, Lease, ModeSet
from pipecat_circuit_breaker.fleet.link import LASTING_SECS, LINGER_SECS, MAX_STUCK
from pipecat_circuit_breaker.fleet.memory import MemoryStore
from pipecat_circuit_breaker.fleet.store import Knowledge, StoreUnavailable


@pytest.fixture
async def start(store, time):
    """Starts processes, and ends them."""
    processes = []

    async def start(instance="pod-1", *, joins=True, **params):
        process = Process(store, time, instance, **params)
        processes.append(process)
        if joins:
            process.join()
            await time.pass_(0)
        return process

    yield start
    store.released.set()
    store.faults.clear()
    for process in processes:
        await process.fleet.close()


@pytest.fixture
def log():
    lines = []
    logger.add(lambda line: lines.append((line.record["level"].name, line.record["message"])))
    return lines


# How it gets up.


async def test_nothing_runs_before_a_bot_joins(start, store):
    process = await start(joins=False)
    await turns()
    assert store.log == []
    assert not process.fleet.is_connected


async def test_it_listens_before_it_reads(start, store):
    store.put(outage())
    process = await start()
    assert store.log == ["news", "read"]
    assert process.fleet.is_connected
    assert process.told == ["connected", ("opened", KEY, False)] or process.told == [
        ("opened", KEY, False),
        "connected",
    ]
    assert [o.key for o in process.fleet.outages] == [KEY]


async def test_fifty_bots_have_one_task(start, store):
    process = await start()
    tasks = len(asyncio.all_tasks())
    for _ in range(50):
        process.join()
    await turns()
    assert len(asyncio.all_tasks()) == tasks
    assert store.log == ["news", "read"]


async def test_it_may_be_started_before_any_bot(start, store, time):
    process = await start(joins=False)
    await process.fleet.start()
    await time.pass_(10 * LINGER_SECS)
    assert process.fleet.is_connected


async def test_its_task_knows_nothing_of_the_bot_that_started_it(start, store):
    ours = contextvars.ContextVar("ours", default=None)
    seen = []
    process = await start(joins=False)

    @process.fleet.event_handler("on_fleet_connected")
    async def on_fleet_connected(fleet):
        seen.append(ours.get())

    ours.set("handling an error")
    process.join()
    await turns()
    assert seen == [None]


# What it hears.


async def test_what_others_find_out_is_known_without_asking(start, store):
    process = await start()
    asked = len(store.log)
    store.put(outage())
    await turns()
    assert process.told[-1] == ("opened", KEY, False)
    store.put(outage(state="closed", generation=1))
    await turns()
    assert process.told[-1] == ("closed", KEY, False)
    assert len(store.log) == asked


async def test_a_bot_has_a_look_at_what_was_read_before_it_could_be_used(start, store, time):
    store.put(outage())
    process = await start(joins=False)
    seen = []
    view = process.fleet.join(
        "b", lambda: seen.append(view.is_out(process.service)), lambda o: None
    )
    await time.pass_(0)
    assert seen[-1]


async def test_an_outage_takes_two_pods_and_one_of_them_is_first(start):
    one, two, three = [await start(f"pod-{n}") for n in range(3)]
    one.fail()
    await turns()
    assert one.fleet.outages == ()
    two.fail()
    await turns()

    opened = [("opened", KEY, first) for first in (False, True, False)]
    assert [process.told[-1] for process in (one, two, three)] == opened


async def test_an_outage_is_over_for_all_and_one_of_them_is_first(start, time):
    one, two, three = [await start(f"pod-{n}") for n in range(3)]
    one.fail()
    two.fail()
    await turns()
    three.view.service_worked(three.service)
    await turns()

    assert three.fleet.outages != ()
    await time.pass_(3)
    three.view.service_worked(three.service)
    await turns()
    closed = [("closed", KEY, first) for first in (False, False, True)]
    assert [process.told[-1] for process in (one, two, three)] == closed


async def test_of_an_outage_that_is_forgotten_one_is_first_too(time):
    store = MemoryStore(clock=lambda: AHEAD + time())
    processes = [Process(store, time, f"pod-{n}", hold_secs=20.0) for n in range(3)]
    for process in processes:
        process.join()
    processes[0].fail()
    processes[1].fail()
    await time.pass_(15)
    assert all(process.fleet.outages for process in processes)
    await store.read()  # Who only looks takes that from nobody.
    await time.pass_(10)
    await store.read()
    closed = [told for process in processes for told in process.told if told[0] == "closed"]
    assert sorted(closed) == [("closed", KEY, False), ("closed", KEY, False), ("closed", KEY, True)]
    for process in processes:
        await process.fleet.close()


async def test_who_was_first_is_so_also_where_the_answer_got_lost(start, store, time):
    process = await start(min_instances=1)
    answer = store.report

    async def report(*args, **kwargs):
        await answer(*args, **kwargs)
        raise StoreUnavailable("lost the answer")

    # Neither an answer nor any news comes.
    store.listeners.clear()
    store.report = report
    process.fail()
    await turns()
    del store.report
    await time.pass_(2)
    assert [told for told in process.told if told[0] == "opened"] == [("opened", KEY, True)]


async def test_an_outage_opened_by_hand_has_no_first(start, store):
    process = await start()
    store.put(outage(is_by_hand=True, opened_by="ada", probe_at=None))
    await turns()
    assert process.told[-1] == ("opened", KEY, False)


async def test_a_listener_that_raises_changes_nothing_for_others(start, store):
    process = await start(joins=False)

    def raises(*args):
        raise RuntimeError("mine")

    for event in ("opened", "closed"):
        process.fleet.add_event_handler(f"on_fleet_outage_{event}", raises)
        handlers = process.fleet._event_handlers[f"on_fleet_outage_{event}"].handlers
        handlers.reverse()
    process.join()
    bad = process.fleet.join("bad", raises, raises)
    origin = process.origin()
    bad._keys.update(process.view._keys)
    await turns()
    store.put(outage())
    await turns()
    assert process.view.knows(origin) and bad.knows(origin)
    store.put(outage(state="closed", generation=1))
    await turns()

    assert process.told[-2:] == [("opened", KEY, False), ("closed", KEY, False)]
    assert process.closed == [frozenset({origin})]
    assert process.fleet.is_connected


async def test_a_listener_that_never_ends_holds_up_nothing(start, store):
    process = await start(joins=False)

    @process.fleet.event_handler("on_fleet_connected")
    async def on_fleet_connected(fleet):
        await store.released.wait()

    process.join()
    await turns()
    store.put(outage())
    await turns()
    assert ("opened", KEY, False) in process.told


# What it tells.


async def test_a_storm_of_failures_is_one_report_and_no_task_each(start, store):
    process = await start()
    tasks = len(asyncio.all_tasks())
    for _ in range(10_000):
        process.fail()
    assert len(asyncio.all_tasks()) == tasks
    await turns()
    assert [report.failures for report in store.reports] == [10_000]


async def test_what_a_store_answers_is_known_without_any_news(start, store):
    process = await start(min_instances=1)
    store.put = lambda record: store.records.update({record.key: record})
    process.fail()
    await turns()
    assert process.told[-1] == ("opened", KEY, True)


async def test_who_has_a_lease_is_known_without_any_news(start, store, time):
    process = await start()
    store.put(outage(probe_at=store.now))
    await turns()
    store.put = lambda record: store.records.update({record.key: record})
    assert await process.view.probe(process.service) is not None
    assert not process.view.may_probe_soon(process.service)


async def test_a_lease_that_fails_as_it_must_not_is_reported(start, store, time, log):
    process = await start()
    store.put(outage(probe_at=store.now))
    await turns()
    store.faults["lease"] = ValueError("a bug")
    for _ in range(3):
        assert await process.view.probe(process.service) is None
    assert [level for level, _ in log].count("ERROR") == 1


async def test_alone_no_lease_is_asked_for(start, store, time):
    process = await start()
    store.put(outage(probe_at=store.now))
    await turns()
    await process.fleet.close()
    assert await process.fleet._link.lease(KEY, 1.0) is None
    assert "lease" not in store.log


async def test_a_task_that_has_told_all_there_is_sleeps(start, store, time):
    process = await start(min_instances=1)
    process.fail()
    await turns()
    before = time.sleeps
    await turns(200)
    assert time.sleeps == before


async def test_while_it_storms_a_process_reports_once_a_second(start, store, time):
    process = await start(min_instances=3)
    for _ in range(300):
        process.fail()
        await time.pass_(0.1)
    assert 20 <= len(store.reports) <= 31
    assert sum(report.failures for report in store.reports) >= 285


async def test_and_once_in_five_seconds_when_the_outage_is_known(start, store, time):
    process = await start(min_instances=1)
    for _ in range(300):
        process.fail()
        await time.pass_(0.1)
    assert 5 <= len(store.reports) <= 8


async def test_what_fails_when_the_probe_is_due_prolongs_nothing(start, store, time):
    process = await start(min_instances=1)
    process.fail()
    await time.pass_(3)
    due = store.records[KEY].probe_at
    assert due < store.now
    for _ in range(10):
        process.fail()
        await time.pass_(1)
    assert "lease" not in store.log and "settle" not in store.log
    assert (store.records[KEY].openings, store.records[KEY].probe_at) == (1, due)


async def test_the_answer_that_comes_when_the_probe_is_due_is_the_probe(start, store, time):
    process = await start(min_instances=1)
    process.fail()
    await time.pass_(3)
    process.view.service_worked(process.service)
    await turns()

    assert store.log.count("lease") == store.log.count("settle") == 1
    assert process.told[-1] == ("closed", KEY, True)


async def test_of_many_processes_one_ends_it(start, store, time):
    processes = [await start(f"pod-{n}") for n in range(10)]
    for process in processes:
        process.fail()
    await time.pass_(3)
    for process in processes:
        process.view.service_worked(process.service)
    await turns(200)
    assert store.log.count("settle") == 1
    assert store.records[KEY].ending == "recovered"
    assert [process.told[-1] for process in processes].count(("closed", KEY, True)) == 1


async def test_an_outcome_of_which_the_lease_is_of_another_generation_is_not_told(
    start, store, time
):
    process = await start(min_instances=1)
    process.fail()
    await time.pass_(3)
    lease = store.lease

    async def overtaken(*args):
        answer = await lease(*args)
        record = answer.outage.model_copy(update={"generation": 99})
        return type(answer)(record, answer.did)

    store.lease = overtaken
    process.view.service_worked(process.service)
    await turns()
    assert "lease" in store.log and "settle" not in store.log


async def test_an_outcome_is_told_when_the_store_is_back(start, store, time):
    process = await start(min_instances=1)
    process.fail()
    await time.pass_(3)
    store.faults["settle"] = StoreUnavailable("gone")
    process.view.service_worked(process.service)
    await time.pass_(5)
    store.faults.clear()
    await time.pass_(2)
    assert store.records[KEY].ending == "recovered"
    assert process.told[-1] == ("closed", KEY, True) or process.told[-2] == ("closed", KEY, True)


async def test_where_somebody_has_said_so_nothing_is_told(start, store, time):
    process = await start(min_instances=1)
    store.put(ModeSet(mode="disabled", who="ada", at=store.now))
    await turns()
    assert process.fleet.mode == "disabled"
    process.fail()
    await time.pass_(3)
    assert store.reports == []


async def test_what_waited_when_somebody_said_so_is_not_told_either(start, store, time):
    process = await start(min_instances=3)
    process.fail()
    await turns()
    process.fail()
    store.put(ModeSet(mode="disabled", who="ada", at=store.now))
    await time.pass_(3)
    store.put(ModeSet(mode="guard", who="ada", at=store.now))
    await time.pass_(3)
    assert len(store.reports) == 1


async def test_it_looks_every_six_seconds_and_every_three_while_something_fails(start, store, time):
    await start()
    store.log.clear()
    await time.pass_(60)
    assert 8 <= store.log.count("read") <= 12

    store.put(outage())
    store.log.clear()
    await time.pass_(60)
    assert 16 <= store.log.count("read") <= 25


async def test_processes_that_began_at_once_look_at_different_times(start, store, time):
    looked_at, read = [], store.read
    await start()

    async def looks(token=""):
        looked_at.append(time())
        return await read()

    store.read = looks
    await time.pass_(60)
    waits = {round(after - at, 2) for at, after in zip(looked_at, looked_at[1:], strict=False)}
    assert len(waits) > 3


async def test_what_is_heard_during_a_look_is_newer_than_what_it_shows(start, store, time):
    process = await start()
    reads = []

    async def read(token=""):
        knowledge = Knowledge(store.now, store.mode, ())
        reads.append(knowledge)
        await time.sleep(1)
        return knowledge

    store.read = read
    while not reads:
        await time.pass_(0.1)
    store.put(outage(at=store.now))
    await time.pass_(1.1)
    assert process.fleet.outages != ()
    assert ("closed", KEY, False) not in process.told


async def test_whose_lease_an_answer_has_found_is_known_without_any_news(start, store, time):
    process = await start()
    store.put(outage(probe_at=store.now))
    await turns()
    lease = Lease(holder="pod-2", token="theirs", expires_at=store.now + 9)
    store.records[KEY] = store.records[KEY].model_copy(update={"lease": lease})
    process.view.service_worked(process.service)
    await turns()
    assert not process.view.may_probe_soon(process.service)
    assert "settle" not in store.log


# Alone, and back.


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


# Asking at the start of a call.


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


# How it ends.


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
    gc.collect()
    assert fleet() is None


# What it is given, and what it shows.


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        ("http://user:secret@host", ValueError, "scheme 'http'"),
        ("localhost:6379", ValueError, "begins with redis://"),
        ("", ValueError, "begins with redis://"),
        (6379, TypeError, "expected a URL, or what makes a client, got 6379"),
    ],
)
def test_what_is_no_url_of_a_server_is_refused_without_telling_its_secrets(url, error, text):
    with pytest.raises(error, match=text) as raised:
        Fleet(url)
    assert "secret" not in str(raised.value)


def test_two_stores_are_refused(time):
    with pytest.raises(ValueError, match="either `url` or `store`"):
        Fleet("redis://localhost", store=FakeStore(time))


def test_other_parameters_are_refused(time):
    with pytest.raises(TypeError, match="expected FleetParams"):
        Fleet(store=FakeStore(time), params={"name": "x"})


@pytest.mark.parametrize("url", ["redis://localhost", lambda: None])
def test_without_redis_a_url_is_refused_and_says_what_to_install(monkeypatch, url):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ImportError, match=r"pip install pipecat-circuit-breaker\[fleet\]"):
        Fleet(url)


async def test_a_status_page_is_told_all_there_is(start, store, time):
    process = await start()
    store.put(
        outage(
            at=store.now,
            instance_count=3,
            bots=40,
            failures=90,
            openings=2,
            probe_at=store.now + 5,
        )
    )
    await time.pass_(2)
    assert process.fleet.status() == {
        "name": "pipecat",
        "instance": "pod-1",
        "connected": True,
        "alone_reason": None,
        "mode": "guard",
        "bots": 1,
        "outages": [
            {
                "key": KEY,
                "instances": 3,
                "bots": 40,
                "failures": 90,
                "openings": 2,
                "open_secs": 2.0,
                "probe_in_secs": 3.0,
                "is_probing": False,
                "is_by_hand": False,
            }
        ],
    }


async def test_what_is_open_by_hand_waits_for_no_probe(start, store):
    process = await start()
    store.put(outage(at=AHEAD, is_by_hand=True, probe_at=None))
    await turns()
    (shown,) = process.fleet.status()["outages"]
    assert shown["is_by_hand"] and shown["probe_in_secs"] is None


def test_its_settings_can_be_read(time):
    params = FleetParams(name="other")
    assert Fleet(store=FakeStore(time), params=params).params is params


def test_without_a_url_redis_is_not_even_looked_for():
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "from pipecat_circuit_breaker.fleet import Fleet, FleetParams\n"
        "import fleet_parts as parts\n"
        "time = parts.Time(); Fleet(store=parts.FakeStore(time))\n"
    )
    folder = Path(__file__).parent
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=60)


async def test_without_a_url_all_fleets_of_a_name_in_a_process_know_the_same(time):
    fleets = [
        Fleet(
            params=FleetParams(name=name, share=lambda failure: True),
            clock=time,
            sleep=time.sleep,
        )
        for name in ("one-of-a-test", "one-of-a-test", "another-of-a-test")
    ]
    one, two, other = fleets
    service = Voice()
    origin = Origin.of(service, "ConnectError", where="here")
    views = [
        fleet.join("bot", lambda: None, lambda origins: None)
        for fleet in (one, one, two, other, other)
    ]
    for view in views:
        view.learn(origin, service, exception=OSError())
        view.failed(origin, votes=True)
    await turns()
    assert [len(fleet.outages) for fleet in fleets] == [1, 1, 0]
    for fleet in fleets:
        await fleet.close()
