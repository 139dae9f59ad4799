"""What a caller asks of an output comes back to the caller, and signatures stay as they were."""

import pytest

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import Output, running
from tests.support.parts import app_message, dead, settle


class WithTopic(Output):
    """An output whose `send_message` takes more than pipecat's does."""

    async def send_message(self, frame, *args, topic="none"):
        await super().send_message(frame)
        return topic


async def test__channel_is_down__application_sends_itself__is_told_and_can_send_elsewhere(clock):
    broken, other = Output(dead), Output()
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    async with running(breaker, broken, enable_rtvi=False):
        for n in range(30):
            try:
                await broken.send_message(app_message(n))
            except ConnectionError:
                await other.send_message(app_message(n))

    assert [message["n"] for message in other.sent] == [*range(30)]


async def test__send_message_takes_more__all_of_it_is_handed_on(clock):
    output = WithTopic()
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    async with running(breaker, output, enable_rtvi=False):
        assert await output.send_message(app_message(1), topic="news") == "news"
        await settle()

    assert [message["n"] for message in output.sent] == [1]


@pytest.mark.parametrize("position", ["first", "last"])
async def test__channel_is_down__message_from_the_pipeline__is_dropped_without_an_error(
    clock, position
):
    output, heard = Output(dead), []
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    line = [breaker, output] if position == "first" else [output, breaker]
    async with running(*line, enable_rtvi=False) as worker:
        worker.add_event_handler("on_pipeline_error", lambda _, error: heard.append(error))
        for n in range(30):
            await worker.queue_frame(app_message(n))
            await settle(40)

    assert len(output.failed) == len(heard) == 5
