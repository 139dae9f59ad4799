#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Runs over time, as lines of characters: one below the other, and to one scale."""

import math
from collections.abc import Callable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from pipecat_circuit_breaker.demo.fleet.events import What
from pipecat_circuit_breaker.demo.fleet.trial import Trial

#: Characters that a line may have, and the shortest time that one stands for, in seconds.
WIDTH = 42
LEAST_SECS = 0.5

_BARS = "▁▂▃▄▅▆▇█"

_Counts = dict[int, int]


def timelines(trials: Sequence[Trial], now: float = math.inf) -> Table:
    """Draw runs over time.

    Args:
        trials: The runs; each has begun.
        now: Until when, for those that go on.
    """
    ends = [min(now, trial.ended_at) for trial in trials]
    longest = max(
        (end - trial.began_at for trial, end in zip(trials, ends, strict=True)), default=0
    )
    secs = max(LEAST_SECS, longest / WIDTH)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("over time", min_width=24, no_wrap=True)
    table.add_column("─ the provider works, × it is dead", min_width=WIDTH, no_wrap=True)
    table.add_column(justify="right", min_width=6)
    # What is alike has one scale, or a small figure of one run would look like a large of the other.
    highest = {
        counts: max((max(counts(t, secs).values(), default=0) for t in trials), default=0)
        for counts, *_ in _LINES
    }
    for trial, end in zip(trials, ends, strict=True):
        columns = min(WIDTH, math.ceil((end - trial.began_at) / secs))
        table.add_row(Text(trial.name, "bold"), _provider(trial, secs, columns))
        for counts, name, style, total in _LINES:
            bars = _bars(counts(trial, secs), columns, highest[counts], style)
            table.add_row(Text(f"  {name}"), bars, Text(total(trial, secs), style))
        table.add_section()
    return table


def _provider(trial: Trial, secs: float, columns: int) -> Text:
    text = Text()
    for column in range(columns):
        at = trial.began_at + (column + 0.5) * secs
        is_dead = trial.died_at <= at < trial.back_at
        text.append("×" if is_dead else "─", "bold red" if is_dead else "green")
    return text


def _bars(counts: _Counts, columns: int, highest: int, style: str) -> Text:
    text = Text()
    for column in range(columns):
        count = counts.get(column, 0)
        bar = _BARS[min(7, math.ceil(8 * count / highest) - 1)] if count else " "
        text.append(bar, style)
    return text


def _heard(trial: Trial, secs: float) -> _Counts:
    return _count(trial, secs, [e.at for e in [*trial.events] if e.what is What.HEARD])


def _refused(trial: Trial, secs: float) -> _Counts:
    requests = [r.at for r in [*trial.requests] if r.is_refused and r.has_failover]
    return _count(trial, secs, requests)


def _open(trial: Trial, secs: float) -> _Counts:
    """The most bots whose circuit was open, in each part of the time."""
    most: _Counts = {}
    column, now = 0, 0
    for at, count in trial.openings():
        here = max(0, math.floor((at - trial.began_at) / secs))
        for between in range(column, here + 1):
            most[between] = max(most.get(between, 0), now)
        column, now = here, count
        most[column] = max(most.get(column, 0), now)
    # What is open stays open.
    for later in range(column, WIDTH + 1):
        most[later] = max(most.get(later, 0), now)
    return most


def _count(trial: Trial, secs: float, times: Sequence[float]) -> _Counts:
    counts: _Counts = {}
    for at in times:
        column = math.floor((at - trial.began_at) / secs)
        counts[column] = counts.get(column, 0) + 1
    return counts


def _all(counts: Callable[[Trial, float], _Counts]) -> Callable[[Trial, float], str]:
    return lambda trial, secs: str(sum(counts(trial, secs).values()))


def _most(trial: Trial, secs: float) -> str:
    return f"max {max(_open(trial, secs).values(), default=0)}"


#: What is counted, what it is called, its colour, and what stands at the end of the line.
_LINES = (
    (_heard, "errors heard", "red", _all(_heard)),
    (_refused, "failover asks in vain", "yellow", _all(_refused)),
    (_open, "bots with open circuit", "cyan", _most),
)
