"""The breaker alone: causes and circuits, with no pipecat and no event loop."""

import gc
import tracemalloc

import pytest

from conftest import Clock
from pipecat_circuit_breaker.breaker import Breaker
from pipecat_circuit_breaker.causality import Causality, Handling
from pipecat_circuit_breaker.circuit import CircuitState
from pipecat_circuit_breaker.fault import Mode
from pipecat_circuit_breaker.incident import AdviceKind, Ending, ProbeOutcome, Trigger
from pipecat_circuit_breaker.origin import FEEDBACK, Origin
from test_causality import Frame, Processor

TTS, OUT, RTVI = Processor("TTS"), Processor("Output"), Processor("RTVI")


class Bench:
    def __init__(self, clock, **overrides):
        self.clock = clock
        self.frames = []
        self.causality = Causality(max_hops=4, max_text=50)
        self.breaker = Breaker(
            **{
                "max_errors": 3,
                "window_secs": 10.0,
                "max_hops": 4,
                "probe_timeout_secs": 4.0,
                "max_circuits": 10,
                "cooldown": lambda openings: 5.0,
                "gives_up": lambda openings, secs: False,
                "mode": Mode.GUARD,
                "clock": clock,
                **overrides,
            }
        )

    def link(self, processor, *, cause=None, kind=None, handler=None):
        self.frames.append(Frame())
        handling = Handling(handler or processor, cause, None) if cause else None
        origin = Origin.of(processor, kind) if kind else None
        return self.causality.born(
            self.frames[-1], processor, handling, at=self.clock(), text="t", origin=origin
        )

    def error(self, processor=TTS, kind="E", cause=None, delivery=None):
        link = self.link(processor, cause=cause, kind=kind)
        return link, self.breaker.judge_error(link, delivery)

    def state(self, processor=TTS, kind="E"):
        origin = Origin.of(processor, kind)
        return next(c for c in self.breaker.circuits if c.origin == origin).state

    def told(self):
        told = []
        while self.breaker.has_news:
            told.append(self.breaker.tell())
        return told


@pytest.fixture
def bench(clock):
    return Bench(clock)


def test__errors_of_one_origin__open_its_circuit_and_are_held_back(bench):
    verdicts = [bench.error()[1] for _ in range(6)]
    assert [v.passes for v in verdicts] == [True] * 3 + [False] * 3
    assert [bool(v.remark) for v in verdicts] == [False, False, True, False, False, False]


def test__error_in_a_chain__counts_for_where_the_chain_began(bench):
    for n in range(3):
        begun, _ = bench.error(TTS, "E")
        notice = bench.link(RTVI, cause=begun)
        bench.error(OUT, f"F{n}", cause=notice)
        bench.clock.advance(1.0)
    assert bench.state(TTS, "E") is CircuitState.OPEN


def test__message_in_the_lineage_of_an_open_circuit__is_held_back(bench):
    first, _ = bench.error()
    notice = bench.link(RTVI, cause=first)
    for _ in range(2):
        bench.error()
    assert not bench.breaker.judge_message(notice)
    assert bench.breaker.circuits[0].held_messages == 1


def test__message_that_the_opening_error_sets_off__passes(bench):
    for _ in range(3):
        link, verdict = bench.error()
    assert verdict.remark
    assert bench.breaker.judge_message(bench.link(RTVI, cause=link))


def test__error_that_the_opening_error_sets_off__counts_for_itself_alone(bench):
    for _ in range(3):
        link, _ = bench.error()
    notice = bench.link(RTVI, cause=link)
    _, verdict = bench.error(OUT, "F", cause=notice)
    assert verdict.passes
    assert bench.breaker.circuits[0].held_errors == 0


def test__message_judged_once__keeps_its_verdict(bench):
    first, _ = bench.error()
    notice = bench.link(RTVI, cause=first)
    assert bench.breaker.judge_message(notice)
    for _ in range(2):
        bench.error()
    assert bench.breaker.judge_message(notice)
    assert bench.breaker.circuits[0].held_messages == 0


