#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Counts calls: what a machine that is busy with other things cannot change."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from pipecat.frames.frames import ErrorFrame

import pipecat_circuit_breaker
from benchmarks.bots import FILTERS, Bot, app_message, speech
from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker._core.breaker import Delivery
from pipecat_circuit_breaker._core.causality import WINDOWS_CARRIED
from pipecat_circuit_breaker._pipeline.guard import Guard
from pipecat_circuit_breaker.testing import Clock
from pipecat_circuit_breaker.testing.running import running_workers

#: What a bot is doing: only listening; sending messages as well; listening within six windows
#: after an error, as long as whatever that error sets off is still on its account; and later.
MOODS = ("silent", "talking", "failed lately", "failed once")

#: What opens a circuit: errors that a processor reports, or messages that an output cannot send.
OPENINGS = ("errors of a processor", "failed sends")

#: How many calls and files a verdict that opens a circuit may go through.
GOAL_CALLS = 100
GOAL_FILES = 8

_MOST_COUNTS = 10
_PARAMS = CircuitBreakerParams()
_OWN = str(Path(pipecat_circuit_breaker.__file__).parent) + "/"

#: What a bot is tested with is no part of a breaker: its clock and its output are of the benchmark.
_TESTING = _OWN + "testing/"

# What the core is given to call, whoever makes it; a clock is nobody's of these files.
_INJECTED = {
    "Guard._draw_cooldown",
    "Guard._draw_channel_cooldown",
    "Guard._gives_up",
    "Guard._call",
}


@dataclass(frozen=True)
class Calls:
    """Calls per frame.

    Parameters:
        all: Of any function.
        own: Of the breaker's own functions among them.
    """

    all: float
    own: float


