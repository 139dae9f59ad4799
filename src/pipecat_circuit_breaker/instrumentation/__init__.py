#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What a breaker and a fleet tell to monitoring systems: one file for each, imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipecat_circuit_breaker.processor import CircuitBreakerProcessor

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from pipecat_circuit_breaker.fleet.fleet import Fleet

__all__ = ["instrument", "instrument_fleet"]


def instrument(
    breaker: CircuitBreakerProcessor,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
) -> None:
    """Tell OpenTelemetry what a breaker counts, and make a span of each of its incidents.

    Every breaker of the process adds to the same metrics. What one has counted stays in the sums
    when its pipeline is over.

    Args:
        breaker: The breaker, before or while its pipeline runs. Call it once for each.
        meter_provider: Where the metrics go; None for the global one, which may be set later.
        tracer_provider: Where the spans go; None for the global one, which may be set later.

    Raises:
        ImportError: opentelemetry-api is not installed.
    """
    with _named_extra():
        from pipecat_circuit_breaker.instrumentation import opentelemetry
    opentelemetry.instrument(breaker, meter_provider, tracer_provider)


def instrument_fleet(fleet: Fleet, meter_provider: MeterProvider | None = None) -> None:
    """Tell OpenTelemetry which outages a fleet knows of, and whether this process is connected.

    Every process of the fleet tells the same: take the most of them (`max by`), not the sum.

    Args:
        fleet: The fleet, before or while bots use it. Call it once for each.
        meter_provider: Where the metrics go; None for the global one, which may be set later.

    Raises:
        ImportError: opentelemetry-api is not installed.
    """
    with _named_extra():
        from pipecat_circuit_breaker.instrumentation import opentelemetry_fleet
    opentelemetry_fleet.instrument_fleet(fleet, meter_provider)


@contextmanager
def _named_extra() -> Iterator[None]:
    """Say how to install what is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "opentelemetry":
            raise
        raise ImportError(
            "opentelemetry-api is missing: pip install 'pipecat-circuit-breaker[otel]'"
        ) from error
