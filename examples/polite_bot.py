#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A bot that says goodbye and hangs up, rather than sit there in silence.

    pip install pipecat-circuit-breaker "pipecat-ai[openai,runner,webrtc]"
    python examples/polite_bot.py

Open http://localhost:7860, connect, and type. Where OPENAI_API_KEY is not set a model on this
machine answers, which fails from ``/fail llm`` on. After two questions without an answer the
circuit opens. Go on asking: when two more have failed, the bot gives up, and the call is over.
"""

import os
from typing import Any

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import EndFrame, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.frameworks.rtvi import RTVIServerMessageFrame
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.stt import OpenAISTTService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams
from pipecat.workers.runner import WorkerRunner
from tenacity import stop_after_attempt, wait_fixed

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import Provider

GOODBYE = "I am sorry, something is out of order here. Please call again later. Goodbye."


async def run_bot(transport: BaseTransport, runner_args: RunnerArguments, **openai: Any) -> None:
    """Talk to one client until either side hangs up."""
    breaker = CircuitBreakerProcessor(
        params=CircuitBreakerParams(
            max_errors=2,  # two questions without an answer,
            window_secs=60,  # within a minute
            cooldown=wait_fixed(2),
            give_up=stop_after_attempt(2),  # the second time that it opens in a row
        )
    )
    breaker.watch(transport)

    @breaker.event_handler("on_circuit_given_up")
    async def on_circuit_given_up(breaker, incident):
        goodbye = [
            RTVIServerMessageFrame(data={"type": "goodbye", "text": GOODBYE}),  # if it has no voice
            TTSSpeakFrame(GOODBYE),
            EndFrame(),  # comes after what is spoken
        ]
        await worker.queue_frames(goodbye)

    user, assistant = LLMContextAggregatorPair(
        LLMContext(), user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    )
    pipeline = Pipeline(
        [
            breaker,
            transport.input(),
            OpenAISTTService(**openai),
            user,
            OpenAILLMService(**openai),
            OpenAITTSService(**openai),
            transport.output(),
            assistant,
        ]
    )
    worker = PipelineWorker(pipeline, idle_timeout_secs=runner_args.pipeline_idle_timeout_secs)

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(transport, client):
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()


transport_params = {
    "webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True),
    "websocket": lambda: FastAPIWebsocketParams(
        audio_in_enabled=True, audio_out_enabled=True, serializer=ProtobufFrameSerializer()
    ),
}


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
