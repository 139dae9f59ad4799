"""Errors: which of them the worker hears, what makes them one origin, and what the opening one says."""

import asyncio

import pytest
from pipecat.frames.frames import EndFrame, Frame, LLMTextFrame, TTSSpeakFrame
from pipecat.pipeline.worker import ProcessorUnusablePolicy
from pipecat.processors.frame_processor import FrameDirection
from pipecat.utils.errors import ErrorCategory

from pipecat_circuit_breaker import (
    AdviceKind,
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    CircuitState,
    Origin,
    Trigger,
)
from pipecat_circuit_breaker.testing import Output, running
from tests.contract.contract_parts import MAX_ERRORS, breaker_with
from tests.support.parts import Failing, app_message, dead, of_type, settle

#
# Errors that the worker has to see
#


async def test__fatal_error__in_the_middle_of_a_storm__cancels_the_worker():
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "no", "fatal": n == 50})
    finished = asyncio.Event()
    async with running(CircuitBreakerProcessor(), tts, Output()) as worker:
        worker.add_event_handler("on_pipeline_finished", lambda *_: finished.set())
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame.fatal))
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(50)])
        await asyncio.wait_for(finished.wait(), 10)

        assert seen.count(True) == 1
        assert len(seen) == MAX_ERRORS + 1


@pytest.mark.parametrize(
    "failing",
    [
        lambda n: {"error_msg": "no", "force_treat_as_permanent": n >= 50},
        lambda n: {
            "error_msg": "no",
            "category": ErrorCategory.AUTHENTICATION if n >= 50 else ErrorCategory.UNKNOWN,
        },
    ],
)
async def test__error_that_makes_a_processor_unusable__reaches_the_policy(failing):
    tts = Failing(TTSSpeakFrame, failing)
    finished = asyncio.Event()
    async with running(
        CircuitBreakerProcessor(),
        tts,
        Output(),
        processor_unusable_policy=ProcessorUnusablePolicy.CANCEL,
    ) as worker:
        worker.add_event_handler("on_pipeline_finished", lambda *_: finished.set())
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(49)])
        await settle()
        assert not finished.is_set()
        await worker.queue_frame(TTSSpeakFrame("hello"))
        await asyncio.wait_for(finished.wait(), 10)


async def test__processor_that_stays_unusable__is_heard_once_each_time_it_becomes_so():
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "no", "force_treat_as_permanent": True})
    async with running(
        CircuitBreakerProcessor(params=CircuitBreakerParams(max_errors=1)), tts, Output()
    ) as worker:
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame))
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(20)])
        await settle()
        assert len(seen) == 1


async def test__processor_that_becomes_unusable_again__is_heard_again(clock):
    tts = Failing(
        TTSSpeakFrame, lambda n: {"error_msg": "no", "force_treat_as_permanent": n in (10, 20)}
    )
    async with running(breaker_with(clock, max_errors=1), tts) as worker:
        seen = []
        worker.add_event_handler(
            "on_pipeline_error", lambda _, frame: seen.append(frame.processor.is_usable)
        )
        for _ in range(30):
            await worker.queue_frame(TTSSpeakFrame("hello"))
            await settle(20)
            if tts.errors == 15:
                await tts.set_usable(True)
        # The one that opened the circuit, and twice the one that cost the usability.
        assert seen == [True, False, False]


async def test__handler_that_ends_the_bot_on_an_error__is_no_answer(clock):
    class Slow(Failing):
        async def process_frame(self, frame: Frame, direction: FrameDirection):
            if isinstance(frame, TTSSpeakFrame):
                await settle(50)
            await super().process_frame(frame, direction)

    tts, breaker = Slow(TTSSpeakFrame, lambda n: {"error_msg": "no"}), breaker_with(clock)
    async with running(breaker, tts) as worker:

        async def end(worker, frame):
            await worker.queue_frame(EndFrame())

        worker.add_event_handler("on_pipeline_error", end)
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(MAX_ERRORS)])
        await settle(1000)
        assert breaker.incidents[0].advice.kind is AdviceKind.PROCESSOR_FAILS


#
# Origins
#


async def test__errors_whose_texts_never_repeat__are_one_origin():
    tts = Failing(
        TTSSpeakFrame,
        lambda n: {
            "error_msg": f"request {n * 7919:08x} at 12:{n % 60:02}:00 to 10.0.0.{n} failed"
        },
    )
    breaker = CircuitBreakerProcessor()
    async with running(breaker, tts, Output()) as worker:
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame))
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(200)])
        await settle(500)

        (circuit,) = breaker.circuits
        assert circuit.state is CircuitState.OPEN
        assert circuit.held_errors == 195
        assert len(seen) == MAX_ERRORS


