#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What bots that share outages ask of a Redis server, and how soon they all know.

Not to be taken for :mod:`benchmarks.fleet`, which measures many bots on one machine
that share nothing.
"""
