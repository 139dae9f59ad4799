#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Community packages in real pipelines that fail, without the breaker and with it.

Every peer is a server or a client on loopback. Each package that is installed is run; the others are
skipped. Python 3.12 and ``pip install pipecat-asterisk pipecat-mcp-transport pipecat-ai-whisker
pipecat-backchannel pipecat-engram echo-sdk`` run all of them.

Usage: ``python -m checks community [PACKAGE ...]``
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import aiohttp
from aiohttp import web
from loguru import logger
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMContextFrame,
    OutputTransportMessageUrgentFrame,
    TextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIObserverParams
from pipecat.workers.runner import WorkerRunner

from pipecat_circuit_breaker import CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import Output
from pipecat_circuit_breaker.testing.running import running_workers

# A loop that nothing ends is cut off here: its part that fails works from then on.
STORM = 2_000
SLOW_STORM = 100  # where each turn of the loop is a request
RATE = 16_000
END_SECS = 5.0

Figures = dict[str, Any]
Scenario = Callable[[CircuitBreakerProcessor | None], Awaitable[Figures]]


def message(n: int = 0) -> OutputTransportMessageUrgentFrame:
    """A message of the application to its client."""
    return OutputTransportMessageUrgentFrame(message={"label": "app", "type": "app", "n": n})


def dead_output() -> Output:
    """An output whose client is gone, for messages; its sound works."""
    output = Output()
    output.fail(when=lambda _: len(output.failed) < STORM)
    return output


@dataclass
class Bot:
    """A pipeline that runs, and what is heard of it."""

    worker: PipelineWorker
    errors: int = 0
    lines: int = 0
    end_ms: float | None = None

    async def settled(self, *watched: Callable[[], int]) -> None:
        """Wait until nothing has happened for a while, or a storm has been cut off."""
        quiet = 0
        async with asyncio.timeout(30):
            while quiet < 10:
                before = [self.errors, self.lines, *(count() for count in watched)]
                await asyncio.sleep(0.03)
                after = [self.errors, self.lines, *(count() for count in watched)]
                quiet = quiet + 1 if before == after else 0

    async def end(self) -> None:
        """End it, and take the time."""
        finished = asyncio.Event()
        self.worker.add_event_handler("on_pipeline_finished", lambda *_: finished.set())
        begun = time.monotonic()
        await self.worker.queue_frame(EndFrame())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(finished.wait(), END_SECS)
            self.end_ms = (time.monotonic() - begun) * 1000

    def figures(self, **more: Any) -> Figures:
        """What came of it, in the order of the table."""
        end = "not through" if self.end_ms is None else f"{self.end_ms:.0f} ms"
        return {**more, "errors heard": self.errors, "log lines": self.lines, "EndFrame": end}


@contextlib.asynccontextmanager
async def running(
    breaker: CircuitBreakerProcessor | None,
    *processors: FrameProcessor,
    answer: Callable[[PipelineWorker], Awaitable[None]] | None = None,
    prepare: Callable[[PipelineWorker, WorkerRunner], Awaitable[None]] | None = None,
    system_logs: bool = False,
) -> AsyncIterator[Bot]:
    """Run a pipeline, with the breaker first if there is one."""
    guard = [] if breaker is None else [breaker]
    worker = PipelineWorker(
        Pipeline([*guard, *processors]),
        idle_timeout_secs=None,
        params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE),
        rtvi_observer_params=RTVIObserverParams(system_logs_enabled=system_logs),
    )
    bot = Bot(worker)

    async def on_error(_: PipelineWorker, __: Frame) -> None:
        bot.errors += 1
        if answer is not None and bot.errors < STORM:
            await answer(worker)

    def count(_: Any) -> None:
        bot.lines += 1

    worker.add_event_handler("on_pipeline_error", on_error)
    async with running_workers(worker) as runner:
        if prepare is not None:
            await prepare(worker, runner)
        await asyncio.sleep(0.1)
        sink = logger.add(count, level="INFO")
        try:
            yield bot
        finally:
            logger.remove(sink)


@contextlib.asynccontextmanager
async def provider(
    handle: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    """An HTTP server on loopback."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[int]:
    """An ASGI application under uvicorn on loopback."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    server.install_signal_handlers = lambda: None  # type: ignore[method-assign]
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 20)


#
# A transport: the peer is killed in the middle of a call
#


