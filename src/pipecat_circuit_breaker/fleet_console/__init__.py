#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What operators see of a fleet, and what they can do by hand: the command ``fleet``."""
