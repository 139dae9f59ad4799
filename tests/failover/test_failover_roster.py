"""Who is asked next, and when: no pipecat, no event loop."""

import pytest

from pipecat_circuit_breaker.failover.roster import PROBE_TIMEOUT_SECS, RELAPSE_SECS, Probe, Roster
from pipecat_circuit_breaker.testing import Clock

pytestmark = pytest.mark.releases

FIRST, SECOND, THIRD = range(3)


@pytest.fixture
def roster(clock: Clock) -> Roster:
    return Roster(3, lambda n: 5.0 * 2 ** (n - 1), clock)


def order(roster: Roster) -> list[int]:
    tried: list[int] = []
    while (service := roster.next(tried)) is not None:
        tried.append(service)
    return tried


def test__all_work__in_the_order_given(roster):
    assert order(roster) == [FIRST, SECOND, THIRD]


def test__one_fails__comes_last_until_it_works(roster):
    assert roster.fail(FIRST)
    assert order(roster) == [SECOND, THIRD, FIRST]
    assert roster.succeed(FIRST)
    assert order(roster) == [FIRST, SECOND, THIRD]


def test__fails_again__is_no_news(roster):
    assert [roster.fail(FIRST), roster.fail(FIRST)] == [True, False]
    assert [roster.succeed(FIRST), roster.succeed(FIRST)] == [True, False]


def test__preferred__before_the_others_where_it_works(roster):
    roster.prefer(SECOND)
    assert order(roster) == [SECOND, FIRST, THIRD]
    roster.fail(SECOND)
    assert order(roster) == [FIRST, THIRD, SECOND]


def test__all_fail__the_one_that_is_due_first(roster, clock):
    for service in (SECOND, THIRD, FIRST):
        roster.fail(service)
        clock.advance(1.0)
    assert order(roster) == [SECOND, THIRD, FIRST]


def test__probe__due_when_the_cooldown_is_over_and_once(roster, clock):
    roster.fail(FIRST)
    clock.advance(4.9)
    assert roster.probes(SECOND) == ()
    clock.advance(0.1)
    assert [probe.service for probe in roster.probes(SECOND)] == [FIRST]
    assert roster.probes(SECOND) == ()


def test__nobody_works__live_requests_are_the_probes(roster, clock):
    for service in (FIRST, SECOND, THIRD):
        roster.fail(service)
    clock.advance(60.0)
    assert roster.probes(FIRST) == ()


def test__probe_fails__next_one_after_twice_the_cooldown(roster, clock):
    roster.fail(FIRST)
    for cooldown in (5.0, 10.0, 20.0):
        clock.advance(cooldown - 0.1)
        assert roster.probes(SECOND) == ()
        clock.advance(0.1)
        (probe,) = roster.probes(SECOND)
        assert not roster.settle(probe, success=False)


def test__probe_succeeds__back_in_its_place(roster, clock):
    roster.fail(FIRST)
    clock.advance(5.0)
    (probe,) = roster.probes(SECOND)
    assert order(roster) == [SECOND, THIRD, FIRST]
    assert roster.settle(probe, success=True)
    assert order(roster)[0] == FIRST


def test__probe_reports_late__a_live_answer_has_decided_already(roster, clock):
    roster.fail(FIRST)
    clock.advance(5.0)
    (probe,) = roster.probes(SECOND)
    roster.succeed(FIRST)
    roster.fail(FIRST)
    assert not roster.settle(probe, success=True)
    assert not roster.works(FIRST)


def test__live_request_fails_while_a_probe_is_on_its_way__decides_it(roster, clock):
    roster.fail(FIRST)
    clock.advance(5.0)
    (probe,) = roster.probes(SECOND)
    assert not roster.fail(FIRST)
    assert not roster.settle(probe, success=True)
    clock.advance(9.9)
    assert roster.probes(SECOND) == ()
    clock.advance(0.1)
    assert len(roster.probes(SECOND)) == 1


def test__probe_never_reports__another_goes(roster, clock):
    roster.fail(FIRST)
    clock.advance(5.0)
    assert len(roster.probes(SECOND)) == 1
    clock.advance(60.0)
    assert roster.probes(SECOND) == ()  # the time limit is a failure
    clock.advance(10.0)
    assert len(roster.probes(SECOND)) == 1


@pytest.mark.parametrize(("worked_secs", "cooldown"), [(RELAPSE_SECS - 1, 10), (RELAPSE_SECS, 5)])
def test__fails_after_coming_back__longer_only_where_it_was_soon(
    roster, clock, worked_secs, cooldown
):
    roster.fail(FIRST)
    roster.succeed(FIRST)
    clock.advance(worked_secs)
    roster.fail(FIRST)
    clock.advance(cooldown - 0.1)
    assert roster.probes(SECOND) == ()
    clock.advance(0.1)
    assert roster.probes(SECOND) == (Probe(FIRST, 4),)


def test__outage__begins_and_ends_once(roster):
    assert not roster.is_out and not roster.end_outage()
    assert [roster.begin_outage(), roster.begin_outage()] == [True, False]
    assert roster.is_out
    assert [roster.end_outage(), roster.end_outage()] == [True, False]


#
# What is told
#


def test__failing__in_the_order_in_which_they_would_be_asked(roster):
    roster.prefer(SECOND)
    for service in (FIRST, SECOND, THIRD):
        roster.fail(service)
    assert roster.failing == (SECOND, FIRST, THIRD)


def test__in_place_of__those_before_it_that_do_not_work(roster):
    roster.fail(FIRST)
    roster.fail(THIRD)
    assert [roster.in_place_of(s) for s in (FIRST, SECOND, THIRD)] == [(), (FIRST,), (FIRST,)]


def test__changes__in_order_and_once(roster, clock):
    roster.fail(FIRST)
    clock.advance(5.0)
    [probe] = roster.probes(SECOND)
    clock.advance(PROBE_TIMEOUT_SECS)
    order(roster)  # it never reported
    roster.succeed(FIRST)
    changes = [(s, t.before.value, t.after.value) for s, t in roster.take_changes()]
    assert changes == [
        (FIRST, "closed", "open"),
        (FIRST, "open", "half_open"),
        (FIRST, "half_open", "open"),
        (FIRST, "open", "closed"),
    ]
    assert roster.take_changes() == ()
    assert not roster.settle(probe, success=True)
