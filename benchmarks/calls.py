#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Counts calls: what a machine that is busy with other things cannot change."""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pipecat_circuit_breaker
from benchmarks.bots import Bot, running, speech

#: What a bot is doing: only listening; sending messages as well; listening after an error.
MOODS = ("silent", "talking", "failed once")

_OWN = str(Path(pipecat_circuit_breaker.__file__).parent)


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
            if event == "call" and frame.f_code.co_filename.startswith(_OWN):
                self.own += 1


async def calls_per_frame(variant: str, mood: str, *, frames: int = 100) -> Calls:
    """Count the calls that one frame of sound costs a bot.

    Args:
        variant: One of the `VARIANTS`.
        mood: One of the `MOODS`.
        frames: How many frames to send at once.
    """
    bot = Bot.variant(variant)
    async with running(bot.worker):
        await bot.take(speech(frames, talks=True))
        if mood == "failed once":
            await bot.fails_once()
        counts = []
        for _ in range(2):
            stretch = speech(frames, talks=mood == "talking")
            with CallCounter() as counter:
                await bot.take(stretch)
            counts.append((counter.calls, counter.own))
    # Whatever else there was to do was done the first time.
    calls, own = min(counts)
    return Calls(calls / frames, own / frames)
