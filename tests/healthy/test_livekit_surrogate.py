r"""A client in a LiveKit room that sends `\ud800`: whatever quotes it cannot be encoded.

The message is valid JSON, so anybody in the room can send it; it is the transport's `.encode()`
that refuses it on the way back.
"""

import pytest
from pipecat.frames.frames import OutputTransportMessageUrgentFrame

from pipecat_circuit_breaker.testing import running
from tests.healthy.healthy_parts import LiveKit
from tests.support.parts import settle

SURROGATE = "\ud800"


@pytest.fixture
def room(monkeypatch):
    return LiveKit(monkeypatch)


def request(kind, n, text=""):
    return {"label": "rtvi-ai", "type": kind, "id": str(n), "data": {"t": "chat", "d": text}}


async def test__client_sends_surrogates__no_application_code__everything_else_is_answered(
    guard, room
):
    line = guard.line(room.transport.input(), room.transport.output())
    async with running(*line):
        for n in range(200):
            # RTVI answers a type that it does not know with an error that quotes it.
            room.client_says(request(SURROGATE, -1))
            await settle(60)
            room.client_says(request("hello", n))
            await settle(60)
            guard.clock.advance(0.1)

    answers = [m["id"] for m in room.arrived if m["type"] == "error-response"]
    assert answers == [str(n) for n in range(200)]


@pytest.mark.parametrize("way", ["rtvi", "queue"])
async def test__client_sends_surrogates__application_relays__all_other_texts_arrive(
    guard, room, way
):
    line = guard.line(room.transport.input(), room.transport.output())
    async with running(*line) as worker:

        @worker.rtvi.event_handler("on_client_message")
        async def on_client_message(rtvi, message):
            if way == "rtvi":
                await rtvi.send_server_message({"type": "chat", "text": message.data})
            else:
                relayed = {"type": "server-message", "data": {"text": message.data}}
                await worker.queue_frame(OutputTransportMessageUrgentFrame(message=relayed))

        for n in range(100):
            room.client_says(request("client-message", n, SURROGATE))
            await settle(60)
            room.client_says(request("client-message", n, f"text {n}"))
            await settle(60)
            guard.clock.advance(0.1)

    texts = [m["data"]["text"] for m in room.arrived if m["type"] == "server-message"]
    assert texts == [f"text {n}" for n in range(100)]
