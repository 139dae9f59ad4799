"""The breaker as a whole: control by hand, modes, giving up, and what it keeps.

When a circuit opens, what is held back and how it recovers: test_breaker_opens.py,
test_breaker_holds.py and test_breaker_recovers.py.
"""

import gc
import tracemalloc
from datetime import UTC, datetime

import pytest
from core_parts import (
    CHANNEL_COOLDOWN,
    CLOSED,
    COOLDOWN,
    HALF_OPEN,
    MAX_CIRCUITS,
    OPEN,
    OUT,
    RTVI,
    TTS,
    WINDOW,
    Bench,
    Processor,
)

from pipecat_circuit_breaker._core.advice import ChannelFacts
from pipecat_circuit_breaker._core.breaker import EVERYONE, Breaker
from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.news import Change
from pipecat_circuit_breaker._core.origin import ANY_KIND, CHANNEL_DOWN, Origin
from pipecat_circuit_breaker.incident import AdviceKind, Call, Ending, ProbeOutcome, Trigger


def down(bench, to=None):
    for kind in ("app", "error", "app"):
        bench.send(kind, to=to, ok=False)
    bench.told()


#
# By hand
#


def test__open__holds_every_kind_until_it_is_closed(bench):
    origin = Origin.of(OUT, "by hand")
    bench.breaker.open(origin)
    bench.clock.advance(1e9)
    assert [bench.send(kind, ok=True) for kind in "ab"] == [None, None]
    assert bench.send(to="ann", ok=True) is None
    assert bench.send(output=bench.breaker.output(TTS), ok=True) is True
    bench.breaker.close(origin)
    assert bench.send(ok=True) is True
    assert [(i.state, i.trigger, i.chain, i.ending) for i in bench.told()] == [
        (OPEN, Trigger.MANUAL, (), None),
        (CLOSED, Trigger.MANUAL, (), Ending.BY_HAND),
    ]


def test__open__of_errors__holds_them(bench):
    bench.breaker.open(Origin.of(TTS, "E"))
    bench.clock.advance(1e9)
    bench.breaker.used(TTS.id, "SpeakFrame")
    bench.clock.advance(1e9)
    assert bench.errors(2) == [False, False]
    assert bench.errors(1, "F") == [True]


def test__open__of_one_destination__leaves_the_others(bench):
    bench.breaker.open(Origin.of(OUT, "by hand", "ann"))
    assert bench.send(to="ann", ok=True) is None
    assert bench.send(to="bob", ok=True) is True
    assert bench.send(ok=True) is True


def test__open__of_a_channel_that_is_down__no_kind_is_tried_any_more(bench):
    bench.sends(3, "bad", ok=False)
    bench.breaker.open(Origin.of(OUT, CHANNEL_DOWN))
    assert bench.send("good", ok=True) is None


def test__open__of_an_output_as_a_whole__holds_every_destination(bench):
    for n in range(12):
        bench.send(f"kind {n % 3}", to=str(n), ok=False)
    assert bench.send(to="ann", ok=True) is None
    bench.breaker.open(Origin.of(OUT, CHANNEL_DOWN, EVERYONE))
    assert bench.send(to="ann", ok=True) is None


def test__open__a_success_of_what_was_on_its_way__does_not_close_it(bench):
    bench.send(ok=False)
    origin = Origin.of(OUT, CHANNEL_DOWN)
    bench.breaker.open(origin)
    delivery = bench.output.channel(None)
    assert delivery.guarded.circuit.is_isolated
    bench.breaker.set_mode(Mode.DISABLED, origin)
    assert bench.send(ok=True) is True
    bench.breaker.set_mode(Mode.GUARD, None)
    assert bench.send(ok=True) is None


def test__open_and_close__all__is_what_there_is(bench):
    bench.error("E")
    bench.error("F", OUT)
    bench.breaker.open(None)
    assert [c.state for c in bench.breaker.circuits] == [OPEN, OPEN]
    bench.breaker.close(None)
    assert [c.state for c in bench.breaker.circuits] == [CLOSED, CLOSED]
    assert [c.failures for c in bench.breaker.circuits] == [0, 0]


