"""Recovery of channels: one message is tried at a time, and it has to report."""

import pytest

from pipecat_circuit_breaker._core.breaker import EVERYONE
from pipecat_circuit_breaker.incident import Ending, ProbeOutcome
from tests.core.core_parts import (
    CHANNEL_COOLDOWN,
    CLOSED,
    HALF_OPEN,
    OPEN,
    OUT,
    PROBE_TIMEOUT,
    WINDOW,
    Bench,
    down,
)


def test__channel__tried_once_per_cooldown__until_it_arrives(bench):
    assert [bench.send(kind, ok=False) for kind in "abcd"] == [False] * 3 + [None]
    for _ in range(3):
        bench.clock.advance(CHANNEL_COOLDOWN)
        assert bench.sends(3, ok=False) == [False, None, None]
    bench.clock.advance(CHANNEL_COOLDOWN)
    assert bench.sends(3, ok=True) == [True] * 3
    assert bench.channel_state() is CLOSED
    last = bench.told()[-1]
    assert last.ending is Ending.RECOVERED
    assert [p.outcome for p in last.probes] == [ProbeOutcome.FAILED] * 3 + [ProbeOutcome.PASSED]
    assert last.openings == 4


def test__channel__its_cooldown__is_its_own(clock):
    draws = []
    bench = Bench(clock, channel_cooldown=lambda n: draws.append(n) or CHANNEL_COOLDOWN)
    down(bench)
    clock.advance(CHANNEL_COOLDOWN - 0.001)
    assert bench.send(ok=True) is None
    clock.advance(0.001)
    assert bench.send(ok=False) is False
    assert draws == [1, 2]


def test__channel__fifty_messages_at_once__one_is_the_probe(bench):
    down(bench)
    bench.clock.advance(CHANNEL_COOLDOWN)
    assert sum(bench.begin() is not None for _ in range(50)) == 1
    assert bench.channel_state() is HALF_OPEN
    (half_open,) = bench.told()
    assert [(p.text, p.outcome) for p in half_open.probes] == [("app", ProbeOutcome.PENDING)]


def test__channel__probe_cut_off__neither_closes_nor_wedges(bench):
    down(bench)
    bench.clock.advance(CHANNEL_COOLDOWN)
    assert bench.begin() is not None
    bench.clock.advance(PROBE_TIMEOUT - 0.001)
    assert bench.send(ok=True) is None
    assert bench.channel_state() is HALF_OPEN
    bench.clock.advance(0.001)
    assert bench.send(ok=True) is None
    assert bench.channel_state() is OPEN
    assert bench.told()[-1].probes[0].outcome is ProbeOutcome.TIMED_OUT
    bench.clock.advance(CHANNEL_COOLDOWN)
    assert bench.send(ok=True) is True


def test__channel__probe_timed_out__is_seen_by_whoever_looks(bench):
    down(bench)
    bench.clock.advance(CHANNEL_COOLDOWN)
    bench.begin()
    bench.clock.advance(PROBE_TIMEOUT)
    bench.breaker.look()
    assert [i.state for i in bench.told()] == [HALF_OPEN, OPEN]


def test__channel__probe_timed_out__is_seen_when_the_next_message_comes(bench):
    down(bench)
    bench.clock.advance(CHANNEL_COOLDOWN)
    bench.begin()
    bench.clock.advance(PROBE_TIMEOUT)
    assert bench.begin() is None
    assert [i.state for i in bench.told()] == [HALF_OPEN, OPEN]


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test__channel__outcome_from_before_the_opening__is_void(bench, outcome):
    slow = bench.begin()
    down(bench)
    bench.clock.advance(CHANNEL_COOLDOWN)
    bench.begin()
    getattr(slow, outcome)()
    assert slow.is_void
    assert bench.channel_state() is HALF_OPEN
    assert bench.send(ok=True) is None


def test__channel__failure_from_before_the_opening__is_void_after_closing(clock):
    bench = Bench(clock, max_errors=1)
    slow = bench.begin()
    bench.send(ok=False)
    clock.advance(CHANNEL_COOLDOWN)
    bench.send(ok=True)
    slow.failed()
    assert bench.channel_state() is CLOSED
    assert bench.output.facts.failing_kinds == ()


