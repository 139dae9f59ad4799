#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The decision: time per judged frame, beside one call through each breaker for Python."""

from __future__ import annotations

import contextlib
import gc
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from typing import Any, Literal

from pipecat.frames.frames import ErrorFrame, OutputTransportMessageUrgentFrame
from tenacity import wait_fixed

from benchmarks.bots import Bot, Listener, app_message
from benchmarks.calls import GOAL_CALLS, GOAL_FILES, OPENINGS, calls_of_opening
from benchmarks.ours import OUTPUT, Core
from benchmarks.result import Effort, Row, Section, Value, interleaved
from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor, CircuitState
from pipecat_circuit_breaker._core.causality import Link
from pipecat_circuit_breaker._pipeline.outputs import HeldBackError
from pipecat_circuit_breaker.testing.running import running_workers
from tests.support.core import Processor

GOAL_US = 2.0
_CALLS = 1_000
_FOREVER = 1e6
_BARE_CALL = "closed: a bare call of the asynchronous function"

METHOD = f"""\
{_CALLS:,} calls a time, in turn with all the others in a new order each round, by the CPU time of
the thread. Each library guards an asynchronous function that does nothing, called in the cheapest
way that it documents; what the bare call costs is taken off. *Closed*: nothing has ever failed.
*Open*: every call is refused (the libraries raise an exception, which the caller catches). Ours, in
four layers: `judge` is the question that a gate asks; `deliver` and `succeeded` are what is asked
around each message that is sent; with the frame's link (what caused it) made as well; and all of
it, as a bot runs it: `send_message` of a real output transport in a running pipeline, with the
breaker in it, less the same without one. The goal is {GOAL_US:g} µs, and less than the fastest
library takes for the same. *Opening*: calls of our own functions, counted in a running pipeline: from
the first door of the error that opens a circuit to the verdict, in at most {GOAL_FILES} files; for what
is told of it; and where a send has raised, before its error is pushed."""

Call = Callable[[], Awaitable[Any]]
Run = Callable[[], Awaitable[None]]
Prepare = Callable[[], Awaitable[Run]]
Path = Literal["closed", "open", "error"]


@dataclass(frozen=True)
class Contender:
    """Something that is called.

    Parameters:
        name: Its name in the table.
        path: Whether its circuit is closed or open; "error" for our judging of errors.
        prepare: Makes the next stretch of calls; only what it returns is timed.
        less: Name of the contender whose time is taken off: the bare call.
        ours: Whether it is ours.
    """

    name: str
    path: Path
    prepare: Prepare
    less: str | None = None
    ours: bool = False


async def measure(effort: Effort) -> Section:
    """Measure the decision."""
    async with contextlib.AsyncExitStack() as stack:
        contenders = {c.name: c for c in [*_libraries(), *_ours(), *await _whole(stack)]}
        samples = await _time(contenders, rounds=effort.of(40, 6))
    values = {}
    for name, contender in contenders.items():
        bare = Value.of(samples[contender.less]).middle if contender.less else 0.0
        values[name] = Value.of([sample - bare for sample in samples[name]])
    rows, plot = [], {}
    for path in ("closed", "open", "error"):
        here = [c for c in contenders.values() if c.path == path]
        theirs = [values[c.name].middle for c in here if not c.ours and "bare" not in c.name]
        fastest = min(theirs, default=GOAL_US)
        for contender in sorted(here, key=lambda c: (not c.ours, values[c.name].middle)):
            value = values[contender.name]
            goal, note = None, ""
            if contender.ours:
                goal = min(GOAL_US, fastest)
                note = f"{value.middle / fastest:.2g} × the fastest library" if theirs else ""
            rows.append(Row(contender.name, value, "µs", goal, note))
            plot[contender.name] = {
                "path": path,
                "ours": contender.ours,
                "us": value.middle,
                "low": value.low,
                "high": value.high,
            }
    rows.extend([row async for row in _openings()])
    return Section("decision", "Decision", METHOD, rows, plot)


async def _openings() -> AsyncIterator[Row]:
    for sort in OPENINGS:
        tracer = await calls_of_opening(sort)
        for what, stretch, goal in (
            ("the verdict", tracer.verdict, GOAL_CALLS),
            ("the telling", tracer.telling, None),
            ("the outcome", tracer.outcome, None),
        ):
            if stretch.calls:
                note = f"in {len(stretch.files)} files, {len(stretch.climbs)} outwards"
                label = f"opening, {sort}: {what}"
                yield Row(label, Value(stretch.calls), "calls", goal, note)
                if goal is not None:
                    files = Value(len(stretch.files))
                    yield Row(f"{label}, files", files, "files", GOAL_FILES)


