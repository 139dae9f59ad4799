"""One outage, one incident: a channel, and the errors that its failed deliveries make."""

import pytest

from pipecat_circuit_breaker._core.circuit import Reason
from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.news import Change
from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.incident import AdviceKind, Ending, ProbeOutcome, Trigger
from tests.core.core_parts import CHANNEL_COOLDOWN, CLOSED, COOLDOWN, HALF_OPEN, OPEN, OUT, TTS

DOWN = Trigger.CHANNEL_DOWN


@pytest.fixture
def channel(pages):
    return pages.channel()


@pytest.fixture
def errors(pages):
    return pages.circuit("SendError", OUT)


#
# Which circuits are one outage
#


def test__channel_then_its_errors__are_one_incident_and_one_piece_of_news(pages, channel, errors):
    message = pages.bench.message(text="chat")
    error, _ = pages.bench.error("SendError", OUT, message)
    pages.open(channel, DOWN, message)
    pages.clock.advance(3.0)
    pages.open(errors, Trigger.ERRORS, error)
    (incident,) = pages.news()
    assert (incident.origin, incident.trigger) == (errors.origin, Trigger.ERRORS)
    assert [step.hop for step in incident.chain] == [0, 1]
    assert (incident.openings, incident.state) == (1, OPEN)
    assert (incident.at - incident.opened_at).total_seconds() == 3.0
    assert pages.journal.open_incidents(Mode.GUARD) == (incident,)


def test__errors_then_their_channel__are_one_incident_of_the_errors(pages, channel, errors):
    pages.open(errors)
    pages.open(channel, DOWN, failing_kinds=("chat",))
    (incident,) = pages.news()
    assert (incident.origin, incident.trigger) == (errors.origin, Trigger.ERRORS)
    assert not incident.is_channel, "it is as it was when it began"
    assert incident.openings == 1


def test__errors_that_speak_for_a_channel__say_what_they_know(pages, channel, errors):
    pages.write(channel, channel.circuit.trip())
    pages.clock.advance(1.0)
    for _ in range(2):
        pages.write(errors, errors.circuit.fail())
        pages.clock.advance(1.0)
    pages.open(errors, Trigger.ERRORS, failing_kinds=("chat",))
    (incident,) = pages.news()
    assert (incident.failures, incident.rate) == (3, 1.0)
    assert incident.advice.kind is AdviceKind.CHANNEL_FAILS


def test__errors_that_no_delivery_made__are_another_incident(pages, channel, errors):
    errors.note_failure(None, by_delivery=False)
    pages.open(channel, DOWN)
    pages.open(errors)
    assert [i.origin for i in pages.news()] == [channel.origin, errors.origin]
    assert len(pages.journal.open_incidents(Mode.GUARD)) == 2


def test__channel_after_errors_that_no_delivery_made__is_another_incident(pages, channel, errors):
    errors.note_failure(None, by_delivery=False)
    pages.open(errors)
    pages.open(channel, DOWN)
    assert len(pages.news()) == 2


@pytest.mark.parametrize("channel_first", [True, False])
def test__errors_of_another_processor__are_another_incident(pages, channel, channel_first):
    elsewhere = pages.circuit("E", TTS)
    for guarded in (channel, elsewhere) if channel_first else (elsewhere, channel):
        pages.open(guarded)
    assert len(pages.news()) == 2


def test__two_kinds_of_errors_with_no_channel_down__are_two_incidents(pages, errors):
    pages.open(errors)
    pages.open(pages.circuit("OtherError", OUT))
    assert len(pages.news()) == 2


def test__two_destinations_of_one_output__are_one_incident(pages):
    for name in ("ann", "bob"):
        pages.open(pages.channel(name), DOWN)
    (incident,) = pages.news()
    assert incident.origin.destination == "ann"


def test__joins_a_later_outage_of_its_processor__not_one_of_another(pages, channel, errors):
    elsewhere = pages.circuit("E", TTS)
    pages.open(elsewhere)
    pages.open(channel, DOWN)
    pages.open(errors)
    assert [i.origin for i in pages.news()] == [elsewhere.origin, errors.origin]


