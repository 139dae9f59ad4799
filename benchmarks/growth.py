#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Growth: what a tracked frame costs as there is more of everything, and what is kept of it."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator

from pipecat.pipeline.parallel_pipeline import ParallelPipeline
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker

from benchmarks.bots import Bot, Listener, app_message, audio
from benchmarks.calls import CallCounter
from benchmarks.ours import OUTPUT, Core
from benchmarks.result import Effort, Row, Section, Value, interleaved, slope
from pipecat_circuit_breaker import CircuitBreakerProcessor, CircuitState
from pipecat_circuit_breaker._core.causality import Link
from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.testing.running import running_workers
from tests.support.core import Frame, Processor

FLAT = 0.1

#: Errors a second in a production outage that was reported to pipecat (pull request 5201).
_STORM_RATE = 2_400
_STORM_SECS = 600
_MANY = (1, 10, 100, 1_000, 10_000, 100_000)

METHOD = f"""\
The core alone, its clock moved by hand: CPU time per judged frame (its link is made before), in
stretches of some hundred frames, all sizes in turn in a new order each round. With more processors
and more outputs, a real pipeline: calls of Python and C functions that the breaker adds per message,
counted, and divided by the number of processors or outputs that the message visits. The *slope* is
the exponent of the power law that fits best (0: it costs the same however much there is; 1: twice
as much of it costs twice as much); flat is a slope of at most {FLAT:g}, a quarter more for ten times
as much. Memory: `tracemalloc`, and blocks of Python's allocator. The storm of ten minutes is
{_STORM_RATE * _STORM_SECS:,} errors of 200 origins, each with a new text and the message that it sets
off, {_STORM_RATE:,} a second on the breaker's clock."""

#: One stretch: what it takes to run it, and how many frames are in it.
Prepare = Callable[[], tuple[Callable[[], None], int]]


async def measure(effort: Effort) -> Section:
    """Measure growth."""
    rows: list[Row] = []
    plot: dict[str, dict[str, list[float]]] = {}
    timed = {
        (axis, size): prepare
        for axis, sizes in _axes(effort).items()
        for size, prepare in sizes.items()
    }
    samples = _time(timed, rounds=effort.of(15, 3))
    # Nothing of this is to be there when memory is measured.
    timed.clear()
    costs: dict[str, dict[int, Value]] = {}
    for (axis, size), values in samples.items():
        costs.setdefault(axis, {})[size] = Value.of(values)
    counted = {
        "processors (calls per message and processor)": await _processors(),
        "outputs (calls per message and output)": await _outputs(),
    }
    for axis, by_size in [*costs.items(), *counted.items()]:
        sizes, middles = list(by_size), [value.middle for value in by_size.values()]
        unit = "µs" if axis in costs else "calls"
        times = middles[-1] / middles[0]
        note = f"{middles[0]:.3g} to {middles[-1]:.3g} {unit}, × {times:.2f}"
        label = f"slope, {axis}: {sizes[0]:,} to {sizes[-1]:,}"
        rows.append(Row(label, Value(slope(sizes, middles)), "", FLAT, note))
        plot[axis] = {"sizes": [float(size) for size in sizes], "costs": middles}
    rows.extend(_memory(effort))
    return Section("growth", "Growth", METHOD, rows, plot)


def _time(
    timed: dict[tuple[str, int], Prepare], *, rounds: int
) -> dict[tuple[str, int], list[float]]:
    samples: dict[tuple[str, int], list[float]] = {key: [] for key in timed}
    gc.collect()
    gc.freeze()
    for key in interleaved(timed, rounds):
        run, frames = timed[key]()
        begin = time.thread_time_ns()
        run()
        samples[key].append((time.thread_time_ns() - begin) / 1000 / frames)
    gc.unfreeze()
    return samples


def _axes(effort: Effort) -> dict[str, dict[int, Prepare]]:
    many = _MANY[: effort.of(6, 5)]
    return {
        "origins offered, 256 kept; errors": {n: _errors_of(n, kept=256) for n in many},
        "circuits kept; errors": {n: _errors_of(n, kept=100_000) for n in many},
        "circuits kept; messages": {n: _messages_among(n, opened=False) for n in many},
        "circuits open elsewhere; messages": {
            n: _messages_among(n, opened=True) for n in (1, 4, 16, 64, 256)
        },
        "circuits open, all that are kept; errors of new origins": {
            n: _new_origins_among(n) for n in (1, 4, 16, 64, 256)
        },
        "errors in the window; errors": {n: _window(n) for n in (1, 10, 100, 1_000, 9_000)},
        "max_errors; errors": {n: _threshold(n) for n in (2, 10, 100, 1_000, 10_000)},
        "length of the chain; errors and messages": {
            n: _chain(n) for n in (1, 4, 16, 64, 256, 1_000, 4_000)
        },
        "destinations, all delivered to; messages": {
            n: _destinations(n) for n in (1, 4, 16, 64, 256)
        },
        "destinations down; messages to another": {
            n: _destinations_down(n) for n in (1, 4, 16, 64, 200)
        },
    }


