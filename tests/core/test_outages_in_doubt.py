"""An outage of a transport that is watched is told a little later: its client may have hung up."""

import pytest

from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.news import Change
from pipecat_circuit_breaker._core.origin import CHANNEL_DOWN, Origin
from pipecat_circuit_breaker.incident import Ending, ProbeOutcome, Trigger
from tests.core.core_parts import CHANNEL_COOLDOWN, CLOSED, MAX_ERRORS, OPEN, OUT, RTVI, TTS, Bench

GRACE = 2.0


@pytest.fixture
def bench(clock):
    bench = Bench(clock, grace_secs=GRACE)
    bench.output.is_watched = True
    return bench


def client_leaves(bench):
    bench.output.is_connected = False
    bench.breaker.nobody_left(bench.output)


def totals(bench, name="Processor: channel down"):
    return next(t for t in bench.breaker.totals if t.origin == name)


def test__watched_channel__fails__is_held_at_once_and_told_after_the_grace(bench):
    bench.sends(MAX_ERRORS, ok=False)
    assert bench.channel_state() is OPEN
    assert bench.send(ok=True) is None
    assert bench.take() == []

    bench.clock.advance(GRACE - 0.001)
    assert bench.take() == []
    bench.clock.advance(0.001)
    (news,) = bench.take()
    assert (news.change, news.incident.state) == (Change.OPENED, OPEN)
    assert news.incident.held_messages == 1
    assert (news.incident.at - news.incident.opened_at).total_seconds() == GRACE
    assert bench.take() == []


def test__in_doubt__nothing_is_counted_before_it_is_told(bench):
    bench.sends(MAX_ERRORS + 1, ok=False)
    counts = totals(bench)
    assert (counts.failures, counts.openings, counts.held_messages) == (MAX_ERRORS, 0, 0)

    bench.clock.advance(GRACE)
    bench.take()
    counts = totals(bench)
    assert (counts.failures, counts.openings, counts.held_messages) == (MAX_ERRORS, 1, 1)
    assert bench.send(ok=False) is False, "the probe"
    bench.sends(2, ok=False)
    counts = totals(bench)
    assert (counts.openings, counts.held_messages, counts.probes_failed) == (2, 3, 1)


def test__in_doubt__is_among_the_incidents(bench):
    bench.sends(MAX_ERRORS, ok=False)
    (incident,) = bench.breaker.open_incidents
    bench.clock.advance(GRACE)
    assert [told.id for told in bench.told()] == [incident.id]


@pytest.mark.parametrize("trigger", [Trigger.CHANNEL_DOWN, Trigger.ERRORS, Trigger.RECURSION])
def test__in_doubt__client_has_hung_up__it_was_no_outage(bench, trigger):
    if trigger is Trigger.CHANNEL_DOWN:
        bench.sends(MAX_ERRORS, ok=False)
    elif trigger is Trigger.ERRORS:
        for _ in range(MAX_ERRORS):
            bench.send_with_error()
    else:
        cause = None
        for n in range(MAX_ERRORS):
            error, _ = bench.send_with_error(failure=f"Error{n}", cause=cause) or (None, None)
            cause = bench.message(error, processor=RTVI)
    assert bench.breaker.any_open
    client_leaves(bench)

    assert not bench.breaker.any_open
    bench.clock.advance(10 * GRACE)
    assert bench.take() == []
    assert bench.breaker.open_incidents == ()
    for counts in bench.breaker.totals:
        assert (counts.openings, counts.closings, counts.held_errors) == (0, 0, 0), counts


def test__in_doubt__client_has_hung_up__what_was_held_was_sent_to_nobody(bench):
    bench.sends(MAX_ERRORS + 4, ok=False)
    client_leaves(bench)
    assert bench.send(ok=True) is None
    assert totals(bench, "Processor: nobody connected").unsent_messages == 5
    assert bench.output.absence.messages == 5
    assert totals(bench).held_messages == 0


def test__in_doubt__observing__what_went_all_the_same_is_not_counted_as_unsent(clock):
    bench = Bench(clock, grace_secs=GRACE, mode=Mode.OBSERVE)
    bench.output.is_watched = True
    bench.sends(MAX_ERRORS + 4, ok=False)
    client_leaves(bench)
    assert all(counts.unsent_messages == 0 for counts in bench.breaker.totals)


