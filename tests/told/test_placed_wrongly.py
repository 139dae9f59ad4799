"""A breaker that stands where one object cannot: twice in a pipeline, or in two that run."""

from contextlib import suppress

import pytest
from loguru import logger
from pipecat.frames.frames import TextFrame
from pipecat.pipeline.parallel_pipeline import ParallelPipeline

from pipecat_circuit_breaker import CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import Output, ended, running
from tests.support.parts import Tap, settle
from tests.told.told_parts import own_lines


@pytest.mark.parametrize(
    "line",
    [
        lambda breaker: [breaker, Tap(), breaker],
        lambda breaker: [ParallelPipeline([breaker, Tap()], [breaker, Tap()])],
    ],
)
async def test__twice_in_one_pipeline__pipecat_reports_it_or_does_not_start(line):
    said = []
    logger.add(lambda text: said.append(str(text)), level="ERROR")
    try:
        async with running(*line(CircuitBreakerProcessor(name="guard")), cancel_timeout_secs=0.1):
            pass
    except (RuntimeError, TimeoutError) as e:
        said.append(str(e))

    assert any("guard stands twice in the pipeline of" in text for text in said), said


@pytest.mark.releases
async def test__in_two_pipelines_at_once__the_log_says_which_and_the_second_runs():
    breaker, tap, lines = CircuitBreakerProcessor(name="guard"), Tap(), own_lines()
    with suppress(TimeoutError):
        async with running(breaker, cancel_timeout_secs=0.1) as first:
            async with running(breaker, tap) as second:
                await second.queue_frame(TextFrame("hello"))
                await settle()

    assert len(tap.frames(TextFrame)) == 1
    [said] = [text for level, text in lines if level == "ERROR"]
    assert said.startswith(f"guard stands in two pipelines that run at once, {first} and {second}")


@pytest.mark.releases
async def test__in_one_pipeline_after_the_other__is_no_error():
    breaker, lines = CircuitBreakerProcessor(), own_lines()
    for _ in range(3):
        async with running(breaker, Output()) as worker:
            await ended(worker)

    assert [text for level, text in lines if level == "ERROR"] == []
