#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A log that a storm cannot fill: the first lines of a kind, then how many more there were.

It needs no breaker and no pipeline, only loguru::

    from pipecat_circuit_breaker.logs import add_log_file

    add_log_file("logs/bot.log")
"""

from __future__ import annotations

import asyncio
import atexit
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from loguru import logger

from pipecat_circuit_breaker._core.text import one_line, template
from pipecat_circuit_breaker._shared_file import SharedFile

if TYPE_CHECKING:
    from pipecat_circuit_breaker.fleet.fleet import Fleet
    from pipecat_circuit_breaker.fleet.record import Outage

__all__ = ["StormFilter", "add_log_file", "log_fleet"]

# What loguru's own files take, and a file that bounds itself does not.
_OF_LOGURU_FILES = ("rotation", "retention", "compression")

_LINE_CHARS = 256
_SAMPLE_CHARS = 200
_DIGITS = b"0123456789"

# Makes digits a zero, what parts words a space, and all else a letter: words
# without a digit are then those that are alphabetic.
_WORDS = bytes(
    ord("0")
    if byte in _DIGITS
    else ord(" ")
    if byte <= 32 or byte in b"'\"`,;()[]{}<>=#"
    else byte
    if byte < 128 and chr(byte).isalpha()
    else ord("A") + byte % 26
    for byte in range(256)
)

# What a summary does not take over from the first line of its kind.
_OWN = frozenset({"elapsed", "exception", "message", "process", "thread", "time"})

# A key of loguru's record, in which a summary says which filter it comes from.
_SUMMARY_OF = "storm_summary_of"

# What is left of the first lines of a kind whose interval has ended.
_OVER = -1


class _Kind:
    """The lines of one kind since its interval began."""

    __slots__ = ("begin", "last", "left", "more", "sample", "text")

    def __init__(self, record: dict[str, Any], begin: float, first: int) -> None:
        self.begin = self.last = begin
        self.left = first
        self.more = 0
        self.text = one_line(record["message"], _SAMPLE_CHARS)
        self.sample = {key: value for key, value in record.items() if key not in _OWN}


class StormFilter:
    """A loguru filter that keeps repeated lines from flooding a sink.

    In each interval it lets the first lines of a kind through, and then one
    line that says how many more there were. Lines are of one kind if they have
    one place (module and line), one level, and one message once all that varies
    (numbers, ids, times, addresses) is taken out of it. Lines below ``WARNING``
    all pass, unless another ``level`` is asked for: a healthy bot repeats itself
    with every turn.

    Give one filter to several sinks and all of them get the same lines, each
    counted once. A sink without a filter gets every line, and the summaries.

    Example::

        logger.add(sys.stderr, filter=StormFilter())

    A summary is written by the first line that reaches the filter once the
    interval is over, of whatever kind, by :meth:`flush`, and at exit. Its
    ``extra["suppressed"]`` is the count. It has level, place and ``extra`` of
    the first line of its kind.

    It never raises: if it fails, it says so once and lines pass.
    """

    def __init__(
        self,
        *,
        first: int = 5,
        interval_secs: float = 60.0,
        level: str | int = "WARNING",
        max_kinds: int = 1_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Initialize the filter.

        Args:
            first: Lines of a kind that pass in each interval, 1 to 10,000.
            interval_secs: Length of an interval in seconds, above 0. It begins
                with the first line of its kind.
            level: The lowest level at which lines are held back, by its name or
                number, 0 and up; lines below it all pass.
            max_kinds: Kinds that are kept at most, 1 to 100,000. Beyond it the
                interval that began first ends early, and its summary is written.
            clock: Returns monotonic seconds; for tests.

        Raises:
            ValueError: A value is out of range, no number or no level; the
                message names it and what was expected.
        """
        self._first = _whole("first", first, 10_000)
        self._interval_secs = _seconds("interval_secs", interval_secs)
        self._level = _level_number("level", level)
        self._max_kinds = _whole("max_kinds", max_kinds, 100_000)
        if not callable(clock):
            raise ValueError(f"clock: expected a function, got {clock!r}")
        self._clock = clock
        # Under this key a record carries the verdict, for the next sink that asks.
        self._verdict = f"storm_filter_{id(self)}"
        self._has_failed = False
        self._forget()
        _filters.add(self)

    def _forget(self) -> None:
        # Re-entrant: a signal handler or a finalizer may log at any moment.
        self._lock = RLock()
        self._kinds: OrderedDict[Any, _Kind] = OrderedDict()
        # What a line looks like, and its kind: only a cache, emptied it fills again.
        self._sketches: dict[Any, _Kind] = {}
        self._untold: list[_Kind] = []
        self._has_news = False
        self._due = math.inf

    def __reduce__(self) -> tuple[Any, ...]:
        """Begin anew in another process, to which loguru may pickle its handlers."""
        again = partial(
            StormFilter,
            first=self._first,
            interval_secs=self._interval_secs,
            level=self._level,
            max_kinds=self._max_kinds,
            clock=self._clock,
        )
        return again, ()

    @property
    def pending(self) -> int:
        """Lines held back that no summary has told of yet."""
        with self._lock:
            return sum(kind.more for kind in (*self._kinds.values(), *self._untold))

    def __call__(self, record: Any) -> bool:
        """Judge a line.

        Args:
            record: Loguru's record of the line.

        Returns:
            Whether to write it.
        """
        try:
            receipt = record.get(_SUMMARY_OF)
            if receipt is not None:
                return self._is_own(receipt)
            verdict: bool | None = record.get(self._verdict)
            if verdict is None:
                verdict = record[self._verdict] = self._judge(record)
            return verdict
        except Exception:
            self._report_failure()
            return True

    def flush(self) -> None:
        """Write the summaries of all that was held back until now; every kind begins anew."""
        with self._lock:
            self._end_intervals(math.inf)
        self._tell()

    def _judge(self, record: dict[str, Any]) -> bool:
        lock = self._lock
        lock.acquire()
        try:
            now = self._clock()
            if now >= self._due:
                self._end_intervals(now)
            passes = record["level"].no < self._level or self._count(record, now)
        finally:
            lock.release()
        if self._has_news:
            self._tell()
        return passes

    def _count(self, record: dict[str, Any], now: float) -> bool:
        line = record["message"][:_LINE_CHARS].encode("utf-8", "replace")
        name, number, level = record["name"], record["line"], record["level"].no
        # Most of a storm's lines differ in digits alone.
        kind = self._sketches.get((name, number, level, line.translate(None, _DIGITS)))
        if kind is None or kind.left < 0:
            kind = self._kind(record, (name, number, level), line, now)
        if kind.left > 0:
            kind.left -= 1
            return True
        kind.more += 1
        kind.last = now
        return False

    def _kind(self, record: dict[str, Any], place: Any, line: bytes, now: float) -> _Kind:
        # Nearly all others differ in words with a digit in them. To find those
        # costs a tenth of a template.
        alphabetic: Iterator[bytes] = filter(bytes.isalpha, line.translate(_WORDS).split())
        words = b" ".join(alphabetic)
        kind = self._sketches.get((*place, words))
        if kind is not None and kind.left >= 0:
            return kind
        # "STT#3" names a processor: its class is to stay, only the number varies.
        key = (*place, template(record["message"][:_LINE_CHARS].replace("#", " ")))
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= self._max_kinds:
                self._end_oldest()
            kind = self._kinds[key] = _Kind(record, now, self._first)
            self._set_due()
        if len(self._sketches) >= 4 * self._max_kinds:
            self._sketches.clear()
        self._sketches[(*place, words)] = kind
        self._sketches[(*place, line.translate(None, _DIGITS))] = kind
        return kind

    def _end_intervals(self, now: float) -> None:
        # Kinds lie in the order in which their intervals began.
        while self._kinds and now >= self._due:
            self._end_oldest()
            self._set_due()

    def _end_oldest(self) -> None:
        _, kind = self._kinds.popitem(last=False)
        kind.left = _OVER
        if kind.more:
            self._keep(kind)
            self._has_news = True
        else:
            kind.sample.clear()

    def _set_due(self) -> None:
        oldest = next(iter(self._kinds.values()), None)
        self._due = math.inf if oldest is None else oldest.begin + self._interval_secs

    def _keep(self, kind: _Kind) -> None:
        if len(self._untold) < self._max_kinds:
            self._untold.append(kind)
        else:
            self._untold[-1].more += kind.more

    def _tell(self) -> None:
        # Not under the lock: another thread may hold a sink's and wait for ours.
        with self._lock:
            kinds, self._untold, self._has_news = self._untold, [], False
        for kind in kinds:
            if self._say(kind):
                kind.sample.clear()
            else:
                with self._lock:
                    self._keep(kind)

    def _say(self, kind: _Kind) -> bool:
        """Log a summary.

        Returns:
            Whether it came to a sink that asks this filter. It does not if the
            sink is gone, this package's log is disabled, or another sink raises.
        """
        receipt = [id(self), False]
        secs = round(kind.last - kind.begin, 1)

        def date_back(record: Any) -> None:
            extra = {**kind.sample["extra"], "suppressed": kind.more, "suppressed_secs": secs}
            record.update(kind.sample, extra=extra)
            record[_SUMMARY_OF] = receipt

        with suppress(Exception):
            level = _level(kind.sample["level"])
            summary = f"and {kind.more:,} more in {secs} s: {kind.text}"
            logger.patch(date_back).log(level, summary)
        return bool(receipt[1])

    def _is_own(self, receipt: list[Any]) -> bool:
        if receipt[0] != id(self):
            return False
        receipt[1] = True
        return True

    def _report_failure(self) -> None:
        if self._has_failed:
            return
        self._has_failed = True
        with suppress(Exception):
            logger.opt(exception=True).error("The storm filter failed, lines pass unfiltered")


