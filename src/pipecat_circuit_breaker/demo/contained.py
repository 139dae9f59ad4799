#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Runs a chain in a process of its own, which may take no more than its share of the machine.

Some storms starve the event loop or fill the memory, and then nothing inside of the process can
end them. The child reports its counts from a thread, so that even then its last figures are known.
"""

import argparse
import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, get_args

from loguru import logger

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor, Mode
from pipecat_circuit_breaker.demo.chains import CHAINS, Position
from pipecat_circuit_breaker.demo.run import Outcome, peak_rss_mib, run_chain, seconds
from pipecat_circuit_breaker.demo.tally import Figures, Tally

SNAPSHOT_SECS = 0.2
IMPORT_SECS = 60.0
END_SECS = 5.0
GRACE_SECS = 2.0
MEMORY_MIB = 1536

_end_of_output = object()


class Stage(Enum):
    """What a chain's process does, as far as can be told from outside.

    Parameters:
        STARTING: It imports Pipecat and starts the pipeline.
        RUNNING: The chain is triggered, and its time is not over.
        ENDING: The time is over, and the pipeline may take ``end_limit`` to end.
        OVERDUE: It has not ended by then. It is killed in ``GRACE_SECS``.
    """

    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"
    OVERDUE = "overdue"


Follow = Callable[[Stage, Figures], None]


class ContainedError(Exception):
    """The child process failed before its chain had started."""


def run_contained(
    name: str,
    *,
    mode: Mode | None,
    position: Position = "first",
    duration: float = 3.0,
    end_limit: float = END_SECS,
    on_progress: Follow | None = None,
) -> Outcome:
    """Run a chain in a child process.

    Args:
        name: Name of the chain.
        mode: What the circuit breaker in its pipeline does; None for no breaker.
        position: Where the breaker is.
        duration: Seconds from the trigger until the pipeline is ended.
        end_limit: Seconds that the end may take.
        on_progress: Called a few times a second with what the process does and its latest counts,
            whether it reports or hangs.

    Returns:
        What came of it. If the child had to be killed, its last figures.

    Raises:
        ContainedError: If the chain never started.
    """
    command = [sys.executable, "-m", "pipecat_circuit_breaker.demo.contained", name]
    command += ["--position", position, "--seconds", str(duration), "--end-limit", str(end_limit)]
    if mode is not None:
        command += ["--mode", mode.value]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        return _follow(child, duration, end_limit, on_progress)
    finally:
        child.kill()
        child.wait()


def _follow(
    child: "subprocess.Popen[str]",
    duration: float,
    end_limit: float,
    on_progress: Follow | None,
) -> Outcome:
    reports: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(child, reports), daemon=True).start()
    deadline = time.monotonic() + IMPORT_SECS
    last = Figures()
    peak = 0.0
    triggered_at: float | None = None
    reason = "it no longer reacted"
    while (remaining := deadline - time.monotonic()) > 0:
        if on_progress is not None:
            on_progress(_stage(triggered_at, duration, end_limit), last)
        try:
            report = reports.get(timeout=min(remaining, SNAPSHOT_SECS))
        except queue.Empty:
            continue
        if report is _end_of_output:
            # It ended without a word: by its limit of CPU time, or else for want of memory.
            if sys.platform == "win32" or _exit_code(child) != -signal.SIGXCPU:
                reason = "out of memory"
            break
        if "failed" in report:
            if triggered_at is None:
                raise ContainedError(report["failed"])
            reason = report["failed"]
            break
        if "outcome" in report:
            return Outcome.from_json(report["outcome"])
        figures = Figures(**report["figures"])
        peak = max(peak, report["peak_rss_mib"])
        if triggered_at is None:
            triggered_at = time.monotonic() - figures.elapsed
            deadline = triggered_at + duration + end_limit + GRACE_SECS
        # What a storm does while it is being ended is not part of its figures.
        if figures.elapsed <= duration + SNAPSHOT_SECS:
            last = figures
        if peak > MEMORY_MIB:
            reason = "out of memory"
            break
    if triggered_at is None:
        code = _exit_code(child)
        raise ContainedError(
            "it did not start in time" if code is None else f"it exited with code {code}"
        )
    return Outcome(last, None, peak, killed=reason)


def _stage(triggered_at: float | None, duration: float, end_limit: float) -> Stage:
    if triggered_at is None:
        return Stage.STARTING
    elapsed = time.monotonic() - triggered_at
    if elapsed < duration:
        return Stage.RUNNING
    return Stage.ENDING if elapsed < duration + end_limit else Stage.OVERDUE


def _exit_code(child: "subprocess.Popen[str]") -> int | None:
    try:
        return child.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        return None


def _read(child: "subprocess.Popen[str]", reports: "queue.SimpleQueue[Any]") -> None:
    assert child.stdout is not None
    for line in child.stdout:
        # Libraries print too.
        if line.startswith("{"):
            try:
                reports.put(json.loads(line))
            except json.JSONDecodeError:
                continue
    reports.put(_end_of_output)


def _main() -> None:
    """Be the child: run one chain, and write one JSON object per line to stdout."""
    parser = argparse.ArgumentParser()
    parser.add_argument("chain", choices=[*CHAINS])
    parser.add_argument("--mode", type=Mode)
    parser.add_argument("--position", choices=get_args(Position), default="first")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--end-limit", type=float, default=END_SECS)
    options = parser.parse_args()
    # A storm of log lines on a terminal would be another storm.
    logger.remove()
    try:
        outcome = asyncio.run(_child(options))
    except Exception as error:
        _write({"failed": f"{type(error).__name__}: {error}"})
        sys.exit(1)
    _write({"outcome": outcome.as_json()})


async def _child(options: argparse.Namespace) -> Outcome:
    breaker = None
    if options.mode is not None:
        breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(mode=options.mode))
    restrict(cpu_secs=options.seconds + options.end_limit + GRACE_SECS, nice=10)
    tally = Tally()
    threading.Thread(target=_report, args=(tally,), daemon=True).start()
    return await run_chain(
        CHAINS[options.chain],
        breaker=breaker,
        position=options.position,
        until=seconds(options.seconds),
        end_limit=options.end_limit,
        tally=tally,
        before_teardown=_finish,
    )


def _finish(outcome: Outcome) -> None:
    _write({"outcome": outcome.as_json()})
    # Thousands of tasks may be left; the system clears them away faster than they can end.
    os._exit(0)


def _report(tally: Tally) -> None:
    while True:
        time.sleep(SNAPSHOT_SECS)
        if tally.triggered_at is not None:
            figures = tally.figures()
            _write({"figures": figures.as_json(), "peak_rss_mib": peak_rss_mib()})


def _write(report: dict[str, Any]) -> None:
    # One write, so that lines of two threads do not mix.
    os.write(1, (json.dumps(report) + "\n").encode())


def restrict(*, cpu_secs: float, nice: int) -> None:
    """Limit what this process may take, as far as the system can.

    Args:
        cpu_secs: CPU seconds from now on, after which the process is killed.
        nice: How far to stand back behind other processes, 0 to 19.
    """
    if sys.platform == "win32":
        return
    import resource

    os.nice(nice)
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds_used = int(used.ru_utime + used.ru_stime) + 1
    _limit(resource.RLIMIT_CPU, seconds_used + int(cpu_secs) + 1)
    # Libraries map gigabytes that they never touch, so what counts is what comes on top of that.
    # The parent looks at the memory in use; this is for a child that is faster than its parent.
    try:
        with open("/proc/self/statm") as statm:
            mapped = int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:
        return
    _limit(resource.RLIMIT_AS, mapped + 2 * MEMORY_MIB * 2**20)


def _limit(kind: int, value: int) -> None:
    import resource

    _, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY or value < hard:
        resource.setrlimit(kind, (value, hard))


if __name__ == "__main__":
    _main()
