#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What a section hands back: plain data, of which the table, the page and the plots are made."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

Name = TypeVar("Name")


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Parameters:
        quick: About a minute for everything, to see that it works; too short to quote.
    """

    quick: bool = False

    def of(self, full: int, quick: int) -> int:
        """Choose a number of rounds, frames or seconds."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Value:
    """A figure, with its spread where it has one.

    Parameters:
        middle: The median, or the only value.
        low: Lower end of the spread; None for an exact count.
        high: Upper end of the spread.
    """

    middle: float
    low: float | None = None
    high: float | None = None

    @property
    def is_noise(self) -> bool:
        """Whether its spread reaches below zero and above: a difference that shows nothing."""
        return self.low is not None and self.high is not None and self.low < 0 <= self.high

    @classmethod
    def of(cls, samples: Sequence[float]) -> Value:
        """Median and quartiles."""
        if len(samples) < 2:
            return cls(samples[0])
        low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(middle, low, high)

    @classmethod
    def range_of(cls, samples: Sequence[float]) -> Value:
        """Median, least and most: for few samples."""
        if len(samples) < 2:
            return cls(samples[0])
        return cls(statistics.median(samples), min(samples), max(samples))


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Parameters:
        what: What was measured.
        value: What came of it; None where it never came to it.
        unit: Unit of the value.
        at_most: The goal; None where there is none.
        note: More about the value, in a few words.
    """

    what: str
    value: Value | None
    unit: str = ""
    at_most: float | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is shown to be met; None where there is none."""
        if self.at_most is None:
            return None
        if self.value is None or self.value.is_noise:
            return False
        return self.value.middle <= self.at_most


@dataclass(frozen=True)
class Section:
    """What one section measured.

    Parameters:
        name: Its name on the command line.
        title: Its heading.
        method: How it was measured, in plain words.
        rows: Its part of the table.
        plot: What its plot is made of; each section knows its own.
        secs: How long it took.
    """

    name: str
    title: str
    method: str
    rows: list[Row]
    plot: dict[str, Any] = field(default_factory=dict)
    secs: float = 0.0


def interleaved(names: Iterable[Name], rounds: int, *, seed: int = 1) -> Iterator[Name]:
    """Each name once per round, in another order each time, so that drift hits all alike."""
    shuffled, rng = list(names), random.Random(seed)
    for _ in range(rounds):
        rng.shuffle(shuffled)
        yield from shuffled


def bootstrap(
    statistic: Callable[..., float], *samples: Sequence[float], draws: int = 2_000
) -> Value:
    """A statistic of paired samples, with the middle half of its bootstrap distribution.

    Args:
        statistic: Takes one sequence for each of the samples. Rounds are drawn as a whole, so that
            what was measured together stays together.
        samples: Equally long sequences, one value per round.
        draws: How often to draw rounds, with replacement.
    """
    table = np.array(samples)
    rounds = table.shape[1]
    rng = np.random.default_rng(1)
    drawn = [statistic(*table[:, rng.integers(0, rounds, rounds)]) for _ in range(draws)]
    low, high = np.percentile(drawn, [25, 75])
    return Value(float(statistic(*table)), float(low), float(high))


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Exponent of the power law that fits best: 0 is flat, 1 is linear."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])