async def asterisk(breaker: CircuitBreakerProcessor | None) -> Figures:
    """Asterisk hangs up without a word; the bot talks on and sends twenty messages."""
    from fastapi import FastAPI, WebSocket
    from pipecat_asterisk import AsteriskWebsocketTransport
    from websockets.asyncio.client import connect

    app = FastAPI()
    figures: asyncio.Future[Figures] = asyncio.get_running_loop().create_future()
    answered, killed = asyncio.Event(), asyncio.Event()

    @app.websocket("/")
    async def call(websocket: WebSocket) -> None:
        await websocket.accept()
        transport = AsteriskWebsocketTransport(websocket)
        went = asyncio.Event()
        transport.add_event_handler("on_client_disconnected", lambda *_: went.set())
        if breaker is not None:
            breaker.watch(transport)
        try:
            async with running(breaker, transport.input(), transport.output()) as bot:

                async def talk() -> None:
                    for n in range(20):
                        sound = TTSAudioRawFrame(bytes(640), RATE, 1)
                        await bot.worker.queue_frames([sound, message(n)])
                        await asyncio.sleep(0.01)

                await asyncio.sleep(0.3)
                await talk()
                answered.set()
                await killed.wait()
                await talk()
                await asyncio.wait_for(went.wait(), 10)
                await talk()
                await bot.worker.queue_frame(InterruptionFrame())
                await bot.settled()
                await bot.end()
                opened = sum(c.openings for c in breaker.circuits) if breaker else 0
                held = sum(c.held_messages for c in breaker.circuits) if breaker else 0
            figures.set_result(bot.figures(heard=len(received), openings=opened, held=held))
        except Exception as e:
            figures.set_exception(e)

    received: list[Any] = []
    async with served(app) as port:
        peer = await connect(f"ws://127.0.0.1:{port}/", proxy=None)
        await peer.send(
            json.dumps(
                {
                    "event": "MEDIA_START",
                    "format": "slin16",
                    "ptime": 20,
                    "optimal_frame_size": 640,
                }
            )
        )

        async def listen() -> None:
            with contextlib.suppress(Exception):
                async for data in peer:
                    received.append(data)

        listening = asyncio.create_task(listen())
        await asyncio.wait_for(answered.wait(), 20)
        await asyncio.sleep(0.2)
        peer.transport.abort()
        killed.set()
        await listening
        return await asyncio.wait_for(figures, 60)


#
# A transport whose caller waits for the bot, and a model that fails
#


