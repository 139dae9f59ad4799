"""Recovery on real pipelines: one probe, and no word of what was sent before."""

import asyncio

from pipecat.frames.frames import OutputTransportMessageFrame

from pipecat_circuit_breaker import CircuitState
from pipecat_circuit_breaker.testing import Output, running
from tests.contract.contract_parts import MAX_ERRORS, breaker_with
from tests.support.parts import app_message, dead, settle


async def test__channel_comes_back__one_probe_and_all_is_well(clock):
    output, breaker = Output(dead), breaker_with(clock)
    async with running(breaker, output) as worker:
        await worker.queue_frame(app_message())
        await settle()
        for _ in range(3):
            clock.advance(5.0)
            await worker.queue_frames([app_message() for _ in range(10)])
            await settle()
        assert len(output.failed) == MAX_ERRORS + 3

        output.fails = lambda message: None
        clock.advance(5.0)
        await worker.queue_frames([app_message(n) for n in range(10)])
        await settle()
        assert [m["n"] for m in output.sent] == [*range(10)]
        assert breaker.circuits[0].state is CircuitState.CLOSED


async def test__probe_that_hangs__times_out_and_reopens(clock):
    hanging = asyncio.Event()

    class Hanging(Output):
        async def send_message(self, frame):
            if hanging.is_set():
                await asyncio.Event().wait()
            await super().send_message(frame)

    output, breaker = Hanging(dead), breaker_with(clock)
    async with running(breaker, output) as worker:
        await worker.queue_frame(app_message())
        await settle()
        hanging.set()
        clock.advance(5.0)
        await worker.queue_frame(OutputTransportMessageFrame(message={"type": "app"}))
        await settle()
        assert breaker.circuits[0].state is CircuitState.HALF_OPEN
        await worker.queue_frame(app_message())
        await settle()
        assert breaker.circuits[0].state is CircuitState.HALF_OPEN
        clock.advance(10.0)
        await worker.queue_frame(app_message())
        await settle()
        assert breaker.circuits[0].state is CircuitState.OPEN
        assert breaker.circuits[0].openings == 2


async def test__late_failure_of_a_message_from_before__decides_nothing(clock):
    release = asyncio.Event()

    class Slow(Output):
        async def send_message(self, frame):
            if frame.message.get("slow"):
                await release.wait()
                raise ConnectionError("late")
            await super().send_message(frame)

    output, breaker = Slow(dead), breaker_with(clock, max_errors=1)
    async with running(breaker, output) as worker:
        slow = OutputTransportMessageFrame(message={"type": "slow", "slow": True})
        await worker.queue_frame(slow)  # hangs in the audio task
        await settle()
        clock.advance(1.0)
        await worker.queue_frame(app_message())
        await settle()
        assert breaker.circuits[0].state is CircuitState.OPEN
        output.fails = lambda message: None
        clock.advance(5.0)
        await worker.queue_frame(app_message())
        await settle()
        assert breaker.circuits[0].state is CircuitState.CLOSED
        release.set()
        await settle()
        assert breaker.circuits[0].state is CircuitState.CLOSED
