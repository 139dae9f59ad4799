#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What one collection of the metrics costs, by the number of pipelines and of origins.

    python -m benchmarks.collection

It takes a few seconds, and needs the extras ``otel`` and ``test``.
"""

import statistics
import time
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from pipecat_circuit_breaker import Totals
from pipecat_circuit_breaker.instrumentation import instrument

RUNS = 20


class Guard:
    """Has counted something for so many origins."""

    def __init__(self, origins: int) -> None:
        """Remember how many."""
        self._origins = origins

    @property
    def totals(self) -> tuple[Totals, ...]:
        """Made anew at each call, as the breaker makes them."""
        return tuple(Totals(origin=f"P{n}: e", failures=n) for n in range(self._origins))


class Breaker:
    """What the instrumentation asks of a breaker."""

    incidents = ()

    def __init__(self, origins: int) -> None:
        """Be one in a pipeline of its own."""
        self.guard = Guard(origins)

    def add_event_handler(self, event: str, handler: Any) -> None:
        """Never call it."""


def median_ms(pipelines: int, origins: int) -> float:
    """Milliseconds of one collection."""
    reader = InMemoryMetricReader()
    meters = MeterProvider(metric_readers=[reader])
    breakers: list[Any] = [Breaker(origins) for _ in range(pipelines)]
    for breaker in breakers:
        instrument(breaker, meter_provider=meters)
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        reader.get_metrics_data()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


if __name__ == "__main__":
    print(f"median of {RUNS} collections")
    for pipelines, origins in ((1, 3), (100, 3), (1, 256)):
        ms = median_ms(pipelines, origins)
        print(f"{pipelines:4} pipelines with {origins:3} origins each: {ms:6.1f} ms")
