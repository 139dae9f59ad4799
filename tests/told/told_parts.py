"""What the tests of what is told share: a breaker and all that it tells, and a room that clients leave."""

from loguru import logger
from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor

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
