"""An application's task that calls `send_message` itself, and catches what that raises."""

import asyncio

import pytest
from pipecat.frames.frames import OutputTransportMessageFrame, OutputTransportMessageUrgentFrame

from pipecat_circuit_breaker.testing import Output, running
from tests.healthy.healthy_parts import LiveKit, message, numbers
from tests.support.parts import settle

SENDS = 100


class Flaky:
    """Fails at the given sends, whatever they are."""

    def __init__(self, *at):
        self.at = at
        self.sends = 0

    def __call__(self, _):
        self.sends += 1
        return ConnectionError("reset by peer") if self.sends - 1 in self.at else None


def frame_of(kind, n):
    return kind(message={"type": "app", "n": n})


KINDS = [OutputTransportMessageFrame, OutputTransportMessageUrgentFrame]
FAILING = {
    "seconds apart": (10, 13, 16),
    "in a row": (10, 11, 12),
    "the first three": (0, 1, 2),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("failing", FAILING)
async def test__own_sends__three_fail__all_others_arrive(guard, kind, failing):
    output = Output(Flaky(*FAILING[failing]))
    raised = []

    async def talk():
        for n in range(SENDS):
            try:
                await output.send_message(frame_of(kind, n))
            except ConnectionError:
                raised.append(n)
            guard.clock.advance(1)
            await asyncio.sleep(0)

    async with running(*guard.line(output)):
        await asyncio.create_task(talk())
        await settle()

    assert raised == [*FAILING[failing]]
    arrived = [n for n in range(SENDS) if n not in raised]
    assert numbers(output.sent, "app") == arrived


@pytest.mark.parametrize("failing", FAILING)
async def test__own_sends__three_fail__what_the_task_queues_and_pushes_arrives(guard, failing):
    # The same task goes other ways as well: what failed must not stay with it.
    output = Output(Flaky(*FAILING[failing]))
    fails = [n for n in range(20) if n in FAILING[failing]]

    async def talk(worker):
        for n in range(20):
            try:
                await output.send_message(message("own", n))
            except ConnectionError:
                pass
            guard.clock.advance(1)
        for n in range(SENDS):
            await worker.queue_frame(message("queued", n))
            await output.queue_frame(message("handed over", n))
            await output.send_message(message("own", 20 + n))
            await settle(40)

    async with running(*guard.line(output)) as worker:
        await asyncio.create_task(talk(worker))

    assert numbers(output.sent, "own") == [n for n in range(20 + SENDS) if n not in fails]
    assert numbers(output.sent, "queued") == [*range(SENDS)]
    assert numbers(output.sent, "handed over") == [*range(SENDS)]


async def test__own_sends_over_livekit__three_cannot_be_encoded__all_others_arrive(
    guard, monkeypatch
):
    room = LiveKit(monkeypatch)
    bad, raised = (10, 12, 14), []

    async def talk():
        for n in range(SENDS):
            try:
                await room.transport.send_message_urgent(
                    "\ud800" if n in bad else f'{{"type": "app", "n": {n}}}'
                )
            except UnicodeEncodeError:
                raised.append(n)
            guard.clock.advance(1)
            await asyncio.sleep(0)

    async with running(*guard.line(room.transport.input(), room.transport.output())):
        await asyncio.create_task(talk())

    assert raised == [*bad]
    assert numbers(room.arrived, "app") == [n for n in range(SENDS) if n not in bad]


async def test__own_send_that_is_not_urgent__fails__raises_as_without(guard):
    """It is the task that plays the audio that needs protection, and not this caller."""
    output = Output(lambda m: ConnectionError("refused") if m["type"] == "bad" else None)
    raised, errors = [], []
    async with running(*guard.line(output)) as worker:
        worker.add_event_handler("on_pipeline_error", lambda _, error: errors.append(error))
        for n in range(8):
            try:
                await output.send_message(
                    OutputTransportMessageFrame(message={"type": "bad", "n": n})
                )
            except ConnectionError as e:
                raised.append(str(e))
            await output.send_message(OutputTransportMessageFrame(message={"type": "app", "n": n}))
            guard.clock.advance(1)
        await settle()

    assert raised == ["refused"] * 8
    assert numbers(output.sent, "app") == [*range(8)]
    # Whoever is told by an exception is not told again by an error frame.
    assert errors == []