def test__channel__probe_reports_after_it_timed_out__is_void(bench):
    down(bench)
    bench.clock.advance(CHANNEL_COOLDOWN)
    probe = bench.begin()
    bench.clock.advance(PROBE_TIMEOUT)
    bench.breaker.look()
    probe.succeeded()
    assert bench.channel_state() is OPEN


def test__channel__error_takes_the_probes_success_back__reopens_at_once(bench):
    down(bench)
    bench.clock.advance(CHANNEL_COOLDOWN)
    probe = bench.begin()
    probe.succeeded()
    assert bench.channel_state() is CLOSED
    probe.failed()
    assert bench.channel_state() is OPEN


def test__channel__error_takes_an_ordinary_success_back__is_one_failure(bench):
    delivery = bench.begin()
    delivery.succeeded()
    delivery.failed()
    assert bench.channel_state() is CLOSED
    assert bench.breaker.circuits[0].failures == 1


def test__channel__error_takes_a_success_after_a_failure_back__are_two_failures(bench):
    bench.send(ok=False)
    delivery = bench.begin()
    delivery.succeeded()
    delivery.failed()
    assert bench.channel_state() is CLOSED
    assert bench.breaker.circuits[0].failures == 2


def test__channel__another_kind_arrives_before_any_probe__closes(bench):
    bench.sends(3, "bad", ok=False)
    bench.told()
    bench.send("good", ok=True)
    (closed,) = bench.told()
    assert (closed.state, closed.ending, closed.probes) == (CLOSED, Ending.RECOVERED, ())


def test__channel__another_kind_fails_while_the_probe_is_on_its_way__reopens(bench):
    bench.sends(3, "bad", ok=False)
    bench.clock.advance(CHANNEL_COOLDOWN)
    bench.begin("bad")
    assert bench.send("good", ok=False) is False
    assert bench.channel_state() is OPEN


def test__channel__its_output_is_used_for_sound__is_no_proof(bench):
    # What becomes of a delivery is known, and not guessed from time.
    down(bench)
    bench.clock.advance(CHANNEL_COOLDOWN)
    bench.breaker.used(OUT.id, "OutputAudioRawFrame")
    bench.clock.advance(WINDOW)
    assert bench.channel_state() is OPEN


def test__output__its_probe_of_any_destination_arrives__all_are_tried_again(bench):
    for n in range(12):
        bench.send(f"kind {n % 3}", to=str(n), ok=False)
    assert bench.channel_state(EVERYONE) is OPEN
    bench.clock.advance(CHANNEL_COOLDOWN)
    probe = bench.begin(to="new")
    assert bench.begin(to="newer") is None
    probe.succeeded()
    assert bench.channel_state(EVERYONE) is CLOSED
    assert bench.send(to="newer", ok=True) is True
    bench.send(to="newest", ok=False)
    assert bench.channel_state(EVERYONE) is CLOSED


def test__output__its_probe_fails__all_are_held_back_again(bench):
    for n in range(12):
        bench.send(f"kind {n % 3}", to=str(n), ok=False)
    bench.clock.advance(CHANNEL_COOLDOWN)
    assert bench.send(to="new", ok=False) is False
    assert bench.channel_state(EVERYONE) is OPEN
    assert bench.send(to="newer", ok=False) is None


def test__output__probe_of_one_destination__is_held_where_that_one_is_not_cool(clock):
    bench = Bench(clock, channel_cooldown=lambda n: CHANNEL_COOLDOWN * n)
    for n in range(12):
        bench.send(f"kind {n % 3}", to=str(n), ok=False)
    down(bench, "ann") if bench.channel_state("ann") is OPEN else None
    clock.advance(CHANNEL_COOLDOWN)
    assert bench.send(to="new", ok=False) is False
    clock.advance(CHANNEL_COOLDOWN)
    assert bench.channel_state(EVERYONE) is OPEN
    assert bench.send(to="newer", ok=True) is None
    clock.advance(CHANNEL_COOLDOWN)
    assert bench.send(to="newer", ok=True) is True
