#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A setup file: each bot that runs with it has a breaker, and its code stays as it is.

    pip install pipecat-circuit-breaker "pipecat-ai[openai,runner,webrtc]"
    PIPECAT_SETUP_FILES=examples/add_breaker.py python examples/plain_bot.py

Pipecat calls ``setup_pipeline_worker`` with every worker before its pipeline starts. Any bot will
do in the place of plain_bot.py. To look only, for a week: CIRCUIT_BREAKER_MODE=observe.
"""

import os

from loguru import logger

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor, Mode


async def setup_pipeline_worker(worker):
    """Put a breaker into the first place of a worker's pipeline."""
    mode = Mode(os.environ.get("CIRCUIT_BREAKER_MODE", "guard"))
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(mode=mode))

    @breaker.event_handler("on_circuit_opened")
    async def on_circuit_opened(breaker, incident):
        logger.warning(f"Outage of {incident.origin}: {incident.advice.text}")

    await breaker.insert_into(worker)


setup_pipeline_task = setup_pipeline_worker  # as it is called before pipecat 1.3.0
