"""Messages over a channel that works arrive, whatever fails beside it and however many they are."""

import asyncio

import pytest
from pipecat.frames.frames import (
    InputTransportMessageFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
)
from pipecat.pipeline.parallel_pipeline import ParallelPipeline
from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor, CircuitState
from pipecat_circuit_breaker.testing import Output, ended, running
from tests.contract.contract_parts import MAX_ERRORS, UP, breaker_with
from tests.support.parts import Tap, app_message, dead, of_type, settle

#
# Several outputs, several kinds of message
#


async def test__one_output_dead_one_alive__live_client_gets_every_message_once_in_order(clock):
    left, right = Output(dead), Output()
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    async with running(breaker, ParallelPipeline([left], [right])) as worker:
        for n in range(100):
            await worker.queue_frame(app_message(n))
            await settle(5)
        await settle()

        assert [m["n"] for m in of_type(right.sent, "app")] == [*range(100)]
        others = [m for m in right.sent if m["type"] != "app"]
        assert len(others) <= MAX_ERRORS + 2
        assert len(left.failed) <= MAX_ERRORS


async def test__one_output_dead_one_alive__burst__is_the_same(clock):
    left, right = Output(dead), Output()
    async with running(breaker_with(clock), ParallelPipeline([left], [right])) as worker:
        await worker.queue_frames([app_message(n) for n in range(100)])
        await settle()

        assert [m["n"] for m in of_type(right.sent, "app")] == [*range(100)]
        assert len([m for m in right.sent if m["type"] != "app"]) <= MAX_ERRORS + 2
        # While all that failed was of one kind, a message of another is tried once.
        assert len(left.failed) <= MAX_ERRORS + 1


async def test__outputs_in_a_row__first_one_dead__queued_messages_still_reach_the_second(clock):
    first, second = Output(dead), Output()
    async with running(breaker_with(clock), first, second) as worker:
        for n in range(20):
            await worker.queue_frame(OutputTransportMessageFrame(message={"type": "app", "n": n}))
            await settle(20)
        await settle()

        assert [m["n"] for m in of_type(second.sent, "app")] == [*range(20)]
        assert len(first.failed) <= MAX_ERRORS


@pytest.mark.parametrize("burst", [1, 50])
async def test__one_kind_always_fails__every_other_message_arrives(burst, clock):
    output = Output(lambda m: TypeError("not serialisable") if m.get("type") == "bad" else None)
    async with running(breaker_with(clock), output) as worker:
        for n in range(50):
            await worker.queue_frames([app_message(n, "bad") for _ in range(burst)])
            await worker.queue_frame(app_message(n))
            await settle(20)
        await settle()

        assert [m["n"] for m in of_type(output.sent, "app")] == [*range(50)]
        # They fail, as they would without a breaker; only their errors are held back.
        assert len(of_type(output.sent, "error")) == MAX_ERRORS


async def test__single_queued_message_that_fails__the_sound_goes_on():
    output = Output(dead)
    async with running(CircuitBreakerProcessor(), output) as worker:
        await worker.queue_frame(OutputTransportMessageFrame(message={"type": "app"}))
        await settle()
        sound = OutputAudioRawFrame(audio=b"\1\2" * 640, sample_rate=16000, num_channels=1)
        await worker.queue_frame(sound)
        await ended(worker)

        assert len(output.failed) >= 1
        assert b"\1\2" * 640 in bytes(output.audio)


#
# Clients
#


async def test__two_hundred_malformed_rtvi_messages__two_hundred_answers_and_no_circuit():
    class Client(FrameProcessor):
        async def process_frame(self, frame, direction):
            await super().process_frame(frame, direction)
            await self.push_frame(frame, direction)

    client, output, breaker = Client(), Output(), CircuitBreakerProcessor()
    async with running(breaker, client, output):
        for n in range(200):
            bad = InputTransportMessageFrame(message={"label": "rtvi-ai", "id": 7, "n": n})
            await client.push_frame(bad, UP)
            await settle(2)
        await settle()

        assert len(of_type(output.sent, "error")) == 200
        assert all(c.state is CircuitState.CLOSED for c in breaker.circuits)


async def test__valid_requests_answered_by_one_task__are_never_a_chain():
    output, breaker, client = Output(), CircuitBreakerProcessor(), Tap()
    async with running(breaker, client, output):
        for n in range(200):
            message = {"label": "rtvi-ai", "type": "no-such-type", "id": str(n), "data": {}}
            await client.push_frame(InputTransportMessageFrame(message=message), UP)
        await settle(2000)

        assert len(of_type(output.sent, "error-response")) == 200
        assert breaker.circuits == ()


@pytest.mark.parametrize("cancelled", [False, True])
async def test__messages_that_one_task_sends_by_calling_the_output__are_no_chain(clock, cancelled):
    class Cancelling(Output):
        async def send_message(self, frame):
            await super().send_message(frame)
            if cancelled:
                raise asyncio.CancelledError

    output, breaker = Cancelling(), breaker_with(clock)

    async def talk():
        for n in range(200):
            try:
                await output.send_message(app_message(n))
            except asyncio.CancelledError:
                continue

    async with running(breaker, output, enable_rtvi=False):
        await asyncio.create_task(talk())
        assert len(output.sent) == 200
        assert breaker.circuits == ()
