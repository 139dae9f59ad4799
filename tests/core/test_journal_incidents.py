"""What is written down: transitions become incidents and news, in order."""

from datetime import timedelta

import pytest

from pipecat_circuit_breaker._core.circuit import Reason
from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.journal import Opening
from pipecat_circuit_breaker._core.news import Change
from pipecat_circuit_breaker.incident import AdviceKind, Ending, ProbeOutcome, Trigger
from tests.core.core_parts import CLOSED, COOLDOWN, HALF_OPEN, NOON, OPEN, OUT, PROBE_TIMEOUT

#
# An incident
#


def test__new__nothing_has_happened__there_is_nothing_to_read(pages):
    assert not pages.journal.has_news
    assert pages.journal.open_incidents(Mode.GUARD) == ()
    assert pages.journal.totals == ()


def test__opening__is_told_with_all_that_is_known(pages):
    guarded, link = pages.circuit(), pages.bench.message()
    for _ in range(3):
        pages.write(guarded, guarded.circuit.fail(), Opening(Trigger.ERRORS, link))
        pages.clock.advance(2.0)
    (incident,) = pages.news()
    assert incident.origin == guarded.origin
    assert (incident.state, incident.trigger, incident.is_channel) == (OPEN, Trigger.ERRORS, False)
    assert (incident.failures, incident.rate, incident.openings) == (3, 0.5, 1)
    assert incident.opened_at == NOON + timedelta(seconds=4)
    assert incident.at == NOON + timedelta(seconds=6)
    assert (incident.ended_at, incident.ending) == (None, None)
    assert (incident.held_errors, incident.held_messages, incident.held_kinds) == (0, 0, {})
    assert (incident.probes, incident.probe_in_secs, incident.gave_up) == ((), 3.0, False)
    assert len(incident.chain) == 1
    assert incident.chain_omitted == 0


def test__opening__all_failures_at_one_moment__has_no_rate(pages):
    pages.open(pages.circuit())
    assert pages.news()[0].rate is None


def test__opening__within_less_than_a_second__has_a_rate(pages):
    guarded = pages.circuit()
    for _ in range(3):
        pages.write(guarded, guarded.circuit.fail(), Opening(Trigger.ERRORS))
        pages.clock.advance(0.125)
    assert pages.news()[0].rate == 8.0


def test__opening__one_failure__has_no_rate(pages, clock):
    guarded = pages.circuit(max_errors=1)
    pages.write(guarded, guarded.circuit.fail(), Opening(Trigger.ERRORS))
    assert (pages.news()[0].failures, pages.news()) == (1, [])


def test__opening__of_an_output__says_so_and_which_kinds_fail(pages):
    guarded = pages.channel()
    link = pages.bench.message(text="chat")
    pages.open(guarded, Trigger.CHANNEL_DOWN, link, failing_kinds=("chat", "metrics"))
    (incident,) = pages.news()
    assert incident.is_channel
    assert incident.trigger is Trigger.CHANNEL_DOWN
    assert incident.advice.kind is AdviceKind.CHANNEL_FAILS


def test__opening__without_a_reason__was_by_hand(pages):
    guarded = pages.circuit()
    pages.write(guarded, guarded.circuit.isolate())
    (incident,) = pages.news()
    assert incident.trigger is Trigger.MANUAL
    assert (incident.chain, incident.chain_omitted, incident.failures) == ((), 0, 0)
    assert incident.probe_in_secs is None
    assert incident.advice.kind is AdviceKind.BY_HAND


def test__chain__is_told_from_its_root_with_the_times_by_the_calendar(pages):
    root = pages.bench.message(text="hello")
    pages.clock.advance(1.5)
    error, _ = pages.bench.error("E", OUT, root)
    pages.clock.advance(1.0)
    pages.open(pages.circuit(), link=error)
    (incident,) = pages.news()
    assert [(s.hop, s.frame, s.processor, s.text) for s in incident.chain] == [
        (0, "Frame", "RTVI", "hello"),
        (1, "Frame", "Output", "boom"),
    ]
    assert [s.at for s in incident.chain] == [NOON, NOON + timedelta(seconds=1.5)]


@pytest.mark.parametrize(("hops", "omitted"), [(63, 0), (64, 1), (200, 137)])
def test__chain__longer_than_64__is_its_root_and_the_latest_63(pages, hops, omitted):
    link = pages.bench.message()
    for _ in range(hops):
        link = pages.bench.message(link)
    pages.open(pages.circuit(), Trigger.RECURSION, link)
    (incident,) = pages.news()
    assert len(incident.chain) == 64
    assert incident.chain_omitted == omitted
    assert [s.hop for s in incident.chain] == [0, *range(hops - 62, hops + 1)]


