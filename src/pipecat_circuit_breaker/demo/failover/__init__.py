#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A call of some minutes whose first LLM provider fails: without help, with pipecat's, with ours."""
