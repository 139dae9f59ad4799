#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A bot that knows nothing of circuit breakers: an existing bot, for add_breaker.py.

    pip install pipecat-circuit-breaker "pipecat-ai[openai,runner,webrtc]"
    python examples/plain_bot.py

Without a breaker ``/fail tts`` starts a loop that only the end of the process ends: the voice
fails, so the bot apologises, with the voice that fails. Run it as add_breaker.py says, and it ends.
"""

import os
from typing import Any

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.stt import OpenAISTTService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams
from pipecat.workers.runner import WorkerRunner

transport_params = {
    "webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True),
    "websocket": lambda: FastAPIWebsocketParams(
        audio_in_enabled=True, audio_out_enabled=True, serializer=ProtobufFrameSerializer()
    ),
}


async def run_bot(transport: BaseTransport, runner_args: RunnerArguments, **openai: Any) -> None:
    """Talk to one client until it hangs up."""
    user, assistant = LLMContextAggregatorPair(
        LLMContext(), user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    )
    pipeline = Pipeline(
        [
            transport.input(),
            OpenAISTTService(**openai),
            user,
            OpenAILLMService(**openai),
            # Pipecat gives a voice up for good after three silent turns. This one may come back.
            OpenAITTSService(**openai, max_consecutive_zero_audio_contexts=0),
            transport.output(),
            assistant,
        ]
    )
    worker = PipelineWorker(pipeline, idle_timeout_secs=runner_args.pipeline_idle_timeout_secs)

    @worker.event_handler("on_pipeline_error")
    async def on_pipeline_error(worker, error):
        await worker.queue_frame(TTSSpeakFrame("I am sorry, please say that again."))

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(transport, client):
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()


async def bot(runner_args: RunnerArguments) -> None:
    """What pipecat's runner calls for each client."""
    transport = await create_transport(runner_args, transport_params)
    if "OPENAI_API_KEY" in os.environ:
        await run_bot(transport, runner_args, api_key=os.environ["OPENAI_API_KEY"])
    else:
        # A provider on this machine: the only thing here that comes with the breaker's package.
        from pipecat_circuit_breaker.testing import Provider

        async with Provider() as provider:
            await run_bot(transport, runner_args, api_key="-", base_url=provider.base_url)


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()
