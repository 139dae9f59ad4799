"""A view of the log over a channel that works, some of whose sends log warnings themselves."""

import random

import pytest
from loguru import logger
from pipecat.frames.frames import OutputTransportMessageUrgentFrame

from pipecat_circuit_breaker.testing import Output, running
from tests.healthy.healthy_parts import message
from tests.support.parts import settle

METRICS = 120


class Slow(Output):
    """Delivers everything, and warns at one send in so many, drawn from a fixed seed."""

    def __init__(self, one_in):
        super().__init__()
        self._draw = random.Random(4)
        self._one_in = one_in
        self.warned = 0

    async def send_message(self, frame):
        await super().send_message(frame)
        if self._draw.random() < 1 / self._one_in:
            self.warned += 1
            logger.warning(f"slow client, send number {len(self.sent)} took long")


@pytest.mark.parametrize("one_in", [4, 6, 20])
async def test__log_view__each_chain_ends_by_itself__every_line_arrives(guard, one_in):
    output, lines = Slow(one_in), []

    def forward(line):
        lines.append(line)

    sink = logger.add(forward, level="WARNING", filter=__name__)
    try:
        async with running(*guard.line(output)) as worker:
            for n in range(METRICS):
                await worker.queue_frame(message("metrics", n=n))
                await settle(30)
                while lines:
                    # From a queue of its own, as a forwarder does: no context comes along.
                    text = str(lines.pop(0))
                    await worker.queue_frame(
                        OutputTransportMessageUrgentFrame(message={"type": "log", "text": text})
                    )
                    await settle(30)
    finally:
        logger.remove(sink)

    assert len([m for m in output.sent if m["type"] == "metrics"]) == METRICS
    assert output.warned > METRICS / one_in / 2
    assert len([m for m in output.sent if m["type"] == "log"]) == output.warned