def add_log_file(
    path: str | os.PathLike[str],
    *,
    level: str | int = "DEBUG",
    max_bytes: int = 100_000_000,
    files: int = 8,
    storm_filter: Callable[[Any], bool] | None = None,
    enqueue: bool = True,
    **options: Any,
) -> int:
    """Log to a file that neither a storm nor a year can let grow beyond a bound.

    Any number of processes of one machine may log to it, each by a call of its
    own with the same settings: no line is lost, and the bound holds for all of
    them together. What is full is moved to ``bot.000001.log``,
    ``bot.000002.log`` and so on, and the oldest are deleted.

    Loguru's own sinks stay: one at stderr that lets everything through is there
    from the start, until ``logger.remove()``.

    Args:
        path: The file. A ``.lock`` lies beside it.
        level: The lowest level that is written.
        max_bytes: What all files together take at most, 10,000 and up. A single
            line longer than that is written all the same.
        files: In how many parts the lines before those of the file itself are
            kept, 1 to 1,000. A part is deleted at once.
        storm_filter: The filter, or a function that asks it; by default a
            `StormFilter` with its defaults.
        enqueue: Whether a thread of its own writes, so that the event loop does
            not wait for the disk.
        **options: Anything else that ``logger.add`` takes for a function:
            ``format``, ``serialize``, ``backtrace`` and so on.

    Returns:
        The number of the sink, for ``logger.remove``. Call ``flush`` of the
        filter before, so that its last counts are written; at exit that happens
        by itself.

    Raises:
        TypeError: ``rotation``, ``retention`` or ``compression``, which loguru's own files take.
        ValueError: A value is out of range; the message names it and what was
            expected.
        OSError: The file cannot be written.
    """
    if "{" in str(path):
        raise ValueError(
            f"path: expected a fixed name, got {str(path)!r}; a new name at each start would "
            "never be deleted, and one file serves all processes"
        )
    for name in _OF_LOGURU_FILES:
        if name in options:
            raise TypeError(
                f"{name}: the file rotates by itself; expected max_bytes (of all parts together) "
                f"and files (how many parts), got {name}={options[name]!r:.100}"
            )
    return logger.add(
        _shared_file(path, max_bytes, files).write,
        level=level,
        filter=StormFilter() if storm_filter is None else storm_filter,
        enqueue=enqueue,
        **options,
    )


