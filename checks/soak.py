#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A soak: a million frames, with failures, interruptions, recoveries and controls at random.

``python -m checks soak`` takes minutes, with ``--frames 20000`` seconds. It prints one line per tenth and
ends with PASS or FAIL.
"""

import argparse
import asyncio
import gc
import random
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

from loguru import logger
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    OutputTransportMessageUrgentFrame,
)
from pipecat.pipeline.parallel_pipeline import ParallelPipeline
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from tenacity import wait_exponential_jitter

from pipecat_circuit_breaker import (
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    CircuitState,
    Mode,
)
from pipecat_circuit_breaker.testing import Clock, Output, running


class Client(Output):
    """Receives or fails, as it is told; it counts what it is sent, and keeps none of it."""

    def __init__(self) -> None:
        """Start healthy."""
        super().__init__()
        self.is_dead = False
        self.failures = 0
        self.received = 0
        self.under_way = 0

    async def send_message(self, frame: Any) -> None:
        """Send, or fail."""
        self.under_way += 1
        try:
            await asyncio.sleep(0)
            if self.is_dead:
                self.failures += 1
                raise ConnectionError(f"gone {self.failures}")
            self.received += 1
        finally:
            self.under_way -= 1


class Recogniser(FrameProcessor):
    """Fails on some of the audio, and counts all of it."""

    def __init__(self, rng: random.Random) -> None:
        """Start healthy."""
        super().__init__()
        self._rng = rng
        self.failure_rate = 0.0
        self.expected = 0
        self.disorder = 0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Count a frame, and fail on it or not."""
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            self.disorder += frame.metadata["n"] != self.expected
            self.expected = frame.metadata["n"] + 1
            if self._rng.random() < self.failure_rate:
                kind = self._rng.choice(["quota", "timeout", "refused"])
                await self.push_error(f"{kind} for request {self._rng.random()}")
        await self.push_frame(frame, direction)