def _parts(count: int) -> list[Origin]:
    return [Origin.of(Processor(f"Service#{n}"), "TimeoutError") for n in range(count)]


def _judge_errors(core: Core, links: list[Link], frames: list[Frame], step: float) -> None:
    judge = core.breaker.judge_error
    for link in links:
        core.now += step
        judge(link)
    core.tell()
    del frames


def _errors_of(origins: int, *, kept: int, calls: int = 500) -> Prepare:
    core, known, rng = Core(max_circuits=kept), _parts(origins), random.Random(1)

    def prepare(offered: list[Origin] | None = None) -> tuple[Callable[[], None], int]:
        chosen = offered or rng.choices(known, k=calls)
        frames = [Frame() for _ in chosen]
        links = [core.error(f, origin=o) for f, o in zip(frames, chosen, strict=True)]
        # So slowly that no circuit opens.
        return lambda: _judge_errors(core, links, frames, 5.0), len(links)

    prepare(known)[0]()
    return prepare


def _messages_among(circuits: int, *, opened: bool, calls: int = 300) -> Prepare:
    core = Core(max_circuits=max(256, circuits))
    for origin in _parts(circuits):
        frames = [Frame() for _ in range(core.max_errors if opened else 1)]
        for frame in frames:
            core.breaker.judge_error(core.error(frame, origin=origin))
    core.tell()

    def prepare() -> tuple[Callable[[], None], int]:
        frames = [Frame() for _ in range(calls)]
        links = [core.message(frame) for frame in frames]
        deliver = core.deliver

        def run() -> None:
            for link in links:
                delivery = deliver(link)
                assert delivery is not None
                delivery.succeeded()
            frames.clear()

        return run, calls

    return prepare


def _new_origins_among(opened: int, *, calls: int = 200) -> Prepare:
    core = Core(max_circuits=opened)

    def fresh() -> Origin:
        return Origin.of(Processor("Service"), "TimeoutError")

    def fill() -> None:
        for origin in [fresh() for _ in range(opened)]:
            frames = [Frame() for _ in range(core.max_errors)]
            for frame in frames:
                core.breaker.judge_error(core.error(frame, origin=origin))
        core.tell()

    def prepare() -> tuple[Callable[[], None], int]:
        fill()
        frames = [Frame() for _ in range(calls)]
        links = [core.error(frame, origin=fresh()) for frame in frames]
        return lambda: _judge_errors(core, links, frames, 0.0), calls

    return prepare


def _window(errors: int, *, calls: int = 300) -> Prepare:
    """The window holds so many errors, and lets one go for each that comes."""
    core = Core(max_errors=10_000, window_secs=float(errors))
    return _steady(core, errors, calls, step=1.0)


def _threshold(max_errors: int, *, calls: int = 300) -> Prepare:
    """The window holds one error less than opens the circuit."""
    core = Core(max_errors=max_errors)
    return _steady(core, max_errors, calls, step=10.0 / (max_errors - 1) + 1e-9)


def _steady(core: Core, errors: int, calls: int, *, step: float) -> Prepare:
    origin = Origin.of(OUTPUT, "TimeoutError")

    def prepare(count: int = calls) -> tuple[Callable[[], None], int]:
        frames = [Frame() for _ in range(count)]
        links = [core.error(frame, origin=origin) for frame in frames]
        return lambda: _judge_errors(core, links, frames, step), count

    prepare(errors)[0]()
    assert not core.breaker.has_news
    return prepare


