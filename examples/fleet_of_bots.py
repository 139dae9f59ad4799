#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Three bots in three processes: what two of them find out, the third one knows.

    pip install "pipecat-circuit-breaker[examples]"
    python examples/fleet_of_bots.py
    python examples/talk.py ws://localhost:8001       # 8002, 8003: a bot each

Without OPENAI_API_KEY all three ask one provider on this machine: ``/fail llm``, said to any bot,
breaks it for all. Two questions to the first bot and two to the second open their circuits. Then
ask the third: its circuit opens at its first failure. Say ``/heal llm`` and go on asking any bot:
all circuits close together.

PIPECAT_FLEET_URL is the Redis or Valkey server. Without it this starts a redis-server of its own,
or, where there is none, runs all bots in one process, which need no server.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import AsyncExitStack, contextmanager

from loguru import logger
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.transports.websocket.server import (
    SingleClientWebsocketServerParams,
    SingleClientWebsocketServerTransport,
)
from pipecat.workers.runner import WorkerRunner

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.fleet import Fleet, FleetParams
from pipecat_circuit_breaker.testing import Provider

#: One for each bot.
PORTS = [int(port) for port in os.environ.get("PORTS", "8001 8002 8003").split()]


def bot(number: int, fleet: Fleet) -> PipelineWorker:
    """A bot that talks to one client after the other."""
    transport = SingleClientWebsocketServerTransport(
        SingleClientWebsocketServerParams(
            audio_in_enabled=True, audio_out_enabled=True, serializer=ProtobufFrameSerializer()
        ),
        port=PORTS[number - 1],
    )
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(max_errors=2), fleet=fleet)
    breaker.watch(transport)

    @breaker.event_handler("on_circuit_opened")
    async def on_circuit_opened(breaker, incident):
        failures = "1 failure" if incident.failures == 1 else f"{incident.failures} failures"
        print(f"bot {number}: circuit open ({incident.trigger}) after {failures}", flush=True)

    @breaker.event_handler("on_circuit_closed")
    async def on_circuit_closed(breaker, incident):
        print(f"bot {number}: circuit closed ({incident.ending})", flush=True)

    @fleet.event_handler("on_fleet_outage_opened")
    async def on_fleet_outage_opened(fleet, outage, first):
        # `first` is True in one process of all: the one that pages somebody.
        print(f"bot {number}: the fleet is in an outage{', told first' * first}", flush=True)

    openai = {"api_key": os.environ.get("OPENAI_API_KEY", "-")}
    if "LOCAL_PROVIDER" in os.environ:
        openai["base_url"] = os.environ["LOCAL_PROVIDER"]
    user, assistant = LLMContextAggregatorPair(LLMContext())
    pipeline = Pipeline(
        [
            breaker,
            transport.input(),
            user,
            OpenAILLMService(**openai),
            OpenAITTSService(**openai),
            transport.output(),
            assistant,
        ]
    )
    return PipelineWorker(pipeline, idle_timeout_secs=None)


async def run(numbers: Iterable[int], fleet: Fleet) -> None:
    """Run bots in this process, until it is told to end."""
    runner = WorkerRunner(handle_sigterm=True)
    await runner.add_workers(*(bot(number, fleet) for number in numbers))
    for number in numbers:
        print(f"bot {number}: ws://localhost:{PORTS[number - 1]}", flush=True)
    await runner.run()


def fleet_of(url: str | None, instance: str) -> Fleet:
    """What the bots of this process share, with others where there is a URL."""
    # Each machine has one vote. Here one machine plays three: by default this is its host's name.
    return Fleet(url, params=FleetParams(instance=instance, min_instances=2))


async def main() -> None:
    """Start the bots, and end them with this process."""
    async with AsyncExitStack() as stack:
        if "OPENAI_API_KEY" not in os.environ:
            provider = await stack.enter_async_context(Provider())
            os.environ["LOCAL_PROVIDER"] = provider.base_url
        url = os.environ.get("PIPECAT_FLEET_URL") or stack.enter_context(local_server())
        if url is None:
            print("There is no redis-server here: all bots run in this process.", flush=True)
            await run(range(1, len(PORTS) + 1), fleet_of(None, "this-process"))
            return
        bots = [
            await asyncio.create_subprocess_exec(sys.executable, __file__, str(number), url)
            for number in range(1, len(PORTS) + 1)
        ]
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, _end, bots)
        await asyncio.gather(*(bot.wait() for bot in bots))


def _end(bots: list[asyncio.subprocess.Process]) -> None:
    for bot in bots:
        if bot.returncode is None:
            bot.terminate()


@contextmanager
def local_server():
    """A Redis server that only this user reaches; None where none is installed."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        args = ["--port", "0", "--unixsocket", f"{directory}/socket", "--save", ""]
        server = subprocess.Popen(
            [program, *args], cwd=directory, stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            yield f"unix://{directory}/socket"
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    logger.remove()
    logger.add(sys.stderr, level="ERROR")
    match sys.argv[1:]:
        case [number, url]:
            asyncio.run(run([int(number)], fleet_of(url, f"process-{number}")))
        case _:
            asyncio.run(main())
