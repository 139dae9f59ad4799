"""What a fleet's one task tells the store, and how often it asks."""

import asyncio

from pipecat_circuit_breaker.fleet import Lease, ModeSet
from pipecat_circuit_breaker.fleet.store import Knowledge, StoreUnavailable
from tests.fleet.fleet_parts import KEY, outage, turns


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
