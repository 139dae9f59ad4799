"""Votes: how many open an outage, for how long they count, and after its end."""

import pytest

from pipecat_circuit_breaker.fleet.record import MAX_BYTES, MAX_INSTANCES
from tests.fleet.store.store_parts import KEY


async def test_votes_of_enough_instances_open_and_only_the_last_of_them_did(told):
    assert not (await told.report("pod-1", need=3)).did
    second = await told.report("pod-2", need=3)
    assert second.outage.state == "suspected" and not second.did
    third = await told.report("pod-3", need=3, token="abc.3")
    assert third.did and third.outage.is_open
    assert third.outage.opened_by == "pod-3" and third.outage.changed_by == "abc.3"
    assert third.outage.openings == 1 and third.outage.generation == 1
    assert third.outage.failures == 3 and third.outage.instance_count == 3
    assert third.outage.bots == 3
    assert third.outage.probe_at == pytest.approx(third.outage.opened_at + 2 * told.unit, abs=0.01)
    fourth = await told.report("pod-4", need=3)
    assert not fourth.did and fourth.outage.instance_count == 4


async def test_one_instance_has_one_vote_however_often_it_reports(told):
    for _ in range(5):
        answer = await told.report("pod-1", need=2, bots=("a", "b"), failures=7)
    assert answer.outage.state == "suspected"
    assert answer.outage.failures == 35
    assert answer.outage.bots == 2
    assert set(answer.outage.instances) == {"pod-1"}


async def test_a_vote_counts_only_within_its_window(told):
    await told.report("pod-1", need=2, vote=2)
    await told.after(2.2)
    assert not (await told.report("pod-2", need=2, vote=2)).did
    assert (await told.report("pod-3", need=2, vote=2)).did


async def test_an_old_vote_does_not_count_beside_newer_ones(told):
    await told.report("pod-1", need=3, vote=4)
    await told.after(2.5)
    await told.report("pod-2", need=3, vote=4)
    await told.after(2.5)
    answer = await told.report("pod-3", need=3, vote=4)
    assert not answer.did and set(answer.outage.instances) == {"pod-2", "pod-3"}
    assert (await told.report("pod-4", need=3, vote=4)).did


async def test_a_report_that_is_older_than_the_window_is_refused(told):
    answer = await told.report(age=11)
    assert answer.outage is None and not answer.did
    assert (await told.report(age=float("nan"))).outage is None
    assert (await told.store.read()).outages == ()


async def test_the_age_of_a_report_counts_for_its_vote(told):
    await told.report("pod-1", need=2, vote=4, age=3)
    await told.after(1.5)
    assert not (await told.report("pod-2", need=2, vote=4)).did


async def test_an_older_report_sets_nothing_back(told):
    fresh = (await told.report()).outage
    older = (await told.report(age=3)).outage
    assert older.failures == 2
    assert older.seen_at == fresh.seen_at and older.instances == fresh.instances


async def test_without_a_vote_nothing_is_begun_but_an_open_outage_counts_it(told):
    assert (await told.report(votes=False)).outage is None
    await told.report("pod-1", need=2)
    assert (await told.report("pod-2", need=2, votes=False)).outage.state == "suspected"
    await told.report("pod-2", need=2)
    answer = await told.report("pod-3", votes=False, failures=5)
    assert answer.outage.failures == 7 and "pod-3" in answer.outage.instances


async def test_a_suspicion_is_gone_with_its_window(told):
    await told.report(need=2, vote=2)
    await told.after(2.2)
    knowledge = await told.store.read()
    assert knowledge.outages == () and knowledge.history == ()


async def recover(told, *instances, need=3):
    """An outage that some have seen, and that is over."""
    for instance in instances:
        answer = await told.report(instance, need=need)
    await told.after(2.1)
    await told.lease("p.1")
    return (await told.settle("p.1", answer.outage.generation, True)).outage


EVIL = ("pod-1", "pod-2", "pod-3")


async def test_those_whose_outage_has_recovered_do_not_open_it_again_by_themselves(told):
    over = await recover(told, *EVIL)
    for _ in range(3):
        for instance in EVIL:
            answer = await told.report(instance, need=3)
            assert not answer.did and answer.outage.state == "suspected"
    assert set(answer.outage.instances_before) == set(over.instances) == set(EVIL)
    opened = await told.report("pod-4", need=3)
    assert opened.did and opened.outage.instances_before == {}


async def test_one_that_was_not_there_before_is_not_enough(told):
    await recover(told, *EVIL)
    assert not (await told.report("pod-4", need=3)).did
    assert not (await told.report("pod-1", need=3)).did
    assert (await told.report("pod-2", need=3)).did


async def test_a_minute_after_the_end_they_may_open_it_again(told, short_tombstone):
    await recover(told, *EVIL)
    for _ in range(5):
        for instance in EVIL:
            before = await told.report(instance, need=3, vote=6)
            assert not before.did
        await told.after(4.2)
    # They have never stopped.
    again = await told.report("pod-1", need=3, vote=6)
    assert again.did and again.outage.failures == before.outage.failures + 1


async def test_a_suspicion_that_ends_within_that_minute_takes_nothing_with_it(
    told, short_tombstone
):
    await recover(told, *EVIL)
    for instance in EVIL:
        await told.report(instance, need=3, vote=2)
    await told.after(3)
    answers = [await told.report(instance, need=3, vote=2) for instance in EVIL]
    assert not any(answer.did for answer in answers)
    assert answers[0].outage.instances.keys() == {"pod-1"}  # The votes before are old.


@pytest.mark.parametrize("ending", ["by_hand", "forgotten"])
async def test_after_another_end_those_of_before_open_it_again(told, ending):
    for instance in EVIL:
        await told.report(instance, need=3, hold=1)
    if ending == "by_hand":
        await told.store.close_outage(KEY, "eva", "")
    else:
        await told.after(1.2)
    first = await told.report("pod-1", need=3)
    assert first.outage.state == "suspected" and first.outage.instances_before == {}
    await told.report("pod-2", need=3)
    assert (await told.report("pod-3", need=3)).did


async def test_opening_by_hand_asks_nobody_who_was_there_before(told):
    await recover(told, *EVIL)
    await told.report("pod-1", need=3)
    by_hand = (await told.store.open(KEY, "eva", "", 100 * told.unit)).outage
    assert by_hand.is_open and by_hand.instances_before == {}


async def test_the_longest_names_of_now_and_of_before_fit_into_a_record(told):
    before = [f"{n:02d}" + 62 * '"' for n in range(MAX_INSTANCES)]
    await recover(told, *before, need=MAX_INSTANCES)
    for n in range(MAX_INSTANCES - 1):
        answer = await told.report(f"{n + 100:03d}" + 61 * '"', need=MAX_INSTANCES)
    assert len(answer.outage.instances) == MAX_INSTANCES - 1
    assert len(answer.outage.instances_before) == MAX_INSTANCES
    assert len(answer.outage.model_dump_json()) < MAX_BYTES
    assert (await told.report("more", need=MAX_INSTANCES)).did
