"""What is counted: what was held back, in which mode, and the totals."""

import pytest

from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.journal import Opening
from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.incident import Trigger
from tests.core.core_parts import CLOSED, COOLDOWN, OPEN, OUT, TTS

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
