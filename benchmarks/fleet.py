#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A fleet: how many bots fill a core, and what a storm in one of them does to the others."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from array import array
from dataclasses import asdict, dataclass

import numpy as np
from loguru import logger
from pipecat.frames.frames import Frame, InputAudioRawFrame
from pipecat.processors.frame_processor import FrameDirection

from benchmarks.bots import FRAMES_PER_SEC, Bot, Listener, audio
from benchmarks.result import Effort, Row, Section, Value, interleaved
from pipecat_circuit_breaker import CircuitBreakerProcessor
from pipecat_circuit_breaker.demo.chains import CHAINS
from pipecat_circuit_breaker.demo.contained import restrict
from pipecat_circuit_breaker.demo.tally import Tally
from pipecat_circuit_breaker.testing.running import running_workers

GOAL_MS = 20.0
BOTS = 100
FILTERS = 1
_ROOM = 0.6
_STORMS = ("send-raises", "two-dead-outputs")
_WARM_UP_SECS = 1.0
_START_SECS = 120.0

METHOD = f"""\
Bots in one process, each {FILTERS} `IdentityFilter` and an output in a worker with RTVI, each fed 50
frames of sound a second on a beat of its own. *With*: a breaker first in every bot; *without*: in
none. There are {BOTS} of them, or as many as take {_ROOM:.0%} of a core, where the machine is too slow
for {BOTS}. CPU seconds of the process for each frame that arrives give the CPU that a bot takes, and
so the number of bots that fill a core. Lateness is the time from the moment at which a frame is due
at the head of its pipeline until it is at the output, so a late event loop counts; a frame that never
arrived is as late as it was at the end. In a storm one more bot, a chain of the demo, storms in the
same process, and the lateness is that of all others. Each in a process of its own, bounded in time
and memory, in turn; median, least and most of the rounds."""


@dataclass(frozen=True)
class Fleet:
    """What one run of a fleet came to.

    Parameters:
        cpu_secs: CPU seconds of the process.
        secs: Seconds that it took.
        bots: Healthy bots.
        due: Frames that were due at their outputs.
        arrived: Frames that arrived there.
        quantiles_ms: Lateness in ms at each percentile, from 0 to 100.
        killed: Whether it had to be killed before it could report.
    """

    cpu_secs: float = 0.0
    secs: float = 0.0
    bots: int = 0
    due: int = 0
    arrived: int = 0
    quantiles_ms: tuple[float, ...] = ()
    killed: bool = False

    @property
    def cpu_per_bot(self) -> float:
        """CPU seconds that a bot takes for a second of sound."""
        return self.cpu_secs / max(self.arrived, 1) * FRAMES_PER_SEC


