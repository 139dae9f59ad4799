"""What a process tells its fleet, and when."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecat_circuit_breaker.fleet import FleetParams, Lease, ModeSet
from pipecat_circuit_breaker.fleet.outbox import (
    MAX_BOTS,
    MAX_PENDING,
    Evidence,
    Outbox,
    Settlement,
)
from pipecat_circuit_breaker.fleet.snapshot import Snapshot
from pipecat_circuit_breaker.fleet.store import Knowledge, Report
from pipecat_circuit_breaker.testing import Clock
from tests.fleet.fleet_parts import AHEAD, KEY, outage

NOW = 1000.0 + AHEAD
DUE = outage(probe_at=NOW)


class Desk:
    """An outbox, and the snapshot that it looks at."""

    def __init__(self, clock):
        self.clock = clock
        self.errors = []
        self.snapshot = Snapshot(clock)
        self.snapshot.apply(Knowledge(NOW, ModeSet(), ()))
        self.outbox = Outbox(
            self.snapshot,
            token="me",
            vote_secs=10,
            cooldown=FleetParams().cooldown,
            clock=clock,
            on_error=self.errors.append,
        )

    def fail(self, key=KEY, *, instance="pod", bot="me.1", votes=True):
        return self.outbox.fail(key, instance, bot, votes=votes)

    def know(self, record):
        self.snapshot.apply(record)
        return record

    def sent(self, **how):
        sent = []
        while (step := self.outbox.next(**how)) is not None:
            sent.append(step)
        return sent


@pytest.fixture
def desk(clock):
    return Desk(clock)


def test_the_first_failure_goes_at_once(desk):
    assert desk.fail()
    assert desk.outbox.secs_to_next() == 0

    (report,) = desk.sent()
    assert (report.key, report.instance, report.token) == (KEY, "pod", "me")
    assert (report.failures, report.bots, report.votes, report.age_secs) == (1, ("me.1",), True, 0)
    assert desk.outbox.secs_to_next() == math.inf


def test_those_that_follow_wait_for_each_other(desk, clock):
    desk.fail()
    desk.sent()
    assert desk.fail(bot="me.2", votes=False)
    # Nobody has to look again for those after it.
    assert not desk.fail(bot="me.3")
    assert desk.sent() == []
    assert 1 <= desk.outbox.secs_to_next() <= 1.5

    clock.advance(1.5)
    (report,) = desk.sent()
    assert (report.failures, report.bots, report.votes) == (2, ("me.2", "me.3"), True)
    assert report.age_secs == 1.5


def test_of_a_known_outage_one_report_in_five_seconds_is_enough(desk, clock):
    desk.know(outage())
    desk.fail(votes=False)
    desk.sent()
    desk.fail(votes=False)

    assert 5 <= desk.outbox.secs_to_next() <= 7.5
    clock.advance(4.9)
    assert desk.sent() == []
    clock.advance(2.6)
    (report,) = desk.sent()
    assert not report.votes


def test_an_end_waits_for_nothing(desk):
    desk.fail()
    desk.sent()
    desk.fail()
    assert len(desk.sent(is_last=True)) == 1


def test_what_nobody_wants_to_hear_any_more_is_not_told(desk, clock):
    desk.fail()
    clock.advance(10.1)
    assert desk.sent() == []
    assert len(desk.outbox) == 0


def test_instances_are_told_apart(desk):
    desk.fail(instance="bot 1")
    desk.fail(instance="bot 2")
    assert [report.instance for report in desk.sent()] == ["bot 1", "bot 2"]


def test_waits_are_drawn_for_openings_in_a_row(desk):
    desk.fail()
    (report,) = desk.sent()
    assert len(report.waits) == 8
    assert all(1 <= wait <= 61 for wait in report.waits)
    assert report.waits[-1] > 30
    assert desk.errors == []


def test_a_report_that_could_not_be_told_goes_with_the_next_and_at_once(desk, clock):
    desk.fail()
    (report,) = desk.sent()
    desk.fail(bot="me.2", votes=False)
    clock.advance(0.5)
    desk.outbox.put_back(report)
    assert desk.outbox.secs_to_next() == 0

    (again,) = desk.sent()
    assert (again.failures, again.votes, set(again.bots)) == (2, True, {"me.1", "me.2"})
    assert again.age_secs == 0.5


def test_a_report_that_came_back_is_as_old_as_it_was(desk, clock):
    desk.fail()
    (report,) = desk.sent()
    for _ in range(2):
        clock.advance(4)
        desk.outbox.put_back(report)
        (report,) = desk.sent()
    assert report.age_secs == 8

    clock.advance(4)
    desk.outbox.put_back(report)
    assert desk.sent() == []


def test_a_request_when_the_probe_is_due_is_the_probe(desk):
    desk.know(DUE)
    assert desk.outbox.try_out(DUE)
    assert desk.outbox.secs_to_next() == 0
    assert desk.sent() == [Evidence(KEY, DUE.generation, desk.clock())]


@pytest.mark.parametrize(
    "fields",
    [
        {"probe_at": NOW + 1},
        {"lease": Lease(holder="pod", token="x", expires_at=NOW + 1)},
        {"is_by_hand": True},
    ],
)
def test_a_request_at_any_other_time_is_none(desk, fields):
    record = desk.know(outage(**{"probe_at": NOW, **fields}))
    assert not desk.outbox.try_out(record)
    assert desk.sent() == []


def test_of_answers_that_come_at_once_the_first_counts(desk, clock):
    desk.know(DUE)
    desk.outbox.try_out(DUE)
    begun = clock()
    clock.advance(0.1)
    assert not desk.outbox.try_out(DUE)
    assert desk.sent() == [Evidence(KEY, DUE.generation, begun)]


def test_one_lease_is_asked_for_once_a_second(desk, clock):
    desk.know(DUE)
    desk.outbox.try_out(DUE)
    desk.sent()
    assert not desk.outbox.try_out(DUE)
    clock.advance(1)
    assert desk.outbox.try_out(DUE)


@pytest.mark.parametrize(
    "record",
    [
        outage(generation=1, probe_at=NOW),
        outage(state="closed", generation=1),
        outage(probe_at=NOW, lease=Lease(holder="pod", token="x", expires_at=NOW + 1)),
    ],
)
def test_a_request_that_another_probe_has_overtaken_is_not_told(desk, record):
    desk.know(DUE)
    desk.outbox.try_out(DUE)
    desk.know(record)
    assert desk.sent() == []


def test_a_request_is_a_probe_as_long_as_it_says_something_of_now(desk, clock):
    desk.know(DUE)
    desk.outbox.try_out(DUE)
    (evidence,) = desk.sent()
    clock.advance(10)
    desk.outbox.put_back(evidence)
    assert desk.sent() == [evidence]
    clock.advance(0.1)
    desk.outbox.put_back(evidence)
    assert desk.sent() == []


def test_outcomes_of_probes_go_first_and_in_order(desk, clock):
    outcomes = [Settlement(KEY, f"me.{n}", 1, True, clock() + 15) for n in range(2)]
    desk.fail()
    for outcome in outcomes:
        desk.outbox.settle(outcome)
    sent = desk.sent()
    assert sent[:2] == outcomes
    assert isinstance(sent[2], Report)


def test_an_outcome_that_could_not_be_told_is_told_again_until_its_lease_is_over(desk, clock):
    outcome = Settlement(KEY, "me.1", 1, True, clock() + 15)
    desk.outbox.put_back(outcome)
    assert desk.sent() == [outcome]
    desk.outbox.put_back(outcome)
    clock.advance(15)
    assert desk.sent() == []


def test_what_is_dropped_is_not_told_but_for_outcomes(desk, clock):
    outcome = Settlement(KEY, "me.1", 1, True, clock() + 15)
    desk.know(DUE)
    desk.fail()
    desk.outbox.try_out(DUE)
    desk.outbox.settle(outcome)
    desk.outbox.drop()
    assert desk.sent() == [outcome]


def test_a_storm_takes_one_report(desk):
    for number in range(10_000):
        desk.fail(bot=f"me.{number}")
    (report,) = desk.sent()
    assert (report.failures, len(report.bots)) == (10_000, MAX_BOTS)


def test_failures_beyond_256_are_not_told(desk):
    for number in range(1000):
        desk.fail(f"a: {number}")
    assert len(desk.outbox) == MAX_PENDING
    assert len(desk.sent()) == MAX_PENDING


def test_failures_that_never_are_the_same_do_not_flood_a_store(desk, clock):
    sent = 0
    for number in range(5000):
        desk.fail(f"a: {number}")
        sent += len(desk.sent())
        clock.advance(0.001)
    assert sent <= MAX_PENDING * 5


def test_room_is_made_for_what_fails_later(desk, clock):
    for number in range(MAX_PENDING):
        desk.fail(f"a: {number}")
    desk.sent()
    clock.advance(1.5)
    assert desk.fail("b: 1")
    assert [report.key for report in desk.sent()] == ["b: 1"]


def test_room_is_made_by_what_was_told_longest_ago(desk, clock):
    for number in range(MAX_PENDING):
        desk.fail(f"a: {number}")
    desk.sent()
    clock.advance(1.5)
    desk.fail("a: 0")
    desk.sent()
    assert desk.fail("b: 1")
    assert not desk.fail("a: 0") or len(desk.sent()) == 1


def test_where_there_is_no_room_nobody_has_to_look(desk):
    for number in range(MAX_PENDING):
        desk.fail(f"a: {number}")
    assert not desk.fail("b: 1")


def test_nothing_is_kept_of_what_does_not_fail_any_more(desk, clock):
    desk.fail()
    desk.sent()
    clock.advance(10.1)
    desk.sent()
    assert desk.outbox._lines == {}


def test_reports_of_processes_that_began_at_once_are_spread(desk, clock):
    waits = set()
    for _ in range(5):
        desk.fail()
        clock.advance(2)
        desk.sent()
        desk.fail()
        waits.add(round(desk.outbox.secs_to_next(), 3))
    assert len(waits) > 1


def test_a_report_that_comes_back_when_its_line_is_gone_is_dropped(desk, clock):
    desk.fail()
    (report,) = desk.sent()
    clock.advance(10.1)
    desk.sent()
    desk.outbox.put_back(report)
    assert desk.sent() == []


def test_a_failure_of_what_is_known_is_no_vote(desk):
    desk.fail(votes=False)
    (report,) = desk.sent()
    assert not report.votes


def test_all_that_waits_is_counted(desk, clock):
    desk.know(DUE)
    desk.fail()
    desk.outbox.try_out(DUE)
    desk.outbox.settle(Settlement(KEY, "me.1", 1, True, clock() + 15))
    assert len(desk.outbox) == 3


def test_asking_for_leases_leaves_no_traces_of_old_outages(desk, clock):
    for number in range(1000):
        record = desk.know(outage(f"a: {number}", probe_at=NOW, generation=number))
        desk.outbox.try_out(record)
        desk.sent()
        desk.know(outage(f"a: {number}", "closed", generation=number + 1))
    assert len(desk.outbox._asked_at) <= 256


steps = st.one_of(
    st.tuples(st.just("fail"), st.integers(0, 3)),
    st.tuples(st.just("pass"), st.floats(0, 8)),
    st.tuples(st.just("open"), st.integers(0, 3)),
    st.tuples(st.just("close"), st.integers(0, 3)),
    st.tuples(st.just("lose"), st.just(0)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=60))
def test_no_failure_is_told_twice_or_too_often_and_each_soon(steps):
    desk = Desk(Clock())
    told, failed, lost, generation = {}, 0, 0, 0
    for step, value in steps:
        match step:
            case "fail":
                desk.fail(f"s: {value}")
                failed += 1
            case "pass":
                desk.clock.advance(value)
            case "open" | "close":
                generation += 1
                state = "open" if step == "open" else "closed"
                desk.know(outage(f"s: {value}", state, generation=generation))
            case "lose":
                if (report := desk.outbox.next()) is not None:
                    desk.outbox.put_back(report)
        waiting = len(desk.outbox)
        reports = desk.sent()
        assert len(reports) <= waiting
        for report in reports:
            before = told.get(report.key, -math.inf)
            if step != "lose":
                assert desk.clock() - before >= 1
            told[report.key] = desk.clock()
            lost += report.failures
            assert report.age_secs <= 10
        assert lost <= failed
        assert desk.outbox.secs_to_next() <= 7.5 or len(desk.outbox) == 0
        if desk.outbox.secs_to_next() == 0:
            raise AssertionError("something is due, and nothing is told")
