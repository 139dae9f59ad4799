#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A million identical and a million varied error lines: what is written, and what it costs.

``python -m checks log-storm`` takes three minutes, with ``--lines 20000 --rounds 3`` a quarter of one. It
prints every figure of docs/figures/logs.md, and exits with 1 if a promise is broken.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import statistics
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger

from pipecat_circuit_breaker.logs import StormFilter, add_log_file

FIRST = 5
INTERVAL_SECS = 60.0
LINES_A_SECOND = 4_000
MAX_BYTES = 1_000_000
ROUNDS = 21
BATCH = 2_000

#: What a line costs at most in the filter, in lines written to a file.
MAX_COST = {"identical": 0.1, "a number": 0.1, "an id": 0.25}

IDS = [str(uuid.UUID(int=n * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)) for n in range(1_000)]

#: What varies in the lines of a storm, and a line.
LINES: dict[str, Callable[[int], str]] = {
    "identical": lambda n: "Output#0 exception (base.py:413): cannot send, the client is gone",
    "a number": lambda n: f"Output#0 exception (base.py:413): message {n}: the client is gone",
    "an id": lambda n: f"Output#0 exception (base.py:413): request {IDS[n % 1_000]} was refused",
}


@dataclass(frozen=True)
class Written:
    """What came of a storm.

    Parameters:
        lines: Lines of the storm that are in the files.
        summaries: Summaries in the files.
        told: The sum of their counts.
        most_bytes: The most that all files took together.
    """

    lines: int
    summaries: int
    told: int
    most_bytes: int


def storm(
    say: Callable[[int], str], count: int, folder: Path, check_every: int = 10_000
) -> Written:
    """Log a storm to files, over minutes that pass by themselves.

    Args:
        say: Makes a line of its number.
        count: Lines to log.
        folder: Where to, an empty folder.
        check_every: Lines between two looks at the size.
    """
    now = 0.0
    storm_filter = StormFilter(first=FIRST, interval_secs=INTERVAL_SECS, clock=lambda: now)
    sink = add_log_file(
        folder / "storm.log",
        storm_filter=storm_filter,
        max_bytes=MAX_BYTES,
        enqueue=False,
        serialize=True,
    )
    most = 0
    for n in range(count):
        now = n / LINES_A_SECOND
        logger.error(say(n))
        if n % check_every == 0:
            most = max(most, size(folder))
    storm_filter.flush()
    logger.remove(sink)
    most = max(most, size(folder))
    counts = [record["extra"].get("suppressed") for record in records(folder)]
    told = [n for n in counts if n is not None]
    return Written(len(counts) - len(told), len(told), sum(told), most)


def size(folder: Path) -> int:
    """Return the bytes that the files in a folder hold."""
    return sum(path.stat().st_size for path in folder.iterdir())


def records(folder: Path) -> Iterator[dict[str, Any]]:
    """Read the serialised lines in a folder; a storm that is held back fills no second file."""
    for line in (folder / "storm.log").read_text().splitlines():
        yield json.loads(line)["record"]


@dataclass(frozen=True)
class Cost:
    """Medians in microseconds, of one interleaved run.

    Parameters:
        written: A whole call of ``logger.error`` that writes to a file.
        suppressed: A whole call that the filter holds back.
        refused: A whole call that a filter which does nothing holds back: what loguru itself takes.
        filter: The call of the filter alone.
        share: The filter's part of a written line, each round compared with itself.
    """

    written: float
    suppressed: float
    refused: float
    filter: float
    share: float


def cost(say: Callable[[int], str], folder: Path, rounds: int, batch: int) -> Cost:
    """Measure what a line costs.

    Args:
        say: Makes a line of its number.
        folder: Where to write.
        rounds: Rounds, each of which measures each of the four once.
        batch: Lines per measurement.
    """
    records: list[Any] = []
    sink = logger.add(lambda message: records.append(message.record))
    logger.error(say(0))
    logger.remove(sink)
    storm_filter = StormFilter(first=1)
    texts = [say(n) for n in range(batch)]
    times: dict[str, list[float]] = {"written": [], "suppressed": [], "refused": [], "filter": []}

    def measure(name: str, run: Callable[[], None]) -> None:
        begin = time.perf_counter()
        run()
        times[name].append((time.perf_counter() - begin) / batch * 1e6)

    def log() -> None:
        for text in texts:
            logger.error(text)

    def fill() -> None:
        # What the loop itself takes is measured, and taken off.
        for text in texts:
            record["message"] = text
            record.pop(storm_filter._verdict, None)

    def judge() -> None:
        for text in texts:
            record["message"] = text
            record.pop(storm_filter._verdict, None)
            storm_filter(record)

    record = dict(records[0])
    for _ in range(rounds):
        sink = logger.add(folder / "written.log", mode="w")
        measure("written", log)
        logger.remove(sink)
        for name, refuse in (("suppressed", storm_filter), ("refused", lambda record: False)):
            sink = logger.add(folder / "held.log", mode="w", filter=refuse)
            measure(name, log)
            logger.remove(sink)
        measure("filter", judge)
        loop = time.perf_counter()
        fill()
        times["filter"][-1] -= (time.perf_counter() - loop) / batch * 1e6
    medians = {name: statistics.median(values) for name, values in times.items()}
    rounds_apart = zip(times["filter"], times["written"], strict=True)
    return Cost(**medians, share=statistics.median(part / whole for part, whole in rounds_apart))


