"""Counts of what was held back, and of what a breaker that observes would have held back."""

import pytest

from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.origin import ANY_KIND, CHANNEL_DOWN, Origin
from tests.core.core_parts import COOLDOWN, HALF_OPEN, OPEN, OUT, TTS, down
from tests.support.core import Processor


def counts(bench):
    """What the totals say: errors that were held or would have been, observed ones, messages."""
    totals = bench.breaker.totals
    return tuple(
        sum(getattr(t, name) for t in totals)
        for name in ("held_errors", "observed_errors", "held_messages", "observed_messages")
    )


def test__guard__nothing_of_what_is_held_was_only_observed(bench):
    down(bench)
    bench.send(ok=True)
    bench.errors(5)
    assert counts(bench) == (2, 0, 1, 0)
    assert {(i.mode, i.observed_errors, i.observed_messages) for i in bench.told()} == {
        (Mode.GUARD, 0, 0)
    }


def test__observe__all_of_what_is_held_was_only_observed(bench):
    bench.breaker.set_mode(Mode.OBSERVE, None)
    down(bench)
    bench.send(ok=True)
    bench.errors(5)
    assert counts(bench) == (2, 2, 1, 1)
    told = {(i.mode, i.held_errors, i.observed_errors) for i in bench.breaker.open_incidents}
    assert told == {(Mode.OBSERVE, 0, 0), (Mode.OBSERVE, 2, 2)}


def test__observe__for_a_while__what_was_held_and_what_would_have_been_are_told_apart(bench):
    bench.errors(4)
    bench.breaker.set_mode(Mode.OBSERVE, None)
    bench.errors(2)
    bench.breaker.set_mode(Mode.GUARD, None)
    bench.errors(1)
    (incident,) = bench.breaker.open_incidents
    assert (incident.mode, incident.held_errors, incident.observed_errors) == (Mode.GUARD, 4, 2)


def test__observe__of_one_circuit__its_incident_and_snapshot_say_so(bench):
    bench.errors(3)
    bench.errors(3, "F")
    bench.breaker.set_mode(Mode.OBSERVE, Origin.of(TTS, "E"))
    assert bench.errors(1) == [True]
    assert bench.errors(1, "F") == [False]
    modes = {"E": Mode.OBSERVE, "F": Mode.GUARD}
    assert {c.origin.kind: c.mode for c in bench.breaker.circuits} == modes
    assert {i.origin.kind: i.mode for i in bench.breaker.open_incidents} == modes
    assert {i.origin.kind: i.mode for i in bench.told()} == modes
    assert counts(bench) == (2, 1, 0, 0)


def test__observe__of_a_channel__its_messages_would_have_been_held_and_the_errors_are(bench):
    for kind in ("app", "error", "app"):
        bench.send_with_error(kind)
    bench.breaker.set_mode(Mode.OBSERVE, Origin.of(OUT, CHANNEL_DOWN))
    _, verdict = bench.send_with_error()
    assert not verdict.passes
    (incident,) = bench.told()
    assert incident.mode is Mode.GUARD, "one of its circuits does"
    assert (incident.held_errors, incident.observed_errors) == (1, 0)
    assert (incident.held_messages, incident.observed_messages) == (1, 1)


def test__error__one_of_two_that_hold_it_only_observes__counts_for_the_one_that_guards(bench):
    link, _ = bench.chain(3, kinds=("E", "F", "G"))
    for n in range(12):
        bench.error(f"F{n}", OUT)
    bench.breaker.set_mode(Mode.OBSERVE, Origin.of(OUT, ANY_KIND))
    assert not bench.error("H", OUT, link)[1].passes
    assert {c.origin.kind: c.held_errors for c in bench.breaker.circuits if c.held_errors} == {
        "E": 1
    }
    assert counts(bench) == (1, 0, 0, 0)


