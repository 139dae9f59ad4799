"""Recovery from errors: one is let through, and its silence is good news where there was use."""

import pytest

from pipecat_circuit_breaker._core.origin import ANY_KIND, Origin
from pipecat_circuit_breaker.incident import Ending, ProbeOutcome, Trigger
from tests.core.core_parts import CLOSED, COOLDOWN, HALF_OPEN, OPEN, OUT, TTS, WINDOW, Bench


def failing(bench, n=3, handled="SpeakFrame"):
    """TTS fails again and again."""
    bench.errors(n, handled=handled)
    assert bench.state() is OPEN
    bench.told()


def test__errors__one_tick_before_the_cooldown_is_over__are_held_back(bench):
    failing(bench)
    bench.clock.advance(COOLDOWN - 0.001)
    assert bench.errors(1) == [False]


def test__errors__cooldown_is_over__one_goes_and_says_how_many_were_held_back(bench):
    failing(bench, 7)
    bench.clock.advance(COOLDOWN)
    _, verdict = bench.error()
    assert verdict.passes
    assert verdict.remark == "circuit probed, 4 more like it were held back"
    (half_open,) = bench.told()
    assert half_open.state is HALF_OPEN
    assert [(p.text, p.outcome) for p in half_open.probes] == [("boom", ProbeOutcome.PENDING)]


def test__errors__another_one_after_the_probe__reopens(bench):
    failing(bench)
    bench.clock.advance(COOLDOWN)
    bench.error()
    assert bench.errors(1) == [False]
    assert bench.state() is OPEN
    told = bench.told()
    assert [i.state for i in told] == [HALF_OPEN, OPEN]
    assert told[-1].trigger is Trigger.ERRORS
    assert [p.outcome for p in told[-1].probes] == [ProbeOutcome.FAILED]


def test__errors__its_probe_and_quiet_while_it_is_used__closes(bench):
    failing(bench)
    bench.clock.advance(COOLDOWN)
    bench.error(handled="SpeakFrame")
    bench.clock.advance(1.0)
    bench.breaker.used(TTS.id, "SpeakFrame")
    bench.clock.advance(WINDOW - 0.001)
    assert bench.state() is HALF_OPEN
    bench.clock.advance(0.001)
    assert bench.state() is CLOSED
    assert [i.ending for i in bench.told()] == [None, Ending.QUIET]


def test__errors__used_and_quiet_with_no_probe_at_all__closes(bench):
    failing(bench)
    bench.clock.advance(COOLDOWN)
    bench.breaker.used(TTS.id, "SpeakFrame")
    bench.clock.advance(WINDOW)
    assert bench.errors(1) == [True]
    assert bench.state() is CLOSED
    assert [i.ending for i in bench.told()] == [Ending.QUIET]


@pytest.mark.parametrize("when", ["never", "too early", "with others", "another processor"])
def test__errors__quiet_where_the_processor_was_not_used__is_no_proof(bench, when):
    failing(bench)
    if when == "too early":
        bench.breaker.used(TTS.id, "SpeakFrame")
    bench.clock.advance(COOLDOWN)
    if when == "with others":
        bench.breaker.used(TTS.id, "AudioFrame")
    if when == "another processor":
        bench.breaker.used(OUT.id, "SpeakFrame")
    bench.clock.advance(1e6)
    assert bench.state() is OPEN


def test__errors__unknown_at_what_they_happen__any_use_is_proof(bench):
    failing(bench, handled=None)
    bench.clock.advance(COOLDOWN)
    bench.breaker.used(TTS.id, "AudioFrame")
    bench.clock.advance(WINDOW)
    assert bench.state() is CLOSED


def test__errors__what_it_was_used_for_failed__counts_from_the_next_use(bench):
    failing(bench)
    bench.clock.advance(COOLDOWN)
    bench.breaker.used(TTS.id, "SpeakFrame")
    bench.clock.advance(WINDOW - 1.0)
    bench.breaker.disturbed(OUT.id)
    bench.breaker.disturbed(TTS.id)
    bench.clock.advance(WINDOW)
    assert bench.state() is OPEN
    bench.breaker.used(TTS.id, "SpeakFrame")
    bench.clock.advance(WINDOW)
    assert bench.state() is CLOSED


