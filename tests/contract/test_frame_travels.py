"""The breaker's own frame, in the hands of those who serialise every frame: debuggers and buses."""

import json
from enum import Enum

from pydantic import BaseModel

from pipecat_circuit_breaker import (
    CircuitBreakerFrame,
    CircuitBreakerParams,
    CircuitBreakerProcessor,
)
from pipecat_circuit_breaker.testing import Output, running
from tests.support.parts import Tap, app_message, dead, settle


def only_plain(value):
    """Refuse what is not of JSON's types: what Whisker, which packs a `model_dump()`, chokes on."""
    match value:
        case dict():
            return all(isinstance(k, str) and only_plain(v) for k, v in value.items())
        case list() | tuple():
            return all(map(only_plain, value))
        case Enum():
            return isinstance(value, str)
    return value is None or isinstance(value, str | int | float | bool)


async def incident_frames(clock):
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    tap = Tap()
    async with running(breaker, tap, Output(dead)) as worker:
        await worker.queue_frame(app_message())
        await settle()
    return tap.frames(CircuitBreakerFrame)


async def test__circuit_opens__frame_dumps_to_plain_types(clock):
    frames = await incident_frames(clock)

    assert frames
    for frame in frames:
        # As Whisker does it.
        incident = frame.incident
        dump = incident.model_dump() if isinstance(incident, BaseModel) else incident
        assert only_plain(dump), dump
        json.dumps(dump)


async def test__circuit_opens__frame_goes_over_pipecats_bus_and_back(clock):
    from pipecat.bus.messages import BusFrameMessage
    from pipecat.bus.serializers.json import JSONMessageSerializer
    from pipecat.processors.frame_processor import FrameDirection

    frame = (await incident_frames(clock))[0]
    message = BusFrameMessage(source="bot", frame=frame, direction=FrameDirection.DOWNSTREAM)
    serializer = JSONMessageSerializer()

    received = serializer.deserialize(serializer.serialize(message))

    assert received.frame.incident == frame.incident
