"""A transport that logs an ERROR with each message that it delivers, and a log that is sent on.

The echo of such a line sets off the next one for ever. That loop has to end; but the channel is
healthy, and whatever is no echo has to arrive.
"""

import asyncio
from contextlib import asynccontextmanager

import pytest
from loguru import logger
from pipecat.processors.frame_processor import FrameDirection
from pipecat.processors.frameworks.rtvi import RTVIObserverParams

from pipecat_circuit_breaker.testing import Output, running
from tests.healthy.healthy_parts import LiveKit, TransferOnAcknowledgement, message, numbers, queue
from tests.support.parts import settle

MESSAGES = 100
LINES = 20

#: Echoes in which the loop has to end, beside one of each message of the application's.
ECHOES = 40

#: Echoes after which it stops of itself, so that the test ends without a breaker as well.
ENDLESS = 400


class Room(LiveKit):
    """livekit delivers, and logs that it took long."""

    def __init__(self, patch):
        super().__init__(patch)
        participant = self.room.local_participant
        publish = participant.publish_data

        async def publish_data(data, **kwargs):
            await publish(data, **kwargs)
            if self.echoes() < ENDLESS:
                logger.error(f"publishing took {len(self.room.local_participant.arrived)} ms")

        participant.publish_data = publish_data

    def echoes(self):
        return sum("publishing took" in text for text in self.lines())

    def lines(self):
        """What arrived of the log."""
        return [
            m["data"]["text"] if m["type"] == "system-log" else m["text"]
            for m in self.arrived
            if m["type"] in ("system-log", "log")
        ]


@asynccontextmanager
async def forwarded(worker):
    """The application sends its log on: a sink, a queue, and a task that reads it."""
    waiting = asyncio.Queue()

    async def forward():
        while True:
            await worker.queue_frame(message("log", 0, text=await waiting.get()))

    sink = logger.add(lambda line: waiting.put_nowait(line.record["message"]), level="WARNING")
    forwarding = asyncio.create_task(forward())
    try:
        yield
    finally:
        logger.remove(sink)
        forwarding.cancel()


@asynccontextmanager
async def sent_by_rtvi(worker):
    """RTVI does it, where `system_logs_enabled` says so."""
    yield


WAYS = {
    "forwarder with a queue": (forwarded, False),
    "system logs": (sent_by_rtvi, True),
}


@pytest.mark.parametrize("way", WAYS)
async def test__delivers_and_logs_errors__log_is_sent_on__all_but_echoes_arrives(
    guard, monkeypatch, way
):
    room, (log, by_rtvi) = Room(monkeypatch), WAYS[way]
    async with running(
        *guard.line(room.transport.input(), room.transport.output()),
        rtvi_observer_params=RTVIObserverParams(system_logs_enabled=by_rtvi),
    ) as worker:
        async with log(worker):
            for n in range(MESSAGES):
                await queue(worker, message("app", n))
                if n % (MESSAGES // LINES) == 0:
                    logger.warning(f"line {n} of the application")
                    await settle(40)
            await settle(ENDLESS * 40)

    lines = [n for text in room.lines() for n in range(MESSAGES) if f"line {n} of" in text]
    assert numbers(room.arrived, "app") == [*range(MESSAGES)]
    assert lines == [*range(0, MESSAGES, MESSAGES // LINES)]
    if guard.breaker is None:
        assert room.echoes() >= ENDLESS
    else:
        assert room.echoes() <= MESSAGES + ECHOES


class LogsAndAcknowledges(Output):
    """Logs that it took long, and says upstream that a chunk was sent."""

    async def send_message(self, frame):
        await super().send_message(frame)
        if len(self.sent) < ENDLESS:
            logger.error(f"sending took {len(self.sent)} ms")
        if frame.message["type"] == "chunk":
            await self.push_frame(message("sent", frame.message["n"]), FrameDirection.UPSTREAM)


@pytest.mark.parametrize("way", WAYS)
async def test__delivers_and_logs_errors__a_transfer_on_acknowledgements__all_chunks_arrive(
    guard, way
):
    # What a delivery sets off that quotes nothing is no echo, while the loop's are held.
    output, (log, by_rtvi) = LogsAndAcknowledges(), WAYS[way]
    async with running(
        *guard.line(TransferOnAcknowledgement(60), output),
        rtvi_observer_params=RTVIObserverParams(system_logs_enabled=by_rtvi),
    ) as worker:
        async with log(worker):
            await queue(worker, message("app", 0))
            await queue(worker, message("chunk", 0))
            await settle(ENDLESS * 40)

    assert numbers(output.sent, "chunk") == [*range(60)]
    if guard.breaker is None:
        assert len(output.sent) >= ENDLESS
    else:
        # Each message may be told of once, and the loop is a handful of turns more.
        assert len(output.sent) <= 2 * 61 + ECHOES
