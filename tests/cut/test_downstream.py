"""Errors that are pushed downstream, where a notifier near the output hears of them."""

import pytest
from pipecat.frames.frames import (
    ErrorFrame,
    InputAudioRawFrame,
    OutputTransportMessageUrgentFrame,
    TextFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from pipecat_circuit_breaker.testing import Output, running
from tests.cut.cut_parts import DeadOutput, Storm, message
from tests.support.parts import On, of_type, settle

AT_MOST = 10
CHUNKS = 150


class Notifier(FrameProcessor):
    """Answers an error that comes downstream: to the client, and by asking once more."""

    def __init__(self, answer):
        super().__init__()
        self._answer = answer

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, ErrorFrame) and direction is FrameDirection.DOWNSTREAM:
            await self._answer(self, frame)
        await self.push_frame(frame, direction)


async def tell_the_client(notifier, error):
    await notifier.push_frame(message("sorry", text=error.error))


async def ask_again(notifier, error):
    await notifier.push_frame(TextFrame("again"), FrameDirection.UPSTREAM)


async def ask_again_with_a_message(notifier, error):
    await notifier.push_frame(message("again"), FrameDirection.UPSTREAM)


def fails_downstream(storm, error=None):
    async def fail(processor, frame, direction):
        if storm.turn():
            await processor.push_frame(error or ErrorFrame(f"request {storm.turns} failed"))

    return fail


@pytest.mark.parametrize("answer", [ask_again, ask_again_with_a_message])
async def test__errors_go_downstream__notifier_asks_again__ends(guard, storm, answer):
    model = On((TextFrame, OutputTransportMessageUrgentFrame), fails_downstream(storm))
    async with running(*guard.line(model, Notifier(answer), Output())) as worker:
        await worker.queue_frame(TextFrame("hello"))
        await storm.over()

    storm.assert_cut(guard, AT_MOST)


async def test__errors_go_downstream__one_object__ends(guard, storm):
    model = On(TextFrame, fails_downstream(storm, ErrorFrame("the model does not answer")))
    async with running(*guard.line(model, Notifier(ask_again), Output())) as worker:
        await worker.queue_frame(TextFrame("hello"))
        await storm.over()

    storm.assert_cut(guard, AT_MOST)


async def test__output_says_downstream_that_it_fails__recorder_behind_it_reports_that__ends(
    guard, storm
):
    # The recorder's report goes back up to a processor that sends it to the client.
    async def fail(output, frame):
        await output.push_frame(ErrorFrame("the client is gone"))

    async def forward(forwarder, frame, direction):
        if direction is FrameDirection.UPSTREAM:
            await forwarder.push_frame(message("report"))

    forwarder = On(OutputTransportMessageUrgentFrame, forward)
    output = DeadOutput(storm, fail)
    recorder = Notifier(ask_again_with_a_message)
    order = guard.line(forwarder, output)
    async with running(*order, recorder) as worker:
        await worker.queue_frame(message())
        await storm.over()

    storm.assert_cut(guard, AT_MOST)


async def test__recognition_fails_downstream_on_each_chunk__client_is_told_a_few_times(guard):
    output = Output()
    stt = On(InputAudioRawFrame, fails_downstream(Storm(CHUNKS + 1)))
    async with running(*guard.line(stt, Notifier(tell_the_client), output)) as worker:
        for _ in range(CHUNKS):
            await worker.queue_frame(InputAudioRawFrame(bytes(640), 16000, 1))
            await settle(20)

    told = of_type(output.sent, "sorry")
    if guard.breaker is None:
        assert len(told) == CHUNKS
    else:
        assert 1 <= len(told) <= AT_MOST