def words(number: int) -> str:
    """A text of four words that no other number has, and that is as long as a line of `LINES`."""
    letters = f"{number:08}".translate(str.maketrans("0123456789", "ghijklmnop"))
    return f"Output#0 exception (base.py:413): the {letters} is {letters[::-1]}"


def new_kind(rounds: int, batch: int) -> float:
    """Microseconds that the filter takes for a line unlike any before it, a median."""
    storm_filter = StormFilter(max_kinds=rounds * batch)
    records: list[Any] = []
    sink = logger.add(lambda message: records.append(message.record))
    logger.error("a line")
    logger.remove(sink)
    took = []
    for turn in range(rounds):
        lines = [{**records[0], "message": words(turn * batch + n)} for n in range(batch)]
        begin = time.perf_counter()
        for line in lines:
            storm_filter(line)
        took.append((time.perf_counter() - begin) / batch * 1e6)
    return statistics.median(took)


def memory() -> float:
    """Megabytes that a filter with 1,000 kinds of 700 characters each holds."""
    storm_filter = StormFilter()
    sink = logger.add(lambda message: None, filter=storm_filter)
    tracemalloc.start()
    for n in range(1_000):
        logger.error(words(n) + " and so on" * 65)
    held = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    logger.remove(sink)
    return held


@dataclass(frozen=True)
class Called:
    """What a line that passes costs the one who logs it to a file of `add_log_file`.

    Parameters:
        median: Microseconds.
        slowest: Milliseconds.
        moved: How often the file was full and moved aside meanwhile, by whichever process.
    """

    median: float
    slowest: float
    moved: int