def test__opened_by_a_chain_whose_first_failure_has_an_incident__is_part_of_it(pages):
    first, _ = pages.bench.error("E", TTS)
    last, _ = pages.bench.error("F", OUT, first)
    begun, then = pages.circuit("E", TTS), pages.circuit("F", OUT)
    pages.open(begun, Trigger.ERRORS, first)
    pages.clock.advance(1.0)
    pages.open(then, Trigger.ERRORS, last)
    (incident,) = pages.journal.open_incidents(Mode.GUARD)
    assert incident.origin == begun.origin
    assert incident.openings == 1
    assert len(pages.news()) == 1


def test__opened_by_a_chain_whose_first_failure_has_none__is_its_own(pages):
    first, _ = pages.bench.error("E", TTS)
    last, _ = pages.bench.error("F", OUT, first)
    pages.open(pages.circuit("F", OUT), Trigger.ERRORS, last)
    assert pages.news()[0].origin.kind == "F"


def test__opened_by_hand__is_an_incident_of_its_own(pages, channel, errors):
    pages.open(channel, DOWN)
    pages.write(errors, errors.circuit.isolate(), None)
    assert [i.origin for i in pages.news()] == [channel.origin, errors.origin]


def test__same_outage__are_the_circuits_that_are_open_in_it(pages, channel, errors):
    elsewhere = pages.circuit("E", TTS)
    pages.open(channel, DOWN)
    pages.open(errors)
    pages.open(elsewhere)
    assert pages.journal.of_same_outage(errors) == (channel, errors)
    assert pages.journal.of_same_outage(elsewhere) == (elsewhere,)
    pages.close(channel)
    assert pages.journal.of_same_outage(channel) == (channel,)
    assert pages.journal.of_same_outage(errors) == (errors,)


#
# One beginning and one end
#


@pytest.mark.parametrize("is_told_between", [True, False])
def test__outage__of_several_circuits__has_one_beginning_and_one_end(
    pages, channel, errors, is_told_between
):
    changes = []
    steps = (
        lambda: pages.open(channel, DOWN),
        lambda: pages.open(errors),
        lambda: pages.close(errors),
        lambda: pages.open(errors),
        lambda: pages.close(channel),
        lambda: pages.close(errors),
    )
    for step in steps:
        step()
        if is_told_between:
            changes += pages.take()
    changes += pages.take()
    assert [news.change for news in changes] == [Change.OPENED, Change.CLOSED]


def test__outage__two_circuits_are_probed_in_one_breath__is_one_piece_of_news(pages):
    ann, bob = pages.channel("ann"), pages.channel("bob")
    for channel in (ann, bob):
        pages.open(channel, DOWN)
    pages.clock.advance(CHANNEL_COOLDOWN)
    for channel in (ann, bob):
        pages.probe(channel)
    for channel in (ann, bob):
        pages.settle(channel, success=False)
    news = pages.take()
    assert [n.change for n in news] == [Change.OPENED, Change.PROBED, Change.REOPENED]
    assert len(news[-1].incident.probes) == 2
    assert news[-1].incident.openings == 3


def test__outage__probed_and_reopened_once_told__each_is_news(pages, channel):
    pages.open(channel, DOWN)
    told = []
    for _ in range(2):
        pages.clock.advance(CHANNEL_COOLDOWN)
        pages.probe(channel)
        told += pages.take()
        pages.settle(channel, success=False)
        told += pages.take()
    assert [n.change for n in told] == [
        Change.OPENED,
        Change.PROBED,
        Change.REOPENED,
        Change.PROBED,
        Change.REOPENED,
    ]


#
# Until all is closed
#


def test__one_of_two_closes__is_not_told_and_the_incident_goes_on(pages, channel, errors):
    pages.open(channel, DOWN)
    pages.open(errors)
    pages.news()
    pages.close(channel, Reason.PASSED)
    assert pages.news() == []
    (incident,) = pages.journal.open_incidents(Mode.GUARD)
    assert (incident.state, incident.ending) == (OPEN, None)
    pages.clock.advance(2.0)
    pages.close(errors, Reason.QUIET)
    (closed,) = pages.news()
    assert (closed.id, closed.state, closed.ending) == (incident.id, CLOSED, Ending.QUIET)
    assert closed.secs == 2.0
    assert pages.journal.open_incidents(Mode.GUARD) == ()