def test__open__while_a_probe_is_on_its_way__the_probe_is_void(bench):
    bench.errors(3)
    bench.clock.advance(COOLDOWN)
    bench.error()
    assert bench.state() is HALF_OPEN
    bench.breaker.open(Origin.of(TTS, "E"))
    assert [probe.outcome for probe in bench.told()[-1].probes] == [ProbeOutcome.VOID]
    (totals,) = bench.breaker.totals
    assert (totals.probes_passed, totals.probes_failed, totals.probes_timed_out) == (0, 0, 0)


def test__close__of_a_closed_circuit__clears_its_window(bench):
    bench.errors(2)
    bench.breaker.close(Origin.of(TTS, "E"))
    assert bench.breaker.circuits[0].failures == 0
    assert bench.told() == []
    assert bench.errors(3) == [True] * 3


@pytest.mark.parametrize("step", ["close", "reset"])
def test__close_or_reset__one_of_an_outage__closes_all_of_it(bench, step):
    for kind in ("app", "error", "app"):
        bench.send_with_error(kind)
    bench.errors(3)
    getattr(bench.breaker, step)(Origin.of(OUT, "SendError"))
    assert not bench.breaker.has_open_at(OUT.id)
    assert bench.state() is OPEN
    assert bench.send(ok=True) is True
    endings = [i.ending for i in bench.told() if i.ending]
    assert endings == [Ending.BY_HAND]


def test__reset__one_or_all__are_forgotten(bench):
    for kind in "EFG":
        bench.error(kind)
    bench.breaker.reset(Origin.of(TTS, "F"))
    assert [c.origin.kind for c in bench.breaker.circuits] == ["E", "G"]
    bench.breaker.reset(None)
    assert bench.breaker.circuits == ()
    assert len(bench.breaker.totals) == 3, "what was counted never goes down"


def test__reset__all_of_an_outage__are_forgotten_once(bench):
    for kind in ("app", "error", "app"):
        bench.send_with_error(kind)
    bench.breaker.reset(None)
    assert bench.breaker.circuits == ()
    assert bench.sends(2, ok=False) == [False, False]
    assert bench.channel_state() is CLOSED


@pytest.mark.parametrize("step", ["close", "reset"])
def test__close_or_reset__any_kind__its_count_begins_anew(bench, step):
    for n in range(12):
        bench.error(f"F{n}")
    getattr(bench.breaker, step)(Origin.of(TTS, ANY_KIND))
    bench.error("G")
    assert bench.state(ANY_KIND) is not OPEN


@pytest.mark.parametrize("step", ["close", "reset"])
def test__close_or_reset__any_kind_that_was_opened_by_hand__is_closed(bench, step):
    # Nothing has failed: there is no count to begin anew.
    bench.breaker.open(Origin.of(TTS, ANY_KIND))
    getattr(bench.breaker, step)(Origin.of(TTS, ANY_KIND))
    assert bench.errors(1) == [True]


def test__close__of_one_destination__leaves_the_count_of_the_whole(bench):
    for to in (*"012345678", "ann"):
        bench.send(to=to, ok=True)
    for to in "01234567":
        bench.send(to=to, ok=False)
    bench.sends(3, to="ann", ok=False)
    bench.breaker.close(Origin.of(OUT, CHANNEL_DOWN, "ann"))
    assert bench.channel_state(EVERYONE) is None
    bench.send(to="8", ok=False)
    assert bench.channel_state(EVERYONE) is OPEN


@pytest.mark.parametrize("step", ["close", "reset"])
def test__close_or_reset__an_output_that_is_down_only_as_a_whole__its_count_begins_anew(
    bench, step
):
    for n in range(12):
        bench.send(to=str(n), ok=True)
    for n in range(12):
        bench.send(to=str(n), ok=False)
    assert {c.origin.destination for c in bench.breaker.circuits if c.state is OPEN} == {EVERYONE}
    getattr(bench.breaker, step)(Origin.of(OUT, CHANNEL_DOWN, EVERYONE))
    bench.send(to="1", ok=False)
    assert bench.channel_state(EVERYONE) is not OPEN


