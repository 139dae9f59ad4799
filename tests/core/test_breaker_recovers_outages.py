"""Recovery of an outage: a channel, and the errors that its failed deliveries made."""

from pipecat_circuit_breaker._core.origin import ANY_KIND, CHANNEL_DOWN, Origin
from pipecat_circuit_breaker.incident import Ending, ProbeOutcome
from tests.core.core_parts import (
    CHANNEL_COOLDOWN,
    CLOSED,
    COOLDOWN,
    HALF_OPEN,
    OPEN,
    OUT,
    WINDOW,
    Bench,
    down,
)


def outage(bench):
    for kind in ("app", "error", "app"):
        bench.send_with_error(kind)
    assert bench.channel_state() is bench.state("SendError", OUT) is OPEN
    bench.told()


def test__outage__probe_fails_with_an_error__nobody_has_to_hear_of_it(bench):
    outage(bench)
    bench.clock.advance(CHANNEL_COOLDOWN)
    _, verdict = bench.send_with_error()
    assert not verdict.passes
    bench.clock.advance(COOLDOWN)
    _, verdict = bench.send_with_error()
    assert not verdict.passes
    assert bench.state("SendError", OUT) is OPEN
    assert [i.state for i in bench.told()] == [HALF_OPEN, OPEN] * 2


def test__outage__error_that_no_delivery_made__is_let_through_to_see(bench):
    outage(bench)
    bench.clock.advance(COOLDOWN)
    assert bench.error("SendError", OUT)[1].passes
    assert bench.state("SendError", OUT) is HALF_OPEN


def test__outage__error_of_a_delivery_without_an_outcome__is_not_heard_either(bench):
    outage(bench)
    bench.clock.advance(COOLDOWN)
    assert not bench.error("SendError", OUT, by_delivery=True)[1].passes


def test__outage__errors_that_others_made_as_well__are_let_through_to_see(bench):
    bench.error("SendError", OUT)
    bench.send_with_error()
    bench.send_with_error()
    bench.clock.advance(COOLDOWN)
    assert bench.state("SendError", OUT) is OPEN
    assert bench.error("SendError", OUT, by_delivery=True)[1].passes


def test__outage__probe_arrives_when_all_is_cool__is_over(bench):
    outage(bench)
    bench.clock.advance(COOLDOWN)
    assert bench.send(ok=True) is True
    assert bench.state("SendError", OUT) is CLOSED
    (half_open, closed) = bench.told()
    assert (half_open.state, closed.state, closed.ending) == (HALF_OPEN, CLOSED, Ending.RECOVERED)


def test__outage__the_errors_are_probed_and_a_message_arrives__both_probes_passed(bench):
    outage(bench)
    bench.clock.advance(COOLDOWN)
    bench.error("SendError", OUT)
    assert bench.state("SendError", OUT) is HALF_OPEN
    bench.send(ok=True)
    assert bench.state("SendError", OUT) is CLOSED
    assert [t.probes_passed for t in bench.breaker.totals] == [1, 1]


def test__errors__their_channel_is_up_again__the_message_that_fails_is_told_as_the_probe(bench):
    for kind in ("one", "one", "one"):
        bench.send_with_error(kind)
    bench.send("other", ok=True)
    assert (bench.channel_state(), bench.state("SendError", OUT)) == (CLOSED, OPEN)
    bench.told()
    bench.clock.advance(COOLDOWN)
    assert not bench.error("SendError", OUT, by_delivery=True)[1].passes
    assert [(p.frame, p.text, p.outcome) for p in bench.told()[-1].probes] == [
        ("Frame", "boom", ProbeOutcome.FAILED)
    ]


def test__outage__probe_arrives_while_the_errors_are_not_cool__is_over_with_the_next(bench):
    outage(bench)
    bench.clock.advance(CHANNEL_COOLDOWN)
    bench.send(ok=True)
    assert bench.channel_state() is CLOSED
    assert bench.state("SendError", OUT) is OPEN
    bench.clock.advance(COOLDOWN - CHANNEL_COOLDOWN - 0.001)
    bench.send(ok=True)
    assert bench.state("SendError", OUT) is OPEN
    bench.clock.advance(0.001)
    bench.send(ok=True)
    assert bench.state("SendError", OUT) is CLOSED
    assert bench.told()[-1].ending is Ending.RECOVERED


def recovered(bench):
    outage(bench)
    bench.clock.advance(CHANNEL_COOLDOWN)
    bench.send(ok=True)
    bench.told()


def test__outage__probe_arrives_and_nobody_sends_again__is_over_when_no_error_can_come(bench):
    recovered(bench)
    bench.clock.advance(WINDOW - 0.001)
    assert not bench.breaker.is_due
    bench.breaker.look()
    assert bench.state("SendError", OUT) is OPEN
    bench.clock.advance(0.001)
    assert bench.breaker.is_due
    bench.breaker.look()
    assert bench.state("SendError", OUT) is CLOSED
    assert bench.told()[-1].ending is Ending.RECOVERED
    assert not bench.breaker.is_due


