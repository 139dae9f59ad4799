"""Subclasses of what the breaker knows, RTVI of one's own, any place, and the older names."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from pipecat.frames import frames
from pipecat.frames.frames import (
    ErrorFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
)
from pipecat.pipeline.parallel_pipeline import ParallelPipeline
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineTask
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIProcessor

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import Output, running
from tests.releases.room import LIMIT_SECS, Outage
from tests.support.parts import app_message

try:
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.workers.runner import WorkerRunner

    NAMES = [(PipelineTask, PipelineRunner), (PipelineWorker, WorkerRunner)]
except ImportError:
    NAMES = [(PipelineTask, PipelineRunner)]

pytestmark = [
    pytest.mark.releases,
    # The older names are what runs on every release.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

MAX_ERRORS = CircuitBreakerParams().max_errors
STORM = 200


@dataclass
class MyError(ErrorFrame):
    code: int = 500


@dataclass
class MyMessage(OutputTransportMessageFrame):
    topic: str = "mine"


@dataclass
class MyUrgentMessage(OutputTransportMessageUrgentFrame):
    topic: str = "mine"


#: Names that pipecat itself once gave to subclasses.
OLD_KINDS = [
    getattr(frames, name)
    for name in ("TransportMessageFrame", "TransportMessageUrgentFrame")
    if hasattr(frames, name)
]


class Broken(Output):
    """Pushes an error of a kind, or raises, for each message that it is to send."""

    def __init__(self, outage, error=None):
        super().__init__()
        self._outage = outage
        self._error = error

    async def send_message(self, frame):
        if not self._outage.on:
            return
        self._outage.failed()
        if self._error is None:
            raise ConnectionError("the client is gone")
        await self.push_error_frame(self._error(error="the client is gone"))


class MyBroken(Broken):
    """A subclass of a subclass, with a way of its own to send."""

    async def send_message(self, frame):
        await super().send_message(frame)


class Notifier(FrameProcessor):
    """Tells the client about each error with a message of a kind."""

    def __init__(self, kind):
        super().__init__()
        self._kind = kind

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, ErrorFrame):
            await self.push_frame(self._kind(message={"type": "error", "text": frame.error}))
        await self.push_frame(frame, direction)


class MyRTVI(RTVIProcessor):
    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)


@pytest.fixture(params=["without", "with"])
def breakers(request, clock):
    if request.param == "without":
        return []
    return [CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))]


def has_breaker(processors):
    return any(
        isinstance(processor, CircuitBreakerProcessor) or has_breaker(processor.processors)
        for processor in processors
    )


async def storm(outage, *processors, run=running, **kwargs):
    async with run(*processors, **kwargs) as task:
        outage.begin()
        await task.queue_frame(app_message())
        await outage.spent()
    if has_breaker(processors):
        assert 1 <= outage.failures <= MAX_ERRORS
    else:
        assert outage.failures >= STORM


@pytest.mark.parametrize("error", [ErrorFrame, MyError])
@pytest.mark.parametrize(
    "message",
    [OutputTransportMessageFrame, MyMessage, MyUrgentMessage, *OLD_KINDS],
)
async def test__frames__subclasses__are_tracked(breakers, message, error):
    outage = Outage(STORM)
    await storm(outage, *breakers, Notifier(message), Broken(outage, error), enable_rtvi=False)


@pytest.mark.parametrize("output", [Broken, MyBroken])
async def test__output_transport__subclass_that_raises__is_guarded(breakers, output):
    outage = Outage(STORM)
    await storm(outage, *breakers, output(outage))


async def test__rtvi__subclass_given_to_the_task__is_cut(breakers):
    outage = Outage(STORM)
    await storm(outage, *breakers, Broken(outage), rtvi_processor=MyRTVI())


@pytest.mark.parametrize("rtvi_type", [RTVIProcessor, MyRTVI])
@pytest.mark.parametrize("first", ["breaker", "rtvi"])
async def test__rtvi__in_the_pipeline_with_its_observer__is_cut(breakers, rtvi_type, first):
    outage = Outage(STORM)
    rtvi = rtvi_type()
    order = [*breakers, rtvi] if first == "breaker" else [rtvi, *breakers]
    await storm(outage, *order, Broken(outage), observers=[rtvi.create_rtvi_observer()])


async def test__rtvi__in_the_pipeline_and_disabled_in_the_task__is_cut(breakers):
    outage = Outage(STORM)
    await storm(outage, *breakers, MyRTVI(), Broken(outage), enable_rtvi=False)


PLACES = {
    "first": lambda breakers, output: [*breakers, output],
    "last": lambda breakers, output: [output, *breakers],
    "in a pipeline of its own": lambda breakers, output: [Pipeline([*breakers]), output],
    "beside the output": lambda breakers, output: [Pipeline([output, *breakers])],
    "deep": lambda breakers, output: [Pipeline([Pipeline([*breakers]), output])],
    "in a branch": lambda breakers, output: [ParallelPipeline([*breakers], [output])],
    "in the output's branch": lambda breakers, output: [ParallelPipeline([], [output, *breakers])],
}


@pytest.mark.parametrize("place", PLACES)
async def test__breaker__any_place__guards_the_whole_pipeline(breakers, place):
    outage = Outage(STORM)
    await storm(outage, *PLACES[place](breakers, Broken(outage)))


@pytest.mark.parametrize(("task_type", "runner_type"), NAMES)
async def test__task_and_runner__older_and_newer_names__are_guarded(
    breakers, task_type, runner_type
):
    @asynccontextmanager
    async def run(*processors):
        started = asyncio.Event()
        task = task_type(Pipeline([*processors]), idle_timeout_secs=None)
        task.add_event_handler("on_pipeline_started", lambda *_: started.set())
        runs = asyncio.create_task(runner_type(handle_sigint=False).run(task))
        try:
            await asyncio.wait_for(started.wait(), LIMIT_SECS)
            yield task
        finally:
            await task.cancel()
            await asyncio.wait_for(runs, LIMIT_SECS)

    outage = Outage(STORM)
    await storm(outage, *breakers, Broken(outage), run=run)
