"""What a store decides: one set of tests, driven over memory and over real servers.

The memory store's clock is injected. A server decides by its own clock alone, so over
servers the same tests wait for real, in units of a tenth of a second.
"""

import asyncio

import pytest
import servers

from pipecat_circuit_breaker.fleet import record, redis, rules
from pipecat_circuit_breaker.fleet.memory import MemoryStore
from pipecat_circuit_breaker.fleet.news import MAX_UNREAD
from pipecat_circuit_breaker.fleet.record import (
    MAX_BYTES,
    MAX_INSTANCES,
    MAX_OUTAGES,
    TOMBSTONE_SECS,
    ModeSet,
    Outage,
)
from pipecat_circuit_breaker.fleet.redis import RedisStore
from pipecat_circuit_breaker.fleet.store import Report, StoreUnavailable
from pipecat_circuit_breaker.testing import Clock

#: What the tests count time in, on a server.
UNIT_SECS = 0.1

KEY = "TTS[eu]: ConnectError in httpx.connect"


class Told:
    """A store, and how its time passes."""

    def __init__(self, store, unit, after):
        self.store = store
        self.unit = unit
        self.after = after

    async def report(self, instance="pod-1", *, key=KEY, age=0.0, votes=True, need=1, **options):
        report = Report(
            key=key,
            instance=instance,
            token=options.pop("token", f"{instance}.token"),
            votes=votes,
            failures=options.pop("failures", 1),
            bots=options.pop("bots", (f"{instance}/bot",)),
            age_secs=age * self.unit,
            waits=tuple(w * self.unit for w in options.pop("waits", (2, 4))),
        )
        return await self.store.report(
            report,
            min_instances=need,
            vote_secs=options.pop("vote", 10) * self.unit,
            hold_secs=options.pop("hold", 100) * self.unit,
        )

    async def lease(self, token="t.1", *, secs=5, key=KEY, instance="pod-1"):
        return await self.store.lease(key, instance, token, secs * self.unit)

    async def settle(self, token, generation, success, waits=(2, 4), key=KEY):
        waits = tuple(w * self.unit for w in waits)
        return await self.store.settle(key, token, generation, success=success, waits=waits)

    async def due(self, **options):
        """An outage that may be probed."""
        answer = await self.report(**options)
        await self.after(2.1)
        return answer.outage


@pytest.fixture(scope="session", params=["memory", *servers.KINDS])
def kept_in(request):
    """None for memory, or else a server."""
    if request.param == "memory":
        yield None
    else:
        with servers.Server(request.param) as server:
            yield server


@pytest.fixture
async def told(kept_in, clock, monkeypatch):
    if kept_in is None:

        async def advance(units):
            clock.advance(units)

        yield Told(MemoryStore(clock=clock), 1.0, advance)
        return

    async def wait(units):
        await asyncio.sleep(units * UNIT_SECS)

    monkeypatch.setattr(rules, "MIN_WAIT_SECS", 0.0)
    kept_in.flush()
    store = RedisStore(kept_in.url, "test")
    yield Told(store, UNIT_SECS, wait)
    await store.close()


@pytest.fixture
def short_tombstone(told, monkeypatch):
    """Twenty units, so that nobody waits for a minute."""
    for module in (record, redis, rules):
        monkeypatch.setattr(module, "TOMBSTONE_SECS", 20 * told.unit)


async def recover(told, *instances, need=3):
    """An outage that some have seen, and that is over."""
    for instance in instances:
        answer = await told.report(instance, need=need)
    await told.after(2.1)
    await told.lease("p.1")
    return (await told.settle("p.1", answer.outage.generation, True)).outage


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
    for _ in range(4):
        for instance in EVIL:
            assert not (await told.report(instance, need=3, vote=6)).did
        await told.after(4.5)
    await told.after(2.2)
    answers = [await told.report(instance, need=3) for instance in EVIL]
    assert [answer.did for answer in answers].count(True) == 1
    assert answers[-1].outage.is_open


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


async def test_a_failed_probe_keeps_the_outage(told):
    outage = await told.due(hold=4)
    await told.lease("p.1")
    await told.settle("p.1", outage.generation, False)
    await told.after(3)
    assert (await told.store.read()).outages[0].is_open


async def test_the_last_report_says_for_how_long_an_outage_is_kept_unless_a_person_did(told):
    await told.report(hold=50)
    assert (await told.report(hold=70)).outage.hold_secs == pytest.approx(70 * told.unit)
    await told.store.open(KEY, "eva", "", 90 * told.unit)
    assert (await told.report(hold=70)).outage.hold_secs == pytest.approx(90 * told.unit)


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


async def test_news_of_every_step_but_of_mere_counts_once_a_second(told):
    async with told.store.news() as news:
        await told.report("pod-1", need=2)
        first = await asyncio.wait_for(anext(news), 1)
        assert first.state == "suspected"
        await told.report("pod-1", need=2)
        opened = (await told.report("pod-2", need=2)).outage
        assert await asyncio.wait_for(anext(news), 1) == opened
        await told.report("pod-2")
        await told.after(2.1)
        leased = (await told.lease("p.1")).outage
        heard = await asyncio.wait_for(anext(news), 1)
        assert heard == leased
        closed = (await told.settle("p.1", leased.generation, True)).outage
        assert await asyncio.wait_for(anext(news), 1) == closed
        await told.store.set_mode("disabled", "eva", "", 10)
        assert (await asyncio.wait_for(anext(news), 1)).mode == "disabled"


async def test_that_an_outage_is_forgotten_is_news(told):
    await told.report(hold=1)
    async with told.store.news() as news:
        await told.after(1.2)
        await told.store.read("abc.1")
        assert (await asyncio.wait_for(anext(news), 1)).ending == "forgotten"


async def test_a_subscriber_of_memory_that_does_not_read_is_told_that_it_has_lost_news(clock):
    store = MemoryStore(clock=clock)
    async with store.news() as news:
        for n in range(2 * MAX_UNREAD):
            await store.set_mode("observe", f"{n}", "", 10)
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="faster"):
            for n in range(MAX_UNREAD + 1):
                assert (await anext(news)).who == f"{n}"
        with pytest.raises(StoreUnavailable, match="faster"):
            await anext(news)
    await store.set_mode("guard", "", "", 10)


async def test_a_subscriber_whose_loop_is_closed_harms_nobody(clock):
    store = MemoryStore(clock=clock)

    def elsewhere():
        async def subscribe():
            context = store.news()
            await context.__aenter__()
            return context

        return asyncio.run(subscribe())

    left = await asyncio.to_thread(elsewhere)
    assert (await store.open(KEY, "eva", "", 10)).did
    del left


async def test_the_store_of_a_process_is_one_for_each_name():
    one = MemoryStore.shared("a")
    assert MemoryStore.shared("a") is one
    assert MemoryStore.shared("b") is not one


async def test_a_store_may_be_used_after_it_was_closed(told):
    await told.report()
    await told.store.close()
    await told.store.close()
    assert len((await told.store.read()).outages) == 1