async def soak(frames: int, seed: int, report: Any = print) -> bool:
    """Run the soak.

    Args:
        frames: Frames to send through the pipeline.
        seed: Seed of everything random.
        report: Called with each line of the report.

    Returns:
        Whether every invariant held, and memory was flat after the first tenth.
    """
    rng, clock = random.Random(seed), Clock()
    params = CircuitBreakerParams(
        clock=clock, cooldown=wait_exponential_jitter(initial=1, max=60), max_circuits=64
    )
    breaker = CircuitBreakerProcessor(params=params)
    outputs = [Client(), Client()]
    stt, sink = Recogniser(rng), Recogniser(rng)
    branches = ParallelPipeline(*[[output] for output in outputs])
    transitions: dict[str, int] = {}
    for event in ("opened", "half_opened", "closed"):
        breaker.add_event_handler(
            f"on_circuit_{event}",
            lambda *_, e=event: transitions.__setitem__(e, transitions.get(e, 0) + 1),
        )
    complaints: list[str] = []
    logger.remove()
    logger.add(complaints.append, level="ERROR", filter="pipecat_circuit_breaker")
    async with running(breaker, stt, branches, sink) as worker:
        broken: list[str] = []
        blocks: list[int] = []
        # While an output is dead and nobody meddles: failures, probes allowed.
        failed_before, openings_before = [0, 0], [0, 0]
        meddled, guarding = [True, True], True
        begin, sent, audio = time.monotonic(), 0, 0
        guard = breaker._guard
        assert guard is not None

        def openings(output: Client) -> int:
            return sum(c.openings for c in breaker.circuits if c.origin.processor_id == output.id)

        while sent < frames:
            clock.advance(rng.choice([0.0, 0.001, 0.02, 0.02, 0.02, 1.0, 5.0]))
            for _ in range(50):
                dice = rng.random()
                sent += 1
                if dice < 0.93:
                    frame: Frame = InputAudioRawFrame(
                        audio=b"\0\0", sample_rate=16000, num_channels=1
                    )
                    frame.metadata["n"] = audio
                    audio += 1
                elif dice < 0.98:
                    frame = OutputTransportMessageUrgentFrame(
                        message={"type": rng.choice("abc"), "n": sent}
                    )
                else:
                    frame = InterruptionFrame()
                await worker.queue_frame(frame)
            while sink.expected < audio or any(output.under_way for output in outputs):
                await asyncio.sleep(0)
            for _ in range(30):
                await asyncio.sleep(0)

            for n, output in enumerate(outputs):
                # max_errors to open it, one message of a second kind, one probe per
                # opening; per origin, and RTVI's notices fail with the same one.
                allowed = params.max_errors + 1 + openings(output) - openings_before[n]
                if output.is_dead and not meddled[n]:
                    if output.failures - failed_before[n] > allowed:
                        broken.append(
                            f"output {n}: {output.failures - failed_before[n]} failed sends"
                        )
                if rng.random() < 0.02 and guarding:
                    output.is_dead = not output.is_dead
                    failed_before[n], openings_before[n] = output.failures, openings(output)
                    meddled[n] = False
            if rng.random() < 0.05:
                stt.failure_rate = rng.choice([0.0, 0.0, 0.01, 0.5])
            if rng.random() < 0.05:
                meddled = [True, True]
                origin = rng.choice([None, *(c.origin for c in breaker.circuits)])
                match rng.randrange(5):
                    case 0:
                        await breaker.open_circuits(origin)
                    case 1:
                        await breaker.close_circuits(origin)
                    case 2:
                        await breaker.reset_circuits(origin)
                    case _:
                        # Unguarded, a dead output is a storm that nothing ends.
                        guarding = False
                        for output in outputs:
                            output.is_dead = False
                        await breaker.set_mode(rng.choice([*Mode]), origin)
            elif rng.random() < 0.1:
                meddled = [True, True]
                guarding = True
                await breaker.close_circuits()
                await breaker.set_mode(Mode.GUARD)

            if len(breaker.circuits) > params.max_circuits:
                broken.append(f"{len(breaker.circuits)} circuits")
            if len(guard._causality) > 1000:
                broken.append(f"{len(guard._causality)} links")
            if any(c.probe_in_secs is not None and c.probe_in_secs < 0 for c in breaker.circuits):
                broken.append("a negative time to the next probe")
            if sent * 10 // frames > len(blocks):
                # pipecat keeps the id of every frame that ever came out of a
                # ParallelPipeline; the memory that is measured is to be ours.
                branches._seen_ids.clear()
                gc.collect()
                blocks.append(sys.getallocatedblocks())
                rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                report(
                    f"{sent:>9,} frames  {blocks[-1]:>9,} blocks  {rss:>5.0f} MiB  "
                    f"{time.monotonic() - begin:>5.0f} s  {transitions}"
                )
                sys.stdout.flush()

        # It still works: everything closed, everything arrives.
        await breaker.set_mode(Mode.GUARD)
        await breaker.reset_circuits()
        stt.failure_rate = 0.0
        for output in outputs:
            output.is_dead, output.received = False, 0
        for n in range(100):
            await worker.queue_frame(
                OutputTransportMessageUrgentFrame(message={"type": "a", "n": n})
            )
        for _ in range(2000):
            await asyncio.sleep(0)
        if [output.received for output in outputs] != [100, 100]:
            broken.append(
                f"after the soak {[output.received for output in outputs]} of 100 messages"
            )
        if any(c.state is not CircuitState.CLOSED for c in breaker.circuits):
            broken.append("after the soak a circuit is open")
        if stt.disorder or sink.disorder or stt.expected != audio or sink.expected != audio:
            broken.append(
                f"audio: {stt.expected} and {sink.expected} of {audio}, {sink.disorder} out of order"
            )
        if complaints:
            broken.append(f"the breaker failed: {complaints[0]}")
        # The allocator's noise is a few per mille; a leak of one object per message would be 50,000.
        if max(blocks[1:]) > 1.05 * blocks[0]:
            broken.append(f"memory grew: {blocks}")
    for line in broken[:10]:
        report(f"broken: {line}")
    failed = [output.failures for output in outputs]
    report(f"{sent:,} frames, {failed} failed sends, {transitions}")
    report("FAIL" if broken else "PASS")
    return not broken


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak.

    Args:
        arguments: The command line.

    Returns:
        The exit code: 0 if every invariant held, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m checks soak", description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    return 0 if asyncio.run(soak(options.frames, options.seed)) else 1
