"""The breaker alone: causes and circuits, with no pipecat and no event loop."""

import gc
import tracemalloc

import pytest

from conftest import Clock
from pipecat_circuit_breaker.breaker import Breaker, Mode
from pipecat_circuit_breaker.causality import Causality, Handling
from pipecat_circuit_breaker.circuit import CircuitState
from pipecat_circuit_breaker.incident import Trigger
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
    assert bench.told()[-1].trigger is Trigger.PROBE


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
