"""Loops over a channel that is healthy: they cannot be told from a heartbeat, so none is cut."""

import pytest
from pipecat.frames.frames import (
    InputTransportMessageFrame,
    MetricsFrame,
    OutputTransportMessageUrgentFrame,
)
from pipecat.metrics.metrics import TTFBMetricsData
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from pipecat_circuit_breaker.testing import Output, running
from tests.cut.cut_parts import Storm, message, own_lines
from tests.support.parts import settle

#: So long a chain in which nothing fails is told.
DEPTH = 1_000
#: A turn is one link or two.
TURNS = DEPTH + 300


@pytest.fixture
def storm():
    return Storm(TURNS)


class Answers(Output):
    """Delivers each message, and says so."""

    def __init__(self, storm, answer):
        super().__init__()
        self._storm = storm
        self._answer = answer

    async def send_message(self, frame):
        await super().send_message(frame)
        if self._storm.turn():
            await self._answer(self, frame)


async def measure(output, frame):
    metrics = [TTFBMetricsData(processor=output.name, value=0.1)]
    await output.push_frame(MetricsFrame(data=metrics))


async def acknowledge(output, frame):
    await output.push_frame(message("sent", n=frame.message.get("n", 0)), FrameDirection.UPSTREAM)


class GoesOn(FrameProcessor):
    """Sends the next message when the last has been acknowledged."""

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        is_message = isinstance(frame, OutputTransportMessageUrgentFrame)
        if is_message and direction is FrameDirection.UPSTREAM:
            await self.push_frame(message("app", n=frame.message["n"] + 1))
        else:
            await self.push_frame(frame, direction)


LOOPS = {"metrics": measure, "acknowledgements": acknowledge}


@pytest.mark.parametrize("loop", LOOPS)
async def test__loop_over_a_healthy_channel__longer_than_any_chain__all_sent_and_told_once(
    guard, storm, loop
):
    output = Answers(storm, LOOPS[loop])
    with own_lines() as lines:
        async with running(*guard.line(GoesOn(), output)) as worker:
            await worker.queue_frame(message("app", n=0))
            await storm.over()
            await settle()
            told = [*lines]

    assert len(output.sent) >= TURNS
    if loop == "acknowledgements":
        assert [m["n"] for m in output.sent] == [*range(len(output.sent))]
    if guard.breaker is not None:
        assert guard.breaker.circuits == ()
        assert guard.breaker.incidents == ()
        # A queue carries no cause as long as nothing fails: there the chain is not seen.
        assert len(told) == (1 if loop == "acknowledgements" else 0)


@pytest.mark.parametrize("loop", LOOPS)
async def test__loop_over_a_healthy_channel__shorter__not_told(guarded, loop):
    storm = Storm(DEPTH // 4)
    output = Answers(storm, LOOPS[loop])
    with own_lines() as lines:
        async with running(*guarded.line(GoesOn(), output)) as worker:
            await worker.queue_frame(message("app", n=0))
            await storm.over()
            await settle()
            told = [*lines]

    assert len(output.sent) >= DEPTH // 4
    assert told == []


class Wire(Output):
    """Whatever one bot sends is what the other one's client says."""

    def __init__(self, storm):
        super().__init__()
        self.storm = storm
        self.other = None

    async def send_message(self, frame):
        await super().send_message(frame)
        if self.storm.turn():
            await self.other.queue_frame(InputTransportMessageFrame(message=frame.message))


async def test__two_rtvi_bots__answer_each_others_error_responses__is_not_cut(guard, storm):
    # Neither knows the type that the other answers with, and says so with a response.
    first, second = Wire(storm), Wire(storm)
    other = guard.new()
    with own_lines() as lines:
        async with (
            running(*guard.line(first)) as one,
            running(*guard.line(second, breaker=other)) as two,
        ):
            first.other, second.other = two, one
            said = {"label": "rtvi-ai", "id": "1", "type": "no such type", "data": {}}
            await one.queue_frame(InputTransportMessageFrame(message=said))
            await storm.over()
            await settle()
            told = len(lines)

    if guard.breaker is None:
        assert storm.calm
    else:
        # Each answers what a client has sent: nothing has failed, and no cause is known.
        assert storm.calm
        assert told == 0


async def test__rtvi_bot__client_gets_ten_error_responses_in_a_row__all_arrive(guarded):
    # A client of another version does that: it is no loop.
    output = Output()
    async with running(*guarded.line(output)) as worker:
        for n in range(10):
            said = {"label": "rtvi-ai", "id": str(n), "type": f"type-{n}", "data": {}}
            await worker.queue_frame(InputTransportMessageFrame(message=said))
            await settle(60)

    responses = [m for m in output.sent if m.get("type") == "error-response"]
    assert [m["id"] for m in responses] == [str(n) for n in range(10)]
