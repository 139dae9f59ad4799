"""What the breaker itself got wrong: when it tells, when it is quiet, and what it keeps."""

import asyncio
import gc

import pytest
from loguru import logger
from pipecat.frames.frames import (
    ErrorFrame,
    InputAudioRawFrame,
    OutputTransportMessageFrame,
    TextFrame,
    TTSSpeakFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from tenacity import stop_after_attempt, wait_fixed

from pipecat_circuit_breaker import (
    CircuitBreakerFrame,
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    CircuitState,
    Ending,
    GiveUpPolicy,
    ProbeOutcome,
)
from pipecat_circuit_breaker.testing import Output, running
from tests.cut.cut_parts import message
from tests.support.guard import MAX_ERRORS
from tests.support.parts import On, Tap, settle

COOLDOWN = 5.0


async def fails_where_told(tts, frame, direction):
    if frame.text == "fail":
        await tts.push_error("the provider does not answer")


def speech():
    return On(TTSSpeakFrame, fails_where_told)


async def say(worker, *texts):
    for text in texts:
        await worker.queue_frame(TTSSpeakFrame(text))
        await settle(60)


def breaker_with(guarded, **params):
    params = {"clock": guarded.clock, "cooldown": wait_fixed(COOLDOWN), **params}
    guarded.breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(**params))
    return guarded.breaker


#
# Telling
#


def breaks_at_own_lines(line):
    raise OSError("no space left on device")


async def test__sink_raises_on_the_opening_line__listeners_and_policy__all_told(guarded):
    breaker = breaker_with(guarded, give_up=stop_after_attempt(1), give_up_policy=GiveUpPolicy.END)
    told, over = [], asyncio.Event()

    def note(event):
        def handler(_, incident):
            if incident.state is CircuitState.OPEN:  # it closes when the pipeline is over
                told.append(event)

        breaker.add_event_handler(event, handler)

    for event in ("on_circuit_changed", "on_circuit_opened", "on_circuit_given_up"):
        note(event)
    speaker, tap = speech(), Tap()
    async with running(*guarded.line(speaker, tap, Output())) as worker:
        worker.add_event_handler("on_pipeline_finished", lambda *_: over.set())
        sink = logger.add(
            breaks_at_own_lines, level="WARNING", filter="pipecat_circuit_breaker", catch=False
        )
        try:
            await say(worker, *["fail"] * MAX_ERRORS)
            await settle(3000)
            assert over.is_set()
        finally:
            logger.remove(sink)

    assert sorted(told) == ["on_circuit_changed", "on_circuit_given_up", "on_circuit_opened"]
    assert len(breaker.incidents) == 1
    frames = [f.incident for f in tap.frames(CircuitBreakerFrame)]
    assert [i["id"] for i in frames if i["state"] == "open"] == [breaker.incidents[0].id]


async def test__sink_raises_on_each_of_our_lines__recovery__told_and_errors_are_heard(guarded):
    breaker, told = breaker_with(guarded), []
    breaker.add_event_handler("on_circuit_changed", lambda _, i: told.append(i.state))
    async with running(*guarded.line(speech(), Output())) as worker:
        sink = logger.add(
            breaks_at_own_lines, level="WARNING", filter="pipecat_circuit_breaker", catch=False
        )
        try:
            await say(worker, *["fail"] * MAX_ERRORS)
            await breaker.close_circuits()
        finally:
            logger.remove(sink)
        heard = []
        worker.add_event_handler("on_pipeline_error", lambda _, error: heard.append(error))
        await say(worker, "fail")

    assert told == [CircuitState.OPEN, CircuitState.CLOSED]
    assert len(heard) == 1


async def test__several_tasks_cause_transitions_at_once__tellings__arrive_in_order(guarded):
    # A handler in place that waits lets the other tasks run in the middle of a telling.
    breaker = breaker_with(guarded)
    told, opened_or_closed = [], []

    async def export(_, incident):
        told.append(incident.state)
        for _ in range(20 if incident.state is CircuitState.OPEN else 1):
            await asyncio.sleep(0)

    breaker.add_event_handler("on_circuit_changed", export)
    breaker.add_event_handler("on_circuit_opened", lambda _, i: opened_or_closed.append(i.state))
    breaker.add_event_handler("on_circuit_closed", lambda _, i: opened_or_closed.append(i.state))
    tap = Tap()
    async with running(*guarded.line(speech(), tap, Output())) as worker:
        await say(worker, "fail")
        rounds = 10
        for _ in range(rounds):
            await asyncio.gather(
                breaker.open_circuits(), breaker.close_circuits(), breaker.open_circuits()
            )
            await breaker.close_circuits()
        await settle(2000)

    expected = [CircuitState.OPEN, CircuitState.CLOSED] * 2 * rounds
    assert told == expected
    assert opened_or_closed == expected
    states = [f.incident["state"] for f in tap.frames(CircuitBreakerFrame)]
    assert states == [state.value for state in expected]


async def test__listener_raises__the_others__are_told(guarded):
    breaker, told = breaker_with(guarded), []

    def fail(*_):
        raise RuntimeError("no space left on device")

    breaker.add_event_handler("on_circuit_changed", fail)
    breaker.add_event_handler("on_circuit_changed", lambda _, i: told.append(i.state))
    breaker.add_event_handler("on_circuit_opened", lambda _, i: told.append(i.state))
    async with running(*guarded.line(speech(), Output())) as worker:
        await say(worker, *["fail"] * MAX_ERRORS)

        assert told == [CircuitState.OPEN] * 2