@pytest.mark.parametrize("step", ["close", "reset"])
def test__close_or_reset__an_output_as_a_whole__its_count_begins_anew(bench, step):
    for n in range(12):
        bench.send(f"kind {n % 3}", to=str(n), ok=False)
    getattr(bench.breaker, step)(Origin.of(OUT, CHANNEL_DOWN, EVERYONE))
    bench.send(to="new", ok=False)
    assert bench.channel_state(EVERYONE) is not OPEN


@pytest.mark.parametrize("step", ["close", "reset"])
def test__control__of_an_unknown_origin__is_refused_with_it(bench, step):
    message = "^expected the origin of one of `circuits`, got TTS: nothing$"
    with pytest.raises(ValueError, match=message):
        getattr(bench.breaker, step)(Origin.of(TTS, "nothing"))
    with pytest.raises(ValueError, match=message):
        bench.breaker.set_mode(Mode.OBSERVE, Origin.of(TTS, "nothing"))


def test__finish__the_pipeline_is_over__every_incident_ends_so(bench):
    bench.errors(3)
    bench.sends(3, ok=False)
    bench.breaker.finish()
    assert not bench.breaker.any_open
    assert [i.ending for i in bench.told()] == [None] * 2 + [Ending.PIPELINE_OVER] * 2
    assert bench.breaker.open_incidents == ()


#
# Modes
#


def test__mode__of_one_circuit__wins_until_it_is_set_for_all(bench):
    down(bench)
    origin = Origin.of(OUT, CHANNEL_DOWN)
    bench.breaker.set_mode(Mode.OBSERVE, origin)
    assert bench.breaker.mode is Mode.GUARD
    assert bench.send(ok=True) is True
    bench.breaker.set_mode(Mode.GUARD, None)
    assert bench.breaker.mode is Mode.GUARD
    assert bench.send(ok=True) is None


def test__mode__set_for_all__circuits_follow_the_breakers_from_then_on(bench):
    bench.errors(3)
    bench.breaker.set_mode(Mode.OBSERVE, None)
    bench.breaker.mode = Mode.GUARD
    assert bench.errors(1) == [False]


def test__observe__counts_opens_and_tells_but_lets_all_pass(bench):
    bench.breaker.set_mode(Mode.OBSERVE, None)
    assert bench.errors(6) == [True] * 6
    assert bench.breaker.circuits[0].held_errors == 3
    down(bench)
    assert bench.sends(2, ok=True) == [True] * 2
    assert bench.channel_state() is OPEN, "what would have been held back decides nothing"
    link, _ = bench.chain(2)
    assert bench.may_come(bench.message(link))
    assert sum(t.held_messages for t in bench.breaker.totals) == 2


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.DISABLED])
def test__observe_or_disabled__nobody_connected__is_sent_and_so_not_counted_as_unsent(bench, mode):
    bench.breaker.set_mode(mode, None)
    bench.output.has_ended = True
    assert bench.sends(5, ok=False) == [False] * 5
    assert bench.told() == []
    assert bench.breaker.totals == ()
    assert (bench.output.absence.since, bench.output.absence.messages) == (None, 0)


def test__observe__error_that_opens_or_probes__says_nothing(bench):
    bench.breaker.set_mode(Mode.OBSERVE, None)
    verdicts = [bench.error()[1] for _ in range(3)]
    bench.clock.advance(COOLDOWN)
    verdicts.append(bench.error()[1])
    assert [(v.passes, v.remark) for v in verdicts] == [(True, "")] * 4
    assert bench.state() is HALF_OPEN


#
# Modes: what was held back, and what would have been
#


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


