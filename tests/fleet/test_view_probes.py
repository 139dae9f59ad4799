"""Services that others stand in for: whether they are out, who may probe them, and how it ends."""

import asyncio

import pytest

from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.fleet import FleetParams, Lease
from pipecat_circuit_breaker.fleet.store import StoreUnavailable
from pipecat_circuit_breaker.fleet.view import SecondLooks
from tests.fleet.fleet_parts import KEY, Process, outage, turns


async def test_a_service_is_out_with_any_of_its_outages(process, view, store):
    assert not view.is_out(process.service)
    store.put(outage("Voices: a in b"))
    await turns()
    assert not view.is_out(process.service)
    store.put(outage("Voice: a in b"))
    await turns()
    assert view.is_out(process.service)


async def test_a_probe_may_go_when_it_is_due_and_nobody_has_the_lease(process, view, store, time):
    store.put(outage(probe_at=store.now + 5))
    await turns()
    assert not view.may_probe_soon(process.service)
    await time.pass_(5)
    assert view.may_probe_soon(process.service)
    lease = Lease(holder="pod-2", token="x", expires_at=store.now + 5)
    store.put(store.records[KEY].model_copy(update={"lease": lease}))
    await turns()
    assert not view.may_probe_soon(process.service)


async def test_a_probe_takes_the_leases_of_all_outages_of_a_service(process, view, store):
    for kind in ("a", "b"):
        store.put(outage(f"Voice: {kind} in here", probe_at=store.now))
    store.put(outage("Voice: later in here", probe_at=store.now + 20))
    store.put(outage("Voices: other in here", probe_at=store.now))
    await turns()
    probe = await view.probe(process.service)
    assert [key for key, _, _ in probe.leases] == ["Voice: a in here", "Voice: b in here"]
    assert store.log.count("lease") == 2

    view.settle(probe, success=True)
    await turns()
    over = {key for key, record in store.records.items() if record.is_over}
    assert over == {"Voice: a in here", "Voice: b in here"}


async def test_a_probe_that_failed_takes_the_next_wait(process, view, store):
    store.put(outage(probe_at=store.now))
    await turns()
    view.settle(await view.probe(process.service), success=False)
    await turns()
    assert view.is_out(process.service)
    assert not view.may_probe_soon(process.service)
    assert store.records[KEY].probe_at > store.now


async def test_an_outcome_is_told_at_once(process, view, store, time):
    store.put(outage(probe_at=store.now))
    await turns()
    probe = await view.probe(process.service)
    await time.pass_(2)
    view.settle(probe, success=True)
    await turns()
    assert store.records[KEY].is_over


async def test_of_two_who_want_to_probe_one_may(process, view, store, time):
    other = Process(store, time, "pod-2")
    other.join()
    store.put(outage(probe_at=store.now))
    await turns()
    probes = await asyncio.gather(view.probe(process.service), other.view.probe(other.service))
    assert [probe is None for probe in probes] == [False, True]
    await other.fleet.close()


async def test_an_outcome_that_a_store_could_not_take_is_told_when_it_is_back(
    process, view, store, time
):
    store.put(outage(probe_at=store.now))
    await turns()
    probe = await view.probe(process.service)
    store.faults["settle"] = StoreUnavailable("gone")
    view.settle(probe, success=True)
    await time.pass_(5)
    store.faults.clear()
    await time.pass_(2)
    assert store.records[KEY].is_over


async def test_an_outcome_is_told_no_more_when_its_lease_is_over(process, view, store, time):
    store.put(outage(probe_at=store.now))
    await turns()
    probe = await view.probe(process.service)
    await time.pass_(15)
    view.settle(probe, success=True)
    await turns()
    assert "settle" not in store.log


@pytest.mark.parametrize("fault", ["hang", "deaf", StoreUnavailable("gone"), ValueError("a bug")])
async def test_asking_for_a_probe_takes_a_second_at_most(process, view, store, time, fault):
    for number in range(5):
        store.put(outage(f"Voice: {number} in here", probe_at=store.now))
    await turns()
    store.faults["lease"] = fault
    asking = asyncio.ensure_future(view.probe(process.service))
    await time.pass_(1)
    assert asking.done() and asking.result() is None
    assert store.log.count("lease") == 1
    store.released.set()
    await turns()


