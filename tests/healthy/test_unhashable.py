"""A processor with `__eq__` and no `__hash__`: pipecat does not mind."""

from pipecat.frames.frames import OutputTransportMessageUrgentFrame, TextFrame
from pipecat.utils.errors import ErrorCategory

from pipecat_circuit_breaker.testing import Output, running
from tests.healthy.healthy_parts import message, numbers, queue
from tests.support.parts import On

MESSAGES = 50


class ComparedOutput(Output):
    def __eq__(self, other):
        return isinstance(other, ComparedOutput)


class ComparedProcessor(On):
    def __eq__(self, other):
        return isinstance(other, ComparedProcessor)


async def test__processors_and_output_without_hash__all_messages_arrive(guard):
    heard, output = [], ComparedOutput()

    async def answer(on, frame, direction):
        await on.push_frame(message("answer", int(frame.text)))

    async def die(on, frame, direction):
        if frame.message["type"] == "die":
            await on.push_error("rejected", category=ErrorCategory.AUTHENTICATION)

    line = guard.line(
        ComparedProcessor(TextFrame, answer),
        ComparedProcessor(OutputTransportMessageUrgentFrame, die),
        output,
    )
    async with running(*line) as worker:
        worker.add_event_handler("on_pipeline_error", lambda _, error: heard.append(error))
        await queue(worker, message("die", 0))
        for n in range(MESSAGES):
            await queue(worker, TextFrame(str(n)), message("app", n))

    assert numbers(output.sent, "app") == [*range(MESSAGES)]
    assert numbers(output.sent, "answer") == [*range(MESSAGES)]
    assert len(heard) == 1