def test__observe__of_one_of_two_circuits_that_hold__the_other_guards(bench):
    link, _ = bench.chain(3, kinds=("E", "F", "G"))
    bench.errors(2, "H")
    bench.error("H")
    bench.breaker.set_mode(Mode.OBSERVE, Origin.of(TTS, "E"))
    assert bench.error("I", OUT, link)[1].passes
    assert not bench.error("H", TTS, link)[1].passes


@pytest.mark.parametrize("why", ["the channel is down", "nobody is connected"])
def test__observe__message_that_would_not_have_been_sent__goes_as_itself(bench, why):
    # What comes of it is known to be on its account, though its outcome decides nothing.
    bench.breaker.set_mode(Mode.OBSERVE, None)
    down(bench)
    bench.output.is_connected = why == "the channel is down"
    link = bench.message()
    delivery = bench.begin(link=link)
    assert (delivery.link, delivery.output) == (link, bench.output)


def test__disabled__nothing_is_noted_and_all_passes(bench):
    bench.breaker.set_mode(Mode.DISABLED, None)
    assert bench.errors(20) == [True] * 20
    assert bench.breaker.circuits == ()
    assert bench.sends(20, ok=False) == [False] * 20
    assert bench.told() == []


def test__disabled__circuit_that_has_counted_before__counts_nothing(bench):
    bench.errors(2)
    bench.breaker.set_mode(Mode.DISABLED, None)
    bench.errors(20)
    bench.breaker.set_mode(Mode.GUARD, None)
    assert bench.state() is CLOSED
    assert bench.errors(2) == [True, False]


def test__disabled__circuits_that_are_open__hold_nothing_and_decide_nothing(bench):
    bench.errors(3)
    down(bench)
    bench.breaker.set_mode(Mode.DISABLED, None)
    assert bench.errors(3) == [True] * 3
    assert bench.sends(3, ok=False) == [False] * 3
    assert [c.held_errors + c.held_messages for c in bench.breaker.circuits] == [0, 0]


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


def test__disabled__of_one_circuit__the_others_guard(bench):
    bench.errors(3)
    bench.breaker.set_mode(Mode.DISABLED, Origin.of(TTS, "E"))
    assert bench.errors(3) == [True] * 3
    assert bench.errors(4, "F") == [True] * 3 + [False]
    assert bench.state() is OPEN


def test__guard__of_one_circuit_of_a_breaker_that_is_disabled__holds(bench):
    bench.errors(3)
    bench.breaker.set_mode(Mode.DISABLED, None)
    bench.breaker.set_mode(Mode.GUARD, Origin.of(TTS, "E"))
    assert bench.errors(1) == [False]
    assert bench.errors(4, "F") == [True] * 4


def test__disabled__of_a_circuit_that_a_chain_began__is_not_opened_by_depth(bench):
    bench.error("E")
    bench.breaker.set_mode(Mode.DISABLED, Origin.of(TTS, "E"))
    bench.told()
    _, verdict = bench.chain(3, kinds=("E", "F", "G"))
    assert verdict.remark == ""
    assert bench.told() == []


def test__disabled__of_any_kind__lets_errors_pass(bench):
    for n in range(12):
        bench.error(f"F{n}")
    bench.breaker.set_mode(Mode.DISABLED, Origin.of(TTS, ANY_KIND))
    assert bench.errors(1, "G") == [True]


#
# Giving up
#


def test__gives_up__is_asked_with_openings_and_seconds_and_told_once_until_it_closes(clock):
    asked = []
    bench = Bench(clock, max_errors=1, gives_up=lambda n, secs: asked.append((n, secs)) or n >= 2)
    for _ in range(3):
        bench.errors(2)
        clock.advance(COOLDOWN)
    assert asked == [(1, 0.0), (2, 5.0)]
    bench.breaker.close(None)
    bench.error()
    assert asked[2:] == [(1, 0.0)]
    assert [n.gives_up for n in bench.take() if n.incident.state is OPEN] == [
        False,
        True,
        False,
        False,
    ]


def test__gives_up__a_channel_that_is_tried_often__is_not_asked(clock):
    asked = []
    bench = Bench(clock, gives_up=lambda n, secs: asked.append(n) or True)
    down(bench)
    for _ in range(5):
        clock.advance(CHANNEL_COOLDOWN)
        bench.send(ok=False)
    assert asked == []