def test__chain_longer_than_max_hops__opens_however_slow(bench):
    link, _ = bench.error(OUT)
    for _ in range(2):
        bench.clock.advance(3600)
        link, verdict = bench.error(OUT, cause=bench.link(RTVI, cause=link))
    assert link.hop == 4
    assert bench.state(OUT) is CircuitState.CLOSED
    bench.clock.advance(3600)
    bench.error(OUT, cause=bench.link(RTVI, cause=link))
    assert bench.state(OUT) is CircuitState.OPEN
    assert [i.trigger for i in bench.told()] == [Trigger.RECURSION]


def test__messages_that_set_off_messages__are_a_loop_from_the_third_on(bench):
    passed = 0
    for _ in range(10):
        link = bench.link(RTVI)
        bench.breaker.judge_message(link)
        for _ in range(3):
            link = bench.link(RTVI, cause=link, handler=OUT)
            passed += bench.breaker.judge_message(link)
    assert bench.state(OUT, FEEDBACK) is CircuitState.OPEN
    # Two replies in a row are not counted; three times the third one passes
    # or opens, and from then on everything in this lineage is held back.
    assert passed == 3 + 3 + 2


def test__replies_to_messages__are_no_loop(bench):
    for _ in range(1000):
        message = bench.link(RTVI)
        assert bench.breaker.judge_message(message)
        reply = bench.link(RTVI, cause=message, handler=OUT)
        assert bench.breaker.judge_message(reply)
        assert bench.breaker.judge_message(bench.link(RTVI, cause=reply, handler=OUT))
    assert bench.breaker.circuits == ()


def test__error_probe__says_how_many_and_quiet_closes(bench):
    for _ in range(7):
        bench.error()
    bench.clock.advance(5.0)
    _, verdict = bench.error()
    assert verdict.passes
    assert "4 more" in verdict.remark
    bench.clock.advance(10.0)
    _, verdict = bench.error()
    assert verdict.passes
    assert not verdict.remark
    assert [i.state for i in bench.told()] == [
        CircuitState.OPEN,
        CircuitState.HALF_OPEN,
        CircuitState.CLOSED,
    ]


def test__error_probe__another_error_before_it_is_quiet_reopens(bench):
    for _ in range(3):
        bench.error()
    bench.clock.advance(5.0)
    bench.error()
    bench.clock.advance(9.9)
    _, verdict = bench.error()
    assert not verdict.passes
    assert bench.state() is CircuitState.OPEN
    told = bench.told()[-1]
    assert told.trigger is Trigger.ERRORS
    assert [probe.outcome for probe in told.probes] == [ProbeOutcome.FAILED]


def send(bench, channel, kind="app", *, ok):
    """Send one message; True, False, or None where it is held back."""
    link = bench.link(RTVI)
    delivery = bench.breaker.deliver(channel, link, kind)
    if delivery is None:
        return None
    if not ok:
        bench.error(OUT, "E", cause=link, delivery=delivery)
    bench.breaker.delivered(delivery, success=ok)
    return ok


def test__channel_that_fails__is_tried_max_errors_times_then_once_per_cooldown(bench):
    channel = bench.breaker.channel(OUT, None)
    assert [send(bench, channel, ok=False) for _ in range(6)] == [False] * 3 + [None] * 3
    for _ in range(3):
        bench.clock.advance(5.0)
        assert [send(bench, channel, ok=False) for _ in range(3)] == [False, None, None]
    bench.clock.advance(5.0)
    assert [send(bench, channel, ok=True) for _ in range(3)] == [True] * 3
    assert bench.state(OUT) is CircuitState.CLOSED


def test__max_errors_of_one__first_failure_holds_back_the_next(clock):
    bench = Bench(clock, max_errors=1)
    channel = bench.breaker.channel(OUT, None)
    assert [send(bench, channel, ok=False) for _ in range(3)] == [False, None, None]


def test__channel_that_fails__another_channel_is_not_touched(bench):
    dead, alive = bench.breaker.channel(OUT, None), bench.breaker.channel(TTS, None)
    for _ in range(5):
        send(bench, dead, ok=False)
    assert [send(bench, alive, ok=True) for _ in range(5)] == [True] * 5


