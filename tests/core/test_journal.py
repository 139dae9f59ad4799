"""What is written down: transitions become incidents, totals and news, in order."""

from datetime import timedelta

import pytest
from core_parts import (
    CLOSED,
    COOLDOWN,
    HALF_OPEN,
    NOON,
    OPEN,
    OUT,
    PROBE_TIMEOUT,
    TTS,
    WINDOW,
    Pages,
)

from pipecat_circuit_breaker._core.circuit import Reason
from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.journal import Opening
from pipecat_circuit_breaker._core.news import Change, News, log_fields, log_level, log_line
from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.incident import (
    AdviceKind,
    Call,
    Ending,
    ProbeOutcome,
    Trigger,
)

CALL = Call(
    pipeline="worker#0",
    session="s1",
    process=7,
    host="here",
    pipecat="1.9.0",
    version="0.1.0",
    tags={"tenant": "acme"},
)

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


#
# What is held back
#


def test__held__errors_and_messages__are_counted_in_the_incident(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    for _ in range(4):
        pages.journal.held_error(guarded)
    for kind in ("chat", "metrics", "chat"):
        pages.journal.held_message(guarded, kind)
    (incident,) = pages.journal.open_incidents(Mode.GUARD)
    assert (incident.held_errors, incident.held_messages) == (4, 3)
    assert incident.held_kinds == {"chat": 2, "metrics": 1}
    snapshot = pages.journal.snapshot(guarded, Mode.GUARD)
    assert (snapshot.held_errors, snapshot.held_messages) == (4, 3)


def test__held__of_many_kinds__31_are_named_and_the_rest_is_other(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    for n in range(40):
        pages.journal.held_message(guarded, str(n))
    pages.journal.held_message(guarded, "0")
    (incident,) = pages.journal.open_incidents(Mode.GUARD)
    assert incident.held_kinds == {"0": 2, **{str(n): 1 for n in range(1, 31)}, "other": 9}


def test__held__where_nothing_is_open__is_counted_in_the_totals(pages):
    guarded = pages.circuit()
    pages.journal.held_error(guarded)
    pages.journal.held_message(guarded, "chat")
    (totals,) = pages.journal.totals
    assert (totals.held_errors, totals.held_messages) == (1, 1)
    snapshot = pages.journal.snapshot(guarded, Mode.GUARD)
    assert (snapshot.held_errors, snapshot.held_messages) == (0, 0)


def test__snapshot__says_what_is_known_of_a_circuit_now(pages):
    guarded = pages.circuit()
    pages.write(guarded, guarded.circuit.fail())
    snapshot = pages.journal.snapshot(guarded, Mode.GUARD)
    assert (snapshot.origin, snapshot.state) == (guarded.origin, CLOSED)
    assert (snapshot.failures, snapshot.openings, snapshot.probe_in_secs) == (1, 0, None)
    pages.open(pages.circuit("F"))
    pages.write(guarded, guarded.circuit.trip(), Opening(Trigger.RECURSION))
    pages.clock.advance(2.0)
    snapshot = pages.journal.snapshot(guarded, Mode.GUARD)
    assert (snapshot.state, snapshot.openings, snapshot.probe_in_secs) == (OPEN, 1, 3.0)


#
# Totals
#


def test__totals__are_counted_by_name_and_never_go_down(pages):
    one, twin = pages.circuit(), pages.circuit(destination="ann")
    for guarded in (one, twin):
        pages.journal.failed(guarded.origin)
        pages.open(guarded)
        pages.close(guarded)
    pages.journal.unsent(one.origin)
    (totals,) = pages.journal.totals
    assert totals.origin == "Processor: E"
    assert (totals.failures, totals.openings, totals.closings, totals.unsent_messages) == (
        2,
        2,
        2,
        1,
    )
    assert (totals.held_errors, totals.held_messages) == (0, 0)


def test__totals__openings__count_failed_probes_too(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.settle(guarded, success=False)
    (totals,) = pages.journal.totals
    assert (totals.openings, totals.closings, guarded.openings) == (2, 0, 2)
    for success in (False, True):
        pages.clock.advance(COOLDOWN)
        pages.probe(guarded)
        pages.settle(guarded, success=success)
    (totals,) = pages.journal.totals
    assert (totals.openings, totals.closings, guarded.openings) == (3, 1, 3)
    assert (totals.probes_failed, totals.probes_passed) == (2, 1)


def test__totals__of_many_names__the_rest_is_other(pages):
    for n in range(5):
        pages.journal.failed(Origin.of(TTS, f"F{n}"))
    pages.journal.failed(Origin.of(TTS, "F0"))
    pages.journal.failed(Origin.of(TTS, "F4"))
    assert [(t.origin, t.failures) for t in pages.journal.totals] == [
        ("Processor: F0", 2),
        ("Processor: F1", 1),
        ("Processor: F2", 1),
        ("other", 3),
    ]


#
# Giving up
#


def test__gave_up__where_nothing_is_open__is_not_told(pages):
    guarded = pages.circuit()
    pages.journal.gave_up(guarded)
    assert not pages.journal.has_news
    assert not pages.journal.has_given_up(guarded)


def test__gave_up__is_known_until_it_closes(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    assert not pages.journal.has_given_up(guarded)
    pages.journal.gave_up(guarded)
    assert pages.journal.has_given_up(guarded)
    pages.close(guarded)
    assert not pages.journal.has_given_up(guarded)


def test__gave_up__at_the_opening__is_one_piece_of_news_with_it(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.journal.gave_up(guarded)
    (news,) = pages.take()
    assert (news.change, news.gives_up, news.incident.gave_up) == (Change.OPENED, True, True)


def test__gave_up__at_a_reopening__is_one_piece_of_news_with_it(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.settle(guarded, success=False)
    pages.journal.gave_up(guarded)
    assert [(n.change, n.gives_up) for n in pages.take()] == [
        (Change.OPENED, False),
        (Change.PROBED, False),
        (Change.REOPENED, True),
    ]


def test__gave_up__the_opening_has_been_told__is_news_of_its_own(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.take()
    pages.journal.gave_up(guarded)
    (news,) = pages.take()
    assert (news.change, news.gives_up) == (Change.GAVE_UP, True)
    assert (news.incident.state, news.incident.gave_up) == (OPEN, True)


def test__gave_up__a_probe_was_the_latest__is_news_of_its_own(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.journal.gave_up(guarded)
    assert [(n.change, n.gives_up, n.incident.state) for n in pages.take()] == [
        (Change.OPENED, False, OPEN),
        (Change.PROBED, False, HALF_OPEN),
        (Change.GAVE_UP, True, OPEN),
    ]


def test__gave_up__another_incident_was_the_latest__is_news_of_its_own(pages):
    one, other = pages.circuit("E"), pages.circuit("F")
    pages.open(one)
    pages.open(other)
    pages.journal.gave_up(one)
    assert [(n.incident.origin.kind, n.change, n.gives_up) for n in pages.take()] == [
        ("E", Change.OPENED, False),
        ("F", Change.OPENED, False),
        ("E", Change.GAVE_UP, True),
    ]


def test__gave_up__all_copies_since__say_so_and_only_one_gives_up(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.take()
    pages.journal.gave_up(guarded)
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.settle(guarded, success=False)
    assert pages.journal.open_incidents(Mode.GUARD)[0].gave_up
    pages.close(guarded)
    news = pages.take()
    assert [n.incident.gave_up for n in news] == [True] * 4
    assert [n.gives_up for n in news] == [True, False, False, False]


def test__gave_up__another_circuit_joins_before_it_is_told__it_is_still_told(pages):
    channel, errors = pages.channel(), pages.circuit("SendError", OUT)
    pages.open(channel)
    pages.journal.gave_up(channel)
    pages.open(errors)
    assert [(n.change, n.gives_up) for n in pages.take()] == [(Change.OPENED, True)]


def test__gave_up__another_circuit_of_it_reopens_before_it_is_told__it_is_still_told(pages):
    ann, bob = pages.channel("ann"), pages.channel("bob")
    pages.open(ann)
    pages.open(bob)
    pages.clock.advance(COOLDOWN)
    for channel in (ann, bob):
        pages.probe(channel)
    pages.take()
    pages.settle(ann, success=False)
    pages.journal.gave_up(ann)
    pages.settle(bob, success=False)
    assert [(n.change, n.gives_up) for n in pages.take()] == [(Change.REOPENED, True)]


def test__secs_open__count_from_the_first_opening(pages):
    guarded = pages.circuit()
    assert pages.journal.secs_open(guarded) == 0.0
    pages.open(guarded)
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.settle(guarded, success=False)
    pages.clock.advance(2.0)
    assert pages.journal.secs_open(guarded) == 7.0


#
# Remarks
#


@pytest.mark.parametrize(
    ("trigger", "why"),
    [
        (Trigger.ERRORS, "3 related errors"),
        (Trigger.RECURSION, "errors and messages set each other off"),
        (Trigger.TOO_MANY, "too many errors of one processor"),
    ],
)
def test__opening_remark__says_why(pages, trigger, why):
    guarded = pages.circuit()
    pages.open(guarded, trigger)
    assert pages.journal.opening_remark(guarded) == (
        f"circuit open, {why}: more like it are held back until it recovers"
    )


def test__probe_remark__says_how_many_errors_were_held_back(pages):
    guarded = pages.circuit()
    assert pages.journal.probe_remark(guarded) == "circuit probed, 0 more like it were held back"
    pages.open(guarded)
    for _ in range(4):
        pages.journal.held_error(guarded)
    pages.journal.held_message(guarded, "chat")
    assert pages.journal.probe_remark(guarded) == "circuit probed, 4 more like it were held back"


def test__remarks__nothing_is_open__say_nothing_wrong(pages):
    assert pages.journal.opening_remark(pages.circuit()).startswith(
        "circuit open, 0 related errors"
    )


#
# Modes: what was held back, and what would have been
#


def test__mode__of_an_incident__is_the_breakers_when_it_is_told(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    for mode in (Mode.GUARD, Mode.OBSERVE, Mode.DISABLED):
        assert [i.mode for i in pages.journal.open_incidents(mode)] == [mode]
    pages.mode = Mode.OBSERVE
    assert [i.mode for i in pages.news()] == [Mode.OBSERVE]


def test__mode__of_a_circuit__is_that_of_its_incident(pages):
    guarded = pages.circuit()
    guarded.mode = Mode.OBSERVE
    pages.open(guarded)
    pages.close(guarded)
    assert [i.mode for i in pages.news()] == [Mode.OBSERVE] * 2


@pytest.mark.parametrize(
    ("modes", "mode"),
    [
        ((Mode.OBSERVE, Mode.GUARD), Mode.GUARD),
        ((Mode.GUARD, Mode.DISABLED), Mode.GUARD),
        ((Mode.DISABLED, Mode.OBSERVE), Mode.OBSERVE),
        ((Mode.DISABLED, Mode.DISABLED), Mode.DISABLED),
        ((Mode.OBSERVE, None), Mode.GUARD),
    ],
)
def test__mode__of_circuits_that_differ__is_to_guard_where_one_of_them_does(pages, modes, mode):
    channel, errors = pages.channel(), pages.circuit("SendError", OUT)
    channel.mode, errors.mode = modes
    pages.open(channel)
    pages.open(errors)
    assert pages.news()[-1].mode is mode


def test__mode__of_a_snapshot__is_its_own_or_else_the_breakers(pages):
    guarded = pages.circuit()
    assert pages.journal.snapshot(guarded, Mode.OBSERVE).mode is Mode.OBSERVE
    guarded.mode = Mode.DISABLED
    assert pages.journal.snapshot(guarded, Mode.OBSERVE).mode is Mode.DISABLED


def test__observed__errors_and_messages__are_held_counts_of_which_nothing_was_held(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    for observed in (True, False, True):
        pages.journal.held_error(guarded, observed=observed)
        for kind in "ab":
            pages.journal.held_message(guarded, kind, observed=observed)
    (incident,) = pages.news()
    (totals,) = pages.journal.totals
    for counts in (incident, totals):
        assert (counts.held_errors, counts.observed_errors) == (3, 2)
        assert (counts.held_messages, counts.observed_messages) == (6, 4)
    assert incident.held_kinds == {"a": 3, "b": 3}
    snapshot = pages.journal.snapshot(guarded, Mode.OBSERVE)
    assert (snapshot.held_errors, snapshot.held_messages) == (3, 6)


def test__observed__where_nothing_is_open__is_counted_in_the_totals(pages):
    guarded = pages.circuit()
    pages.journal.held_error(guarded, observed=True)
    pages.journal.held_message(guarded, "chat", observed=True)
    (totals,) = pages.journal.totals
    assert (totals.observed_errors, totals.observed_messages) == (1, 1)


def test__held__by_default__is_not_observed(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.journal.held_error(guarded)
    pages.journal.held_message(guarded, "chat")
    (incident,) = pages.news()
    assert (incident.observed_errors, incident.observed_messages) == (0, 0)


#
# Whose call it was
#


class Asked:
    """Whose call it is, and how often somebody has asked."""

    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1
        return CALL.model_copy(update={"process": self.times})


@pytest.fixture
def asked():
    return Asked()


@pytest.fixture
def called(clock, asked):
    """Pages of a journal that asks whose call it is."""
    return Pages(clock, call=asked)


def test__call__nobody_knows_it__is_none(pages):
    pages.open(pages.circuit())
    assert pages.news()[0].call is None


def test__call__is_asked_when_the_opening_is_told_and_kept(called, asked):
    guarded = called.circuit()
    called.open(guarded)
    assert asked.times == 0, "a storm does not wait for it"
    (opened,) = called.news()
    assert opened.call == CALL.model_copy(update={"process": 1})
    called.clock.advance(COOLDOWN)
    called.probe(guarded)
    called.settle(guarded, success=False)
    called.close(guarded)
    assert {i.call.process for i in called.news()} == {1}
    assert asked.times == 1


def test__call__several_circuits_of_one_outage__is_asked_once(called, asked):
    called.open(called.channel())
    called.news()
    called.open(called.circuit("SendError", OUT))
    assert called.journal.open_incidents(Mode.GUARD)[0].call.process == 1
    assert asked.times == 1


def test__call__of_the_next_incident__is_asked_anew(called, asked):
    guarded = called.circuit()
    for _ in range(2):
        called.open(guarded)
        called.close(guarded)
    assert [i.call.process for i in called.news()] == [1, 1, 2, 2]


#
# The log
#


def told(pages):
    """The latest piece of news."""
    return pages.take()[-1]


def test__log_line__opening__says_why_when_it_probes_and_what_to_do(pages):
    pages.open(pages.circuit())
    news = told(pages)
    assert log_line(news) == (
        "circuit open: TTS: E (errors, 3 failures, opening 1), next probe in 5.0 s. "
        + news.incident.advice.text
    )


def test__log_line__opening_by_hand_that_gives_up__says_so(pages):
    guarded = pages.circuit()
    pages.write(guarded, guarded.circuit.isolate())
    pages.journal.gave_up(guarded)
    news = told(pages)
    assert log_line(news) == (
        "circuit open: TTS: E (manual, 0 failures, opening 1), no probe, giving up. "
        + news.incident.advice.text
    )


def test__log_line__it_was_given_up_before__does_not_say_so_again(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.journal.gave_up(guarded)
    pages.take()
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.settle(guarded, success=False)
    news = told(pages)
    assert news.incident.gave_up
    assert "giving up" not in log_line(news)


def held(pages):
    """An open circuit that has held one error and two messages back."""
    guarded = pages.circuit()
    pages.open(guarded)
    pages.journal.held_error(guarded)
    pages.journal.held_message(guarded, "a")
    pages.journal.held_message(guarded, "b")
    pages.clock.advance(COOLDOWN)
    return guarded


def test__log_line__half_open__says_what_was_held_back(pages):
    pages.probe(held(pages))
    assert log_line(told(pages)) == (
        "circuit half-open: TTS: E, 1 error was held back, 2 messages were held back, probing"
    )


@pytest.mark.parametrize(
    ("reason", "ending"),
    [
        (Reason.PASSED, "recovered"),
        (Reason.QUIET, "quiet"),
        (Reason.BY_HAND, "by_hand"),
        (Reason.OVER, "pipeline_over"),
    ],
)
def test__log_line__closed__says_how_and_what_was_held_back(pages, reason, ending):
    pages.close(held(pages), reason)
    assert log_line(told(pages)) == (
        f"circuit closed ({ending}): TTS: E, 1 error was held back, 2 messages were held back in "
        "5.0 s"
    )


def test__log_line__closed_copy_without_an_ending__says_the_rest(pages):
    # A copy that somebody has kept and reads again may lack it.
    pages.close(held(pages))
    incident = told(pages).incident.model_copy(update={"ending": None})
    assert log_line(News(Change.CLOSED, incident)).startswith("circuit closed: TTS: E, 1 error")


def test__log_line__observing__says_so_and_that_nothing_was_held_back(pages):
    pages.mode = Mode.OBSERVE
    guarded = pages.circuit()
    pages.open(guarded)
    lines = [log_line(told(pages))]
    pages.journal.held_error(guarded, observed=True)
    for _ in range(2):
        pages.journal.held_message(guarded, "a", observed=True)
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    lines.append(log_line(told(pages)))
    pages.settle(guarded, success=True)
    lines.append(log_line(told(pages)))
    counts = (
        "TTS: E, 1 error would have been held back (observing: nothing was), 2 messages would have "
        "been held back (observing: nothing was)"
    )
    assert lines[0].startswith("observing: circuit open: TTS: E (errors")
    assert lines[1] == f"observing: circuit half-open: {counts}, probing"
    assert lines[2] == f"observing: circuit closed (recovered): {counts} in 5.0 s"


def test__log_line__long_origin__is_cut(pages):
    pages.open(pages.circuit("k" * 250))
    assert log_line(told(pages)).startswith("circuit open: TTS: " + "k" * 194 + "… (errors")


def test__log_fields__are_plain(pages):
    guarded = pages.circuit()
    guarded.mode = Mode.OBSERVE
    pages.open(guarded)
    pages.journal.held_error(guarded, observed=True)
    for observed in (True, False, True):
        pages.journal.held_error(guarded)
        pages.journal.held_message(guarded, "a", observed=observed)
    (incident,) = pages.news()
    assert log_fields(incident) == {
        "circuit_origin": "TTS: E",
        "circuit_state": "open",
        "circuit_mode": "observe",
        "circuit_trigger": "errors",
        "circuit_incident": incident.id,
        "circuit_advice": "processor_fails",
        "circuit_held_errors": 4,
        "circuit_held_messages": 3,
        "circuit_observed_errors": 1,
        "circuit_observed_messages": 2,
    }


def test__log_fields__say_whose_call_it_was(called):
    called.open(called.circuit())
    fields = log_fields(called.news()[0])
    assert fields["circuit_origin"] == "TTS: E"
    assert {name: fields[f"circuit_{name}"] for name in CALL.model_dump()} == {
        "pipeline": "worker#0",
        "session": "s1",
        "process": 1,
        "host": "here",
        "pipecat": "1.9.0",
        "version": "0.1.0",
        "tags": {"tenant": "acme"},
    }


def test__quiet__closes__is_told_as_such(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.clock.advance(COOLDOWN)
    guarded.circuit.use()
    pages.clock.advance(WINDOW)
    pages.write(guarded, guarded.circuit.look())
    assert [i.ending for i in pages.news()] == [None, Ending.QUIET]


def test__log_level__an_opening_warns_and_what_follows_informs(pages):
    guarded = pages.circuit()
    pages.open(guarded)
    pages.clock.advance(COOLDOWN)
    pages.probe(guarded)
    pages.settle(guarded, success=True)
    assert [log_level(news) for news in pages.take()] == ["WARNING", "INFO", "INFO"]