def test__gives_up__opened_by_hand__is_not_asked(clock):
    asked = []
    bench = Bench(clock, gives_up=lambda n, secs: asked.append(n) or True)
    bench.breaker.open(Origin.of(TTS, "E"))
    assert asked == []


def test__gives_up__a_probe_goes_or_it_closes__is_not_asked(clock):
    asked = []
    bench = Bench(clock, gives_up=lambda n, secs: asked.append(n))
    bench.errors(3)
    clock.advance(COOLDOWN)
    bench.error()
    bench.breaker.close(None)
    assert asked == [1]


#
# What it tells
#


def test__changes__of_a_whole_outage__are_told_in_order(clock):
    bench = Bench(clock, gives_up=lambda n, secs: n >= 2)
    bench.errors(3)
    for _ in range(2):
        clock.advance(COOLDOWN)
        bench.errors(2)
    bench.breaker.close(None)
    news = bench.take()
    assert [n.change for n in news] == [
        Change.OPENED,
        Change.PROBED,
        Change.REOPENED,
        Change.PROBED,
        Change.REOPENED,
        Change.CLOSED,
    ]
    assert [n.gives_up for n in news] == [False, False, True, False, False, False]
    assert len({n.incident.id for n in news}) == 1


def test__call__is_in_each_incident(clock):
    call = Call(pipeline="worker#0", process=7, host="here", pipecat="1.9.0", version="0.1.0")
    bench = Bench(clock, call=lambda: call)
    bench.errors(3)
    assert [i.call for i in bench.told()] == [call]


def test__call__nobody_knows_it__is_none(bench):
    bench.errors(3)
    assert [i.call for i in bench.told()] == [None]


def test__channels__each_output__is_told_with_what_is_known_of_it(bench):
    other = bench.breaker.output(Processor("Other"))
    other.is_watched, other.is_connected = True, False
    bench.sends(2, "bad", ok=False)
    bench.send("good", ok=True)
    bench.sends(3, output=other, ok=True)
    assert bench.breaker.channels == (
        ("Output", ChannelFacts(("bad",), 1, None), 0),
        ("Other", ChannelFacts((), 0, False), 3),
    )


#
# What it keeps
#


def test__circuits__are_told_with_the_latest_news_last(bench):
    for kind in ("E", "F", "E"):
        bench.error(kind)
    assert [c.origin.kind for c in bench.breaker.circuits] == ["F", "E"]


def test__circuits__as_many_as_are_kept__none_goes(bench):
    for n in range(MAX_CIRCUITS):
        bench.error(f"F{n}")
    assert len(bench.breaker.circuits) == MAX_CIRCUITS
    assert bench.breaker.circuits[0].origin.kind == "F0"


def test__circuits__more_than_are_kept__the_closed_one_longest_without_news_goes(bench):
    for n in range(5):
        bench.error(f"F{n}")
        bench.error(f"F{n}", OUT)
    bench.error("F0")
    bench.error("G")
    kept = {(c.origin.processor, c.origin.kind) for c in bench.breaker.circuits}
    assert len(kept) == MAX_CIRCUITS
    assert ("TTS", "F0") in kept
    assert ("Output", "F0") not in kept
    assert bench.told() == []


def test__circuits__one_is_open__closed_ones_go_first(bench):
    # Registries of other breakers never let go.
    bench.errors(3)
    for n in range(11):
        bench.error(f"F{n}")
    assert bench.state("E") is OPEN
    assert len(bench.breaker.circuits) == MAX_CIRCUITS


def test__circuits__all_are_open__the_oldest_is_forgotten_and_holds_nothing(clock):
    bench = Bench(clock, max_errors=1)
    processors = [Processor(f"P{n}") for n in range(11)]
    for processor in processors:
        bench.error("E", processor)
    assert len(bench.breaker.circuits) == MAX_CIRCUITS
    assert not bench.breaker.has_open_at(processors[0].id)
    endings = [(i.origin.processor, i.ending) for i in bench.told() if i.ending]
    assert endings == [("P0", Ending.FORGOTTEN)]
    assert bench.error("E", processors[0])[1].passes, "it begins anew"