def test__probe__is_one_at_a_time(bench):
    channel = bench.breaker.channel(OUT, None)
    for _ in range(3):
        send(bench, channel, ok=False)
    bench.clock.advance(5.0)
    probes = [bench.breaker.deliver(channel, bench.link(RTVI), "app") for _ in range(50)]
    assert sum(p is not None for p in probes) == 1


def test__probe_cut_off__neither_closes_nor_wedges(bench):
    channel = bench.breaker.channel(OUT, None)
    for _ in range(3):
        send(bench, channel, ok=False)
    bench.clock.advance(5.0)
    assert bench.breaker.deliver(channel, bench.link(RTVI), "app") is not None
    bench.clock.advance(3.9)
    assert send(bench, channel, ok=True) is None
    bench.clock.advance(0.1)
    assert send(bench, channel, ok=True) is None
    assert bench.state(OUT) is CircuitState.OPEN
    bench.clock.advance(5.0)
    assert send(bench, channel, ok=True) is True


def test__success_from_before_the_opening__does_not_clear_the_channel(bench):
    channel = bench.breaker.channel(OUT, None)
    slow = bench.breaker.deliver(channel, bench.link(RTVI), "app")
    for _ in range(3):
        send(bench, channel, ok=False)
    bench.breaker.delivered(slow, success=True)
    assert send(bench, channel, ok=True) is None


def test__errors_while_half_open_that_are_not_the_probes__decide_nothing(bench):
    channel = bench.breaker.channel(OUT, None)
    before = bench.link(RTVI)
    delivery = bench.breaker.deliver(channel, before, "app")
    for _ in range(3):
        send(bench, channel, ok=False)
    bench.clock.advance(5.0)
    assert bench.breaker.deliver(channel, bench.link(RTVI), "app") is not None
    bench.error(OUT, "E", cause=before, delivery=delivery)
    assert bench.state(OUT) is CircuitState.HALF_OPEN


def test__error_of_a_message_from_before_the_opening__is_void_after_closing(clock):
    bench = Bench(clock, max_errors=1)
    channel = bench.breaker.channel(OUT, None)
    before = bench.link(RTVI)
    delivery = bench.breaker.deliver(channel, before, "app")
    bench.clock.advance(1.0)
    send(bench, channel, ok=False)
    bench.clock.advance(5.0)
    assert send(bench, channel, ok=True) is True
    _, verdict = bench.error(OUT, "E", cause=before, delivery=delivery)
    assert verdict.passes
    assert bench.state(OUT) is CircuitState.CLOSED


def test__channel_whose_circuit_was_opened_by_other_errors__is_held_once_messages_fail(bench):
    channel = bench.breaker.channel(OUT, None)
    for _ in range(3):
        bench.error(OUT, "E")  # writing audio failed
    assert send(bench, channel, ok=False) is False
    assert send(bench, channel, ok=False) is None


def test__news_that_nobody_takes__is_bounded():
    clock = Clock()
    bench = Bench(clock, max_errors=1, cooldown=lambda _: 0.0)
    for _ in range(3000):
        bench.error()
    assert len(bench.told()) <= 1000


def test__evicted_circuit__closed_ones_go_first(bench):
    for _ in range(3):
        bench.error(TTS, "E")
    for n in range(100):
        bench.error(TTS, f"F{n}")
    assert bench.state(TTS, "E") is CircuitState.OPEN
    assert len(bench.breaker.circuits) == 10


def test__hundred_thousand_origins__stay_within_the_bound(clock):
    bench = Bench(clock, max_circuits=100)

    def offer(numbers):
        for n in numbers:
            bench.error(TTS, f"F{n}")
            bench.frames.clear()
        bench.told()
        gc.collect()

    tracemalloc.start()
    try:
        offer(range(1000))
        before = tracemalloc.get_traced_memory()[0]
        offer(range(1000, 100_000))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(bench.breaker.circuits) == 100
    assert grown < 100_000


#
# Chains that began elsewhere
#


def test__error_in_a_chain_that_an_open_circuit_began__is_held_back(bench):
    first, _ = bench.error(TTS, "E")
    notice = bench.link(RTVI, cause=first)
    for _ in range(2):
        bench.error(TTS, "E")
    _, verdict = bench.error(OUT, "F", cause=notice)
    assert not verdict.passes
    assert bench.state(OUT, "F") is CircuitState.CLOSED


