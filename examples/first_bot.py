#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A first bot: one breaker in the first place, and errors that feed themselves end.

    pip install pipecat-circuit-breaker "pipecat-ai[openai,runner,webrtc]"
    python examples/first_bot.py

Open http://localhost:7860, connect, and talk or type. It needs no account: where OPENAI_API_KEY is
not set, a provider on this machine answers, which fails when you type ``/fail tts``. Then the bot
has no voice, and an error; at each error it apologises, with the same voice: another error. The
breaker ends that after five. Type ``/heal tts``, and it talks again.
"""

import os
from inspect import signature
from typing import Any

from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.stt import OpenAISTTService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.services.tts_service import TTSService
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams

from pipecat_circuit_breaker import CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import Provider

try:
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.workers.runner import WorkerRunner
except ImportError:  # before pipecat 1.3.0
    from pipecat.pipeline.runner import PipelineRunner as WorkerRunner
    from pipecat.pipeline.task import PipelineTask as PipelineWorker

# From 1.8.0 on Pipecat gives a voice up for good after three silent turns. This one may come back.
LIMIT = "max_consecutive_zero_audio_contexts"
VOICE: dict[str, Any] = {LIMIT: 0} if LIMIT in signature(TTSService.__init__).parameters else {}

transport_params = {
    "webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True),
    "twilio": lambda: FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True),
}


async def run_bot(transport: BaseTransport, runner_args: RunnerArguments, **openai: Any) -> None:
    """Talk to one client until it hangs up."""
    breaker = CircuitBreakerProcessor()
    breaker.watch(transport)  # a client that hangs up is no outage

    @breaker.event_handler("on_circuit_opened")
    async def on_circuit_opened(breaker, incident):
        logger.warning(f"Outage of {incident.origin}: {incident.advice.text}")

    @breaker.event_handler("on_circuit_closed")
    async def on_circuit_closed(breaker, incident):
        logger.info(f"Over: {incident.held_errors} errors were held back")

    stt = OpenAISTTService(**openai)
    llm = OpenAILLMService(**openai)
    tts = OpenAITTSService(**openai, **VOICE)
    user, assistant = LLMContextAggregatorPair(
        LLMContext(), user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    )

    pipeline = Pipeline(
        [
            breaker,  # First: no sound passes through it
            transport.input(),
            stt,
            user,
            llm,
            tts,
            transport.output(),
            assistant,
        ]
    )
    worker = PipelineWorker(pipeline, idle_timeout_secs=runner_args.pipeline_idle_timeout_secs)

    @worker.event_handler("on_pipeline_error")
    async def on_pipeline_error(worker, error):
        # If it is the voice that fails, this fails too, and comes back as the next error.
        await worker.queue_frame(TTSSpeakFrame("I am sorry, please say that again."))

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(transport, client):
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    if hasattr(runner, "add_workers"):
        await runner.add_workers(worker)
        await runner.run()
    else:  # before pipecat 1.3.0
        await runner.run(worker)


async def bot(runner_args: RunnerArguments) -> None:
    """What pipecat's runner calls for each client."""
    transport = await create_transport(runner_args, transport_params)
    if "OPENAI_API_KEY" in os.environ:
        await run_bot(transport, runner_args, api_key=os.environ["OPENAI_API_KEY"])
    else:
        async with Provider() as provider:
            await run_bot(transport, runner_args, api_key="-", base_url=provider.base_url)


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()