class CallCounter:
    """Counts every call of a function in this thread, Python's and C's.

    Resuming a coroutine counts as a call of it.
    """

    def __init__(self) -> None:
        """Start at 0."""
        self.calls = 0
        self.own = 0

    def __enter__(self) -> CallCounter:
        """Begin to count."""
        # A collection would run callbacks, and at a moment of its own.
        gc.collect()
        gc.disable()
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop counting."""
        sys.setprofile(None)
        gc.enable()

    def _count(self, frame: FrameType, event: str, arg: Any) -> None:
        if event in ("call", "c_call"):
            self.calls += 1
            if event == "call" and _file_of(frame) is not None:
                self.own += 1


async def calls_per_frame(variant: str, mood: str, *, frames: int = 100) -> Calls:
    """Count the calls that one frame of sound costs a bot.

    Args:
        variant: One of the `VARIANTS`.
        mood: One of the `MOODS`.
        frames: How many frames to send at once.
    """
    clock = Clock()
    bot = Bot.variant(variant, clock=clock)
    async with running_workers(bot.worker):
        await bot.take(speech(frames, talks=True))
        if mood.startswith("failed"):
            await bot.fails_once()
        if mood == "failed once":
            clock.advance(WINDOWS_CARRIED * _PARAMS.window_secs)
        counts: list[tuple[int, int]] = []
        # The first time there is more to do, and on a busy machine a timer of pipecat's fires in
        # between. What a frame costs is the least, once that has come twice.
        while len(counts) < _MOST_COUNTS and (not counts or counts.count(min(counts)) < 2):
            stretch = speech(frames, talks=mood == "talking")
            with CallCounter() as counter:
                await bot.take(stretch)
            counts.append((counter.calls, counter.own))
    calls, own = min(counts)
    return Calls(calls / frames, own / frames)


#
# What an error costs that opens a circuit
#


@dataclass
class Stretch:
    """The calls of the breaker's own functions within one of them, that one included.

    Parameters:
        functions: How often each was called, by file and qualified name.
        climbs: Calls from the inside to the outside: out of the circuit and its window, or out of
            the core into the pipeline; those of what it was given to call are none.
    """

    functions: Counter[tuple[str, str]] = field(default_factory=Counter)
    climbs: list[str] = field(default_factory=list)

    @property
    def calls(self) -> int:
        """How many calls."""
        return self.functions.total()

    @property
    def files(self) -> set[str]:
        """The files that they are in, below the package."""
        return {file for file, _ in self.functions}

    def table(self) -> str:
        """The functions, most called first, for whoever has to trim them."""
        return "\n".join(
            f"{calls:4} {file}: {name}" for (file, name), calls in self.functions.most_common()
        )


class OpeningTracer:
    """Follows the breaker's own functions while an error opens a circuit and that is told.

    What other tasks do while one of these waits is not counted; resuming a coroutine is. The door
    itself adds three calls to the verdict.
    """

    def __init__(self) -> None:
        """Follow nothing yet."""
        #: Where a send has raised, what is done before its error is pushed.
        self.outcome = Stretch()
        #: What the error's first door asks.
        self.verdict = Stretch()
        #: The log line, the incident and the events.
        self.telling = Stretch()
        self._inside: dict[FrameType, Stretch] = {}
        self._tells: set[FrameType] = set()

    def __enter__(self) -> OpeningTracer:
        """Begin to follow."""
        gc.collect()
        gc.disable()
        sys.setprofile(self._follow)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop following."""
        sys.setprofile(None)
        self._inside.clear()
        self._tells.clear()
        gc.enable()

    def _follow(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "return":
            self._inside.pop(frame, None)
        if event != "call":
            return
        begun = self._begun(frame)
        if begun is not None:
            self._inside[frame] = begun
        if self._inside and (file := _file_of(frame)) is not None:
            climb = _climb(frame, file)
            for stretch in {id(stretch): stretch for stretch in self._inside.values()}.values():
                stretch.functions[file, frame.f_code.co_qualname] += 1
                if climb is not None:
                    stretch.climbs.append(climb)

    def _begun(self, frame: FrameType) -> Stretch | None:
        """The stretch that begins, or goes on, with a call."""
        code = frame.f_code
        if code is Guard.tell.__code__:
            if frame in self._tells or (not self._tells and frame.f_locals["self"].has_news):
                self._tells.add(frame)
                return self.telling
        elif self._tells:
            return None
        # Which one opens it is known when it has: it is the last before that is told.
        elif code is Delivery.failed.__code__:
            self.outcome = Stretch()
            return self.outcome
        elif code is Guard.admits.__code__ and isinstance(frame.f_locals["frame"], ErrorFrame):
            self.verdict = Stretch()
            return self.verdict
        return None


def _file_of(frame: FrameType) -> str | None:
    name = frame.f_code.co_filename
    is_own = name.startswith(_OWN) and not name.startswith(_TESTING)
    return name[len(_OWN) :] if is_own else None


def _climb(frame: FrameType, file: str) -> str | None:
    caller = frame.f_back
    # Whatever is in between, such as a `min(key=...)` or an `lru_cache`.
    while caller is not None and _file_of(caller) is None:
        caller = caller.f_back
    if caller is None or frame.f_code.co_qualname in _INJECTED:
        return None
    before = _file_of(caller) or ""
    leaves_circuit = before == "_core/circuit.py" and file not in (before, "_core/window.py")
    if leaves_circuit or (before.startswith("_core/") and file.startswith("_pipeline/")):
        there = f"{file}: {frame.f_code.co_qualname}"
        return f"{before}: {caller.f_code.co_qualname} calls {there}"
    return None


async def calls_of_opening(sort: str) -> OpeningTracer:
    """Count the breaker's own calls for an error that opens a circuit, in a bot that runs.

    Args:
        sort: One of the `OPENINGS`.
    """
    # What is remembered, such as which frames are plain, is found out the first time.
    await _open(sort)
    return await _open(sort)


async def _open(sort: str) -> OpeningTracer:
    opened = asyncio.Event()
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=Clock()))
    breaker.add_event_handler("on_circuit_opened", lambda *_: opened.set())
    bot = Bot(filters=FILTERS, breaker=breaker)
    async with running_workers(bot.worker):
        with OpeningTracer() as tracer:
            if sort == "failed sends":
                # RTVI tells the client of each failure: one message is enough.
                bot.output.fail()
                await bot.worker.queue_frame(app_message())
            else:
                for _ in range(_PARAMS.max_errors):
                    await _fail(bot)
            await asyncio.wait_for(opened.wait(), 10)
            await bot.settled()
    return tracer


async def _fail(bot: Bot) -> None:
    try:
        raise TimeoutError("no answer")
    except TimeoutError as e:
        await bot.middle.push_error("it failed", exception=e)
    await bot.settled()
