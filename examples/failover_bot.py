#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A bot with two models and two voices: when one fails the other answers, and nobody waits.

    pip install pipecat-circuit-breaker "pipecat-ai[openai]"
    python examples/failover_bot.py

Type what the user says, a line each, and break things meanwhile:

    hello
    /fail llm        the first model answers each request with HTTP 500
    are you there?
    /fail tts        so does the first voice
    /heal llm
    /heal tts
    /wait 5          (where the lines come from a file)

It needs no account: the providers are servers on this machine. With OPENAI_API_KEY,
BACKUP_API_KEY and BACKUP_BASE_URL in the environment it takes the real ones.
"""

import asyncio
import os
import sys

from loguru import logger
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    LLMFullResponseEndFrame,
    LLMMessagesAppendFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.workers.runner import WorkerRunner
from tenacity import wait_exponential

from pipecat_circuit_breaker import CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import Provider

logger.remove()
logger.add(sys.stderr, level="ERROR")


class Caller(FrameProcessor):
    """Stands where the transport would: prints what the caller hears."""

    def __init__(self) -> None:
        """Start with nothing heard."""
        super().__init__()
        self.answered = asyncio.Event()
        self._words: list[str] = []
        self._samples = 0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Hear a frame, and hand it on."""
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSTextFrame):
            self._words.append(frame.text.strip())
        elif isinstance(frame, TTSAudioRawFrame):
            self._samples += len(frame.audio) // 2
        elif isinstance(frame, LLMFullResponseEndFrame):
            said = " ".join(self._words) or "(nothing)"
            print(f"bot: {said}  ({self._samples / 24_000:.1f} s of sound)", flush=True)
            self._words, self._samples = [], 0
            self.answered.set()
        await self.push_frame(frame, direction)


def model(**of: str) -> OpenAILLMService:
    """A model; another one is asked at once, so the client itself must not try again."""
    service = OpenAILLMService(**of)
    service._client = service._client.with_options(max_retries=0)
    return service


def voice(**of: str) -> OpenAITTSService:
    """A voice; likewise."""
    service = OpenAITTSService(**of)
    service._client = service._client.with_options(max_retries=0)
    return service


def requests(provider: Provider) -> str:
    """How often a local provider was asked."""
    return f"{provider.name} llm {provider.requests['llm']}, tts {provider.requests['tts']}"


async def main() -> None:
    """Run the bot until there are no more lines."""
    providers = [Provider("first"), Provider("second")]
    is_local = "OPENAI_API_KEY" not in os.environ
    if is_local:
        first, second = [{"api_key": "-", "base_url": await p.start()} for p in providers]
    else:
        first = {"api_key": os.environ["OPENAI_API_KEY"]}
        second = {
            "api_key": os.environ["BACKUP_API_KEY"],
            "base_url": os.environ["BACKUP_BASE_URL"],
        }

    models = LLMSwitcher([model(**first), model(**second)])
    voices = ServiceSwitcher([voice(**first), voice(**second)])
    user, assistant = LLMContextAggregatorPair(LLMContext())
    caller = Caller()

    breaker = CircuitBreakerProcessor()
    for switcher in (models, voices):
        # Shorter than the default, so that one sees the first come back.
        failover = breaker.failover(switcher, cooldown=wait_exponential(multiplier=0.5, max=10))

        @failover.event_handler("on_service_failed")
        async def on_service_failed(failover, service, error, saved):
            print(f"    [{service} failed, the request was {'saved' if saved else 'lost'}]")

        @failover.event_handler("on_service_recovered")
        async def on_service_recovered(failover, service):
            print(f"    [{service} works again]")

        @failover.event_handler("on_outage")
        async def on_outage(failover):
            print("    [nobody answers]")
            caller.answered.set()

    worker = PipelineWorker(Pipeline([breaker, user, models, voices, caller, assistant]))
    runner = WorkerRunner()
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())

    while line := await asyncio.to_thread(sys.stdin.readline):
        match line.split():
            case ["/fail" | "/heal" as what, ("llm" | "tts") as which]:
                providers[0].fails[which] = what == "/fail"
            case ["/wait", secs]:
                await asyncio.sleep(float(secs))
            case [_, *_]:
                print(f"you: {line.strip()}", flush=True)
                caller.answered.clear()
                message = {"role": "user", "content": line.strip()}
                await worker.queue_frame(LLMMessagesAppendFrame(messages=[message], run_llm=True))
                await caller.answered.wait()
                if is_local:
                    print(f"    [asked so far: {'; '.join(map(requests, providers))}]", flush=True)

    await worker.queue_frame(EndFrame())
    await running
    if is_local:
        for provider in providers:
            await provider.stop()


if __name__ == "__main__":
    asyncio.run(main())
