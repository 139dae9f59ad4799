"""Outages opened and closed by a person, and modes that a person sets."""

from pipecat_circuit_breaker.fleet.record import ModeSet
from tests.fleet.store.store_parts import KEY


async def test_opened_by_hand_is_probed_by_nobody_and_closed_by_hand(told):
    opened = await told.store.open(KEY, "eva", "provider says so", 100 * told.unit)
    assert opened.did and opened.outage.is_open and opened.outage.is_by_hand
    assert opened.outage.opened_by == "eva" and opened.outage.why == "provider says so"
    assert opened.outage.probe_at is None
    await told.after(3)
    assert not (await told.lease()).did
    assert (await told.report("pod-9")).outage.is_by_hand
    closed = await told.store.close_outage(KEY, "tom", "all well")
    assert closed.did and closed.outage.ending == "by_hand" and closed.outage.closed_by == "tom"
    assert closed.outage.why == "all well" and closed.outage.changed_by == ""
    assert not (await told.store.close_outage(KEY, "tom", "twice")).did
    assert len((await told.store.read()).history) == 1


async def test_opening_by_hand_voids_the_probe_that_runs(told):
    outage = await told.due()
    await told.lease("p.1")
    by_hand = await told.store.open(KEY, "eva", "", 100 * told.unit)
    assert by_hand.outage.opened_at == outage.opened_at
    assert not (await told.settle("p.1", outage.generation, True)).did


async def test_nothing_is_closed_by_hand_that_is_not_open(told):
    assert (await told.store.close_outage(KEY, "eva", "")).outage is None
    await told.report(need=2)
    answer = await told.store.close_outage(KEY, "eva", "")
    assert not answer.did and answer.outage.state == "suspected"


async def test_a_mode_by_hand_lasts_as_long_as_was_said(told):
    assert (await told.store.read()).mode == ModeSet()
    await told.store.set_mode("observe", "eva", "trying", 2 * told.unit)
    mode = (await told.store.read()).mode
    assert (mode.mode, mode.who, mode.why) == ("observe", "eva", "trying")
    await told.after(2.2)
    assert (await told.store.read()).mode.mode == "guard"
