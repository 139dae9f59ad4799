#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What one bot finds out, every bot knows."""

from pipecat_circuit_breaker.fleet.fleet import Fleet, FleetStatus, OutageStatus
from pipecat_circuit_breaker.fleet.params import FleetParams
from pipecat_circuit_breaker.fleet.record import Lease, ModeSet, Outage
from pipecat_circuit_breaker.fleet.sharing import Failure, label_of, shares

__all__ = [
    "Failure",
    "Fleet",
    "FleetParams",
    "FleetStatus",
    "Lease",
    "ModeSet",
    "Outage",
    "OutageStatus",
    "label_of",
    "shares",
]
