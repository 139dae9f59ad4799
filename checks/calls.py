#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Ten thousand calls, each a pipeline with a breaker and a client that comes and goes.

``python -m checks calls`` makes them one after another and then so many at once, and prints, per tenth,
the memory, the tasks and the open files that are left. A call lasts 30 s on a clock that is moved: a
frame of sound each second, a message every three. Of every four calls one loses its client in
mid-call, and one has a model that fails. It ends with PASS, or with FAIL where something is left over.
"""

import argparse
import asyncio
import gc
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence

from loguru import logger
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    OutputTransportMessageUrgentFrame,
    TextFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import Clock, Output, Transport, ended, running, settle

_CALL_SECS = 30

#: Turns of the event loop within which a call has done what a second brings, at most.
_TURNS = 60

#: Blocks that may be left of a call: pipecat and asyncio keep less than one of each.
_MOST_BLOCKS = 2.0


class Model(FrameProcessor):
    """Answers nothing, and fails where it is told to; it counts the sound that passes."""

    def __init__(self) -> None:
        """Start healthy."""
        super().__init__()
        self.is_out = False
        self.heard = 0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Fail on a text where it is out, and pass everything on."""
        await super().process_frame(frame, direction)
        self.heard += isinstance(frame, InputAudioRawFrame)
        if isinstance(frame, TextFrame) and self.is_out:
            await self.push_error("out of order", exception=ConnectionError("gone"))
        await self.push_frame(frame, direction)


async def call(number: int) -> str | None:
    """Make a call.

    Args:
        number: Which one it is: that says what goes wrong.

    Returns:
        What should not be, if anything.
    """
    clock = Clock()
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    output, model = Output(), Model()
    transport = Transport(output)
    breaker.watch(transport)
    loses_client, fails = number % 4 == 1, number % 4 == 2
    async with running(breaker, model, output) as worker:
        await transport.connect()
        for second in range(_CALL_SECS):
            clock.advance(1.0)
            if second == 10:
                model.is_out = fails
                if loses_client:
                    output.fail(ConnectionError("the client is gone"))
            frames: list[Frame] = [
                InputAudioRawFrame(audio=b"\0\0", sample_rate=16_000, num_channels=1),
                TextFrame("what is it?"),
            ]
            if second % 3 == 0:
                frames.append(OutputTransportMessageUrgentFrame(message={"type": "state"}))
            await worker.queue_frames(frames)
            # Other calls go on beside it, so nobody can wait until all is quiet.
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        if loses_client:
            await transport.disconnect()
        await ended(worker)
    await breaker.cleanup()
    if model.heard != _CALL_SECS:
        return f"call {number}: {model.heard} of {_CALL_SECS} frames of sound"
    if (loses_client or fails) != bool(breaker.incidents):
        return f"call {number}: {len(breaker.incidents)} incidents"
    return None


async def make(calls: int, at_once: int, report: Callable[[str], object] = print) -> bool:
    """Make calls, so many at a time, and look at what is left of them.

    Args:
        calls: How many.
        at_once: How many at a time.
        report: Called with each line of the report.

    Returns:
        Whether nothing is left of them.
    """
    logger.remove()
    begin, broken = time.monotonic(), list[str]()
    left: list[tuple[int, int, int]] = []
    for tenth in range(11):
        # The first round is for what is made once: caches, code, pools.
        for first in range(0, calls // 10, at_once):
            numbers = range(first, min(first + at_once, calls // 10))
            broken.extend(filter(None, await asyncio.gather(*map(call, numbers))))
        await settle()
        gc.collect()
        left.append(
            (
                sys.getallocatedblocks(),
                len(asyncio.all_tasks()),
                len(os.listdir("/proc/self/fd")),
            )
        )
        blocks, tasks, files = left[-1]
        mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        report(
            f"{(tenth + 1) * calls // 10:>7,} calls  {blocks:>9,} blocks  {tasks:>3} tasks  "
            f"{files:>3} files  {mib:>5.0f} MiB  {time.monotonic() - begin:>5.0f} s"
        )
    per_call = (left[-1][0] - left[0][0]) / calls
    if per_call > _MOST_BLOCKS:
        broken.append(f"each call leaves {per_call:.1f} blocks")
    if left[-1][1:] != left[0][1:]:
        broken.append(f"tasks and files: {left[0][1:]} after a tenth, {left[-1][1:]} in the end")
    for line in broken[:10]:
        report(f"broken: {line}")
    report(f"{calls:,} calls, {at_once} at a time: {per_call:.2f} blocks a call are left")
    report("FAIL" if broken else "PASS")
    return not broken


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the calls.

    Args:
        arguments: The command line.

    Returns:
        The exit code: 0 if nothing is left of them, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m checks calls", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=200)
    options = parser.parse_args(arguments)
    results = [asyncio.run(make(options.calls, n)) for n in (1, options.at_once)]
    return 0 if all(results) else 1