def test__errors__what_another_was_used_for_failed__says_nothing_of_this_one(bench):
    failing(bench)
    bench.clock.advance(COOLDOWN)
    bench.breaker.used(TTS.id, "SpeakFrame")
    bench.breaker.disturbed(OUT.id)
    bench.clock.advance(WINDOW)
    assert bench.state() is CLOSED


def test__errors__closed_again__what_they_happened_at_is_forgotten(bench):
    failing(bench)
    bench.breaker.close(None)
    failing(bench, handled=None)
    bench.clock.advance(COOLDOWN)
    bench.breaker.used(TTS.id, "AudioFrame")
    bench.clock.advance(WINDOW)
    assert bench.state() is CLOSED


def test__errors__of_frames_from_before_the_opening__decide_nothing(bench):
    before = bench.message()
    bench.clock.advance(1.0)
    failing(bench)
    bench.clock.advance(COOLDOWN)
    bench.error()
    _, verdict = bench.error(cause=before)
    assert not verdict.passes
    assert bench.state() is HALF_OPEN


def test__errors__of_frames_of_the_very_moment_of_the_opening__decide(bench):
    failing(bench)
    at_once = bench.message()
    bench.clock.advance(COOLDOWN)
    bench.error()
    bench.error(cause=at_once)
    assert bench.state() is OPEN


def test__errors__of_frames_from_before_the_opening__are_not_counted_after_it(clock):
    bench = Bench(clock, max_errors=1)
    before = bench.message()
    clock.advance(1.0)
    bench.error()
    bench.breaker.close(None)
    bench.told()
    assert bench.error(cause=before)[1].passes
    assert bench.state() is CLOSED
    assert bench.breaker.circuits[0].failures == 0
    bench.error(cause=bench.message())
    assert bench.state() is OPEN


def test__errors__cooldown__is_drawn_once_per_opening_with_how_many_in_a_row(clock):
    draws = []
    bench = Bench(clock, cooldown=lambda n: draws.append(n) or COOLDOWN * n)
    bench.errors(3)
    for _ in range(5):
        bench.breaker.circuits  # noqa: B018  a look draws nothing
    clock.advance(COOLDOWN)
    bench.errors(2)
    assert bench.breaker.circuits[0].probe_in_secs == 2 * COOLDOWN
    assert draws == [1, 2]


def test__errors__of_too_many_kinds__recover_likewise(bench):
    for n in range(12):
        bench.error(f"F{n}", handled="SpeakFrame")
    bench.clock.advance(COOLDOWN)
    bench.breaker.used(TTS.id, "AudioFrame")
    bench.clock.advance(WINDOW)
    assert bench.state(ANY_KIND) is OPEN
    bench.breaker.used(TTS.id, "SpeakFrame")
    bench.clock.advance(WINDOW)
    assert bench.state(ANY_KIND) is CLOSED


def test__error__held_by_any_kind__is_no_probe_of_its_own_circuit(bench):
    # It does not go, so nothing can come of it.
    failing(bench)
    bench.clock.advance(COOLDOWN - 1.0)
    for n in range(12):
        bench.error(f"F{n}")
    assert bench.state(ANY_KIND) is OPEN
    bench.told()
    bench.clock.advance(1.0)
    assert bench.errors(1) == [False]
    assert bench.state() is OPEN
    assert bench.told() == []


def test__error__held_by_its_own_circuit__is_no_probe_of_any_kind(bench):
    for n in range(12):
        bench.error(f"F{n}")
    bench.breaker.open(Origin.of(TTS, "E"))
    bench.told()
    bench.clock.advance(COOLDOWN)
    assert bench.errors(1) == [False]
    assert bench.state(ANY_KIND) is OPEN
    assert bench.told() == []


def test__errors__used_when_the_quiet_is_over__closes_and_is_told(bench):
    failing(bench)
    bench.clock.advance(COOLDOWN)
    bench.breaker.used(TTS.id, "SpeakFrame")
    bench.clock.advance(WINDOW)
    bench.breaker.used(TTS.id, "SpeakFrame")
    assert [i.ending for i in bench.told()] == [Ending.QUIET]


def test__error__belongs_to_two_circuits_that_are_cool__is_the_probe_of_both(bench):
    failing(bench)
    for n in range(12):
        bench.error(f"F{n}")
    bench.clock.advance(COOLDOWN)
    assert bench.errors(1) == [True]
    assert bench.state() is bench.state(ANY_KIND) is HALF_OPEN