async def test__other_circuits__are_not_touched():
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "tts"})
    llm = Failing(LLMTextFrame, lambda n: {"error_msg": "llm"})
    async with running(CircuitBreakerProcessor(), tts, llm, Output()) as worker:
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame.error))
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(50)])
        await worker.queue_frames([LLMTextFrame("hello") for _ in range(3)])
        await settle()

        assert seen.count("llm") == 3


async def test__counts__errors_that_do_not_count__are_neutral():
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "ignore me"})
    breaker = CircuitBreakerProcessor(
        params=CircuitBreakerParams(counts=lambda error: "ignore" not in error.error)
    )
    async with running(breaker, tts, Output()) as worker:
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame))
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(50)])
        await settle()

        assert len(seen) == 50
        assert breaker.circuits == ()


async def test__origins_without_end__stay_within_the_bound(clock):
    words = ["ab", "cd", "ef", "gh", "ij", "kl", "mn", "op", "qr", "st"]
    tts = Failing(
        TTSSpeakFrame, lambda n: {"error_msg": " ".join(words[int(d)] for d in f"{n:03}")}
    )
    breaker = breaker_with(clock, max_circuits=100)
    async with running(breaker, tts, Output()) as worker:
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(999)])
        await settle(2000)
        assert tts.errors == 999
        assert len(breaker.circuits) == 100


async def test__counts__is_asked_once_about_an_error_that_passes_several_gates(clock):
    asked = []
    llm = Failing(LLMTextFrame, lambda n: {"error_msg": "llm"})
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "tts"})
    breaker = breaker_with(clock, counts=lambda error: asked.append(error.error))
    async with running(breaker, llm, tts) as worker:
        await worker.queue_frames([LLMTextFrame("hello"), TTSSpeakFrame("hello")])
        await settle()
        assert sorted(asked) == ["llm", "tts"]


#
# What the one error says, and to whom
#


async def test__opening__goes_upstream_once_and_says_so_with_its_processor(clock):
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": f"no {n}"})
    output, breaker = Output(), breaker_with(clock)
    async with running(breaker, tts, output) as worker:
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame))
        for _ in range(20):
            await worker.queue_frame(TTSSpeakFrame("hello"))
            await settle(20)

        assert [frame.error for frame in seen[:-1]] == ["no 1", "no 2", "no 3", "no 4"]
        assert seen[-1].error.startswith("no 5 (circuit open, 5 related errors")
        assert seen[-1].processor is tts
        notices = of_type(output.sent, "error")
        assert len(notices) == 5
        assert "circuit open" in notices[-1]["data"]["error"]

        clock.advance(5.0)
        await worker.queue_frame(TTSSpeakFrame("hello"))
        await settle()
        assert seen[-1].error == "no 21 (circuit probed, 15 more like it were held back)"


async def test__events__name_origin_trigger_chain_and_counts(clock):
    output, breaker = Output(dead), breaker_with(clock)
    told = []
    for event in ("opened", "half_opened", "closed"):
        breaker.add_event_handler(
            f"on_circuit_{event}", lambda b, incident, e=event: told.append((e, b, incident))
        )
    async with running(breaker, output) as worker:
        await worker.queue_frame(app_message())
        await settle()
        await worker.queue_frame(app_message())
        await settle()
        output.fails = lambda message: None
        clock.advance(5.0)
        await worker.queue_frame(app_message())
        await settle()

        assert [event for event, _, _ in told] == ["opened", "half_opened", "closed"]
        assert all(b is breaker for _, b, _ in told)
        opened, _, closed = (incident for _, _, incident in told)
        assert opened.origin.processor == output.name
        assert opened.origin.kind == "ConnectionError"
        assert opened.trigger is Trigger.ERRORS
        assert opened.failures == MAX_ERRORS
        assert opened.probe_in_secs == pytest.approx(0.1), "that of the channel"
        assert [step.hop for step in opened.chain] == [*range(10)]
        assert opened.chain[0].frame == "OutputTransportMessageUrgentFrame"
        assert opened.chain[-1].frame == "ErrorFrame"
        assert opened.chain[-1].processor == output.name
        assert "the client is gone" in opened.chain[-1].text
        assert opened.model_dump_json()
        assert closed.state is CircuitState.CLOSED
        assert closed.held_messages == 2  # the notice that says "circuit open", and one more
        assert breaker.circuits[0].state is CircuitState.CLOSED


async def test__incidents__are_as_of_now_and_at_most_a_hundred(clock):
    output, breaker = Output(), breaker_with(clock)
    async with running(breaker, output) as worker:
        for n in range(105):
            await breaker.open_circuits(Origin.of(output, f"E{n}"))
            if n < 104:
                await breaker.close_circuits()
        assert [i.origin.kind for i in breaker.incidents] == [f"E{n}" for n in range(5, 105)]
        await worker.queue_frames([app_message(n) for n in range(3)])
        await settle()
        assert breaker.incidents[-1].held_messages == 3
