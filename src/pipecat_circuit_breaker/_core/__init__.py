#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Circuits, causes and judgement: no pipecat, no event loop, no I/O, and no clock of their own."""
