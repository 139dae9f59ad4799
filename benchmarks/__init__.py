#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What the circuit breaker costs and what it saves, measured: ``python -m benchmarks``."""