async def mcp_transport(breaker: CircuitBreakerProcessor | None) -> Figures:
    """One chat call is answered, one is interrupted by the next, and then the model is gone."""
    from mcp import Client
    from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
    from pipecat.services.openai.llm import OpenAILLMService
    from pipecat_mcp_transport.server import McpBotServer

    requests = 0
    mode = "answers"

    async def complete(request: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        await request.read()
        if mode == "refuses" and requests < SLOW_STORM:
            return web.json_response({"error": {"message": "no such key"}}, status=401)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for n, word in enumerate(("Hello", " there.")):
            if n and mode == "slow":
                await asyncio.sleep(30)
            chunk = {
                "id": "1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "m",
                "choices": [{"index": 0, "delta": {"role": "assistant", "content": word}}],
            }
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    bots: list[Bot] = []

    async with provider(complete) as url:

        async def bot_of_session(arguments: Any) -> None:
            transport = arguments.transport
            llm = OpenAILLMService(
                api_key="key", base_url=url, settings=OpenAILLMService.Settings(model="m")
            )
            context = LLMContext()
            pair = LLMContextAggregatorPair(context)

            async def try_again(worker: PipelineWorker) -> None:
                await worker.queue_frame(LLMContextFrame(context))

            chain = [transport.input(), pair.user(), llm, transport.output(), pair.assistant()]
            async with running(breaker, *chain, answer=try_again) as bot:
                bots.append(bot)
                await asyncio.Event().wait()

        server = McpBotServer(bot_of_session)
        async with served(server.app()) as port, Client(f"http://127.0.0.1:{port}/mcp") as client:

            async def tool(name: str, **arguments: Any) -> str:
                result = await asyncio.wait_for(client.call_tool(name, arguments), 20)
                return str(result.content[0].text) if result.content else ""

            handle = await tool("start")
            first = await tool("chat", handle=handle, line="Hello.")
            mode = "slow"
            slow = asyncio.create_task(tool("chat", handle=handle, line="And?"))
            await asyncio.sleep(0.5)
            slow.cancel()
            await asyncio.gather(slow, return_exceptions=True)
            mode = "answers"
            second = await tool("chat", handle=handle, line="Sorry, again?")
            mode, requests = "refuses", 0
            await tool("chat", handle=handle, line="Still there?")
            (bot,) = bots
            await bot.settled(lambda: requests)
            mode = "answers"
            asked = requests
            await bot.end()
    return bot.figures(replies=f"{first!r}, {second!r}", requests=asked)


#
# A debugger that sees every frame
#


async def whisker(breaker: CircuitBreakerProcessor | None) -> Figures:
    """A debugger watches the pipeline while its client is gone."""
    import msgpack
    from pipecat_whisker import WhiskerServer
    from websockets.asyncio.client import connect

    output = dead_output()
    port = free_port()
    server = WhiskerServer(host="127.0.0.1", port=port)

    async def prepare(worker: PipelineWorker, runner: WorkerRunner) -> None:
        await runner.add_workers(server)
        worker.add_observer(server.create_observer(worker))

    events: list[dict[str, Any]] = []
    async with running(breaker, output, prepare=prepare) as bot:
        async with connect(f"ws://127.0.0.1:{port}", proxy=None, max_size=None) as peer:

            async def listen() -> None:
                unpacker = msgpack.Unpacker(max_buffer_size=0)
                with contextlib.suppress(Exception):
                    async for data in peer:
                        unpacker.feed(data)
                        events.extend(unpacker)

            listening = asyncio.create_task(listen())
            await bot.worker.queue_frame(message())
            await bot.settled(lambda: len(output.failed), lambda: len(events))
            await bot.worker.queue_frame(TextFrame("the last one"))
            await asyncio.sleep(0.6)  # Whisker flushes its last batch after half a second
            peer.transport.abort()
            await listening
        await bot.worker.queue_frame(message())
        await bot.settled(lambda: len(output.failed))
        await bot.end()
    drawn = {
        processor["name"]
        for event in events
        if event["type"] == "snapshot"
        for worker in event["workers"]
        for processor in worker["topology"]["processors"]
    }
    frames = [event for event in events if event["type"] == "frame"]
    strangers = {event["from"] for event in frames} - drawn
    states = {
        event["payload"]["incident"]["state"]
        for event in frames
        if event["name"].startswith("CircuitBreakerFrame")
    }
    last = any(event["name"].startswith("TextFrame") for event in frames)
    return bot.figures(
        **{
            "sends tried": len(output.failed),
            "still sees frames after the storm": "yes" if last else "no",
            "frames seen": len(frames),
            "states told by the breaker's own frames": ", ".join(sorted(states)) or "none",
            "not drawn": ", ".join(sorted(strangers)) or "none",
        }
    )


def free_port() -> int:
    """A port that nobody listens on."""
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


#
# Processors
#


async def backchannel(breaker: CircuitBreakerProcessor | None) -> Figures:
    """The user pauses ten times; each pause plays a clip, while messages have no client."""
    from pipecat.audio.turn.base_turn_analyzer import EndOfTurnState
    from pipecat.audio.vad.vad_analyzer import VADParams, VADState
    from pipecat_backchannel.library import ClipLibrary
    from pipecat_backchannel.player import ClipPlayer
    from pipecat_backchannel.processor import BackchannelParams, BackchannelProcessor

    clip = b"\x01\x02" * (RATE // 25)  # 40 ms, as much as the output plays at once

    async def synthesize(text: str, sample_rate: int) -> bytes:
        return clip

    class Kept(dict[tuple[str, int], bytes]):
        def get(self, text: str, rate: int) -> bytes | None:  # type: ignore[override]
            return super().get((text, rate))

        def put(self, text: str, rate: int, pcm: bytes) -> None:
            self[text, rate] = pcm

    class Vad:
        """Hears speech in every chunk but the silent ones."""

        params = VADParams()

        def set_sample_rate(self, rate: int) -> None:
            pass

        async def analyze_audio(self, audio: bytes) -> VADState:
            return VADState.SPEAKING if any(audio) else VADState.QUIET

    class NeverDone:
        """Takes every pause for one in the middle of a turn."""

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *_, **__: None

        async def analyze_end_of_turn(self) -> tuple[EndOfTurnState, None]:
            return EndOfTurnState.INCOMPLETE, None

    library = ClipLibrary(synthesizer=synthesize, cache=Kept())
    params = BackchannelParams(
        min_speech_before_eligible_s=0, cooldown_s=0, fire_probability=1, vad_stop_secs=0
    )
    listener = BackchannelProcessor(
        params=params, clips=library, vad_analyzer=Vad(), turn_analyzer=NeverDone()
    )
    output = dead_output()
    async with running(breaker, listener, ClipPlayer(clips=library, volume=1.0), output) as bot:
        await bot.worker.queue_frame(message())
        for _ in range(10):
            for audio in (b"\x01" * 640, bytes(640)):
                await bot.worker.queue_frame(InputAudioRawFrame(audio, RATE, 1))
            # The output says for a while after a clip that the bot speaks.
            await asyncio.sleep(0.5)
        await bot.settled(lambda: len(output.failed))
        clips = output.audio.count(clip)
        await bot.end()
    return bot.figures(clips=clips, **{"sends tried": len(output.failed)})


async def engram(breaker: CircuitBreakerProcessor | None) -> Figures:
    """Its memory answers 500, which it logs; log lines go to the client; the client is gone."""
    from pipecat_engram.client import EngramClient
    from pipecat_engram.processor import EngramMemoryProcessor

    requests = 0

    async def refuse(_: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        return web.Response(status=500)

    output = dead_output()
    async with provider(refuse) as url:
        memory = EngramMemoryProcessor(client=EngramClient(api_key="key", base_url=url))
        async with running(breaker, memory, output, system_logs=True) as bot:
            await bot.worker.queue_frame(TranscriptionFrame("Hello.", "user", "now"))
            await bot.settled(lambda: len(output.failed), lambda: requests)
            sends, lines = len(output.failed), bot.lines
            await bot.end()
    bot.lines = lines
    return bot.figures(**{"sends tried": sends, "requests": requests})


async def echo(breaker: CircuitBreakerProcessor | None) -> Figures:
    """A cached speech service whose provider is down, and an application that apologises."""
    from echo_sdk.pipecat_tts import EnableTTSCache, TTSCacheCapture
    from pipecat.services.elevenlabs.tts import ElevenLabsHttpTTSService

    requests = 0

    async def refuse(_: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        return web.json_response({"detail": f"request {requests}"}, status=500)

    async def apologise(worker: PipelineWorker) -> None:
        if requests < SLOW_STORM:
            await worker.queue_frame(TTSSpeakFrame("Sorry, something went wrong."))

    output = Output()
    async with provider(refuse) as url, aiohttp.ClientSession() as session:
        tts = EnableTTSCache(
            ElevenLabsHttpTTSService,
            api_key="key",
            aiohttp_session=session,
            base_url=url,
            settings=ElevenLabsHttpTTSService.Settings(voice="voice", model="model"),
            stop_frame_timeout_s=0.1,
            max_consecutive_zero_audio_contexts=0,
        )
        async with running(breaker, tts, TTSCacheCapture(), output, answer=apologise) as bot:
            await bot.worker.queue_frame(TTSSpeakFrame("Hello!"))
            await bot.settled(lambda: requests)
            asked = requests
            await bot.end()
    told = sum(message.get("type") == "error" for message in output.sent)
    return bot.figures(**{"told the client": told, "requests": asked})


SCENARIOS: dict[str, Scenario] = {
    "pipecat-asterisk": asterisk,
    "pipecat-mcp-transport": mcp_transport,
    "pipecat-ai-whisker": whisker,
    "pipecat-backchannel": backchannel,
    "pipecat-engram": engram,
    "echo-sdk": echo,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them, and print what came of each.

    Args:
        arguments: The command line.

    Returns:
        The exit code: 0, what came of it is for reading.
    """
    parser = argparse.ArgumentParser(
        prog="python -m checks community", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=", ".join(SCENARIOS))
    parser.add_argument("--log", action="store_true", help="show the log")
    options = parser.parse_args(arguments)
    if not options.log:
        logger.remove()
        logging.disable(logging.CRITICAL)
    os.environ["no_proxy"] = "127.0.0.1"
    print(f"pipecat {version('pipecat-ai')}, Python {sys.version.split()[0]}")
    for package, scenario in SCENARIOS.items():
        if options.packages and package not in options.packages:
            continue
        try:
            print(f"\n{package} {version(package)}: {scenario.__doc__}")
        except PackageNotFoundError:
            print(f"\n{package}: not installed")
            continue
        for breaker in (False, True):
            # Some keep files where they are run.
            with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                figures = asyncio.run(run(scenario, breaker))
            words = ", ".join(f"{name} {value}" for name, value in figures.items())
            print(f"  {'with' if breaker else 'without'}: {words}", flush=True)
    return 0


async def run(scenario: Scenario, guarded: bool) -> Figures:
    """Run one scenario once."""
    async with asyncio.timeout(120):
        return await scenario(CircuitBreakerProcessor() if guarded else None)