def called(folder: Path, lines: int, *, enqueue: bool, others: int = 0) -> Called:
    """Log lines that all pass, a few at a time, and time each call.

    Args:
        folder: Where to, an empty folder.
        lines: Lines to log.
        enqueue: As in `add_log_file`.
        others: Processes that write to the same file meanwhile, as fast as they can.
    """
    context = multiprocessing.get_context("spawn")
    ready, over = context.Semaphore(0), context.Event()
    processes = [
        context.Process(target=keep_writing, args=(folder, ready, over)) for _ in range(others)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    sink = shared_file(folder, enqueue=enqueue)
    took = []
    for n in range(lines):
        begin = time.perf_counter()
        logger.debug(LINES["a number"](n))
        took.append(time.perf_counter() - begin)
        if n % 20 == 0:
            # A queue of loguru's holds 64 KiB, and then makes wait.
            logger.complete()
    logger.remove(sink)
    over.set()
    for process in processes:
        process.join()
    newest = max((int(path.stem.split(".")[1]) for path in folder.glob("bot.0*.log")), default=0)
    return Called(statistics.median(took) * 1e6, max(took) * 1e3, newest)


def compressed(folder: Path) -> float:
    """Milliseconds for which loguru holds up who logs while it compresses 10 MB, in its own thread.

    Args:
        folder: Where to, an empty folder.
    """
    full = folder / "bot.log"
    full.write_text("".join(f"{LINES['an id'](n)}\n" for n in range(10 * MAX_BYTES // 98)))
    sink = logger.add(full, rotation=full.stat().st_size, compression="gz", enqueue=True)
    slowest = 0.0
    for n in range(1_000):
        begin = time.perf_counter()
        logger.debug(LINES["a number"](n))
        slowest = max(slowest, time.perf_counter() - begin)
        time.sleep(0.002)
    logger.remove(sink)
    return slowest * 1e3


def keep_writing(folder: Path, ready: Any, over: Any) -> None:
    """Write to the file of `called` until it is over; a process of its own."""
    logger.remove()
    shared_file(folder, enqueue=False)
    ready.release()
    n = 0
    while not over.is_set():
        n += 1
        logger.debug(LINES["a number"](n))


def shared_file(folder: Path, *, enqueue: bool) -> int:
    """Add the file that `called` and its processes write to."""
    return add_log_file(folder / "bot.log", max_bytes=10 * MAX_BYTES, enqueue=enqueue)


def full_disk(lines: int, storm_filter: StormFilter | None) -> tuple[int, int, float]:
    """Log to a disk that is full.

    Args:
        lines: Lines to log.
        storm_filter: The filter of the sink, if any.

    Returns:
        The reports that loguru wrote to stderr, their bytes, and milliseconds per line.
    """
    sink = logger.add("/dev/full", filter=storm_filter)
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        begin = time.perf_counter()
        for n in range(lines):
            logger.error(LINES["a number"](n))
        took = time.perf_counter() - begin
    with contextlib.suppress(OSError):
        logger.remove(sink)
    reports = stderr.getvalue().count("--- Logging error")
    return reports, len(stderr.getvalue()), took / lines * 1e3


def print_others(rounds: int) -> None:
    """Print what has no table."""
    print("\nA line that passes, for the one who logs it:\n")
    for title, enqueue, others in (
        ("enqueue=False", False, 0),
        ("enqueue=True", True, 0),
        ("enqueue=False, three more processes", False, 3),
        ("enqueue=True, three more processes", True, 3),
    ):
        with tempfile.TemporaryDirectory() as folder:
            out = called(Path(folder), 1_000 * rounds, enqueue=enqueue, others=others)
        print(
            f"{title:<36}{out.median:>8.0f} us, the slowest {out.slowest:.1f} ms, "
            f"moved aside {out.moved} times",
            flush=True,
        )
    with tempfile.TemporaryDirectory() as folder:
        held_up = compressed(Path(folder))
    print(f"{'loguru alone, which compresses 10 MB':<36}{'':>12}the slowest {held_up:.1f} ms")
    print(f"\na line of a new kind, the filter alone: {new_kind(rounds, BATCH // 10):.1f} us")
    print(f"a filter with 1,000 kinds: {memory():.1f} MB")
    if Path("/dev/full").exists():
        for title, storm_filter in (("without", None), ("with", StormFilter())):
            reports, size, ms = full_disk(2_000, storm_filter)
            print(
                f"a full disk, 2,000 lines {title} the filter: {reports:,} reports of "
                f"{size / reports:,.0f} bytes, {ms:.2f} ms a line"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Let it storm.

    Args:
        arguments: The command line.

    Returns:
        The exit code: 0 if every promise is kept, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m checks log-storm", description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    logger.remove()
    broken: list[str] = []

    print(f"A storm of {options.lines:,} lines, {LINES_A_SECOND:,} a second:\n")
    print(f"{'what varies':<12}{'written':>9}{'summaries':>11}{'their counts':>14}{'bytes':>10}")
    for name, say in LINES.items():
        with tempfile.TemporaryDirectory() as folder:
            out = storm(say, options.lines, Path(folder))
        print(
            f"{name:<12}{out.lines:>9,}{out.summaries:>11,}{out.told:>14,}{out.most_bytes:>10,}",
            flush=True,
        )
        if out.lines + out.told != options.lines:
            broken.append(f"{name}: {out.lines:,} + {out.told:,} is not {options.lines:,}")
        if out.most_bytes > MAX_BYTES:
            broken.append(f"{name}: {out.most_bytes:,} bytes of {MAX_BYTES:,}")

    print("\nMicroseconds per line, medians:\n")
    head = ("written", "held back", "of that loguru", "the filter alone", "of a written line")
    print(f"{'what varies':<12}" + "".join(f"{title:>19}" for title in head))
    for name, say in LINES.items():
        with tempfile.TemporaryDirectory() as folder:
            took = cost(say, Path(folder), options.rounds, BATCH)
        print(
            f"{name:<12}{took.written:>19.2f}{took.suppressed:>19.2f}{took.refused:>19.2f}"
            f"{took.filter:>19.2f}{took.share:>18.1%}",
            flush=True,
        )
        if took.share > MAX_COST[name]:
            broken.append(f"{name}: a line costs {took.share:.1%} of a written one in the filter")

    print_others(options.rounds)

    for line in broken:
        print(f"broken: {line}")
    print("FAIL" if broken else "PASS")
    return 1 if broken else 0