def log_fleet(
    fleet: Fleet,
    path: str | os.PathLike[str],
    *,
    max_bytes: int = 10_000_000,
    files: int = 4,
) -> None:
    """Keep the outages of a fleet in a file, one JSON object on each line, for ``show``.

    A line is written when an outage opens, and one with all its counts when it
    is over: by each process that asks for it, and all of them write the same
    ``id``. It may be the file to which incidents of breakers are written.
    A thread writes, so that no frame waits for the disk.

    Args:
        fleet: The fleet. Call it once for each.
        path: The file. Any number of processes of one machine may write to it; a
            ``.lock`` lies beside it.
        max_bytes: What the file and those that were moved aside take at most,
            10,000 and up.
        files: In how many parts the lines before those of the file itself are
            kept, 1 to 1,000.

    Raises:
        ValueError: A value is out of range; the message names it and what was
            expected.
        OSError: The file cannot be written.
    """
    # Who only logs to a file needs nothing of a fleet.
    from pipecat_circuit_breaker.fleet.incident import FleetIncident

    file = _shared_file(path, max_bytes, files)
    name = fleet.params.name

    async def keep(_: Fleet, outage: Outage, first: bool) -> None:
        incident = FleetIncident.of(name, outage)
        if incident is not None:
            await asyncio.to_thread(file.write, f"{incident.model_dump_json()}\n")

    fleet.add_event_handler("on_fleet_outage_opened", keep)
    fleet.add_event_handler("on_fleet_outage_closed", keep)


def _shared_file(path: str | os.PathLike[str], max_bytes: int, files: int) -> SharedFile:
    _whole("files", files, 1_000)
    if type(max_bytes) is not int or max_bytes < 10_000:
        raise ValueError(f"max_bytes: expected a whole number from 10,000, got {max_bytes!r}")
    return SharedFile(Path(path), max_bytes=max_bytes, files=files)


def _level(level: Any) -> str | int:
    # A level that was logged by number has no name that loguru knows.
    try:
        name: str = logger.level(level.name).name
    except ValueError:
        return int(level.no)
    return name


def _level_number(name: str, value: Any) -> int:
    with suppress(ValueError, TypeError):
        number = logger.level(value).no if isinstance(value, str) else value
        if type(number) is int and number >= 0:
            return number
    raise ValueError(f"{name}: expected a level's name or its number from 0, got {value!r}")


def _whole(name: str, value: Any, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{name}: expected a whole number from 1 to {most:,}, got {value!r}")
    return value


def _seconds(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a finite number of seconds above 0, got {value!r}")
    return float(value)


_filters: WeakSet[StormFilter] = WeakSet()


def _flush_all() -> None:
    for storm_filter in list(_filters):
        storm_filter.flush()


def _forget_all() -> None:
    for storm_filter in list(_filters):
        storm_filter._forget()


# Loguru registered its own end when it was imported, so this runs before it.
atexit.register(_flush_all)
if hasattr(os, "register_at_fork"):
    # The parent tells its counts, and its threads may hold its locks.
    os.register_at_fork(after_in_child=_forget_all)
