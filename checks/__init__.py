#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What takes too long for the tests, or needs what they do not have: ``python -m checks``."""
