#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Bots in several processes whose provider dies and comes back: each alone, and as a fleet."""
