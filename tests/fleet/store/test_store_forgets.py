"""What a store keeps, for how long, and how much of it."""

import asyncio

import pytest

from pipecat_circuit_breaker.fleet import rules
from pipecat_circuit_breaker.fleet.memory import MemoryStore
from pipecat_circuit_breaker.fleet.record import MAX_INSTANCES, MAX_OUTAGES, TOMBSTONE_SECS, Outage
from pipecat_circuit_breaker.testing import Clock
from tests.fleet.store.store_parts import KEY


async def test_an_outage_of_which_nothing_is_heard_is_forgotten(told):
    await told.report(hold=3)
    await told.after(2)
    await told.report(hold=3)
    await told.after(2)
    assert (await told.store.read()).outages[0].is_open
    await told.after(1.2)
    knowledge = await told.store.read("abc.7")
    assert [o.state for o in knowledge.outages] == ["closed"]
    assert [o.ending for o in knowledge.history] == ["forgotten"]
    # Who has found it out is the one of all that was first.
    assert knowledge.history[0].changed_by == "abc.7"
    assert (await told.store.read("xyz.1")).history == knowledge.history
    # It was over when it ran out: what fails now is new.
    assert (await told.report("pod-2")).did


@pytest.mark.parametrize(
    ("step", "token"),
    [
        (lambda told: told.report("pod-2", need=2, token="abc"), "abc"),
        (lambda told: told.report("pod-2", votes=False, token="abc"), "abc"),
        (lambda told: told.lease("abc.2"), "abc.2"),
        (lambda told: told.settle("abc.3", 1, True), "abc.3"),
        (lambda told: told.store.close_outage(KEY, "eva", ""), ""),
        (lambda told: told.store.open(KEY, "eva", "", 10 * told.unit), ""),
    ],
    ids=["vote", "report", "lease", "settle", "close", "open"],
)
async def test_whatever_step_finds_an_outage_forgotten_has_ended_it(told, step, token):
    await told.report(hold=1)
    await told.after(1.2)
    await step(told)
    (over,) = (await told.store.read()).history
    assert over.ending == "forgotten" and over.changed_by == token


async def test_room_that_is_made_for_another_outage_ends_what_has_run_out(told):
    await told.report(hold=1)
    await told.after(1.2)
    for n in range(MAX_OUTAGES - 1):
        await told.report(key=f"s: {n}", hold=10_000)
    assert (await told.store.read()).history == ()
    await told.report(key="s: more", hold=10_000, token="abc")
    assert [over.changed_by for over in (await told.store.read()).history] == ["abc"]


async def test_who_only_looks_ends_nothing(told):
    await told.report(hold=1)
    await told.report(key="s: long")
    await told.after(1.2)
    async with told.store.news() as news:
        knowledge = await told.store.read()
        assert [outage.key for outage in knowledge.outages] == ["s: long"]
        assert knowledge.history == ()
        over = (await told.store.read("abc.1")).history
        assert await asyncio.wait_for(anext(news), 1) == over[0]


async def test_failures_without_a_vote_are_counted_and_keep_no_outage(told):
    opened = (await told.report(hold=4)).outage
    await told.after(2)
    answer = await told.report("pod-2", votes=False, failures=5, hold=100)
    assert answer.outage.is_open and answer.outage.failures == 6 and answer.outage.bots == 2
    assert set(answer.outage.instances) == {"pod-1", "pod-2"}
    assert answer.outage.seen_at == opened.seen_at
    assert answer.outage.failed_at == pytest.approx(opened.seen_at + 2 * told.unit, abs=0.1)
    assert answer.outage.hold_secs == opened.hold_secs
    await told.after(2.2)
    assert not any(outage.is_open for outage in (await told.store.read()).outages)


async def test_the_last_report_says_for_how_long_an_outage_is_kept_unless_a_person_did(told):
    await told.report(hold=50)
    assert (await told.report(hold=70)).outage.hold_secs == pytest.approx(70 * told.unit)
    await told.store.open(KEY, "eva", "", 90 * told.unit)
    assert (await told.report(hold=70)).outage.hold_secs == pytest.approx(90 * told.unit)


async def test_a_tombstone_goes_after_a_minute():
    clock = Clock()
    store = MemoryStore(clock=clock)
    await store.open(KEY, "eva", "", 100)
    await store.close_outage(KEY, "eva", "")
    clock.advance(TOMBSTONE_SECS - 0.1)
    assert len((await store.read()).outages) == 1
    clock.advance(0.2)
    assert (await store.read()).outages == ()
    assert len((await store.read()).history) == 1


async def test_the_latest_fifty_are_kept_as_history(told):
    for n in range(rules.MAX_HISTORY + 3):
        await told.store.open(f"s: {n}", "eva", "", 1000)
        await told.store.close_outage(f"s: {n}", "eva", "")
    history = (await told.store.read()).history
    assert len(history) == rules.MAX_HISTORY
    assert history[0].key == f"s: {rules.MAX_HISTORY + 2}"


async def test_no_more_than_256_outages_are_kept_and_room_is_made_of_what_is_over(told):
    for n in range(MAX_OUTAGES - 1):
        await told.report(key=f"s: {n}")
    await told.report(key="s: short", need=2, vote=20)
    refused = await told.report(key="s: more")
    assert refused.outage is None and not refused.did
    assert (await told.store.open("s: more", "eva", "", 1000)).outage is None
    assert (await told.report(key="s: 0")).outage.failures == 2
    assert len((await told.store.read()).outages) == MAX_OUTAGES
    await told.after(20.1)
    assert (await told.report(key="s: more")).did


async def test_an_outage_names_64_instances_and_counts_more(told):
    for n in range(MAX_INSTANCES + 6):
        answer = await told.report(f"pod-{n}", need=MAX_INSTANCES)
    assert answer.outage.is_open
    assert len(answer.outage.instances) == MAX_INSTANCES
    assert MAX_INSTANCES + 4 <= answer.outage.instance_count <= MAX_INSTANCES + 8
    assert Outage.read(answer.outage.model_dump_json()) == answer.outage


async def test_megabytes_are_cut(told):
    huge = "x\n" * 500_000
    answer = await told.report(
        huge,
        key=huge,
        token=huge,
        bots=(huge, *(str(n) for n in range(100_000))),
        failures=10**30,
        waits=tuple(range(1_000, 10_000)),
    )
    assert answer.did
    assert len(answer.outage.key) == 200
    assert len(answer.outage.model_dump_json()) < 2_000
    assert not (await told.lease(huge, key=huge, instance=huge)).did
    answer = await told.store.open(huge, huge, huge, 1e300)
    assert len(answer.outage.model_dump_json()) < 2_000
    assert (await told.store.close_outage(huge, huge, huge)).did
    await told.store.set_mode("observe", huge, huge, 1e300)
    assert len((await told.store.read()).mode.model_dump_json()) < 1_000


async def test_names_of_any_script_come_back_as_they_were(told):
    name = "süd-1 日本 'quoted\" \\ {pod} %s 🦊"
    answer = await told.report(name, key=f"s: {name}", token=name)
    assert answer.outage.key == f"s: {name}" and answer.outage.opened_by == name
    assert (await told.store.read()).outages == (answer.outage,)


async def test_the_store_of_a_process_is_one_for_each_name():
    one = MemoryStore.shared("a")
    assert MemoryStore.shared("a") is one
    assert MemoryStore.shared("b") is not one


async def test_a_store_may_be_used_after_it_was_closed(told):
    await told.report()
    await told.store.close()
    await told.store.close()
    assert len((await told.store.read()).outages) == 1
