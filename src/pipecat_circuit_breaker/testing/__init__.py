#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What a test of a bot with a breaker in it needs; no test framework, and nothing that sleeps."""

from pipecat_circuit_breaker.testing.assertions import assert_incident, assert_no_incidents
from pipecat_circuit_breaker.testing.clock import Clock
from pipecat_circuit_breaker.testing.failures import Failure, hangs, logs, pushes_error
from pipecat_circuit_breaker.testing.output import Output
from pipecat_circuit_breaker.testing.provider import Provider
from pipecat_circuit_breaker.testing.running import ended, running, running_worker, settle
from pipecat_circuit_breaker.testing.transport import Transport

__all__ = [
    "Clock",
    "Failure",
    "Output",
    "Provider",
    "Transport",
    "assert_incident",
    "assert_no_incidents",
    "ended",
    "hangs",
    "logs",
    "pushes_error",
    "running",
    "running_worker",
    "settle",
]