def test__error_that_opens_the_circuit_its_chain_began_with__says_so(bench):
    remarks = []
    for n in range(2):
        begun, _ = bench.error(TTS, "E")
        _, verdict = bench.error(OUT, f"F{n}", cause=bench.link(RTVI, cause=begun))
        remarks.append(verdict.remark)
    assert remarks[0] == ""
    assert remarks[1] == "", "the error that opened it was the first of the second chain"
    assert bench.state(TTS, "E") is CircuitState.OPEN


def test__opening_remark__names_errors_or_recursion(clock):
    bench = Bench(clock, max_errors=100)
    link, _ = bench.error(OUT)
    for _ in range(2):
        link, verdict = bench.error(OUT, cause=bench.link(RTVI, cause=link))
    link, verdict = bench.error(OUT, cause=bench.link(RTVI, cause=link))
    assert "set each other off" in verdict.remark
    other = Bench(clock)
    assert [other.error()[1].remark for _ in range(3)][-1].startswith(
        "circuit open, 3 related errors"
    )


def test__incident__tells_the_chain_from_its_root(bench):
    for _ in range(3):
        root = bench.link(RTVI)
        bench.clock.advance(1.0)
        bench.error(OUT, "E", cause=root)
    (incident,) = bench.told()
    assert [(s.hop, s.frame, s.processor, s.text) for s in incident.chain] == [
        (0, "Frame", "RTVI", "t"),
        (1, "Frame", "Output", "t"),
    ]
    assert [(incident.opened_at - s.at).total_seconds() for s in incident.chain] == [1.0, 0.0]
    assert (incident.failures, incident.openings, incident.gave_up) == (3, 1, False)
    assert incident.probe_in_secs == 5.0


#
# Loops without an error
#


def loop(bench):
    for _ in range(3):
        link = bench.link(RTVI)
        for _ in range(3):
            link = bench.link(RTVI, cause=link, handler=OUT)
            bench.breaker.judge_message(link)
    assert bench.state(OUT, FEEDBACK) is CircuitState.OPEN


def reply(bench, cause=None):
    cause = cause or bench.link(RTVI)
    link = bench.link(RTVI, cause=cause, handler=OUT)
    return link, bench.breaker.judge_message(link)


def test__loop__what_belongs_to_no_loop_is_not_held_back(bench):
    loop(bench)
    assert bench.breaker.judge_message(bench.link(RTVI))
    assert not reply(bench)[1]
    assert bench.breaker.circuits[0].held_messages == 2


def test__loop__probe_that_sets_off_another_message__reopens(bench):
    loop(bench)
    bench.clock.advance(5.0)
    probe, passes = reply(bench)
    assert passes
    assert not reply(bench)[1], "one probe at a time"
    assert bench.state(OUT, FEEDBACK) is CircuitState.HALF_OPEN
    assert not reply(bench, probe)[1]
    assert bench.state(OUT, FEEDBACK) is CircuitState.OPEN


def test__loop__quiet_after_the_probe__closes(bench):
    loop(bench)
    bench.clock.advance(5.0)
    reply(bench)
    bench.clock.advance(9.9)
    assert not reply(bench)[1]
    bench.clock.advance(0.1)
    assert reply(bench)[1]
    assert bench.state(OUT, FEEDBACK) is CircuitState.CLOSED


def test__messages_longer_than_max_hops__trip_at_once(bench):
    link = bench.link(RTVI)
    handlers = [Processor(f"P{n}") for n in range(6)]  # no origin is passed twice
    passed = []
    for handler in handlers:
        link = bench.link(RTVI, cause=link, handler=handler)
        passed.append(bench.breaker.judge_message(link))
    assert passed == [True] * 4 + [False, False]
    assert bench.told()[0].trigger is Trigger.RECURSION


#
# Probes of a channel
#


def opened(bench):
    channel = bench.breaker.channel(OUT, None)
    for _ in range(3):
        send(bench, channel, ok=False)
    return channel


