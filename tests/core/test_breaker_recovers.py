"""Recovery: one probe at a time, and quiet is proof only where the processor was used."""

import pytest
from core_parts import (
    CHANNEL_COOLDOWN,
    CLOSED,
    COOLDOWN,
    HALF_OPEN,
    OPEN,
    OUT,
    PROBE_TIMEOUT,
    TTS,
    WINDOW,
    Bench,
)

from pipecat_circuit_breaker._core.breaker import EVERYONE
from pipecat_circuit_breaker._core.origin import ANY_KIND, CHANNEL_DOWN, Origin
from pipecat_circuit_breaker.incident import Ending, ProbeOutcome, Trigger


def down(bench, to=None):
    """A channel over which messages of two kinds fail."""
    for kind in ("app", "error", "app"):
        bench.send(kind, to=to, ok=False)
    assert bench.channel_state(to) is OPEN
    bench.told()


def failing(bench, n=3, handled="SpeakFrame"):
    """TTS fails again and again."""
    bench.errors(n, handled=handled)
    assert bench.state() is OPEN
    bench.told()


#
# Errors: an error is let through, and its silence is good news
#


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


#
# Channels: a message is tried, and it has to report
#


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


#
# An outage: a channel, and the errors that its failed deliveries made
#


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
    assert bench.output.channel(None).generation == 1
    assert bench.breaker.has_open_at(OUT.id)
    assert bench.breaker.any_open
    bench.breaker.close(Origin.of(OUT, CHANNEL_DOWN))
    assert bench.output.channel(None).generation == 2
    assert not bench.breaker.any_open
