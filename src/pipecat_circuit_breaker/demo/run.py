#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Runs a chain in this process: start, trigger, wait, end, and what came of it."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from loguru import logger
from pipecat.frames.frames import CancelFrame, EndFrame, Frame
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineTask
from pydantic import TypeAdapter

from pipecat_circuit_breaker.demo.chains import Chain, Position, Scenario
from pipecat_circuit_breaker.demo.tally import Figures, Tally
from pipecat_circuit_breaker.incident import Incident, Totals
from pipecat_circuit_breaker.processor import CircuitBreakerProcessor

Ending = Literal["end", "cancel"]
Until = Callable[[Tally, "asyncio.Task[None]"], Awaitable[None]]

_CLEANUP_SECS = 1.0


@dataclass(frozen=True)
class Outcome:
    """What came of a chain.

    Parameters:
        figures: The counts at the moment when the wait was over, before the pipeline was ended.
        end_frame_ms: Milliseconds from ending the pipeline until it had ended. None if it had not
            when the limit was reached.
        peak_rss_mib: The most memory that the process ever used, in MiB. 0.0 where that is not
            known. It is a figure of this chain only in a process of its own.
        incidents: The latest copy of each incident that the breaker knows of.
        totals: What the breaker has counted over all of them, and beside them.
        figures_at_end: The counts at the moment at which these were copied, to compare them with.
            None where the process was killed before.
        killed: Why the process was killed, or None. Only `contained` kills.
    """

    figures: Figures
    end_frame_ms: float | None
    peak_rss_mib: float
    incidents: list[Incident] = field(default_factory=list)
    totals: list[Totals] = field(default_factory=list)
    figures_at_end: Figures | None = None
    killed: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as a JSON object.

        Returns:
            A dictionary of plain values.
        """
        values: dict[str, Any] = _OUTCOME.dump_python(self, mode="json")
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Outcome":
        """Read an outcome back.

        Args:
            values: What `as_json` returned.

        Returns:
            The outcome.
        """
        return _OUTCOME.validate_python(values)


_OUTCOME = TypeAdapter(Outcome)


def seconds(duration: float) -> Until:
    """Wait for a time, whatever happens in it.

    Args:
        duration: Seconds from the trigger.

    Returns:
        What to pass as ``until``.
    """

    async def wait(tally: Tally, trigger: "asyncio.Task[None]") -> None:
        await asyncio.sleep(duration)

    return wait


def sends(count: int, *, timeout: float = 10.0) -> Until:
    """Wait until so many messages were sent: that it comes to it shows that the chain storms.

    Args:
        count: Number of messages, over all channels.
        timeout: Seconds after which to give up. The figures then show that there were fewer.

    Returns:
        What to pass as ``until``.
    """

    async def wait(tally: Tally, trigger: "asyncio.Task[None]") -> None:
        deadline = time.monotonic() + timeout
        while tally.sends.total() < count and time.monotonic() < deadline:
            await asyncio.sleep(0)

    return wait


def settled(*, turns: int = 300, cap: int = 5000, timeout: float = 30.0) -> Until:
    """Wait until the trigger is done and nothing has happened since.

    Args:
        turns: Turns of the event loop in a row in which no count may change.
        cap: Messages, syntheses or errors at which the chain counts as endless, and the wait ends.
        timeout: Seconds after which the wait ends in any case.

    Returns:
        What to pass as ``until``.
    """

    async def wait(tally: Tally, trigger: "asyncio.Task[None]") -> None:
        await _quiet(tally, turns=turns, cap=cap, timeout=timeout, after=trigger.done)

    return wait


async def _quiet(
    tally: Tally,
    *,
    turns: int = 300,
    cap: int = 5000,
    timeout: float = 30.0,
    after: Callable[[], bool] = lambda: True,
) -> None:
    deadline = time.monotonic() + timeout
    quiet = 0
    last = tally.activity
    while quiet < turns and time.monotonic() < deadline:
        await asyncio.sleep(0)
        now = tally.activity
        quiet = quiet + 1 if now == last and after() else 0
        last = now
        if max(tally.sends.total(), tally.synthesis, tally.errors) >= cap:
            return


async def run_chain(
    chain: Chain,
    *,
    breaker: CircuitBreakerProcessor | None,
    position: Position = "first",
    until: Until,
    ending: Ending = "end",
    end_limit: float = 5.0,
    tally: Tally | None = None,
    before_teardown: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """Run a chain once.

    Args:
        chain: The chain.
        breaker: What to put into its pipeline, or None.
        position: Where to put it: "first" in the pipeline, or "last", before the output.
        until: When the wait is over: `seconds`, `sends` or `settled`.
        ending: How the pipeline ends then, with an ``EndFrame`` ("end") or by a cancellation.
        end_limit: Seconds that the end may take. After that it is torn down.
        tally: Counts what happens, for somebody who wants to watch. With a limit in it, a storm
            dies down and can be torn down quickly.
        before_teardown: Called with the outcome before what is left of the storm is torn down,
            which takes long where thousands of tasks are left.

    Returns:
        What came of it.
    """
    tally = Tally() if tally is None else tally
    tasks_before = asyncio.all_tasks()
    sink_before = _next_sink()
    started, finished, stuck = asyncio.Event(), asyncio.Event(), asyncio.Event()
    scenario = await chain.build(tally, breaker, position)

    def on_started(_: PipelineTask, __: Frame) -> None:
        started.set()

    def on_finished(_: PipelineTask, __: Frame) -> None:
        finished.set()

    def on_timeout(_: PipelineTask, frame: Frame) -> None:
        if isinstance(frame, CancelFrame):
            stuck.set()

    scenario.worker.add_event_handler("on_pipeline_started", on_started)
    scenario.worker.add_event_handler("on_pipeline_finished", on_finished)
    scenario.worker.add_event_handler("on_pipeline_timeout", on_timeout)

    runner = PipelineRunner(handle_sigint=False)
    running = asyncio.create_task(runner.run(scenario.worker))
    trigger: asyncio.Task[None] | None = None
    try:
        logger.add(tally.count_log, level="DEBUG")
        await asyncio.wait_for(started.wait(), timeout=20.0)
        # The start goes on for some turns, more of them on one Python than on another. It is logged,
        # and a line that is still on its way to the client would begin a chain of its own.
        await _quiet(tally)
        tally.trigger()
        trigger = asyncio.create_task(_run(scenario))
        await until(tally, trigger)
        figures = tally.figures()
        end_frame_ms = await _end(scenario.worker, ending, finished, stuck, end_limit)
        if breaker is not None and end_frame_ms is not None:
            # An incident ends when its pipeline is cleaned up, which comes after the EndFrame.
            await asyncio.wait([running], timeout=_CLEANUP_SECS)
        # No await in between: in a storm all of it changes at each turn of the event loop.
        outcome = Outcome(
            figures,
            end_frame_ms,
            peak_rss_mib(),
            incidents=[*breaker.incidents] if breaker is not None else [],
            totals=[*breaker.totals] if breaker is not None else [],
            figures_at_end=tally.figures(),
        )
        if before_teardown is not None:
            before_teardown(outcome)
    finally:
        # From here on nothing fails, or a storm would outlive its own teardown.
        tally.limit = 0
        if trigger is not None:
            trigger.cancel()
        await _tear_down(runner, running, tasks_before)
        await scenario.resources.aclose()
        _remove_sinks(sink_before)
    return outcome


def peak_rss_mib() -> float:
    """Return the most memory that this process ever used.

    Returns:
        MiB, or 0.0 where the system does not tell.
    """
    if sys.platform == "win32":
        return 0.0
    if sys.platform == "linux":
        # What `getrusage` tells a child process includes its parent's memory.
        with open("/proc/self/status") as status:
            peak = next((line for line in status if line.startswith("VmHWM:")), "VmHWM: 0 kB")
        return int(peak.split()[1]) / 2**10
    import resource

    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_bytes / 2**20 if sys.platform == "darwin" else peak_bytes / 2**10


async def _run(scenario: Scenario) -> None:
    await scenario.trigger()


async def _end(
    worker: PipelineTask,
    ending: Ending,
    finished: asyncio.Event,
    stuck: asyncio.Event,
    limit: float,
) -> float | None:
    begin = time.monotonic()
    if ending == "end":
        await worker.queue_frame(EndFrame())
    else:
        await worker.cancel(reason="the demo is over")
    try:
        await asyncio.wait_for(finished.wait(), timeout=limit)
    except TimeoutError:
        return None
    return None if stuck.is_set() else (time.monotonic() - begin) * 1000


async def _tear_down(
    runner: PipelineRunner,
    running: "asyncio.Task[None]",
    tasks_before: "set[asyncio.Task[Any]]",
) -> None:
    await runner.cancel()
    await asyncio.wait([running], timeout=5.0)
    # Event handlers of Pipecat run in tasks that no task manager knows.
    left = asyncio.all_tasks() - tasks_before - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=5.0)


def _next_sink() -> int:
    # Loguru numbers its sinks in order, and has no public list of them.
    sink = logger.add(lambda _: None, level="CRITICAL")
    logger.remove(sink)
    return sink + 1


def _remove_sinks(first: int) -> None:
    """Remove the sinks added since, among them RTVI's where its cleanup was cut short."""
    for sink in range(first, _next_sink()):
        try:
            logger.remove(sink)
        except ValueError:
            continue