def test__circuits__of_errors_without_end__push_no_channel_out(clock):
    bench = Bench(clock, max_errors=1)
    bench.send("app", ok=False)
    for n in range(10):
        bench.error("E", Processor(f"P{n}"))
    assert bench.channel_state() is OPEN


@pytest.mark.parametrize(("others", "is_known"), [(39, True), (40, False)])
def test__circuits__of_destinations_without_end__four_times_as_many_are_kept(
    clock, others, is_known
):
    bench = Bench(clock)
    bench.send(to="first", ok=False)
    bench.error()
    for n in range(others):
        bench.send("x", to=str(n), ok=False)
        bench.send("x", to=str(n), ok=True)
    kept = {(c.origin.kind, c.origin.destination) for c in bench.breaker.circuits}
    assert ((CHANNEL_DOWN, "first") in kept) is is_known
    assert ("E", None) in kept, "those of errors are kept apart"


def test__totals__of_more_names_than_circuits__are_under_other(bench):
    for n in range(12):
        bench.error(f"F{n}")
    totals = {t.origin: t.failures for t in bench.breaker.totals}
    assert len(totals) == MAX_CIRCUITS + 1
    assert totals["other"] == 2


def test__ten_thousand_origins__stay_within_the_bound(clock):
    bench = Bench(clock, max_circuits=100)

    def offer(numbers):
        for n in numbers:
            bench.error(f"F{n}")
            bench.frames.clear()
        bench.told()
        gc.collect()

    tracemalloc.start()
    try:
        offer(range(1000))
        before = tracemalloc.get_traced_memory()[0]
        offer(range(1000, 10_000))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(bench.breaker.circuits) <= 100
    assert grown < 100_000


def test__calendar__by_default__is_the_time_by_the_calendar(clock):
    breaker = Breaker(
        max_errors=1,
        window_secs=WINDOW,
        probe_timeout_secs=1.0,
        max_circuits=1,
        cooldown=lambda n: 1.0,
        channel_cooldown=lambda n: 1.0,
        gives_up=lambda n, secs: False,
        clock=clock,
        mode=Mode.GUARD,
    )
    before = datetime.now(UTC)
    breaker.open(Origin.of(TTS, "E"))
    assert before <= breaker.take_news().incident.opened_at <= datetime.now(UTC)


def test__snapshot__says_what_happened_and_when_the_next_probe_may_go(bench):
    down(bench)
    bench.clock.advance(0.25)
    (circuit,) = bench.breaker.circuits
    assert (circuit.state, circuit.openings, circuit.probe_in_secs) == (OPEN, 1, 0.75)


def test__has_open_at__errors_or_a_channel__is_so_of_their_processor(bench):
    bench.errors(3)
    assert bench.breaker.has_open_at(TTS.id)
    assert not bench.breaker.has_open_at(OUT.id)
    down(bench)
    assert bench.breaker.has_open_at(OUT.id)
    bench.breaker.close(None)
    assert not bench.breaker.has_open_at(TTS.id)


def test__look__nothing_is_due__tells_nothing(bench):
    bench.errors(3)
    bench.told()
    bench.breaker.look()
    assert not bench.breaker.has_news


def test__what_was_queued_on_account_of_an_error__is_forgotten_with_the_incident(bench):
    error, _ = bench.error()
    bench.breaker.note_queued(error, "TTSSpeakFrame")
    bench.breaker.note_queued(bench.error("F", RTVI)[0], "TextFrame")
    bench.errors(2)
    bench.breaker.close(None)
    bench.errors(3)
    opened = [i.advice.kind for i in bench.told() if i.state is OPEN]
    assert opened == [AdviceKind.APPLICATION_ANSWERS_ERRORS, AdviceKind.PROCESSOR_FAILS]
