#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Runs a pipeline inside of a test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pipecat.frames.frames import EndFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.processors.frame_processor import FrameProcessor

if TYPE_CHECKING:
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.workers.runner import WorkerRunner
else:
    try:  # 1.3.0
        from pipecat.pipeline.worker import PipelineWorker
        from pipecat.workers.runner import WorkerRunner
    except ImportError:
        from pipecat.pipeline.runner import PipelineRunner as WorkerRunner
        from pipecat.pipeline.task import PipelineTask as PipelineWorker

#: Seconds that a pipeline may take to start, to finish what is queued, or to be torn down.
_LIMIT_SECS = 20.0

#: Turns that a start goes on for, at most: whoever polls beside it keeps the loop from being quiet.
_START_TURNS = 200

#: Turns in which nothing stirs. More than one: what a socket has is seen in the next.
_QUIET_TURNS = 5


async def settle(turns: int = 10_000) -> bool:
    """Turn the event loop until every other task waits for something; no time passes.

    What waits for a timer, a thread or another process is not waited for.

    Args:
        turns: Turns at most.

    Returns:
        Whether all is quiet; False where it was not even after so many turns, as in a storm.
    """
    quiet = 0
    for _ in range(turns):
        await asyncio.sleep(0)
        quiet = quiet + 1 if _all_wait() else 0
        if quiet == _QUIET_TURNS:
            return True
    return False


def _all_wait() -> bool:
    # As `anyio.wait_all_tasks_blocked` does it, which sleeps in between.
    waiters = (
        getattr(task, "_fut_waiter", None)
        for task in asyncio.all_tasks()
        if task is not asyncio.current_task()
    )
    return all(waiter is not None and not waiter.done() for waiter in waiters)


@asynccontextmanager
async def running(*processors: FrameProcessor, **kwargs: Any) -> AsyncIterator[PipelineWorker]:
    """Run these processors as a pipeline, and cancel it in the end.

    Args:
        *processors: The pipeline's processors, a breaker among them.
        **kwargs: Additional arguments passed to ``PipelineWorker``, or to ``PipelineTask``
            before pipecat 1.3.0.

    Yields:
        The worker, when its pipeline has started.

    Raises:
        TimeoutError: The pipeline does not start, or does not end, within 20 s.
    """
    settings = {"idle_timeout_secs": None, **kwargs}
    async with running_worker(PipelineWorker(Pipeline([*processors]), **settings)) as worker:
        yield worker


@asynccontextmanager
async def running_worker(worker: PipelineWorker) -> AsyncIterator[PipelineWorker]:
    """Run a worker that a bot has made, and cancel it in the end.

    Args:
        worker: A ``PipelineWorker``, or a ``PipelineTask``.

    Yields:
        The same worker, when its pipeline has started.

    Raises:
        TimeoutError: The pipeline does not start, or does not end, within 20 s.
    """
    async with running_workers(worker):
        yield worker


@asynccontextmanager
async def running_workers(
    *workers: PipelineWorker, runner: WorkerRunner | None = None
) -> AsyncIterator[WorkerRunner]:
    """Run workers beside each other, and cancel them in the end.

    Args:
        *workers: A ``PipelineWorker`` each, or a ``PipelineTask``.
        runner: The runner that they run in; by default one that leaves signals alone.

    Yields:
        The runner, when all their pipelines have started.

    Raises:
        TimeoutError: A pipeline does not start, or does not end, within 20 s.
    """
    started = [asyncio.Event() for _ in workers]
    for worker, event in zip(workers, started, strict=True):
        worker.add_event_handler("on_pipeline_started", lambda *_, event=event: event.set())
    runner = runner or WorkerRunner(handle_sigint=False)
    run = asyncio.create_task(_run(runner, *workers))
    try:
        async with asyncio.timeout(_LIMIT_SECS):
            await asyncio.gather(*(event.wait() for event in started))
        await settle(_START_TURNS)
        yield runner
    finally:
        await runner.cancel()
        await asyncio.wait_for(run, _LIMIT_SECS)


async def _run(runner: WorkerRunner, *workers: PipelineWorker) -> None:
    if hasattr(runner, "add_workers"):  # 1.3.0
        await runner.add_workers(*workers)
        await runner.run()
    else:
        await asyncio.gather(*(runner.run(worker) for worker in workers))


async def ended(worker: PipelineWorker) -> None:
    """Queue an ``EndFrame``, and wait until the pipeline is through with it.

    Args:
        worker: The worker that runs the pipeline.

    Raises:
        TimeoutError: It is not through within 20 s.
    """
    finished = asyncio.Event()
    worker.add_event_handler("on_pipeline_finished", lambda *_: finished.set())
    await worker.queue_frame(EndFrame())
    await asyncio.wait_for(finished.wait(), _LIMIT_SECS)