#
# Quiet
#


async def let_quiet_pass(guarded, worker):
    """Open, let an error through as the probe, use the processor, and let a long time pass."""
    await say(worker, *["fail"] * MAX_ERRORS)
    guarded.clock.advance(COOLDOWN + 1)
    await say(worker, "fail", "hello")
    guarded.clock.advance(90)


async def test__quiet_recovery_was_due__closed_by_hand__it_was_quiet_that_ended_it(guarded):
    breaker = breaker_with(guarded)
    async with running(*guarded.line(speech(), Output())) as worker:
        await let_quiet_pass(guarded, worker)
        await breaker.close_circuits()
        [incident] = breaker.incidents

    assert incident.state is CircuitState.CLOSED
    assert incident.ending is Ending.QUIET
    assert [probe.outcome for probe in incident.probes] == [ProbeOutcome.PASSED]
    assert [(t.probes_passed, t.closings) for t in breaker.totals] == [(1, 1)]


@pytest.mark.parametrize("control", ["reset_circuits", "open_circuits"])
async def test__quiet_recovery_was_due__another_control__it_was_quiet_that_ended_it(
    guarded, control
):
    breaker = breaker_with(guarded)
    async with running(*guarded.line(speech(), Output())) as worker:
        await let_quiet_pass(guarded, worker)
        await getattr(breaker, control)()
        incident = breaker.incidents[0]

    assert incident.ending is Ending.QUIET
    assert [probe.outcome for probe in incident.probes] == [ProbeOutcome.PASSED]


async def test__quiet_recovery_was_due_long_ago__snapshot__shows_it_closed(guarded):
    breaker = breaker_with(guarded)
    async with running(*guarded.line(speech(), Output())) as worker:
        await let_quiet_pass(guarded, worker)

        assert [circuit.state for circuit in breaker.circuits] == [CircuitState.CLOSED]


async def test__quiet_recovery_was_due_long_ago__incidents__show_how_it_ended(guarded):
    breaker = breaker_with(guarded)
    async with running(*guarded.line(speech(), Output())) as worker:
        await let_quiet_pass(guarded, worker)

        assert [incident.ending for incident in breaker.incidents] == [Ending.QUIET]


async def test__probe_was_an_error__processor_was_not_used_since__still_half_open(guarded):
    # Nothing is heard of a processor that nobody asks: that proves nothing.
    breaker = breaker_with(guarded)
    async with running(*guarded.line(speech(), Output())) as worker:
        await say(worker, *["fail"] * MAX_ERRORS)
        guarded.clock.advance(COOLDOWN + 1)
        await say(worker, "fail")
        guarded.clock.advance(90)

        assert [circuit.state for circuit in breaker.circuits] == [CircuitState.HALF_OPEN]


#
# What is kept
#

TASKS = 1_000


@pytest.mark.parametrize("began_with", ["message", "error"])
async def test__each_task_creates_the_next__a_thousand_times__none_is_kept(guarded, began_with):
    over, may_go = asyncio.Event(), asyncio.Event()

    async def next_beat(beat, frame, direction):
        n = int(frame.text) if isinstance(frame, TextFrame) else 0
        if n < TASKS:
            beat.task = asyncio.create_task(beat.queue_frame(TextFrame(str(n + 1))))
        else:
            over.set()
            await may_go.wait()  # so that what the last task knows of is there to be counted

    first = message() if began_with == "message" else ErrorFrame("the model does not answer")
    beat, tap = On((type(first), TextFrame), next_beat, enable_direct_mode=True), Tap()
    async with running(*guarded.line(beat, tap, Output())) as worker:
        gc.collect()
        before = done_tasks()
        await worker.queue_frame(first)
        await asyncio.wait_for(over.wait(), 30)
        await settle()
        gc.collect()
        kept = done_tasks() - before
        may_go.set()
        await settle()

    assert [f.text for f in tap.frames(TextFrame)] == [str(n + 1) for n in range(TASKS)]
    assert kept <= 20


def done_tasks():
    return sum(isinstance(o, asyncio.Task) and o.done() for o in gc.get_objects())


#
# Subclasses
#


class Sees(CircuitBreakerProcessor):
    """Looks at each frame, as any processor may."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = []

    async def process_frame(self, frame, direction):
        self.seen.append((frame, direction))
        await super().process_frame(frame, direction)


async def test__subclass_overrides_process_frame__sees_every_frame_that_passes(guarded):
    breaker = Sees(params=CircuitBreakerParams(clock=guarded.clock))
    guarded.breaker = breaker
    frames = [
        TextFrame("hello"),
        InputAudioRawFrame(bytes(640), 16000, 1),
        message("app", n=0),
        OutputTransportMessageFrame(message={"type": "app"}),
    ]

    async def fail(processor, frame, direction):
        await processor.push_error("the output does not take texts")

    # Behind it in either position: what it fails with comes up past the breaker.
    recorder = On(TextFrame, fail)
    order = [*guarded.line(Tap(), Output()), recorder]
    async with running(*order) as worker:
        for frame in frames:
            await worker.queue_frame(frame)
            await settle(60)

    seen = [frame for frame, direction in breaker.seen if direction is FrameDirection.DOWNSTREAM]
    assert [frame for frame in seen if frame in frames] == frames
    up = [frame for frame, direction in breaker.seen if direction is FrameDirection.UPSTREAM]
    assert len([frame for frame in up if isinstance(frame, ErrorFrame)]) == 1