def test__error_of_the_probe_itself__reopens(bench):
    channel = opened(bench)
    bench.clock.advance(5.0)
    link = bench.link(RTVI)
    assert bench.breaker.deliver(channel, link, "app") is not None
    bench.error(OUT, "E", cause=link)  # without its delivery: from a task it left behind
    assert bench.state(OUT) is CircuitState.OPEN


def test__channel_that_fails__an_error_is_no_probe_for_it(bench):
    opened(bench)
    bench.clock.advance(5.0)
    _, verdict = bench.error(OUT, "E")
    assert not verdict.passes
    assert bench.state(OUT) is CircuitState.OPEN


def test__probe_of_two_circuits__closes_both(bench):
    channel = bench.breaker.channel(OUT, None)
    for n in range(6):
        link = bench.link(RTVI)
        delivery = bench.breaker.deliver(channel, link, "app")
        if delivery:
            bench.error(OUT, f"E{n % 2}", cause=link, delivery=delivery)
            bench.breaker.delivered(delivery, success=False)
    states = [c.state for c in bench.breaker.circuits]
    bench.clock.advance(5.0)
    assert send(bench, channel, ok=True)
    assert CircuitState.OPEN in states
    assert {c.state for c in bench.breaker.circuits} == {CircuitState.CLOSED}


def test__failure_after_recovery__of_a_message_from_before__leaves_the_channel_alone(bench):
    channel = bench.breaker.channel(OUT, None)
    before = bench.breaker.deliver(channel, bench.link(RTVI), "app")
    opened(bench)
    bench.clock.advance(5.0)
    assert send(bench, channel, ok=True)
    bench.breaker.delivered(before, success=False)
    assert not channel.is_failing


def test__failing_delivery_reported_twice__counts_once(bench):
    channel = bench.breaker.channel(OUT, None)
    delivery = bench.breaker.deliver(channel, bench.link(RTVI), "app")
    bench.breaker.delivered(delivery, success=False)
    assert delivery.failed
    assert channel.is_suspect("app")


def test__announcement__is_not_tried_on_the_channel_that_it_is_about(bench):
    channel = bench.breaker.channel(OUT, None)
    for _ in range(3):
        link = bench.link(RTVI)
        delivery = bench.breaker.deliver(channel, link, "app")
        error, _ = bench.error(OUT, "E", cause=link, delivery=delivery)
        bench.breaker.delivered(delivery, success=False)
    notice = bench.link(RTVI, cause=error)
    assert bench.breaker.deliver(channel, notice, "error") is None
    other = bench.breaker.channel(TTS, None)
    assert bench.breaker.deliver(other, bench.link(RTVI, cause=error), "error") is not None


def test__channels__are_bounded(bench):
    channels = [bench.breaker.channel(OUT, str(n)) for n in range(11)]
    assert bench.breaker.channel(OUT, "10") is channels[10]
    assert bench.breaker.channel(OUT, "0") is not channels[0]


#
# Giving up
#


def test__give_up__is_asked_with_openings_and_seconds_and_told_once_until_it_closes(clock):
    asked = []
    bench = Bench(clock, max_errors=1, gives_up=lambda n, secs: asked.append((n, secs)) or n >= 2)
    channel = bench.breaker.channel(OUT, None)
    for _ in range(4):
        send(bench, channel, ok=False)
        bench.clock.advance(5.0)
    assert asked == [(1, 0.0), (2, 5.0)]
    send(bench, channel, ok=True)
    for _ in range(2):
        send(bench, channel, ok=False)
        bench.clock.advance(5.0)
    assert asked[2:] == [(1, 0.0), (2, 5.0)]
    assert [i.gave_up for i in bench.told() if i.state is CircuitState.OPEN] == [
        False, True, False, False, False, True,
    ]  # fmt: skip


#
# Control
#


def test__open_by_hand__holds_every_kind_until_closed(bench):
    channel, origin = bench.breaker.channel(OUT, None), Origin.of(OUT, "by hand")
    bench.breaker.open(origin)
    bench.clock.advance(1e9)
    assert [send(bench, channel, kind, ok=True) for kind in "ab"] == [None, None]
    assert send(bench, bench.breaker.channel(OUT, "ann"), ok=True) is None
    assert send(bench, bench.breaker.channel(TTS, None), ok=True) is True
    bench.breaker.close(origin)
    assert send(bench, channel, ok=True) is True
    assert [(i.state.value, i.trigger, i.chain) for i in bench.told()] == [
        ("open", Trigger.MANUAL, ()),
        ("closed", Trigger.MANUAL, ()),
    ]