async def _time(contenders: dict[str, Contender], *, rounds: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()
    gc.freeze()
    for name in interleaved(contenders, rounds + 2):
        run = await contenders[name].prepare()
        gc.collect()
        begin = time.thread_time_ns()
        await run()
        samples[name].append((time.thread_time_ns() - begin) / 1000 / _CALLS)
    gc.unfreeze()
    # The first rounds warm up the interpreter.
    return {name: values[2:] for name, values in samples.items()}


#
# The libraries
#


class _GoneError(Exception):
    pass


async def _nothing() -> None:
    pass


async def _raises() -> None:
    raise _GoneError


def _passing(call: Call) -> Prepare:
    async def run() -> None:
        for _ in range(_CALLS):
            await call()

    async def prepare() -> Run:
        return run

    return prepare


def _refused(make: Callable[[], tuple[Call, Call]]) -> Prepare:
    """Time refused calls of a breaker that is new each time.

    Some libraries raise one exception object again and again, and what was raised before is kept
    with it: after a hundred thousand calls that would be measured, too.

    Args:
        make: Makes a call that passes and one that fails, through one breaker.
    """

    async def prepare() -> Run:
        call, failing = make()
        for _ in range(20):
            with contextlib.suppress(Exception):
                await failing()

        async def run() -> None:
            for _ in range(_CALLS):
                try:
                    await call()
                except Exception:
                    pass
                else:
                    raise AssertionError("expected an open circuit")

        return run

    return prepare


def _libraries() -> list[Contender]:
    """Each library twice: closed, and open after its calls have failed."""
    with warnings.catch_warnings():
        # Some of them were written for older Pythons.
        warnings.simplefilter("ignore")
        import aiobreaker
        import circuitbreaker
        import hyx.circuitbreaker
        import interlock
        import purgatory
        import pybreaker

    def of_pybreaker() -> Any:
        return pybreaker.CircuitBreaker(fail_max=5, reset_timeout=_FOREVER)

    def of_aiobreaker() -> Any:
        return aiobreaker.CircuitBreaker(fail_max=5, timeout_duration=timedelta(days=1))

    def of_interlock() -> Any:
        config = interlock.Config(wait_duration_in_open=_FOREVER)
        return interlock.CircuitBreaker(name="benchmark", config=config)

    def of_circuitbreaker() -> Any:
        return circuitbreaker.CircuitBreaker(failure_threshold=5, recovery_timeout=int(_FOREVER))

    def of_purgatory() -> Any:
        factory = purgatory.AsyncCircuitBreakerFactory(default_threshold=5, default_ttl=_FOREVER)
        return factory("benchmark")

    def of_hyx() -> Any:
        return hyx.circuitbreaker.consecutive_breaker(
            failure_threshold=5, recovery_time_secs=_FOREVER
        )

    contenders = [Contender(_BARE_CALL, "closed", _passing(_nothing))]

    def add(package: str, closed: Prepare, opened: Prepare) -> None:
        label = f"{package} {version(package)}"
        contenders.append(Contender(f"closed: {label}", "closed", closed, less=_BARE_CALL))
        contenders.append(Contender(f"open: {label}", "open", opened))

    def calls(breaker: Any) -> tuple[Call, Call]:
        return lambda: breaker.call_async(_nothing), lambda: breaker.call_async(_raises)

    def decorated(breaker: Any) -> tuple[Call, Call]:
        return breaker(_nothing), breaker(_raises)

    for package, make, through in (
        ("pybreaker", of_pybreaker, calls),
        ("aiobreaker", of_aiobreaker, calls),
        ("interlock-cb", of_interlock, calls),
        ("circuitbreaker", of_circuitbreaker, decorated),
        ("purgatory-circuitbreaker", of_purgatory, decorated),
        ("hyx", of_hyx, _block),
    ):
        add(
            package,
            _passing(through(make())[0]),
            _refused(lambda make=make, through=through: through(make())),
        )
    return contenders


def _block(breaker: Any) -> tuple[Call, Call]:
    async def call() -> None:
        async with breaker:
            pass

    async def failing() -> None:
        async with breaker:
            raise _GoneError

    return call, failing


#
# Ours
#


def _ours() -> list[Contender]:
    healthy, known, broken, failing = Core(), Core(), Core(), Core()
    for n in range(100):
        known.fail(Processor(f"Service#{n}"))
        known.now += 20.0
    broken.open()
    return [
        Contender("closed: ours, judge", "closed", _judging(healthy), ours=True),
        Contender("closed: ours, judge and deliver", "closed", _delivering(healthy), ours=True),
        Contender(
            "closed: ours, judge and deliver, 100 circuits known",
            "closed",
            _delivering(known),
            ours=True,
        ),
        Contender(
            "closed: ours, link, judge and deliver",
            "closed",
            _delivering_from_birth(healthy),
            less=_BARE_CALL,
            ours=True,
        ),
        Contender("open: ours, judge and deliver", "open", _delivering(broken), ours=True),
        Contender(
            "open: ours, link, judge and deliver",
            "open",
            _held_from_birth(broken),
            ours=True,
        ),
        Contender("error: ours, judge, circuit closed", "error", _errors(failing), ours=True),
        Contender("error: ours, judge, circuit open", "error", _errors(broken), ours=True),
        Contender(
            "error: ours, link and judge, circuit closed",
            "error",
            _errors_from_birth(failing),
            ours=True,
        ),
        Contender(
            "error: ours, link and judge, circuit open",
            "error",
            _errors_from_birth(broken),
            ours=True,
        ),
    ]


def _messages(core: Core) -> tuple[list[OutputTransportMessageUrgentFrame], list[Link]]:
    frames = [app_message(n) for n in range(_CALLS)]
    return frames, [core.message(frame) for frame in frames]


def _judging(core: Core) -> Prepare:
    async def prepare() -> Run:
        frames, links = _messages(core)
        judge = core.judge

        async def run() -> None:
            for link in links:
                judge(link)
            assert frames

        return run

    return prepare


def _delivering(core: Core) -> Prepare:
    async def prepare() -> Run:
        frames, links = _messages(core)
        deliver = core.deliver

        async def run() -> None:
            for link in links:
                delivery = deliver(link)
                if delivery is not None:
                    delivery.succeeded()
            assert frames

        return run

    return prepare


def _delivering_from_birth(core: Core) -> Prepare:
    async def prepare() -> Run:
        frames = [app_message(n) for n in range(_CALLS)]
        message, deliver = core.message, core.deliver

        async def run() -> None:
            for frame in frames:
                delivery = deliver(message(frame))
                await _nothing()
                if delivery is not None:
                    delivery.succeeded()

        return run

    return prepare


def _held_from_birth(core: Core) -> Prepare:
    async def prepare() -> Run:
        frames = [app_message(n) for n in range(_CALLS)]
        message, deliver = core.message, core.deliver

        async def run() -> None:
            for frame in frames:
                if deliver(message(frame)) is not None:
                    raise AssertionError("expected an open circuit")

        return run

    return prepare


def _errors(core: Core) -> Prepare:
    async def prepare() -> Run:
        frames = [ErrorFrame("gone") for _ in range(_CALLS)]
        links = [core.error(frame) for frame in frames]
        judge = core.breaker.judge_error

        async def run() -> None:
            for link in links:
                # So slowly that the window forgets: two in ten seconds.
                core.now += 5.0
                judge(link)
            assert frames

        return run

    return prepare


def _errors_from_birth(core: Core) -> Prepare:
    async def prepare() -> Run:
        frames = [ErrorFrame("gone") for _ in range(_CALLS)]
        error, judge = core.error, core.breaker.judge_error

        async def run() -> None:
            for frame in frames:
                core.now += 5.0
                judge(error(frame, part=OUTPUT))

        return run

    return prepare


async def _whole(stack: contextlib.AsyncExitStack) -> list[Contender]:
    """All of it: an output's `send_message`, in a bot that runs."""
    for_ever = wait_fixed(_FOREVER)
    params = CircuitBreakerParams(cooldown=for_ever, channel_cooldown=for_ever)
    healthy = Bot(filters=0, breaker=CircuitBreakerProcessor(params=params))
    breaker = CircuitBreakerProcessor(params=params)
    broken = Bot(filters=0, breaker=breaker)
    broken.output.fail()
    await stack.enter_async_context(running_workers(healthy.worker, broken.worker))
    for n in range(20):
        await broken.worker.queue_frame(app_message(n))
        await broken.settled()
    assert any(c.state is CircuitState.OPEN for c in breaker.circuits), breaker.circuits
    bare = "closed: a bare send_message"
    return [
        Contender(bare, "closed", _sending(Listener())),
        Contender(
            "closed: ours, the whole of it",
            "closed",
            _sending(healthy.output),
            less=bare,
            ours=True,
        ),
        Contender("open: ours, the whole of it", "open", _sending(broken.output), ours=True),
    ]


def _sending(output: Listener) -> Prepare:
    async def prepare() -> Run:
        frames = [app_message(n) for n in range(_CALLS)]

        async def run() -> None:
            send = output.send_message
            while frames:
                try:
                    await send(frames.pop())
                except HeldBackError:
                    # What a caller of `send_message` is told, who is not pipecat itself.
                    pass

        return run

    return prepare
