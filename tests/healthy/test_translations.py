"""A processor that puts each error into words of its own: one failure, two errors."""

from pipecat.frames.frames import ErrorFrame, TextFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from pipecat_circuit_breaker.testing import Output, running
from tests.support.parts import On, settle


class Translator(FrameProcessor):
    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, ErrorFrame) and direction is FrameDirection.UPSTREAM:
            await self.push_error(f"In other words: {frame.error}")
        else:
            await self.push_frame(frame, direction)


async def test__four_failures_in_a_chain__each_translated__count_once_each(guard):
    """An application tries again three times; five failures in a row would be a loop."""
    heard = []

    async def fails(processor, frame, direction):
        await processor.push_error("the model does not answer")

    async def try_again(worker, error):
        heard.append(error.error)
        if len(heard) < 4:
            await worker.queue_frame(TextFrame("again"))

    breaker = guard.breaker
    async with running(*guard.line(Translator(), On(TextFrame, fails), Output())) as worker:
        worker.add_event_handler("on_pipeline_error", try_again)
        await worker.queue_frame(TextFrame("hello"))
        for _ in range(10):
            await settle(100)
        incidents = breaker.incidents if breaker else ()

    assert heard == ["In other words: the model does not answer"] * 4
    assert incidents == ()
