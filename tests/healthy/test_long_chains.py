"""Chains of messages in which everything succeeds: however long, they are no loops."""

import asyncio

from pipecat.frames.frames import OutputTransportMessageUrgentFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from pipecat_circuit_breaker.testing import Output, running
from tests.healthy.healthy_parts import TransferOnAcknowledgement, message, numbers, queue
from tests.support.parts import settle


class Rewrites(FrameProcessor):
    """Pushes a message of its own in the place of each that comes."""

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, OutputTransportMessageUrgentFrame):
            changed = {**frame.message, "by": self.name}
            frame = OutputTransportMessageUrgentFrame(message=changed)
        await self.push_frame(frame, direction)


class Transfer(FrameProcessor):
    """Sends a file in chunks: each that goes by sets off the next."""

    def __init__(self, chunks):
        super().__init__()
        self._chunks = chunks

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        if isinstance(frame, OutputTransportMessageUrgentFrame):
            n = frame.message["n"] + 1
            if n < self._chunks:
                await self.queue_frame(message("chunk", n))


class Acknowledges(Output):
    """Says upstream that a chunk was sent, as the real ones do with their events."""

    async def send_message(self, frame):
        await super().send_message(frame)
        await self.push_frame(message("sent", frame.message["n"]), FrameDirection.UPSTREAM)


class Ping(FrameProcessor):
    """Answers each pong with a ping, until there were enough."""

    def __init__(self, rounds):
        super().__init__()
        self._rounds = rounds

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, OutputTransportMessageUrgentFrame) and frame.message["type"] == "pong":
            if frame.message["n"] < self._rounds:
                await self.push_frame(message("ping", frame.message["n"] + 1))
        else:
            await self.push_frame(frame, direction)


class Pong(FrameProcessor):
    """Hands each ping on to the client, and answers it with a pong."""

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        if isinstance(frame, OutputTransportMessageUrgentFrame):
            await self.push_frame(message("pong", frame.message["n"]), FrameDirection.UPSTREAM)


class Heart(FrameProcessor):
    """Each beat that goes by starts the task that waits for the next, a second later."""

    def __init__(self, clock, beats):
        super().__init__()
        self._clock = clock
        self._beats = beats
        self._tasks = []

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        if isinstance(frame, OutputTransportMessageUrgentFrame):
            n = frame.message["n"] + 1
            if n < self._beats:
                self._tasks = [self.create_task(self._beat(n))]

    async def _beat(self, n):
        self._clock.advance(1)
        await asyncio.sleep(0)
        await self.queue_frame(message("beat", n))


async def until(condition, turns):
    """Turn the event loop until something is true, or has not become so in very many turns."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0)


async def test__transfer_in_30_chunks__each_sets_off_the_next__all_arrive(guard):
    output = Output()
    async with running(*guard.line(Transfer(30), output)) as worker:
        await queue(worker, message("chunk", 0))
        await settle(600)

    assert numbers(output.sent, "chunk") == [*range(30)]


async def test__transfer_in_30_chunks__each_on_an_acknowledgement__all_arrive(guard):
    output = Acknowledges()
    async with running(*guard.line(TransferOnAcknowledgement(30), output)) as worker:
        await queue(worker, message("chunk", 0))
        await settle(1000)

    assert numbers(output.sent, "chunk") == [*range(30)]


async def test__nine_processors_that_rewrite__each_message_arrives_once(guard):
    output = Output()
    names = [f"rewrites {n}" for n in range(9)]
    line = guard.line(*(Rewrites(name=name) for name in names), output)
    async with running(*line) as worker:
        for n in range(100):
            await queue(worker, message("app", n))
            guard.clock.advance(0.1)

    assert numbers(output.sent, "app") == [*range(100)]
    assert {m["by"] for m in output.sent} == {names[-1]}


async def test__ping_pong__four_hundred_rounds__all_arrive(guard):
    output = Output()
    async with running(*guard.line(Ping(400), Pong(), output)) as worker:
        await worker.queue_frame(message("ping", 0))
        await until(lambda: len(output.sent) > 400, turns=20_000)
        await settle(100)

    assert numbers(output.sent, "ping") == [*range(401)]
    assert len(output.sent) == 401


async def test__heartbeat__each_beat_sets_off_the_next__all_arrive(guard):
    # Far deeper than where such a chain is told of: told, and not cut.
    beats, output = 10_001, Output()
    async with running(*guard.line(Heart(guard.clock, beats), output)) as worker:
        await worker.queue_frame(message("beat", 0))
        await until(lambda: len(output.sent) >= beats, turns=300_000)
        await settle(100)

    assert numbers(output.sent, "beat") == [*range(beats)]