def test__news__of_one_incident__are_in_order_and_share_its_id(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    opened = pages.news()
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.settle(guarded, success=False)
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.settle(guarded, success=True)
    told = opened + pages.news()
    assert [i.state for i in told] == [OPEN, HALF_OPEN, OPEN, HALF_OPEN, CLOSED]
    assert len({i.id for i in told}) == 1
    assert [i.openings for i in opened] == [1]
    assert told[-1].openings == 2
    assert told[-1].opened_at == NOON
    assert told[-1].ended_at == told[-1].at == NOON + timedelta(seconds=10)
    assert [i.ending for i in told] == [None] * 4 + [Ending.RECOVERED]
    assert [i.ended_at is None for i in told] == [True] * 4 + [False]
    assert told[0].probe_in_secs == COOLDOWN
    assert told[-1].probe_in_secs is None
    pages.open(guarded)
    assert pages.news()[0].id != told[0].id


def test__news__that_nobody_takes__are_bounded_and_the_latest_stay(pages):
    circuits = [pages.circuit(f"F{n}") for n in range(1001)]
    for guarded in circuits:
        pages.open(guarded)
    told = pages.news()
    assert len(told) == 1000
    assert told[0].origin.kind == "F1"
    assert told[-1].origin.kind == "F1000"


def test__news__of_two_incidents_by_turns__are_all_told(pages):
    one, other = pages.circuit("E"), pages.circuit("F")
    pages.open(one)
    pages.open(other)
    pages.close(one)
    pages.close(other)
    assert [(i.origin.kind, i.state) for i in pages.news()] == [
        ("E", OPEN),
        ("F", OPEN),
        ("E", CLOSED),
        ("F", CLOSED),
    ]


#
# Changes
#


def changes(pages):
    return [news.change for news in pages.take()]


def test__changes__of_a_whole_outage__are_told_in_order(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    for success in (False, True):
        pages.clock.advance(COOLDOWN)
        pages.probe(guarded)
        pages.settle(guarded, success=success)
    assert changes(pages) == [
        Change.OPENED,
        Change.PROBED,
        Change.REOPENED,
        Change.PROBED,
        Change.CLOSED,
    ]


def test__changes__taken_late__bear_the_state_of_their_own_time(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.settle(guarded, success=True)
    assert [(n.change, n.incident.state, n.incident.ending) for n in pages.take()] == [
        (Change.OPENED, OPEN, None),
        (Change.PROBED, HALF_OPEN, None),
        (Change.CLOSED, CLOSED, Ending.RECOVERED),
    ]


def test__changes__it_opens_once_more_after_its_end__is_another_incident(pages):
    guarded = pages.circuit()
    ids = []
    for _ in range(2):
        pages.open(guarded)
        pages.close(guarded)
        news = pages.take()
        assert [n.change for n in news] == [Change.OPENED, Change.CLOSED]
        ids.append({n.incident.id for n in news})
    assert len(ids[0] | ids[1]) == 2


def test__changes__names__are_words_for_people():
    assert [change.value for change in Change] == [
        "opened",
        "reopened",
        "probed",
        "closed",
        "nobody_answers",
        "eased",
        "gave_up",
    ]


#
# Endings and probes
#


@pytest.mark.parametrize(
    ("reason", "ending", "outcome"),
    [
        (Reason.RECOVERED, Ending.RECOVERED, ProbeOutcome.PASSED),
        (Reason.PASSED, Ending.RECOVERED, ProbeOutcome.PASSED),
        (Reason.QUIET, Ending.QUIET, ProbeOutcome.PASSED),
        (Reason.BY_HAND, Ending.BY_HAND, ProbeOutcome.VOID),
        (Reason.FORGOTTEN, Ending.FORGOTTEN, ProbeOutcome.VOID),
        (Reason.OVER, Ending.PIPELINE_OVER, ProbeOutcome.VOID),
    ],
)
def test__closing__for_a_reason__is_the_ending_and_the_outcome_of_the_probe(
    pages, reason, ending, outcome
):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.close(guarded, reason)
    last = pages.news()[-1]
    assert last.ending is ending
    assert [p.outcome for p in last.probes] == [outcome]
    (totals,) = pages.journal.totals
    passed = int(outcome is ProbeOutcome.PASSED)
    assert (totals.probes_passed, totals.probes_failed, totals.probes_timed_out) == (passed, 0, 0)


def test__probe__is_told_with_what_it_was_and_its_outcome(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.news()
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded, pages.bench.message(text="chat"))
    (half_open,) = pages.news()
    (probe,) = half_open.probes
    assert (probe.frame, probe.text, probe.at) == ("Frame", "chat", NOON + timedelta(seconds=5))
    assert probe.outcome is ProbeOutcome.PENDING
    assert half_open.state is HALF_OPEN
    pages.settle(guarded, success=False)
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.clock.advance(PROBE_TIMEOUT)
    pages.write(guarded, guarded.circuit.look())
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    assert [p.outcome for p in pages.news()[-1].probes] == [
        ProbeOutcome.FAILED,
        ProbeOutcome.TIMED_OUT,
        ProbeOutcome.PENDING,
    ]
    (totals,) = pages.journal.totals
    assert (totals.probes_passed, totals.probes_failed, totals.probes_timed_out) == (0, 1, 1)


def test__probes__without_end__the_latest_32_are_told(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    for n in range(33):
        pages.clock.advance(COOLDOWN)
        pages.probe(guarded, pages.bench.message(text=str(n)))
        pages.settle(guarded, success=False)
    assert [p.text for p in pages.news()[-1].probes] == [str(n) for n in range(1, 33)]


def test__probe__of_a_circuit_that_is_closed__is_not_written_down(pages):
    pages.journal.probe(pages.circuit(), pages.bench.message())
    assert not pages.journal.has_news