def test__open_by_hand__of_one_destination__leaves_the_others(bench):
    bench.breaker.open(Origin.of(OUT, "by hand", "ann"))
    assert send(bench, bench.breaker.channel(OUT, "ann"), ok=True) is None
    assert send(bench, bench.breaker.channel(OUT, "bob"), ok=True) is True
    assert send(bench, bench.breaker.channel(OUT, None), ok=True) is True


def test__open_by_hand__all__opens_what_there_is(bench):
    bench.error(TTS, "E")
    bench.error(OUT, "F")
    bench.breaker.open(None)
    assert {c.state for c in bench.breaker.circuits} == {CircuitState.OPEN}
    bench.breaker.close(None)
    assert {c.state for c in bench.breaker.circuits} == {CircuitState.CLOSED}
    assert {c.failures for c in bench.breaker.circuits} == {0}


def test__close_by_hand__of_a_closed_circuit__clears_its_window(bench):
    origin = Origin.of(TTS, "E")
    for _ in range(2):
        bench.error(TTS, "E")
    bench.breaker.close(origin)
    assert bench.breaker.circuits[0].failures == 0
    assert bench.told() == []


def test__reset__one_or_all(bench):
    bench.error(TTS, "E")
    bench.error(TTS, "F")
    bench.error(TTS, "G")
    bench.breaker.reset(Origin.of(TTS, "F"))
    assert [c.origin.kind for c in bench.breaker.circuits] == ["E", "G"]
    bench.breaker.reset(None)
    assert bench.breaker.circuits == ()


@pytest.mark.parametrize("step", ["close", "reset"])
def test__control__of_an_unknown_origin__is_refused_with_it(bench, step):
    with pytest.raises(ValueError, match="got TTS: nothing"):
        getattr(bench.breaker, step)(Origin.of(TTS, "nothing"))
    with pytest.raises(ValueError, match="got TTS: nothing"):
        bench.breaker.set_mode(Mode.OBSERVE, Origin.of(TTS, "nothing"))


def test__mode__of_one_circuit__wins_until_set_for_all(bench):
    channel = opened(bench)
    origin = Origin.of(OUT, "E")
    bench.breaker.set_mode(Mode.DISABLED, origin)
    assert bench.breaker.mode is Mode.GUARD
    assert send(bench, channel, ok=True) is True
    assert bench.error(OUT, "E")[1].passes
    bench.breaker.set_mode(Mode.GUARD, None)
    assert not bench.error(OUT, "E")[1].passes


def test__mode_disabled__a_loop_is_not_noted(bench):
    bench.breaker.set_mode(Mode.DISABLED, None)
    for _ in range(10):
        link = bench.link(RTVI)
        for _ in range(9):
            link, passes = reply(bench, link)
            assert passes
    assert bench.breaker.circuits == ()


def test__mode_disabled__an_open_loop_lets_pass(bench):
    loop(bench)
    bench.breaker.set_mode(Mode.DISABLED, Origin.of(OUT, FEEDBACK))
    assert reply(bench)[1]


def test__mode_observe__an_open_loop_lets_pass_and_counts(bench):
    loop(bench)
    bench.breaker.set_mode(Mode.OBSERVE, None)
    assert reply(bench)[1]
    assert bench.breaker.circuits[0].held_messages == 2


def test__mode_observe__outcome_of_what_would_have_been_held_back__is_void(bench):
    channel = opened(bench)
    bench.breaker.set_mode(Mode.OBSERVE, None)
    assert send(bench, channel, ok=True) is True
    bench.breaker.set_mode(Mode.GUARD, None)
    assert send(bench, channel, ok=True) is None
    assert bench.breaker.circuits[0].held_messages == 2