def test__error__its_own_circuit_only_observes__passes_though_another_guards(bench):
    for n in range(12):
        bench.error(f"F{n}")
    bench.breaker.set_mode(Mode.OBSERVE, Origin.of(TTS, "F11"))
    assert bench.errors(1, "F11") == [True]
    assert bench.state(ANY_KIND) is OPEN
    assert counts(bench) == (1, 1, 0, 0)


def test__error__both_that_hold_it_only_observe__counts_for_the_first(bench):
    bench.breaker.set_mode(Mode.OBSERVE, None)
    for n in range(12):
        bench.error(f"F{n}")
    bench.errors(3, "F1")
    assert {c.origin.kind: c.held_errors for c in bench.breaker.circuits if c.held_errors} == {
        ANY_KIND: 3
    }


def test__error_that_must_pass__goes_and_is_held_back_by_nobody(bench):
    bench.errors(3)
    _, verdict = bench.error(must_pass=True)
    assert (verdict.passes, verdict.remark) == (True, "")
    assert bench.errors(1) == [False]
    assert counts(bench) == (1, 0, 0, 0)


def test__error_that_must_pass__opens_a_circuit_and_says_nothing(bench):
    bench.errors(2)
    _, verdict = bench.error(must_pass=True)
    assert (verdict.passes, verdict.remark) == (True, "")
    assert bench.state() is OPEN


def test__error_that_must_pass__is_the_probe__says_nothing(bench):
    bench.errors(3)
    bench.clock.advance(COOLDOWN)
    _, verdict = bench.error(must_pass=True)
    assert (verdict.passes, verdict.remark) == (True, "")
    assert bench.state() is HALF_OPEN
    assert counts(bench) == (0, 0, 0, 0)


def test__error_that_must_pass__reopens_what_it_proves_to_fail(bench):
    bench.errors(3)
    bench.clock.advance(COOLDOWN)
    bench.error()
    assert bench.error(must_pass=True)[1].passes
    assert bench.state() is OPEN


def recurring(bench):
    """TTS fails at what its own failures set off; such a message."""
    link, _ = bench.chain(3)
    assert bench.state() is OPEN
    return bench.message(link)


def at_tts(bench, message):
    return bench.may_come(message, handled="Message")


@pytest.mark.parametrize("mode", [Mode.GUARD, Mode.OBSERVE])
def test__message__that_recurs__is_counted(bench, mode):
    bench.breaker.set_mode(mode, None)
    is_observed = mode is Mode.OBSERVE
    assert at_tts(bench, recurring(bench)) is is_observed
    assert counts(bench) == (0, 0, 1, int(is_observed))
    (incident,) = bench.told()
    assert (incident.held_messages, incident.observed_messages) == (1, int(is_observed))


@pytest.mark.parametrize("mode", [Mode.GUARD, Mode.OBSERVE])
def test__message__several_circuits_of_a_processor_would_hold_it__counts_once(bench, mode):
    bench.breaker.set_mode(mode, None)
    link, _ = bench.chain(9, kinds=("E", "F"))
    bench.errors(4, "F", handled="Message")
    for n in range(12):
        bench.error(f"F{n}", handled="Message")
    assert [bench.state(kind) for kind in ("E", "F", ANY_KIND)] == [OPEN] * 3
    before = counts(bench)[2:]
    at_tts(bench, bench.message(link))
    is_observed = mode is Mode.OBSERVE
    held, observed = counts(bench)[2:]
    assert (held - before[0], observed - before[1]) == (1, int(is_observed))


@pytest.mark.parametrize("mode", [Mode.GUARD, Mode.OBSERVE])
def test__message__several_circuits_of_an_output_would_hold_it__counts_once(bench, mode):
    for n in range(12):
        bench.send(f"kind {n % 3}", to=str(n), ok=False)
    bench.breaker.open(Origin.of(OUT, "by hand"))
    bench.breaker.set_mode(mode, None)
    is_observed = mode is Mode.OBSERVE
    assert bench.send("kind 1", to="1", ok=True) is (True if is_observed else None)
    assert counts(bench) == (0, 0, 1, int(is_observed))