def test__outage__cooldown_is_longer_than_the_window__is_over_when_the_errors_are_cool(clock):
    bench = Bench(clock, cooldown=lambda openings: 3 * WINDOW)
    recovered(bench)
    bench.clock.advance(3 * WINDOW - CHANNEL_COOLDOWN - 0.001)
    assert not bench.breaker.is_due
    bench.clock.advance(0.001)
    bench.breaker.look()
    assert bench.state("SendError", OUT) is CLOSED


def test__outage__probe_fails_after_all_within_the_window__is_not_over(bench):
    outage(bench)
    bench.clock.advance(CHANNEL_COOLDOWN)
    delivery = bench.begin()
    delivery.succeeded()
    bench.clock.advance(WINDOW - 0.001)
    bench.breaker.look()
    delivery.failed()
    bench.error("SendError", OUT)
    bench.clock.advance(WINDOW)
    bench.breaker.look()
    assert bench.state("SendError", OUT) is not CLOSED
    assert all(incident.ending is None for incident in bench.told())


def test__outage__an_error_after_the_recovery__time_alone_does_not_end_it(bench):
    recovered(bench)
    bench.error("SendError", OUT)
    bench.clock.advance(COOLDOWN)
    bench.breaker.look()
    assert bench.state("SendError", OUT) is OPEN
    assert not bench.breaker.is_due


def test__outage__opened_by_hand_after_the_recovery__time_does_not_end_it(bench):
    recovered(bench)
    bench.breaker.open(None)
    bench.clock.advance(1_000_000)
    bench.breaker.look()
    assert bench.state("SendError", OUT) is OPEN


def test__outage__another_error_after_the_recovery__has_to_be_quiet_as_any(bench):
    outage(bench)
    bench.clock.advance(CHANNEL_COOLDOWN)
    bench.send(ok=True)
    bench.error("SendError", OUT)
    bench.clock.advance(COOLDOWN)
    bench.send(ok=True)
    assert bench.state("SendError", OUT) is OPEN
    bench.clock.advance(WINDOW)
    bench.send(ok=True)
    assert bench.state("SendError", OUT) is CLOSED


def test__errors_of_an_output__messages_arrive__is_proof_where_it_fails_at_messages(bench):
    bench.errors(3, "SendError", OUT, handled="Message")
    bench.errors(3, "AudioError", OUT, handled="AudioFrame")
    bench.clock.advance(COOLDOWN)
    bench.send(ok=True)
    bench.clock.advance(WINDOW)
    assert bench.state("SendError", OUT) is CLOSED
    assert bench.state("AudioError", OUT) is OPEN
    assert bench.told()[-1].ending is Ending.QUIET


def test__errors_of_an_output__a_message_that_was_on_its_way_arrives__is_proof(bench):
    delivery = bench.begin()
    bench.errors(3, "SendError", OUT, handled="Message")
    bench.clock.advance(COOLDOWN)
    delivery.succeeded()
    bench.clock.advance(WINDOW)
    bench.told()
    bench.send(ok=True)
    assert [i.ending for i in bench.told()] == [Ending.QUIET]


def test__errors_of_an_output__one_destination_is_down__another_one_is_proof(bench):
    down(bench, "ann")
    bench.errors(3, "SendError", OUT, handled="Message")
    bench.clock.advance(COOLDOWN)
    bench.send(to="bob", ok=True)
    bench.clock.advance(WINDOW)
    assert bench.state("SendError", OUT) is CLOSED
    assert bench.channel_state("ann") is OPEN


def test__errors_of_any_kind_that_deliveries_made__channel_recovers__is_over(bench):
    for n in range(12):
        bench.error(f"F{n}", OUT, by_delivery=True, handled="Message")
    down(bench)
    bench.clock.advance(COOLDOWN)
    bench.send(ok=True)
    assert bench.state(ANY_KIND, OUT) is CLOSED


def test__errors_that_no_delivery_made__channel_recovers__is_no_proof(bench):
    bench.errors(3, "AudioError", OUT, handled="AudioFrame")
    down(bench)
    bench.clock.advance(COOLDOWN)
    bench.send(ok=True)
    assert bench.channel_state() is CLOSED
    assert bench.state("AudioError", OUT) is OPEN


def test__channel_recovers_without_a_probe__says_nothing_of_the_errors(bench):
    # Another kind arrives: those that failed may fail as before.
    for _ in range(3):
        bench.send_with_error("bad")
    bench.clock.advance(COOLDOWN)
    bench.send("good", ok=True)
    assert bench.channel_state() is CLOSED
    assert bench.state("SendError", OUT) is OPEN


def test__channel__closed_or_opened__its_generation_tells(bench):
    down(bench)
    assert bench.output.channel(None).guarded.circuit.generation == 1
    assert bench.breaker.has_open_at(OUT.id)
    assert bench.breaker.any_open
    bench.breaker.close(Origin.of(OUT, CHANNEL_DOWN))
    assert bench.output.channel(None).guarded.circuit.generation == 2
    assert not bench.breaker.any_open
