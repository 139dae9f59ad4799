#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A circuit breaker for Pipecat: one frame processor that ends recursive error chains."""

from pipecat_circuit_breaker._core.circuit import CircuitState
from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.frames import CircuitBreakerFrame
from pipecat_circuit_breaker.health import Health
from pipecat_circuit_breaker.incident import (
    Advice,
    AdviceKind,
    Call,
    ChainStep,
    CircuitSnapshot,
    Ending,
    FailedOver,
    Incident,
    Probe,
    ProbeOutcome,
    Totals,
    Trigger,
)
from pipecat_circuit_breaker.params import CircuitBreakerParams, GiveUpPolicy
from pipecat_circuit_breaker.processor import CircuitBreakerProcessor
from pipecat_circuit_breaker.tool_loop import ToolLoop

__version__ = "0.1.0"

__all__ = [
    "Advice",
    "AdviceKind",
    "Call",
    "ChainStep",
    "CircuitBreakerFrame",
    "CircuitBreakerParams",
    "CircuitBreakerProcessor",
    "CircuitSnapshot",
    "CircuitState",
    "Ending",
    "FailedOver",
    "GiveUpPolicy",
    "Health",
    "Incident",
    "Mode",
    "Origin",
    "Probe",
    "ProbeOutcome",
    "ToolLoop",
    "Totals",
    "Trigger",
]
