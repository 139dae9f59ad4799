"""Messages that cannot be sent, among others that can: only those that fail may be missing."""

import pytest
from pipecat.frames.frames import OutputTransportMessageUrgentFrame

from pipecat_circuit_breaker.testing import Output, running
from tests.healthy.healthy_parts import LiveKit, message, numbers, queue
from tests.support.parts import app_message, settle


class Opaque:
    """What JSON cannot say."""


GOOD = 200


@pytest.fixture
def room(monkeypatch):
    # LiveKit's transport makes JSON in `send_message`, and raises what that raises.
    return LiveKit(monkeypatch)


async def test__server_messages__every_second_not_serialisable__all_others_arrive(guard, room):
    line = guard.line(room.transport.input(), room.transport.output())
    async with running(*line) as worker:
        for n in range(GOOD):
            await worker.rtvi.send_server_message({"n": n, "bad": Opaque()})
            await worker.rtvi.send_server_message({"n": n})
            guard.clock.advance(0.04)
            await settle(60)

    arrived = [m["data"]["n"] for m in room.arrived if m["type"] == "server-message"]
    assert arrived == [*range(GOOD)]


async def test__messages_without_type__every_second_not_serialisable__all_others_arrive(
    guard, room
):
    line = guard.line(room.transport.input(), room.transport.output())
    async with running(*line) as worker:
        for n in range(GOOD):
            await queue(
                worker,
                OutputTransportMessageUrgentFrame(message={"n": n, "bad": Opaque()}),
                OutputTransportMessageUrgentFrame(message={"n": n}),
            )
            guard.clock.advance(0.04)

    # RTVI's notices of the errors arrive as well, and have a type.
    assert [m["n"] for m in room.arrived if "type" not in m] == [*range(GOOD)]


async def test__fifty_good_a_second__one_bad_a_second__all_good_arrive(guard):
    # The bad one is of the same kind as the others.
    output = Output(lambda m: TypeError("not serialisable") if m.get("bad") else None)
    good = 0
    async with running(*guard.line(output)) as worker:
        for _ in range(30):
            bad = OutputTransportMessageUrgentFrame(message={"type": "app", "n": -1, "bad": True})
            await queue(worker, bad)
            for _ in range(50):
                await worker.queue_frame(app_message(good))
                await settle(25)
                good += 1
                guard.clock.advance(0.02)

    assert good == 1500
    assert numbers(output.sent, "app") == [*range(good)]


async def test__two_kinds_cannot_be_serialised__every_other_message_arrives(guard):
    # More of them than of what works, and never a success between two of them.
    bad = {"user-level", "bot-level"}
    output = Output(lambda m: TypeError("float32") if m["type"] in bad else None)
    async with running(*guard.line(output)) as worker:
        for n in range(40):
            for kind in bad:
                for _ in range(3):
                    await worker.queue_frame(message(kind, n))
            await settle(60)
            await worker.queue_frame(message("transcript", n))
            await settle(60)

    assert [m["n"] for m in output.sent if m["type"] == "transcript"] == [*range(40)]
