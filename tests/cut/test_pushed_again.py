"""One `ErrorFrame` object that is pushed again and again: each push is a new failure."""

import pytest
from pipecat.frames.frames import ErrorFrame, InputAudioRawFrame, TextFrame
from pipecat.processors.frame_processor import FrameDirection

from pipecat_circuit_breaker.testing import Output, running
from tests.cut.cut_parts import DeadOutput
from tests.support.parts import On, of_type, settle

#: Failures of one origin that open its circuit, and what is under way then.
AT_MOST = 10


def kept_error(text="the client is gone"):
    """Makes the error once, and keeps it, as one does with a constant."""
    error = ErrorFrame(text)

    async def fail(processor, *_):
        await processor.push_error_frame(error)

    return fail


async def test__output_pushes_its_one_error_again__client_hears_of_it__ends(guard, storm):
    output = DeadOutput(storm, kept_error())
    async with running(*guard.line(output)) as worker:
        await worker.rtvi.send_server_message("hello")
        await storm.over()

    storm.assert_cut(guard, AT_MOST)


async def test__processor_pushes_its_one_error_again__application_answers_it__ends(guard, storm):
    fail = kept_error()

    async def fail_once_a_turn(processor, *_):
        if storm.turn():
            await fail(processor)

    async def ask_again(worker, error):
        await worker.queue_frame(TextFrame("again"))

    async with running(*guard.line(On(TextFrame, fail_once_a_turn), Output())) as worker:
        worker.add_event_handler("on_pipeline_error", ask_again)
        await worker.queue_frame(TextFrame("hello"))
        await storm.over()

    storm.assert_cut(guard, AT_MOST)


CHUNKS = 150


@pytest.mark.parametrize("by", ["push_error_frame", "push_frame"])
async def test__recognition_pushes_its_one_error_for_each_chunk__client_is_told_a_few_times(
    guard, by
):
    error = ErrorFrame("quota exceeded")

    async def fail(stt, frame, direction):
        if by == "push_error_frame":
            await stt.push_error_frame(error)
        else:
            await stt.push_frame(error, FrameDirection.UPSTREAM)

    output, errors = Output(), []
    async with running(*guard.line(On(InputAudioRawFrame, fail), output)) as worker:
        worker.add_event_handler("on_pipeline_error", lambda _, error: errors.append(error))
        for _ in range(CHUNKS):
            await worker.queue_frame(InputAudioRawFrame(bytes(640), 16000, 1))
            await settle(20)

    notices = of_type(output.sent, "error")
    if guard.breaker is None:
        assert len(notices) == len(errors) == CHUNKS
    else:
        assert 1 <= len(notices) <= AT_MOST
        assert 1 <= len(errors) <= AT_MOST
