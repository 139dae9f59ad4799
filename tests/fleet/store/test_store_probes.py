"""Probes: one lease for all, and what their outcome changes."""

import pytest


async def test_a_lease_is_granted_once_the_wait_is_over_to_one_of_all(told):
    assert not (await told.lease()).did
    opened = (await told.report()).outage
    assert not (await told.lease("early")).did
    await told.after(2.1)
    taken = await told.lease("mine", instance="pod-7")
    assert taken.did and taken.outage.lease.token == "mine"
    assert taken.outage.lease.holder == "pod-7"
    assert taken.outage.generation == opened.generation
    refused = await told.lease("other")
    assert not refused.did and refused.outage.lease.token == "mine"


async def test_a_lease_runs_out_by_its_own_time_whatever_the_next_one_asks_for(told):
    await told.due()
    await told.lease("long", secs=4)
    await told.after(1)
    assert not (await told.lease("short", secs=0.5)).did
    await told.after(3.2)
    taken = await told.lease("next")
    assert taken.did and taken.outage.lost_probes == 1


async def test_a_success_closes_for_all(told):
    outage = await told.due()
    await told.lease("p.1", instance="pod-2")
    answer = await told.settle("p.1", outage.generation, True)
    assert answer.did and answer.outage.state == "closed"
    assert answer.outage.ending == "recovered" and answer.outage.closed_by == "pod-2"
    assert answer.outage.changed_by == "p.1" and answer.outage.lease is None
    assert answer.outage.probe_at is None and answer.outage.closed_at is not None
    assert answer.outage.generation > outage.generation
    knowledge = await told.store.read()
    assert [o.state for o in knowledge.outages] == ["closed"]
    assert knowledge.history == (answer.outage,)


async def test_a_failed_probe_takes_the_next_wait_and_the_last_goes_on(told):
    outage = await told.due(waits=(2, 3))
    for openings in (2, 3):
        await told.lease(f"p.{openings}")
        answer = await told.settle(f"p.{openings}", outage.generation, False, waits=(2, 3))
        assert answer.did and answer.outage.is_open
        assert answer.outage.openings == openings
        assert answer.outage.wait_secs == pytest.approx(3 * told.unit)
        assert answer.outage.lease is None
        assert answer.outage.generation == outage.generation + 1
        assert not (await told.lease("early")).did
        outage = answer.outage
        await told.after(3.1)
    assert (await told.lease("p.4")).did


async def test_outcomes_that_are_double_foreign_old_or_late_are_void(told):
    outage = await told.due()
    generation = outage.generation
    assert not (await told.settle("nobody", generation, True)).did
    await told.lease("p.1", secs=2)
    assert not (await told.settle("foreign", generation, True)).did
    assert not (await told.settle("p.1", generation - 1, True)).did
    assert not (await told.settle("p.1", generation + 1, True)).did
    await told.after(2.1)
    assert not (await told.settle("p.1", generation, True)).did  # Its lease has run out.
    await told.lease("p.2")
    assert not (await told.settle("p.1", generation, True)).did  # Somebody else has it.
    assert (await told.settle("p.2", generation, False)).did
    again = await told.settle("p.2", generation, True)
    assert not again.did and again.outage.is_open


async def test_what_failed_before_the_closing_opens_nothing_after_it(told):
    outage = await told.due()
    await told.lease("p.1")
    await told.settle("p.1", outage.generation, True)
    await told.after(1)
    refused = await told.report("pod-2", age=1.5)
    assert not refused.did and refused.outage.state == "closed"
    fresh = await told.report("pod-2", need=2)
    assert fresh.outage.state == "suspected" and fresh.outage.failures == 1
    # The closing is not forgotten over the suspicion.
    assert (await told.report("pod-3", need=2, age=2)).outage.failures == 1
    opened = await told.report("pod-3", need=2)
    assert opened.did and opened.outage.generation > outage.generation + 1
    assert opened.outage.bots == 2 and opened.outage.closed_at is None


async def test_a_failed_probe_keeps_the_outage(told):
    outage = await told.due(hold=4)
    await told.lease("p.1")
    await told.settle("p.1", outage.generation, False)
    await told.after(3)
    assert (await told.store.read()).outages[0].is_open