def _chain(length: int, *, calls: int = 100) -> Prepare:
    """A chain of messages and errors in turn, each caused by the one before, that goes on."""

    def prepare() -> tuple[Callable[[], None], int]:
        core = Core(max_errors=10_000)
        end: Link | None = None

        def grow(pairs: int) -> None:
            nonlocal end
            for _ in range(pairs):
                sent, failed = Frame(), Frame()
                end = core.message(sent, cause=end)
                core.judge(end)
                end = core.error(failed, cause=end)
                core.breaker.judge_error(end)

        grow(length // 2)
        core.tell()
        return lambda: grow(calls), 2 * calls

    return prepare


def _destinations(count: int, *, core: Core | None = None, calls: int = 512) -> Prepare:
    core = core or Core()
    whom = [f"participant-{n}" for n in range(count)]

    def prepare() -> tuple[Callable[[], None], int]:
        frames = [Frame() for _ in range(calls)]
        links = [core.message(frame) for frame in frames]

        def run() -> None:
            for n, link in enumerate(links):
                delivery = core.deliver(link, whom[n % count])
                assert delivery is not None
                delivery.succeeded()
            frames.clear()

        return run, calls

    prepare()[0]()
    return prepare


def _destinations_down(count: int) -> Prepare:
    core = Core()
    for n in range(count):
        sent = [Frame() for _ in range(core.max_errors)]
        for frame in sent:
            delivery = core.deliver(core.message(frame), f"gone-{n}")
            # Where several are down, one failure is enough for the next.
            if delivery is not None:
                delivery.failed()
        # The others are not down.
        delivery = core.deliver(core.message(sent[0]), "participant-0")
        assert delivery is not None
        delivery.succeeded()
    core.tell()
    assert len([c for c in core.breaker.circuits if c.state is CircuitState.OPEN]) == count
    return _destinations(1, core=core)


#
# Counted on real pipelines
#

_MESSAGES = 20


async def _processors() -> dict[int, Value]:
    counts = {}
    for filters in (1, 3, 7, 15, 31):
        added = [
            await _calls_per_message(bot.worker, [bot.output])
            for bot in (
                Bot(filters=filters, breaker=CircuitBreakerProcessor()),
                Bot(filters=filters),
            )
        ]
        counts[filters + 1] = Value((added[0] - added[1]) / (filters + 1))
    return counts


async def _outputs() -> dict[int, Value]:
    counts = {}
    for number in (1, 2, 4, 8, 16):
        added = []
        for guard in ([CircuitBreakerProcessor()], []):
            outputs = [Listener() for _ in range(number)]
            branches = ParallelPipeline(*[[output] for output in outputs])
            worker = PipelineWorker(Pipeline([*guard, branches]), idle_timeout_secs=None)
            added.append(await _calls_per_message(worker, outputs))
        counts[number] = Value((added[0] - added[1]) / number)
    return counts


async def _calls_per_message(worker: PipelineWorker, outputs: list[Listener]) -> float:
    async def send() -> None:
        for frame in frames:
            await worker.queue_frame(frame)
        await asyncio.gather(*(output.hears(1) for output in outputs))

    async with running_workers(worker):
        for _ in range(2):
            frames = [*(app_message(n) for n in range(_MESSAGES)), audio()]
            with CallCounter() as counter:
                await send()
    assert all(len(output.sent) == 2 * _MESSAGES for output in outputs)
    return counter.calls / _MESSAGES


#
# Memory
#


def _memory(effort: Effort) -> Iterator[Row]:
    circuits = effort.of(5_000, 500)
    for what, measured, unit in (
        ("memory per circuit", lambda: tracemalloc.get_traced_memory()[0], "bytes"),
        ("allocated blocks per circuit", sys.getallocatedblocks, "blocks"),
    ):
        core = Core(max_circuits=100_000)
        core.fail(Processor("Service"))
        gc.collect()
        if unit == "bytes":
            tracemalloc.start()
        before = measured()
        for n in range(circuits):
            core.fail(Processor(f"Service#{n}"))
        gc.collect()
        yield Row(what, Value((measured() - before) / circuits), unit)
        tracemalloc.stop()
    blocks = _storm(_STORM_RATE * _STORM_SECS // effort.of(1, 20))
    grown = blocks[-1] - blocks[0]
    yield Row(
        "blocks more after ten minutes of storm than after the first",
        Value(grown),
        "blocks",
        1_000,
        f"{blocks[0]:,} after one tenth, {blocks[-1]:,} after all",
    )


def _storm(errors: int) -> list[int]:
    core = Core(max_circuits=64, cooldown=lambda openings: min(60.0, 2.0**openings))
    parts = [Processor(f"Service#{n}") for n in range(200)]
    blocks = []
    for tenth in range(10):
        for n in range(errors // 10):
            core.now += 1 / _STORM_RATE
            frames = Frame(), Frame()
            link = core.error(frames[0], part=parts[n % 200], text=f"request {n} of {tenth} failed")
            if not core.breaker.judge_error(link).passes:
                continue
            delivery = core.deliver(core.message(frames[1], cause=link))
            if delivery is not None:
                delivery.succeeded()
            core.tell()
        del frames, link
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    return blocks
