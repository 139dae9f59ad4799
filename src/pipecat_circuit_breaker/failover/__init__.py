#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Failover between the services of a switcher; imported only where somebody asks for it."""

from pipecat_circuit_breaker.failover.failover import Failover

__all__ = ["Failover"]
