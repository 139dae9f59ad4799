"""The breaker does no harm: listeners, faults of its own, two of it, and what it leaves behind."""

import gc
import weakref

import pytest
from loguru import logger
from pipecat.frames.frames import StopFrame, TTSSpeakFrame
from pipecat.pipeline.parallel_pipeline import ParallelPipeline
from pipecat.pipeline.pipeline import Pipeline

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor, CircuitState
from pipecat_circuit_breaker._core.breaker import Breaker
from pipecat_circuit_breaker._core.causality import Causality
from pipecat_circuit_breaker._pipeline.patch import replace
from pipecat_circuit_breaker.testing import Output, running
from tests.contract.contract_parts import MAX_ERRORS, breaker_with
from tests.support.parts import Failing, Tap, app_message, dead, of_type, settle


async def test__listener_that_answers_each_event_with_a_message__feeds_no_chain(clock):
    output, breaker = Output(dead), breaker_with(clock)
    async with running(breaker, output) as worker:

        async def tell_client(breaker, incident):
            await worker.rtvi.send_server_message({"degraded": True})

        for event in ("opened", "half_opened", "closed"):
            breaker.add_event_handler(f"on_circuit_{event}", tell_client)
        await worker.queue_frame(app_message())
        await settle()
        assert len(output.failed) <= MAX_ERRORS + 1


async def test__listener_that_raises__changes_nothing(clock):
    output, breaker = Output(dead), breaker_with(clock)

    @breaker.event_handler("on_circuit_opened")
    async def on_circuit_opened(breaker, incident):
        raise RuntimeError("listener")

    async with running(breaker, output) as worker:
        await worker.queue_frame(app_message())
        await settle()
        assert len(output.failed) == MAX_ERRORS
        assert breaker.circuits[0].state is CircuitState.OPEN


async def test__two_breakers__share_the_work_and_judge_once(clock):
    first, second = breaker_with(clock), breaker_with(clock)
    told = []
    for breaker in (first, second):
        breaker.add_event_handler("on_circuit_opened", lambda b, _: told.append(b))
    output = Output(dead)
    async with running(first, Pipeline([Tap(), second]), output) as worker:
        await worker.queue_frame(app_message())
        await settle()
        assert len(output.failed) == MAX_ERRORS
        assert first.circuits == second.circuits
        assert told == [first, second]


async def test__failure_inside_the_breaker__lets_the_frame_through_and_is_reported_once(clock):
    lines = []
    logger.add(lines.append, level="ERROR", filter="pipecat_circuit_breaker")
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "no"})

    def counts(error):
        raise RuntimeError("broken setting")

    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(counts=counts))
    async with running(breaker, tts) as worker:
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame))
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(3)])
        await settle()
        assert len(seen) == 3
        assert len(lines) == 1


@pytest.mark.parametrize("part", ["link_of", "note_queued", "judge_error", "deliver"])
async def test__part_of_the_breaker_that_raises__frames_pass_and_it_is_reported(part, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a bug of ours")

    lines = []
    logger.add(lines.append, level="ERROR", filter="pipecat_circuit_breaker")
    for owner in (Causality, Breaker):
        if hasattr(owner, part):
            monkeypatch.setattr(owner, part, broken)
    tts, output = Failing(TTSSpeakFrame, lambda n: {"error_msg": "no"}), Output()
    async with running(CircuitBreakerProcessor(), tts, output) as worker:

        async def answer(worker, frame):
            if tts.errors < 3:
                await worker.queue_frame(TTSSpeakFrame("sorry"))

        worker.add_event_handler("on_pipeline_error", answer)
        await worker.queue_frames([TTSSpeakFrame("hello"), app_message(1)])
        await settle()
        assert tts.errors == 3
        assert len(of_type(output.sent, "app")) == 1
        assert len(of_type(output.sent, "error")) == 3
    assert lines


async def test__message_of_a_listener__reaches_the_client_that_is_there(clock):
    left, right, breaker = Output(dead), Output(), breaker_with(clock)
    async with running(breaker, ParallelPipeline([left], [right])) as worker:

        @breaker.event_handler("on_circuit_opened")
        async def on_circuit_opened(breaker, incident):
            await worker.rtvi.send_server_message({"degraded": True})

        await worker.queue_frame(app_message())
        await settle()
        assert len(of_type(right.sent, "server-message")) == 1
        assert len(left.failed) <= MAX_ERRORS + 1


async def test__same_pipeline_in_a_second_worker__is_guarded_anew(clock):
    output, breaker = Output(dead), breaker_with(clock)
    async with running(breaker, output) as worker:
        await worker.queue_frame(app_message())
        await settle()
        await worker.queue_frame(StopFrame())
        await settle()
    assert len(output.failed) == MAX_ERRORS
    async with running(breaker, output) as worker:
        assert breaker.circuits == ()
        await worker.queue_frame(app_message())
        await settle()
        assert len(output.failed) == 2 * MAX_ERRORS
        await worker.queue_frame(StopFrame())
        await settle()


async def test__pipeline__is_not_relinked_and_left_as_it_was_found(clock):
    upstream, tts, breaker = Tap(), Failing(TTSSpeakFrame, lambda n: {}), breaker_with(clock)
    output = Output()
    async with running(breaker, upstream, tts, output) as worker:
        observer = upstream.processor_setup.observer
        assert (breaker.next, upstream.next, tts.next) == (upstream, tts, output)
        guarded = {name for p in (upstream, output, observer) for name in vars(p)}
        assert guarded >= {"queue_frame", "send_message", "on_process_frame"}
        assert "queue_frame" in vars(worker)
    assert breaker._guard is not None
    await breaker._guard.leave()
    for instance in (upstream, tts, output, worker, observer):
        assert not {"queue_frame", "send_message", "on_process_frame"} & vars(instance).keys()


async def test__pipeline_that_is_over__is_not_kept_in_memory(clock):
    breaker = breaker_with(clock)
    async with running(breaker, Output(dead)) as worker:
        await worker.queue_frame(app_message())
        await settle()
        gone = weakref.ref(worker)
    del worker, breaker
    await settle()
    gc.collect()
    assert gone() is None


def test__function_in_front_of_a_method__is_taken_back_and_leaves_what_others_put_there():
    class Thing:
        def speak(self):
            return "class"

    thing = Thing()
    undo = replace(thing, "speak", lambda: "ours")
    assert thing.speak() == "ours"
    undo()
    assert (thing.speak(), vars(thing)) == ("class", {})

    thing.speak = lambda: "its own"
    undo = replace(thing, "speak", lambda: "ours")
    undo()
    assert thing.speak() == "its own"

    undo = replace(thing, "speak", lambda: "ours")
    thing.speak = lambda: "somebody else's"
    undo()
    assert thing.speak() == "somebody else's"
