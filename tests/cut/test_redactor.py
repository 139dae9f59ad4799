"""A processor that takes names out of messages: it copies each, and pushes the copy."""

import copy
import re

import pytest
from pipecat.frames.frames import OutputTransportMessageFrame, OutputTransportMessageUrgentFrame
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIObserverParams

from pipecat_circuit_breaker.testing import Output, running
from tests.cut.cut_parts import DeadOutput, logs, message, raises
from tests.cut.log_parts import Pushes, pushed
from tests.support.parts import settle

AT_MOST = 60


class Redactor(FrameProcessor):
    """Pushes a deep copy of each message, which has the same `id`, with what is private left out.

    Args:
        times: How many copies: one for the client, and more for others who listen.
    """

    def __init__(self, times=1):
        super().__init__()
        self._times = times

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, (OutputTransportMessageFrame, OutputTransportMessageUrgentFrame)):
            for _ in range(self._times):
                redacted = copy.deepcopy(frame)
                redacted.message = redact(redacted.message)
                await self.push_frame(redacted, direction)
        else:
            await self.push_frame(frame, direction)


def redact(value):
    if isinstance(value, dict):
        return {key: redact(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [redact(inner) for inner in value]
    return re.sub(r"[\w.]+@[\w.]+", "somebody", value) if isinstance(value, str) else value


async def pushes_error(output, frame):
    await output.push_error("the client is gone")


#: How sending fails, and whether the client is sent the log. Where it is not, and a failure is only
#: logged, nobody hears of it.
CHAINS = {
    "raises": (raises, False),
    "raises, system logs": (raises, True),
    "pushes an error": (pushes_error, False),
    "pushes an error, system logs": (pushes_error, True),
    "logs, system logs": (logs, True),
}


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("chain", CHAINS)
async def test__messages_are_copied__channel_is_dead__ends(guard, storm, chain, times):
    fail, system_logs = CHAINS[chain]
    output = DeadOutput(storm, fail)
    async with running(
        *guard.line(Redactor(times), output),
        rtvi_observer_params=RTVIObserverParams(system_logs_enabled=system_logs),
    ) as worker:
        await worker.queue_frame(message())
        await storm.over()

    storm.assert_cut(guard, AT_MOST)


@pytest.mark.parametrize("times", [1, 2])
async def test__messages_are_copied__log_is_forwarded__ends(guard, storm, times):
    output, forwarder = DeadOutput(storm, logs), Pushes()
    async with running(*guard.line(forwarder, Redactor(times), output)) as worker:
        async with pushed(worker, forwarder, storm):
            await worker.queue_frame(message())
            await storm.over()

    storm.assert_cut(guard, AT_MOST)


async def test__messages_are_copied__healthy_channel__all_arrive_once_and_in_order(guard):
    output = Output()
    async with running(*guard.line(Redactor(), output)) as worker:
        for n in range(200):
            await worker.queue_frame(message("app", n=n, text="me@example.org"))
        await settle(3000)

    assert output.sent == [{"type": "app", "n": n, "text": "somebody"} for n in range(200)]