async def measure(effort: Effort) -> Section:
    """Run the fleets."""
    secs, rounds = float(effort.of(6, 2)), effort.of(3, 1)
    trial = await asyncio.to_thread(
        run_contained, storm=None, guarded=True, secs=2.0, bots=BOTS // 4
    )
    bots = min(effort.of(BOTS, BOTS // 4), int(_ROOM / trial.cpu_per_bot))
    storms = [None, *(_STORMS[1:] if effort.quick else _STORMS)]
    cases = {
        f"{storm or 'no storm'}, {'with' if guarded else 'without'}": (storm, guarded)
        for storm in storms
        for guarded in (False, True)
    }
    results: dict[str, list[Fleet]] = {case: [] for case in cases}
    for case in interleaved(cases, rounds):
        storm, guarded = cases[case]
        fleet = await asyncio.to_thread(
            run_contained, storm=storm, guarded=guarded, secs=secs, bots=bots
        )
        results[case].append(fleet)
    rows, plot = [Row("bots in the fleet", Value(bots), "bots")], {}
    for key in ("without", "with"):
        share = [fleet.cpu_per_bot for fleet in results[f"no storm, {key}"]]
        rows.append(Row(f"CPU per bot, {key}", Value.range_of([1000 * s for s in share]), "ms/s"))
        rows.append(
            Row(f"bots that fill a core, {key}", Value.range_of([1 / s for s in share]), "bots")
        )
    for case, fleets in results.items():
        goal = GOAL_MS if case.endswith("with") else None
        for label, percentile in (("p50", 50), ("p99", 99), ("most", 100)):
            value = Value.range_of([fleet.quantiles_ms[percentile] for fleet in fleets])
            rows.append(
                Row(
                    f"lateness {label}, {case}",
                    value,
                    "ms",
                    goal if label == "p99" else None,
                    _note(fleets),
                )
            )
        plot[case] = asdict(sorted(fleets, key=lambda fleet: fleet.quantiles_ms[99])[rounds // 2])
    return Section("fleet", "A fleet on one machine", METHOD, rows, plot)


def _note(fleets: list[Fleet]) -> str:
    lost = sum(fleet.due - fleet.arrived for fleet in fleets)
    busy = max(fleet.cpu_secs / fleet.secs for fleet in fleets)
    late = f", {lost:,} of {sum(f.due for f in fleets):,} frames not there in the end"
    return f"{busy:.0%} of a core{late if lost > fleets[0].bots else ''}"


def run_contained(*, storm: str | None, guarded: bool, secs: float, bots: int) -> Fleet:
    """Run a fleet in a process of its own.

    Args:
        storm: The chain that storms beside it, None for no storm.
        guarded: Whether there is a breaker in every bot.
        secs: Seconds that lateness is measured for.
        bots: Number of healthy bots.
    """
    command = [sys.executable, "-m", "benchmarks.fleet", "--secs", str(secs), "--bots", str(bots)]
    command += ["--storm", storm] if storm else []
    command += ["--guarded"] if guarded else []
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_START_SECS + secs,
            check=False,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return _lost(secs, bots)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        if done.returncode not in (-signal.SIGKILL, -signal.SIGXCPU, 1):
            raise RuntimeError(f"the fleet did not start: exit code {done.returncode}")
        return _lost(secs, bots)
    values = json.loads(lines[-1])
    return Fleet(**{**values, "quantiles_ms": tuple(values["quantiles_ms"])})


def _lost(secs: float, bots: int) -> Fleet:
    """A fleet that was lost altogether: everything is as late as it can be."""
    due = int(bots * secs * FRAMES_PER_SEC)
    return Fleet(secs, secs, bots, due, 0, tuple([secs * 1000] * 101), killed=True)


#
# The child
#


class _Ear(Listener):
    """An output that notes how late each frame of sound is."""

    def __init__(self) -> None:
        super().__init__()
        self.begin = float("inf")
        self.late = array("d")

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            due = self.begin + len(self.late) / FRAMES_PER_SEC
            self.late.append(time.monotonic() - due)


async def _run(options: argparse.Namespace) -> None:
    tally = Tally()
    bots = [
        Bot(
            filters=FILTERS,
            breaker=CircuitBreakerProcessor() if options.guarded else None,
            output=_Ear(),
        )
        for _ in range(options.bots)
    ]
    workers = [bot.worker for bot in bots]
    scenario = None
    if options.storm:
        breaker = CircuitBreakerProcessor() if options.guarded else None
        scenario = await CHAINS[options.storm].build(tally, breaker, "first")
        workers.append(scenario.worker)
    async with running_workers(*workers):
        # What a storm logs is formatted and counted, and not written to a disk.
        logger.add(tally.count_log, level="DEBUG")
        begin = time.monotonic() + 0.1
        feeding = [
            asyncio.create_task(_feed(bot, begin + n / len(bots) / FRAMES_PER_SEC))
            for n, bot in enumerate(bots)
        ]
        await asyncio.sleep(_WARM_UP_SECS)
        restrict(cpu_secs=options.secs + 30, nice=0)
        # In a storm this task may never run again, but a thread will.
        threading.Thread(target=_report, args=(bots, options.secs), daemon=True).start()
        if scenario is not None:
            tally.trigger()
            feeding.append(asyncio.create_task(scenario.trigger()))
        await asyncio.gather(*feeding)


async def _feed(bot: Bot, begin: float) -> None:
    ear = bot.output
    assert isinstance(ear, _Ear)
    ear.begin = begin
    number = 0
    while True:
        await asyncio.sleep(begin + number / FRAMES_PER_SEC - time.monotonic())
        await bot.worker.queue_frame(audio())
        number += 1


def _report(bots: list[Bot], secs: float) -> None:
    begin, cpu = time.monotonic(), time.process_time()
    first = [len(bot.output.late) for bot in bots]
    time.sleep(secs)
    now, cpu_secs = time.monotonic(), time.process_time() - cpu
    late: list[float] = []
    due = arrived = 0
    for bot, heard in zip(bots, first, strict=True):
        ear = bot.output
        here = ear.late[heard:]
        expected = int((now - ear.begin) * FRAMES_PER_SEC) + 1 - heard
        due, arrived = due + expected, arrived + min(len(here), expected)
        late.extend(here)
        for missing in range(len(here), expected):
            late.append(now - (ear.begin + (heard + missing) / FRAMES_PER_SEC))
    quantiles = np.percentile(np.array(late) * 1000, np.arange(101))
    fleet = Fleet(
        cpu_secs, now - begin, len(bots), due, arrived, tuple(round(float(q), 3) for q in quantiles)
    )
    os.write(1, (json.dumps(asdict(fleet)) + "\n").encode())
    os._exit(0)


def _main() -> None:
    """Be the child: run one fleet, and write one JSON object to stdout."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bots", type=int, default=BOTS)
    parser.add_argument("--storm", choices=[*CHAINS])
    parser.add_argument("--guarded", action="store_true")
    parser.add_argument("--secs", type=float, default=6.0)
    logger.remove()
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    _main()