def test__one_of_two_has_closed__what_is_held_by_either_counts_for_the_incident(
    pages, channel, errors
):
    pages.open(channel, DOWN)
    pages.open(errors)
    pages.journal.held_message(channel, "chat")
    pages.close(channel)
    pages.journal.held_error(errors)
    (incident,) = pages.journal.open_incidents(Mode.GUARD)
    assert (incident.held_errors, incident.held_messages) == (1, 1)


def test__one_of_two_opens_again__joins_and_its_opening_is_not_counted(pages, channel, errors):
    pages.open(channel, DOWN)
    pages.open(errors)
    pages.close(channel)
    pages.open(channel, DOWN)
    (incident,) = pages.journal.open_incidents(Mode.GUARD)
    assert incident.openings == 1
    assert (channel.openings, errors.openings) == (2, 1)


def test__state__is_that_of_the_worst_of_its_circuits(pages, channel, errors):
    pages.open(channel, DOWN)
    pages.open(errors)
    pages.clock.advance(CHANNEL_COOLDOWN)
    pages.probe(channel)
    assert pages.journal.open_incidents(Mode.GUARD)[0].state is OPEN
    pages.clock.advance(COOLDOWN)
    pages.probe(errors)
    assert pages.journal.open_incidents(Mode.GUARD)[0].state is HALF_OPEN


def test__probe_of_the_channel__fails__is_told_and_the_errors_own_is_not(pages, channel, errors):
    # Where there is a channel, what becomes of it is what is told.
    pages.open(channel, DOWN)
    pages.open(errors)
    pages.clock.advance(COOLDOWN)
    pages.probe(errors, quiet_closes=True)
    pages.settle(errors, success=False)
    assert [i.state for i in pages.news()] == [OPEN]
    pages.probe(channel)
    pages.settle(channel, success=False)
    told = pages.news()
    assert [i.state for i in told] == [HALF_OPEN, OPEN]
    assert [p.outcome for p in told[-1].probes] == [ProbeOutcome.FAILED]
    assert told[-1].openings == 2
    assert [(t.openings, t.probes_failed) for t in pages.journal.totals] == [(2, 1), (2, 1)]


def test__channel_has_closed__the_errors_speak_for_what_is_left(pages, channel, errors):
    pages.open(channel, DOWN)
    pages.open(errors)
    pages.close(channel)
    pages.news()
    pages.clock.advance(COOLDOWN)
    pages.probe(errors, quiet_closes=True)
    pages.settle(errors, success=False)
    told = pages.news()
    assert [i.state for i in told] == [HALF_OPEN, OPEN]
    assert told[-1].openings == 2


def test__time_to_probe__is_that_of_the_first_to_probe(pages, channel, errors):
    pages.open(channel, DOWN)
    pages.open(errors)
    assert pages.news()[0].probe_in_secs == CHANNEL_COOLDOWN
    pages.clock.advance(CHANNEL_COOLDOWN)
    pages.probe(channel)
    assert pages.news()[0].probe_in_secs == COOLDOWN - CHANNEL_COOLDOWN


def test__remark__of_errors_that_joined__is_of_the_incident(pages, channel, errors):
    pages.open(channel, DOWN)
    pages.open(errors, Trigger.RECURSION)
    assert "set each other off" in pages.journal.opening_remark(errors)


def test__open_incidents__it_is_over_but_not_told__is_one_of_them(pages, channel):
    pages.open(channel, DOWN)
    pages.close(channel)
    (incident,) = pages.journal.open_incidents(Mode.GUARD)
    assert (incident.state, incident.ending) == (CLOSED, Ending.BY_HAND)
    pages.news()
    assert pages.journal.open_incidents(Mode.GUARD) == ()


def test__open_incidents__it_is_over_but_not_told_and_the_next_has_begun__are_told_apart(
    pages, channel
):
    pages.open(channel, DOWN)
    pages.close(channel)
    pages.open(channel, DOWN)
    incidents = pages.journal.open_incidents(Mode.GUARD)
    assert [(i.state, i.ending) for i in incidents] == [(CLOSED, Ending.BY_HAND), (OPEN, None)]


#
# Who answers the errors
#


