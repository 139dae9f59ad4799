#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What a breaker tells to monitoring systems: one file for each, imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipecat_circuit_breaker.processor import CircuitBreakerProcessor

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["instrument"]


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
    try:
        from pipecat_circuit_breaker.instrumentation import opentelemetry
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "opentelemetry":
            raise
        raise ImportError(
            "opentelemetry-api is missing: pip install 'pipecat-circuit-breaker[otel]'"
        ) from error
    opentelemetry.instrument(breaker, meter_provider, tracer_provider)
