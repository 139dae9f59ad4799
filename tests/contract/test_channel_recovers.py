"""Recovery on real pipelines: one probe, and no word of what was sent before."""

import asyncio

from pipecat.frames.frames import OutputTransportMessageFrame, TextFrame
from tenacity import wait_fixed

from pipecat_circuit_breaker import (
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    CircuitState,
    Ending,
)
from pipecat_circuit_breaker.testing import Output, running
from tests.contract.contract_parts import MAX_ERRORS, breaker_with
from tests.support.parts import Tap, app_message, dead, settle


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


async def through_a_short_outage(worker, output, clock):
    """One message arrives while the errors of its channel still cool down, and no other is sent."""
    await worker.queue_frame(app_message())
    await settle()
    output.fails = lambda message: None
    clock.advance(1.0)
    await worker.queue_frame(app_message())
    await settle()


def breaker_with_a_quick_channel(clock):
    params = CircuitBreakerParams(
        clock=clock, cooldown=wait_fixed(5), channel_cooldown=wait_fixed(0.5)
    )
    return CircuitBreakerProcessor(params=params)


async def test__short_outage_and_no_more_messages__health_says_that_it_is_over(clock):
    output, breaker, closed = Output(dead), breaker_with_a_quick_channel(clock), []
    breaker.add_event_handler("on_circuit_closed", lambda _, incident: closed.append(incident))
    async with running(breaker, Tap(), output) as worker:
        await through_a_short_outage(worker, output, clock)
        assert breaker.health()["status"] == "degraded"
        clock.advance(10.0)
        assert breaker.health()["status"] == "ok"
        assert closed == []
        await worker.queue_frame(TextFrame("any frame"))
        await settle()
        assert len(closed) == 1


async def test__short_outage_and_no_more_messages__any_frame_ends_it(clock):
    output, breaker, closed = Output(dead), breaker_with_a_quick_channel(clock), []
    breaker.add_event_handler("on_circuit_closed", lambda _, incident: closed.append(incident))
    async with running(breaker, Tap(), output) as worker:
        await through_a_short_outage(worker, output, clock)
        await worker.queue_frame(TextFrame("too early"))
        await settle()
        assert closed == []
        clock.advance(10.0)
        await worker.queue_frame(TextFrame("on time"))
        await settle()
        assert [incident.ending for incident in closed] == [Ending.RECOVERED]