def test__client_gone_and_back__holds_all_then_closes_all_of_its_circuits(bench):
    channel = opened(bench)
    bench.error(TTS, "E")
    bench.breaker.client_gone(OUT)
    bench.breaker.client_gone(OUT)
    bench.clock.advance(1e9)
    assert send(bench, channel, ok=True) is None
    bench.breaker.client_came(OUT)
    assert {c.state for c in bench.breaker.circuits} == {CircuitState.CLOSED}
    assert send(bench, channel, ok=True) is True
    assert [i.trigger for i in bench.told()] == [
        Trigger.ERRORS,
        Trigger.CLIENT_GONE,
        Trigger.ERRORS,
        Trigger.CLIENT_GONE,
    ]


def test__client_came__leaves_other_processors_circuits(bench):
    for _ in range(3):
        bench.error(TTS, "E")
    bench.breaker.client_came(OUT)
    assert bench.state(TTS, "E") is CircuitState.OPEN


def test__last_error_of_another_origin_in_the_chain__opens_it_and_says_so(bench):
    begun, _ = bench.error(TTS, "E")
    verdicts = [bench.error(OUT, f"F{n}", cause=bench.link(RTVI, cause=begun))[1] for n in range(2)]
    assert [v.passes for v in verdicts] == [True, True]
    assert "circuit open" in verdicts[1].remark
    assert bench.state(TTS, "E") is CircuitState.OPEN


def test__snapshot__says_when_the_next_probe_may_go(bench):
    opened(bench)
    bench.clock.advance(2.0)
    assert bench.breaker.circuits[0].probe_in_secs == 3.0


def test__incident__of_a_loop__tells_its_chain(bench):
    loop(bench)
    (incident,) = bench.told()
    assert [step.hop for step in incident.chain] == [0, 1, 2, 3]


def test__success_of_one_kind__does_not_clear_another(bench):
    channel = bench.breaker.channel(OUT, None)
    send(bench, channel, "bad", ok=False)
    send(bench, channel, "good", ok=True)
    assert channel.is_suspect("bad")
    send(bench, channel, "bad", ok=True)
    assert not channel.is_failing


def test__evicted_circuit__all_open__the_oldest_goes_and_holds_nothing_back(clock):
    bench = Bench(clock, max_errors=1)
    first, _ = bench.error(TTS, "E")
    notice_before = bench.link(RTVI)
    for n in range(10):
        bench.error(TTS, f"F{n}")
    assert len(bench.breaker.circuits) == 10
    assert Origin.of(TTS, "E") not in [c.origin for c in bench.breaker.circuits]
    assert bench.breaker.judge_message(notice_before)
    endings = [(i.origin.kind, i.ending) for i in bench.told() if i.ending]
    assert endings == [("E", Ending.FORGOTTEN)]
    assert bench.error(TTS, "E")[1].passes, "it begins anew"


def test__evicted_circuit__is_the_closed_one_longest_without_news(bench):
    for n in range(10):
        bench.error(TTS, f"F{n}")
    bench.error(TTS, "F0")
    bench.error(TTS, "G")
    assert {c.origin.kind for c in bench.breaker.circuits} == {"F0", "G"} | {
        f"F{n}" for n in range(2, 10)
    }


def test__opened_by_hand_while_a_probe_is_on_its_way__the_probe_is_void(bench):
    for _ in range(3):
        bench.error()
    bench.clock.advance(5.0)
    bench.error()
    assert bench.state() is CircuitState.HALF_OPEN
    bench.breaker.open(Origin.of(TTS, "E"))
    assert [probe.outcome for probe in bench.told()[-1].probes] == [ProbeOutcome.VOID]
    (totals,) = bench.breaker.totals
    assert (totals.probes_passed, totals.probes_failed, totals.probes_timed_out) == (0, 0, 0)


def test__what_was_queued_on_account_of_an_error__is_forgotten_with_the_incident(bench):
    error, _ = bench.error()
    bench.breaker.note_queued(error, "TTSSpeakFrame")
    for _ in range(2):
        bench.error()
    bench.breaker.close(None)
    for _ in range(3):
        bench.error()
    opened = [i.advice.kind for i in bench.told() if i.state is CircuitState.OPEN]
    assert opened == [AdviceKind.APPLICATION_ANSWERS_ERRORS, AdviceKind.PROCESSOR_FAILS]
