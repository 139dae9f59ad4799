"""A breaker that comes into a bot by a setup file of pipecat's, on every release."""

import pytest
from pipecat.frames.frames import TextFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker import CircuitBreakerFrame, CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import Output, ended, running, settle
from releases.room import app_message

pytestmark = pytest.mark.releases

SETUP = """
from pipecat_circuit_breaker import CircuitBreakerProcessor


async def setup_pipeline_worker(worker):
    worker.its_breaker = CircuitBreakerProcessor()
    await worker.its_breaker.insert_into(worker)


setup_pipeline_task = setup_pipeline_worker
"""


class Recorder(FrameProcessor):
    def __init__(self):
        super().__init__()
        self.seen = []

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        self.seen.append(type(frame))
        await self.push_frame(frame, direction)


@pytest.fixture
def setup_file(tmp_path, monkeypatch):
    path = tmp_path / "add_breaker.py"
    path.write_text(SETUP)
    monkeypatch.setenv("PIPECAT_SETUP_FILES", str(path))


async def test__setup_file__bot_without_a_breaker__the_storm_ends(setup_file):
    output = Output()
    output.fail(ConnectionError("the client is gone"))
    recorder = Recorder()
    async with running(recorder, output) as worker:
        breaker = worker.its_breaker
        await worker.queue_frame(app_message())
        await settle()

        assert len(output.failed) == 5
        assert [incident.failures for incident in breaker.incidents] == [5]
        assert breaker.health()["status"] == "degraded"
        # It has seen the start, so what it tells goes through the pipeline.
        assert recorder.seen.count(CircuitBreakerFrame) >= 1

        await worker.queue_frame(TextFrame("gets through"))
        await settle()
        assert recorder.seen.count(TextFrame) == 1
        await ended(worker)
    assert breaker.health()["status"] == "over"


async def test__setup_file__healthy_bot__the_breaker_is_behind_rtvi_and_hands_on(setup_file):
    output = Output()
    async with running(output) as worker:
        rtvi, breaker, pipeline = worker.pipeline.processors[1:-1]

        assert breaker is worker.its_breaker
        assert isinstance(pipeline, Pipeline) and rtvi.next is breaker
        assert breaker.next is pipeline and pipeline.previous is breaker

        await worker.queue_frame(app_message())
        await settle()
        assert [message["n"] for message in output.sent if message.get("type") == "app"] == [0]


async def test__insert_into__pipeline_has_started__is_refused():
    async with running(Output()) as worker:
        with pytest.raises(RuntimeError, match="has not started"):
            await CircuitBreakerProcessor().insert_into(worker)
        assert len(worker.pipeline.processors) == 4


async def test__insert_into__breaker_stands_in_a_pipeline__is_refused():
    breaker = CircuitBreakerProcessor()
    async with running(breaker, Output()) as worker:
        with pytest.raises(RuntimeError, match="in no pipeline"):
            await breaker.insert_into(worker)
