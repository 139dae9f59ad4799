"""Circuits opened, closed and reset by hand, and at the end of the pipeline."""

import pytest

from pipecat_circuit_breaker._core.breaker import EVERYONE
from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.origin import ANY_KIND, CHANNEL_DOWN, Origin
from pipecat_circuit_breaker.incident import Ending, ProbeOutcome, Trigger
from tests.core.core_parts import CLOSED, COOLDOWN, HALF_OPEN, OPEN, OUT, TTS


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
