"""Modes: to guard, to observe and to be disabled, of the breaker and of one circuit."""

import pytest

from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.origin import ANY_KIND, CHANNEL_DOWN, Origin
from tests.core.core_parts import CLOSED, COOLDOWN, HALF_OPEN, OPEN, OUT, TTS, down


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


def test__quiet__only_where_all_is_closed_and_told(bench):
    assert bench.breaker.is_quiet
    bench.errors(3)
    assert not bench.breaker.is_quiet
    bench.told()
    assert not bench.breaker.is_quiet
    bench.breaker.reset(None)
    assert not bench.breaker.is_quiet  # That is to be told as well.
    bench.told()
    assert bench.breaker.is_quiet


def test__quiet__a_channel_is_down__is_not(bench):
    down(bench)
    bench.told()
    assert not bench.breaker.is_quiet