def looping(bench):
    """An output over which nothing gets through, and a message that its errors set off."""
    cause = None
    for kind in ("app", "error", "app"):
        message = bench.message(cause, text=kind)
        delivery = bench.begin(kind, link=message)
        cause, _ = bench.error("SendError", OUT, message, delivery=delivery, handled="Message")
    assert [bench.channel_state(), bench.state("SendError", OUT)] == [OPEN, OPEN]
    return bench.message(cause)


@pytest.mark.parametrize("mode", [Mode.GUARD, Mode.OBSERVE])
def test__message__recurs_at_an_output_that_is_down__counts_once(bench, mode):
    bench.breaker.set_mode(mode, None)
    link = looping(bench)
    is_observed = mode is Mode.OBSERVE
    assert (bench.begin(link=link) is not None) is is_observed
    assert counts(bench)[2:] == (1, int(is_observed))


@pytest.mark.parametrize(
    ("observes", "guards"), [(CHANNEL_DOWN, "SendError"), ("SendError", CHANNEL_DOWN)]
)
def test__message__one_circuit_of_an_output_guards__counts_once_and_as_held(
    bench, observes, guards
):
    link = looping(bench)
    bench.breaker.set_mode(Mode.OBSERVE, Origin.of(OUT, observes))
    assert bench.begin(link=link) is None
    assert counts(bench)[2:] == (1, 0)


def test__observe__message_comes_to_two_doors__counts_at_the_first(bench):
    bench.breaker.set_mode(Mode.OBSERVE, None)
    message = recurring(bench)
    down(bench)
    assert at_tts(bench, message)
    assert bench.begin(link=message) is not None
    assert counts(bench) == (0, 0, 1, 1)
    assert {c.origin.kind: c.held_messages for c in bench.breaker.circuits} == {
        "E": 1,
        CHANNEL_DOWN: 0,
    }


def test__observe__message_comes_to_one_door_again__counts_once(bench):
    bench.breaker.set_mode(Mode.OBSERVE, None)
    message = recurring(bench)
    assert [at_tts(bench, message) for _ in range(2)] == [True] * 2
    assert counts(bench) == (0, 0, 1, 1)


@pytest.mark.parametrize("mode", [Mode.GUARD, Mode.OBSERVE])
def test__message__two_outputs_would_hold_it__counts_once_each(bench, mode):
    bench.breaker.set_mode(mode, None)
    other = bench.breaker.output(Processor("Other"))
    for output in (bench.output, other):
        for kind in ("app", "error", "app"):
            bench.send(kind, output=output, ok=False)
    message = bench.message()
    for output in (bench.output, other):
        bench.begin(link=message, output=output)
    is_observed = mode is Mode.OBSERVE
    assert counts(bench) == (0, 0, 2, 2 * is_observed)


def test__observe__next_message__counts_again(bench):
    bench.breaker.set_mode(Mode.OBSERVE, None)
    down(bench)
    bench.sends(3, ok=True)
    assert counts(bench) == (0, 0, 3, 3)


def test__observe__message_that_no_circuit_would_hold__counts_where_one_does(bench):
    bench.breaker.set_mode(Mode.OBSERVE, None)
    bench.errors(3, handled="Message")
    down(bench)
    message = bench.message()
    assert at_tts(bench, message)
    bench.begin(link=message)
    assert counts(bench) == (0, 0, 1, 1)


def test__disabled__message_that_recurs__is_not_counted(bench):
    message = recurring(bench)
    bench.breaker.set_mode(Mode.DISABLED, None)
    assert at_tts(bench, message)
    assert counts(bench) == (0, 0, 0, 0)


def test__guard__of_one_circuit_of_a_breaker_that_is_disabled__holds_what_recurs(bench):
    message = recurring(bench)
    bench.breaker.set_mode(Mode.DISABLED, None)
    bench.breaker.set_mode(Mode.GUARD, Origin.of(TTS, "E"))
    assert not at_tts(bench, message)
    assert counts(bench) == (0, 0, 1, 0)
