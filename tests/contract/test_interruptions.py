"""A probe that is interrupted at any point never wedges its circuit."""

import asyncio

import pytest
from pipecat.frames.frames import (
    InterruptionFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    TTSSpeakFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from tenacity import wait_fixed

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor, CircuitState
from pipecat_circuit_breaker.testing import Output, running
from tests.support.parts import Failing, Tap, app_message, dead, settle

COOLDOWN, PROBE_TIMEOUT = 5.0, 10.0
POINTS = range(24)
SOUND = OutputAudioRawFrame(audio=b"\1\2" * 640, sample_rate=16000, num_channels=1)


class Slow(Output):
    """Takes a few turns of the loop to send, once it is slow."""

    turns = 0
    cancels = False

    async def send_message(self, frame):
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if self.cancels:
            raise asyncio.CancelledError
        await super().send_message(frame)


def queued_message():
    return OutputTransportMessageFrame(message={"type": "app", "n": 0})


def breaker_with(clock):
    return CircuitBreakerProcessor(
        params=CircuitBreakerParams(
            clock=clock, cooldown=wait_fixed(COOLDOWN), probe_timeout_secs=PROBE_TIMEOUT
        )
    )


async def open_circuit(worker, output):
    output.fails = dead
    await worker.queue_frame(app_message())
    await settle()
    output.fails = lambda message: None


async def assert_recovers(clock, worker, breaker, output):
    """After the longest that a probe may take, and a cooldown, everything flows."""
    await settle()
    output.turns, output.cancels = 0, False
    clock.advance(PROBE_TIMEOUT)
    await worker.queue_frame(app_message(-1))  # finds that the probe has timed out, if it has
    await settle()
    clock.advance(COOLDOWN)
    output.sent.clear()
    await worker.queue_frames([app_message(n) for n in range(10)])
    await settle()
    assert [m["n"] for m in output.sent] == [*range(10)]
    assert {c.state for c in breaker.circuits} == {CircuitState.CLOSED}


@pytest.mark.parametrize("probe", [app_message, queued_message])
async def test__interruption__at_every_point_of_a_probe__never_wedges(clock, probe):
    output, breaker = Slow(), breaker_with(clock)
    states = set()
    async with running(breaker, Tap(), output) as worker:
        for point in POINTS:
            output.turns = 0
            await open_circuit(worker, output)
            output.turns = 6
            clock.advance(COOLDOWN)
            if point == 0:
                await worker.queue_frame(InterruptionFrame())
            await worker.queue_frames([SOUND, probe()])
            await settle(point)
            states.add(breaker.circuits[0].state)
            await worker.queue_frame(InterruptionFrame())
            await assert_recovers(clock, worker, breaker, output)
    assert states == {*CircuitState}, "the points reach from before the probe to after it"


@pytest.mark.parametrize("turns", [0, 3])
async def test__send_that_is_cancelled__neither_closes_nor_wedges(clock, turns):
    output, breaker = Slow(), breaker_with(clock)
    async with running(breaker, output) as worker:
        await open_circuit(worker, output)
        output.turns, output.cancels = turns, True
        clock.advance(COOLDOWN)
        with pytest.raises(asyncio.CancelledError):
            await output.send_message(app_message())
        assert breaker.circuits[0].state is CircuitState.HALF_OPEN
        await assert_recovers(clock, worker, breaker, output)


async def test__task_that_sends_is_cancelled__neither_closes_nor_wedges(clock):
    output, breaker = Slow(), breaker_with(clock)
    async with running(breaker, output) as worker:
        await open_circuit(worker, output)
        for turn in range(12):
            output.turns = 8
            clock.advance(COOLDOWN)
            sending = asyncio.create_task(output.send_message(app_message()))
            await settle(turn)
            sending.cancel()
            await asyncio.wait([sending])
            await assert_recovers(clock, worker, breaker, output)
            await open_circuit(worker, output)


async def test__send_that_hangs_for_ever__does_not_wedge(clock):
    output, breaker = Slow(), breaker_with(clock)
    async with running(breaker, output) as worker:
        await open_circuit(worker, output)
        output.turns = 10**9
        clock.advance(COOLDOWN)
        hanging = asyncio.create_task(output.send_message(app_message()))
        await settle()
        assert breaker.circuits[0].state is CircuitState.HALF_OPEN
        await assert_recovers(clock, worker, breaker, output)
        hanging.cancel()


async def test__message_that_another_processor_blocks__is_no_probe(clock):
    class Blocking(FrameProcessor):
        blocks = True

        async def process_frame(self, frame, direction):
            await super().process_frame(frame, direction)
            if not (self.blocks and frame.name.startswith("OutputTransportMessage")):
                await self.push_frame(frame, direction)

    blocking, output, breaker = Blocking(), Slow(), breaker_with(clock)
    blocking.blocks = False
    async with running(breaker, blocking, output) as worker:
        await open_circuit(worker, output)
        blocking.blocks = True
        clock.advance(COOLDOWN)
        await worker.queue_frame(app_message())
        await settle()
        assert breaker.circuits[0].state is CircuitState.OPEN
        blocking.blocks = False
        await worker.queue_frame(app_message())
        await settle()
        assert breaker.circuits[0].state is CircuitState.CLOSED


class Moody(Failing):
    """Fails as long as it is told to."""

    fails = True

    async def push_error(self, *args, **kwargs):
        if self.fails:
            await super().push_error(*args, **kwargs)


@pytest.mark.parametrize("point", range(0, 40, 4))
async def test__interruption__around_an_error_that_is_the_probe__never_wedges(clock, point):
    tts = Moody(TTSSpeakFrame, lambda n: {"error_msg": "no"})
    tap, breaker = Tap(), breaker_with(clock)
    async with running(breaker, tap, tts) as worker:
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(6)])
        await settle()
        clock.advance(COOLDOWN)
        await tts.queue_frame(TTSSpeakFrame("hello"), FrameDirection.DOWNSTREAM)
        await settle(point)
        await worker.queue_frame(InterruptionFrame())
        await settle()
        tts.fails = False
        # It works again: it is used, and quiet for a window.
        for _ in range(3):
            clock.advance(COOLDOWN + 10.0)
            await worker.queue_frame(TTSSpeakFrame("hello"))
            await settle()
        assert breaker.circuits[0].state is CircuitState.CLOSED