def advice_of(pages, guarded, **more):
    pages.open(guarded, DOWN, **more)
    return pages.news()[-1].advice


def test__answer_that_fails_in_its_turn__is_named(pages, errors):
    pages.journal.answered([errors.origin], "Notifier", "chat")
    advice = advice_of(pages, errors, failing_kinds=("chat",))
    assert (advice.kind, advice.processor) == (AdviceKind.PROCESSOR_ANSWERS_ERRORS, "Notifier")


def test__answer_in_another_kind__the_latest_is_what_counts(pages, errors):
    pages.journal.answered([errors.origin], "Notifier", "chat")
    pages.journal.answered([errors.origin], "Notifier", "other")
    assert advice_of(pages, errors, failing_kinds=("chat",)).kind is AdviceKind.CHANNEL_FAILS


def test__answers_of_many__the_first_16_are_kept(pages):
    for who, is_named in (("P15", True), ("P16", False)):
        errors = pages.circuit("SendError", OUT)
        for n in range(17):
            kind = "chat" if f"P{n}" == who else f"kind {n}"
            pages.journal.answered([errors.origin], f"P{n}", kind)
        advice = advice_of(pages, errors, failing_kinds=("chat",))
        assert (advice.processor == who) is is_named
        pages.close(errors)


def test__answers_of_many__one_that_is_known__may_answer_otherwise(pages, errors):
    for n in range(16):
        pages.journal.answered([errors.origin], f"P{n}", f"kind {n}")
    pages.journal.answered([errors.origin], "P3", "chat")
    assert advice_of(pages, errors, failing_kinds=("chat",)).processor == "P3"


@pytest.mark.parametrize(("others", "is_named"), [(63, True), (64, False)])
def test__answers_to_many_origins__the_latest_64_are_kept(pages, errors, others, is_named):
    pages.journal.answered([errors.origin], "Notifier", "chat")
    for n in range(others):
        pages.journal.answered([Origin.of(OUT, f"F{n}")], "Notifier", "chat")
    pages.journal.answered([Origin.of(OUT, f"F{others - 1}")], "Other", "chat")
    named = advice_of(pages, errors, failing_kinds=("chat",)).processor == "Notifier"
    assert named is is_named


@pytest.mark.parametrize(("others", "is_named"), [(63, True), (64, False)])
def test__queued_for_many_origins__the_latest_64_are_kept(pages, errors, others, is_named):
    pages.journal.queued([errors.origin], "TTSSpeakFrame")
    for n in range(others):
        pages.journal.queued([Origin.of(OUT, f"F{n}")], "TTSSpeakFrame")
    pages.journal.queued([Origin.of(OUT, f"F{others - 1}")], "TTSSpeakFrame")
    kind = advice_of(pages, errors, failing_kinds=("chat",)).kind
    assert (kind is AdviceKind.APPLICATION_ANSWERS_ERRORS) is is_named


def test__queued__the_latest_is_named(pages, errors):
    pages.journal.queued([errors.origin], "TextFrame")
    pages.journal.queued([errors.origin, Origin.of(TTS, "E")], "TTSSpeakFrame")
    assert "it queues TTSSpeakFrame" in advice_of(pages, errors).text


@pytest.mark.parametrize("how", ["answered", "queued"])
def test__answers__are_forgotten_with_the_incident(pages, errors, how):
    if how == "answered":
        pages.journal.answered([errors.origin], "Notifier", "chat")
    else:
        pages.journal.queued([errors.origin], "TTSSpeakFrame")
    assert advice_of(pages, errors, failing_kinds=("chat",)).kind is not AdviceKind.CHANNEL_FAILS
    pages.close(errors)
    assert advice_of(pages, errors, failing_kinds=("chat",)).kind is AdviceKind.CHANNEL_FAILS


def test__answers__the_channel_closes_last__are_forgotten_with_the_incident(pages, channel, errors):
    pages.journal.queued([errors.origin], "TTSSpeakFrame")
    pages.open(channel, DOWN)
    pages.open(errors)
    pages.close(errors)
    pages.close(channel)
    assert advice_of(pages, errors, failing_kinds=("chat",)).kind is AdviceKind.CHANNEL_FAILS
