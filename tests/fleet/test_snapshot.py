"""What a process knows of its fleet: which record wins, for how long, and how many there are."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecat_circuit_breaker.fleet import Lease, ModeSet
from pipecat_circuit_breaker.fleet.snapshot import Snapshot
from pipecat_circuit_breaker.fleet.store import Knowledge
from pipecat_circuit_breaker.testing import Clock
from tests.fleet.fleet_parts import AHEAD, KEY, outage

NOW = 1000.0 + AHEAD


@pytest.fixture
def snapshot(clock):
    return Snapshot(clock)


def known(*outages, now=NOW, mode=None):
    return Knowledge(now, mode or ModeSet(), outages)


def kinds(changes):
    return [change.kind for change in changes]


def test_an_outage_opens_changes_and_closes_once_each(snapshot):
    first = outage(generation=1)
    assert kinds(snapshot.apply(first)) == ["opened"]
    assert kinds(snapshot.apply(first)) == []
    assert kinds(snapshot.apply(outage(generation=2, probe_at=AHEAD + 9))) == ["changed"]
    assert kinds(snapshot.apply(outage(state="closed", generation=3))) == ["closed"]
    assert kinds(snapshot.apply(outage(state="closed", generation=3))) == []


def test_more_failures_alone_are_no_news(snapshot):
    snapshot.apply(outage(generation=1))
    more = outage(generation=1, failures=9, bots=4, instance_count=3, seen_at=AHEAD + 1)

    assert snapshot.apply(more) == []
    assert snapshot.open_at(KEY) == more


@pytest.mark.parametrize(
    "fields",
    [
        {"generation": 2},
        {"lease": Lease(holder="pod", token="x", expires_at=AHEAD)},
        {"lost_probes": 1},
        {"probe_at": AHEAD + 5},
        {"is_by_hand": True},
    ],
)
def test_a_probe_is_news(snapshot, fields):
    snapshot.apply(outage(generation=1))
    assert kinds(snapshot.apply(outage(**{"generation": 1, **fields}))) == ["changed"]


def test_a_record_that_came_late_changes_nothing(snapshot):
    snapshot.apply(outage(generation=1, seen_at=AHEAD + 5))
    snapshot.apply(outage(generation=1, seen_at=AHEAD + 4))
    assert snapshot.open_at(KEY).seen_at == AHEAD + 5


def test_it_is_calm_where_nothing_is_open_or_suspected(snapshot):
    assert snapshot.is_calm and not snapshot.is_any_open
    snapshot.apply(outage(generation=1))
    assert not snapshot.is_calm and snapshot.is_any_open
    snapshot.apply(outage(state="closed", generation=2))
    assert snapshot.is_calm and not snapshot.is_any_open


def test_a_suspected_one_is_known_and_not_open(snapshot):
    assert snapshot.apply(outage(state="suspected")) == []
    assert snapshot.get(KEY).state == "suspected"
    assert snapshot.open_at(KEY) is None
    assert not snapshot.is_calm


def test_an_older_generation_changes_nothing(snapshot):
    snapshot.apply(outage(generation=5))
    assert snapshot.apply(outage(generation=4, probe_at=AHEAD + 99)) == []
    assert snapshot.open_at(KEY).generation == 5


def test_a_tombstone_beats_an_open_record_of_an_older_generation(snapshot, clock):
    over = outage(state="closed", generation=5, closed_at=AHEAD + 9)
    snapshot.apply(known(over, now=AHEAD + 10))

    assert snapshot.apply(outage(generation=4)) == []
    assert snapshot.apply(known(outage(generation=4), now=AHEAD + 11)) == []
    assert snapshot.outages == ()


def test_a_tombstone_beats_an_open_record_of_the_same_generation(snapshot):
    snapshot.apply(outage(state="closed", generation=5, closed_at=AHEAD + 9))
    assert snapshot.apply(outage(generation=5, at=AHEAD + 20)) == []


def test_a_tombstone_is_kept_for_a_minute_whatever_a_store_has_lost(snapshot, clock):
    over = outage(state="closed", generation=5, closed_at=NOW)
    snapshot.apply(known(over))
    snapshot.apply(known())
    assert snapshot.get(KEY) == over

    clock.advance(60)
    snapshot.apply(known(now=NOW + 60))
    assert snapshot.get(KEY) is None


def read_by(snapshot, clock, secs, *outages, now):
    """What becomes of it where the store says the same each second, for so long."""
    changes = []
    for second in range(secs):
        clock.advance(1)
        changes += snapshot.apply(known(*outages, now=now + second))
    return kinds(changes)


def test_a_store_whose_clock_is_behind_is_believed_after_a_minute_at_most(snapshot, clock):
    over = outage(state="closed", generation=5, closed_at=NOW)
    snapshot.apply(known(over))
    # Failed over, to one that has lost all and is five minutes behind.
    new = outage(generation=1, at=NOW - 299)
    assert read_by(snapshot, clock, 59, new, now=NOW - 299) == []
    assert kinds(snapshot.apply(new)) == []
    assert read_by(snapshot, clock, 1, new, now=NOW - 240) == ["opened"]


def test_so_is_its_news(snapshot, clock):
    over = outage(state="closed", generation=5, closed_at=NOW)
    snapshot.apply(known(over))
    clock.advance(60)
    assert kinds(snapshot.apply(outage(generation=1, at=NOW - 240))) == ["opened"]


def test_a_tombstone_of_the_future_is_believed_for_a_minute(snapshot, clock):
    snapshot.apply(known())
    forged = outage(state="closed", generation=2**53, closed_at=NOW + 1e6)
    for _ in range(6):
        snapshot.apply(forged)  # However often it comes.
        clock.advance(10)
    assert kinds(snapshot.apply(outage(generation=1, at=NOW + 60))) == ["opened"]


def test_a_tombstone_that_is_heard_of_late_is_believed_for_the_rest_of_its_minute(snapshot, clock):
    over = outage(state="closed", generation=5, closed_at=NOW - 50)
    snapshot.apply(known(over))
    clock.advance(9.9)
    assert snapshot.apply(outage(generation=4, at=NOW - 99)) == []
    clock.advance(0.2)
    assert kinds(snapshot.apply(outage(generation=4, at=NOW - 99))) == ["opened"]


def test_another_end_is_another_minute(snapshot, clock):
    snapshot.apply(known(outage(state="closed", generation=5, closed_at=NOW)))
    clock.advance(50)
    snapshot.apply(known(outage(state="closed", generation=8, closed_at=NOW + 50), now=NOW + 50))
    clock.advance(50)
    assert snapshot.apply(outage(generation=7, at=NOW - 99)) == []


def test_a_server_that_was_flushed_is_believed_again_at_its_next_outage(snapshot):
    snapshot.apply(outage(state="closed", generation=5, closed_at=AHEAD + 9))
    assert kinds(snapshot.apply(outage(generation=1, at=AHEAD + 10))) == ["opened"]


def test_what_began_when_the_other_was_over_may_be_the_same(snapshot):
    snapshot.apply(outage(state="closed", generation=5, closed_at=AHEAD + 9))
    assert snapshot.apply(outage(generation=1, at=AHEAD + 9)) == []


def test_a_server_that_was_flushed_is_believed_at_once_where_it_is_read(snapshot):
    snapshot.apply(outage(generation=5))
    assert kinds(snapshot.apply(known(outage(state="suspected")))) == ["closed"]


def test_an_outage_of_which_a_store_knows_nothing_is_forgotten(snapshot):
    snapshot.apply(outage(changed_by="me"))
    (change,) = snapshot.apply(known())

    assert (change.kind, change.outage.ending) == ("closed", "forgotten")
    # That is no step of anybody's.
    assert change.outage.changed_by == ""
    assert snapshot.get(KEY) is None


def test_what_was_heard_after_a_store_was_asked_is_newer_than_its_answer(snapshot):
    mark = snapshot.mark()
    snapshot.apply(outage(generation=5))

    assert snapshot.apply(known(), since=mark) == []
    assert snapshot.apply(known(outage(generation=4)), since=mark) == []
    assert snapshot.open_at(KEY).generation == 5


def test_another_outage_that_began_meanwhile_is_another_one(snapshot):
    snapshot.apply(outage(generation=1))
    again = outage(generation=5, at=AHEAD + 50)
    assert kinds(snapshot.apply(again)) == ["closed", "opened"]


def test_an_outage_that_is_suspected_again_is_over(snapshot):
    snapshot.apply(outage(generation=1))
    (change,) = snapshot.apply(outage(state="suspected", generation=1, at=AHEAD + 50))
    assert (change.kind, change.outage.state) == ("closed", "closed")


def test_the_stores_clock_is_told_by_the_own_one(snapshot, clock):
    assert snapshot.now is None
    snapshot.apply(known())
    clock.advance(7)
    assert snapshot.now == NOW + 7


@pytest.mark.parametrize("now", [math.nan, math.inf, -math.inf])
def test_a_clock_that_shows_no_time_is_not_believed(snapshot, now):
    assert snapshot.apply(known(outage(), now=now)) == []
    assert snapshot.now is None


def test_what_is_known_may_be_used_for_eight_seconds(snapshot, clock):
    assert not snapshot.is_fresh
    snapshot.apply(known())
    clock.advance(7.9)
    assert snapshot.is_fresh
    clock.advance(0.1)
    assert not snapshot.is_fresh
    snapshot.touch()
    assert snapshot.is_fresh


def test_a_newer_mode_wins(snapshot):
    snapshot.apply(ModeSet(mode="observe", at=9))
    snapshot.apply(ModeSet(mode="disabled", at=8))
    assert snapshot.mode.mode == "observe"
    snapshot.apply(known())
    assert snapshot.mode.mode == "guard"


def test_a_mode_that_was_heard_before_the_store_was_asked_goes(snapshot):
    snapshot.apply(ModeSet(mode="observe", at=9))
    snapshot.apply(known(), since=snapshot.mark())
    assert snapshot.mode.mode == "guard"


def test_a_mode_that_was_heard_after_the_store_was_asked_stays(snapshot):
    mark = snapshot.mark()
    snapshot.apply(ModeSet(mode="observe", at=9))
    snapshot.apply(known(), since=mark)
    assert snapshot.mode.mode == "observe"


@pytest.mark.parametrize(
    ("fields", "is_due"),
    [
        ({"probe_at": NOW}, True),
        ({"probe_at": NOW + 0.1}, False),
        ({"probe_at": None}, False),
        ({"is_by_hand": True}, False),
        ({"state": "suspected"}, False),
        ({"lease": Lease(holder="pod", token="x", expires_at=NOW + 1)}, False),
        ({"lease": Lease(holder="pod", token="x", expires_at=NOW)}, True),
    ],
)
def test_a_probe_is_due_when_its_time_has_come_and_nobody_has_the_lease(snapshot, fields, is_due):
    snapshot.apply(known())
    assert snapshot.is_due(outage(**{"probe_at": NOW, **fields})) is is_due


def test_nothing_is_due_where_the_stores_clock_was_never_read(snapshot):
    assert not snapshot.is_due(outage())


def test_services_are_told_apart_by_their_whole_name(snapshot):
    for number, key in enumerate(["TTS: b in x", "TTS[eu]: a in x", "TTS: a in x", "TTSX: a in x"]):
        snapshot.apply(outage(key, opened_at=AHEAD - number))

    assert [o.key for o in snapshot.open_of("TTS")] == ["TTS: a in x", "TTS: b in x"]
    assert [o.key for o in snapshot.open_of("TTS[eu]")] == ["TTS[eu]: a in x"]


def test_of_a_service_what_is_over_is_told_apart_from_what_goes_on(snapshot):
    over = outage("TTS: a in x", state="closed")
    for record in (over, outage("TTS: b in x"), outage("STT: a in x", state="closed")):
        snapshot.apply(record)
    assert snapshot.over_of("TTS") == [over]


def test_an_open_one_takes_the_place_of_one_that_is_not(snapshot):
    for number in range(256):
        snapshot.apply(outage(f"a: {number}", state="suspected" if number % 2 else "closed"))
    for number in range(300):
        snapshot.apply(outage(f"b: {number}"))

    assert len(snapshot.outages) == 256
    assert snapshot.apply(outage("c: 1", state="suspected")) == []
    assert snapshot.get("c: 1") is None


def test_a_suspected_one_takes_the_place_of_the_oldest_tombstone(snapshot):
    for number in range(256):
        snapshot.apply(outage(f"a: {number}", state="closed", seen_at=AHEAD + number))
    snapshot.apply(outage("b: 1", state="suspected"))

    assert snapshot.get("a: 0") is None
    assert snapshot.get("a: 1") is not None
    assert snapshot.get("b: 1") is not None


secs = st.floats(-1e9, 1e9) | st.sampled_from([0.0, AHEAD, NOW])
records = st.builds(
    lambda key, state, **fields: outage(f"s: {key}", state, **fields),
    st.integers(0, 5),
    st.sampled_from(["suspected", "open", "closed"]),
    generation=st.integers(0, 4),
    seen_at=secs,
    opened_at=st.none() | secs,
    probe_at=st.none() | secs,
    closed_at=st.none() | secs,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(records | st.builds(known, records, records, now=secs), max_size=30))
def test_each_outage_opens_and_closes_in_turn_whatever_a_store_says(news):
    snapshot, is_open = Snapshot(Clock()), set()

    for item in news:
        for change in snapshot.apply(item):
            key = change.outage.key
            assert (key in is_open) == (change.kind != "opened")
            is_open = is_open - {key} if change.kind == "closed" else is_open | {key}
            assert change.outage.is_over == (change.kind == "closed")
        assert {o.key for o in snapshot.outages} == is_open
