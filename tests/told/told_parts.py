"""What the tests of what is told share: a breaker and all that it tells, and a room that clients leave."""

from loguru import logger
from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from tests.support.parts import app_message, settle

EVENTS = ("opened", "reopened", "half_opened", "closed", "given_up")


def told_by(breaker):
    told = []
    for event in EVENTS:
        breaker.add_event_handler(
            f"on_circuit_{event}", lambda _, incident, e=event: told.append((e, incident))
        )
    return told


def new_breaker(clock, *, tags=None, **params):
    return CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock, **params), tags=tags)


def own_lines():
    lines = []
    logger.add(
        lambda line: lines.append((line.record["level"].name, line.record["message"])),
        level="DEBUG",
        filter="pipecat_circuit_breaker",
    )
    return lines


async def through_an_outage(worker, output, clock):
    """Send messages to nobody, and one more when the client is back."""
    for n in range(20):
        await worker.queue_frame(app_message(n))
        await settle(30)
    output.recover()
    clock.advance(100)
    await worker.queue_frame(app_message())
    await settle(200)


class Room(FrameProcessor):
    """A transport's events, and its output."""

    def __init__(self, output):
        super().__init__()
        self._output = output
        self._register_event_handler("on_client_connected", sync=True)
        self._register_event_handler("on_client_disconnected", sync=True)

    def output(self):
        return self._output

    async def comes(self, client):
        await self._call_event_handler("on_client_connected", client)

    async def goes(self, client):
        await self._call_event_handler("on_client_disconnected", client)
