#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Error chains that really happen in Pipecat, run without and with a circuit breaker."""