async def test_a_probe_lasts_as_long_as_the_first_lease_that_was_asked_for(
    process, view, store, time
):
    lease = store.lease

    async def takes_its_time(*args):
        time.advance(0.6)
        return await lease(*args)

    store.lease = takes_its_time
    for number in range(3):
        store.put(outage(f"Voice: {number} in here", probe_at=store.now))
    await turns()
    begun = time()
    probe = await view.probe(process.service)
    assert probe.until == begun + FleetParams().lease_secs
    # The third would come after the second that it may take.
    assert len(probe.leases) == store.log.count("lease") == 2


async def test_one_who_leaves_asks_for_no_more_leases(process, view, store):
    lease = store.lease

    async def is_the_last(*args):
        view.leave()
        return await lease(*args)

    store.lease = is_the_last
    for number in range(3):
        store.put(outage(f"Voice: {number} in here", probe_at=store.now))
    await turns()
    await view.probe(process.service)
    assert store.log.count("lease") == 1


async def test_asking_for_a_probe_may_be_cancelled_at_every_turn(process, view, store, time):
    for number in range(12):
        store.records.clear()
        store.put(outage(probe_at=store.now, generation=number))
        await time.pass_(0)
        asking = asyncio.ensure_future(view.probe(process.service))
        await turns(number)
        asking.cancel()
        await asyncio.wait({asking})
        # A lease that was granted runs out by itself.
        await time.pass_(16)
    assert len(asyncio.all_tasks()) <= 5
    assert process.fleet.is_connected


async def test_alone_nobody_is_asked_for_a_probe(process, view, store, time):
    store.put(outage(probe_at=store.now))
    await turns()
    await process.fleet.close()
    assert await view.probe(process.service) is None
    assert "lease" not in store.log


async def test_the_second_failure_of_a_service_in_a_row_is_a_vote(process, view, store, time):
    origin = process.origin()
    for _ in range(2):
        view.service_failed(process.service, origin)
        await time.pass_(2)
    assert [report.votes for report in store.reports] == [False, True]


async def test_with_an_answer_in_between_it_is_none(process, view, store, time):
    origin = process.origin()
    for _ in range(4):
        view.service_failed(process.service, origin)
        view.service_worked(process.service)
        await time.pass_(2)
    assert not any(report.votes for report in store.reports)


async def test_with_too_long_in_between_it_is_none(process, view, store, time):
    origin = process.origin()
    for _ in range(3):
        view.service_failed(process.service, origin)
        await time.pass_(60.1)
    assert [report.votes for report in store.reports] == [False] * 3


async def test_a_minute_in_between_is_not_too_long(process, view, store, time):
    origin = process.origin()
    for _ in range(2):
        view.service_failed(process.service, origin)
        await time.pass_(60)
    assert [report.votes for report in store.reports] == [False, True]


async def test_another_bot_of_the_process_confirms_it(process, view, store, time):
    other = process.fleet.join("other", lambda: (), lambda origins: None)
    origin = process.origin()
    other.learn(origin, process.service, exception=OSError())
    view.service_failed(process.service, origin)
    await time.pass_(2)
    other.service_failed(process.service, origin)
    await time.pass_(2)
    assert [report.votes for report in store.reports] == [False, True]


async def test_a_failure_that_is_not_shared_confirms_nothing(process, view, store, time):
    bad = Origin.of(process.service, "invalid_request")
    view.learn(bad, process.service, category="invalid_request")
    view.service_failed(process.service, bad)
    await time.pass_(1)
    view.service_failed(process.service, process.origin())
    await time.pass_(2)
    assert [report.votes for report in store.reports] == [False]


async def test_a_live_answer_when_the_probe_is_due_closes_for_all(process, view, store):
    store.put(outage(probe_at=store.now))
    await turns()
    view.service_worked(process.service)
    await turns()
    assert store.records[KEY].is_over


def test_services_that_fail_are_counted_up_to_256(clock):
    looks = SecondLooks(10, clock)
    for number in range(1000):
        looks.fail(f"service {number}")
    assert len(looks) == 256
    clock.advance(1)
    assert looks.fail("service 999")
    assert not looks.fail("service 0")


async def test_a_service_that_works_in_peace_asks_nothing(process, view, monkeypatch):
    asked = []
    monkeypatch.setattr(view, "_service", lambda processor: asked.append(processor))
    for _ in range(10):
        view.service_worked(process.service)
        view.is_out(process.service)
    assert asked == []