def test__in_doubt__client_is_back__starts_anew(bench):
    bench.sends(MAX_ERRORS, ok=False)
    client_leaves(bench)
    bench.output.is_connected = True
    assert bench.sends(MAX_ERRORS - 1, ok=False) == [False] * (MAX_ERRORS - 1)
    assert bench.channel_state() is CLOSED
    assert bench.send(ok=False) is False
    bench.clock.advance(GRACE)
    assert [news.change for news in bench.take()] == [Change.OPENED]


def test__told__client_hangs_up_later__stays_an_outage(bench):
    bench.sends(MAX_ERRORS, ok=False)
    bench.clock.advance(GRACE)
    assert len(bench.take()) == 1
    client_leaves(bench)
    assert bench.channel_state() is OPEN
    assert totals(bench).openings == 1


def test__in_doubt__probe_fails_within_the_grace__is_told_once_with_all_that_has_happened(bench):
    bench.sends(MAX_ERRORS, ok=False)
    bench.clock.advance(CHANNEL_COOLDOWN)
    assert bench.send(ok=False) is False, "the probe"
    assert bench.take() == []
    bench.clock.advance(CHANNEL_COOLDOWN)
    (news,) = bench.take()
    assert (news.change, news.incident.openings) == (Change.OPENED, 2)
    assert [probe.outcome for probe in news.incident.probes] == [ProbeOutcome.FAILED]


def test__in_doubt__probe_passes_within_the_grace__opening_and_closing_are_told(bench):
    bench.sends(MAX_ERRORS + 1, ok=False)
    bench.clock.advance(CHANNEL_COOLDOWN)
    assert bench.send(ok=True) is True
    opened, closed = bench.take()
    assert (opened.change, closed.change) == (Change.OPENED, Change.CLOSED)
    assert closed.incident.ending is Ending.RECOVERED
    assert [probe.outcome for probe in closed.incident.probes] == [ProbeOutcome.PASSED]
    counts = totals(bench)
    assert (counts.openings, counts.closings, counts.held_messages) == (1, 1, 1)
    assert counts.probes_passed == 1


def test__in_doubt__pipeline_ends__is_told(bench):
    bench.sends(MAX_ERRORS, ok=False)
    bench.breaker.finish()
    assert [news.change for news in bench.take()] == [Change.OPENED, Change.CLOSED]
    assert totals(bench).closings == 1


def test__in_doubt__is_given_up__is_told_at_once(clock):
    bench = Bench(clock, grace_secs=GRACE, gives_up=lambda openings, secs: True)
    bench.output.is_watched = True
    for _ in range(MAX_ERRORS):
        bench.send_with_error()
    (news,) = bench.take()
    assert news.gives_up


def test__two_outages_in_doubt__each_is_told_when_its_grace_is_over(bench):
    bench.sends(MAX_ERRORS, ok=False, to="Ada")
    bench.clock.advance(1.0)
    bench.errors(MAX_ERRORS, processor=OUT)
    bench.clock.advance(1.0)
    assert [incident.origin.kind for incident in bench.told()] == [CHANNEL_DOWN]
    bench.clock.advance(1.0)
    assert [incident.origin.kind for incident in bench.told()] == ["E"]


#
# Where nothing is in doubt
#


def test__not_watched__is_told_at_once(clock):
    bench = Bench(clock, grace_secs=GRACE)
    bench.sends(MAX_ERRORS, ok=False)
    assert [news.change for news in bench.take()] == [Change.OPENED]


def test__another_processor__is_told_at_once(bench):
    bench.errors(MAX_ERRORS)
    (incident,) = bench.told()
    assert incident.origin == Origin.of(TTS, "E")
    client_leaves(bench)
    assert bench.state() is OPEN


def test__by_hand__is_told_at_once(bench):
    bench.breaker.open(Origin.of(OUT, "E"))
    assert [news.change for news in bench.take()] == [Change.OPENED]
    client_leaves(bench)
    assert bench.state(processor=OUT) is OPEN


def test__client_has_gone_already__audio_that_fails_is_told_at_once(bench):
    client_leaves(bench)
    bench.errors(MAX_ERRORS, processor=OUT)
    assert [news.change for news in bench.take()] == [Change.OPENED]
