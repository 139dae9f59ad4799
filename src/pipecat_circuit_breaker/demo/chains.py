#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Error chains that really happen, each as a pipeline and the one event that sets it off.

A chain is built around real Pipecat parts: a `PipelineTask` (the name that every release has for what
is a `PipelineWorker` from 1.3.0 on) with the RTVI processor that it adds by itself, and output
transports of which only the sending of a message is replaced.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from pipecat.frames.frames import (
    ErrorFrame,
    InputAudioRawFrame,
    OutputTransportMessageFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.parallel_pipeline import ParallelPipeline
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.task import PipelineTask
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIObserverParams

from pipecat_circuit_breaker.demo.parts import (
    CHUNK_SECS,
    BrokenSerializer,
    BrokenSTT,
    BrokenTTS,
    ErrorNotifier,
    Failure,
    Output,
    count_offers,
    message,
    sound,
)
from pipecat_circuit_breaker.demo.tally import Tally

Position = Literal["first", "last"]
Trigger = Callable[[], Awaitable[None]]

FLOOD_CHUNKS = 150
FLOOD_CHUNK_SECS = 0.005
SOUND_CHUNKS = 10


@dataclass(frozen=True)
class Scenario:
    """A chain that is built and ready to run.

    Parameters:
        worker: Runs the pipeline. Add it to a runner.
        trigger: Sets the chain off. To be called once the pipeline has started, and done when it
            has fed all that it feeds.
        resources: What the chain opened for itself, to be closed after the worker.
    """

    worker: PipelineTask
    trigger: Trigger
    resources: AsyncExitStack = field(default_factory=AsyncExitStack)


Build = Callable[[Tally, FrameProcessor | None, Position], Awaitable[Scenario]]


@dataclass(frozen=True)
class Chain:
    """One way in which an error makes more errors.

    Parameters:
        name: Its name on the command line.
        title: What happens, in at most 46 characters: it shares its line with figures.
        build: Builds the pipeline, given the tally, the breaker or None, and the position of the
            breaker: "first" in the user's pipeline, or "last", directly before the output.
    """

    name: str
    title: str
    build: Build


def _worker(
    tally: Tally,
    breaker: FrameProcessor | None,
    position: Position,
    *,
    before: Sequence[FrameProcessor] = (),
    output: FrameProcessor,
    system_logs: bool = False,
) -> PipelineTask:
    guard = [] if breaker is None else [breaker]
    processors = [*guard, *before, output] if position == "first" else [*before, *guard, output]
    worker = PipelineTask(
        Pipeline(processors),
        idle_timeout_secs=None,
        rtvi_observer_params=RTVIObserverParams(system_logs_enabled=system_logs),
    )

    def count_error(_: PipelineTask, __: ErrorFrame) -> None:
        tally.errors += 1

    worker.add_event_handler("on_pipeline_error", count_error)
    return worker


def _queue_message(worker: PipelineTask) -> Trigger:
    async def trigger() -> None:
        await worker.queue_frame(message())

    return trigger


async def _one_output(
    tally: Tally,
    breaker: FrameProcessor | None,
    position: Position,
    *,
    failure: Failure,
    system_logs: bool = False,
) -> Scenario:
    output = Output(tally, failure=failure)
    worker = _worker(tally, breaker, position, output=output, system_logs=system_logs)
    return Scenario(worker, _queue_message(worker))


@contextmanager
def _without_proxy(host: str) -> Iterator[None]:
    """Connect to a host directly: a proxy cannot reach this machine's own loopback."""
    before = os.environ.get("no_proxy")
    os.environ["no_proxy"] = host if before is None else f"{before},{host}"
    try:
        yield
    finally:
        if before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = before


async def _websocket_serializer(
    tally: Tally, breaker: FrameProcessor | None, position: Position
) -> Scenario:
    # Only this chain needs websockets, which is an extra of Pipecat.
    from pipecat.transports.websocket.client import (
        WebsocketClientParams,
        WebsocketClientTransport,
    )
    from websockets.asyncio.server import ServerConnection, serve

    async def listen(connection: ServerConnection) -> None:
        await connection.wait_closed()

    resources = AsyncExitStack()
    resources.enter_context(_without_proxy("127.0.0.1"))
    server = await resources.enter_async_context(serve(listen, "127.0.0.1", 0))
    port = next(iter(server.sockets)).getsockname()[1]
    transport = WebsocketClientTransport(
        f"ws://127.0.0.1:{port}", WebsocketClientParams(serializer=BrokenSerializer(tally))
    )
    output = transport.output()
    count_offers(output, tally)
    worker = _worker(tally, breaker, position, before=[transport.input()], output=output)
    return Scenario(worker, _queue_message(worker), resources)


async def _spoken_apology(
    tally: Tally, breaker: FrameProcessor | None, position: Position
) -> Scenario:
    worker = _worker(tally, breaker, position, before=[BrokenTTS(tally)], output=Output(tally))

    async def apologise(worker: PipelineTask, _: ErrorFrame) -> None:
        await worker.queue_frame(TTSSpeakFrame("Sorry, something went wrong."))

    async def trigger() -> None:
        await worker.queue_frame(TTSSpeakFrame("Hello!"))

    worker.add_event_handler("on_pipeline_error", apologise)
    return Scenario(worker, trigger)


async def _two_dead_outputs(
    tally: Tally, breaker: FrameProcessor | None, position: Position
) -> Scenario:
    outputs = ParallelPipeline(
        [Output(tally, channel="left", failure="raises")],
        [Output(tally, channel="right", failure="raises")],
    )
    worker = _worker(tally, breaker, position, output=outputs)
    return Scenario(worker, _queue_message(worker))


async def _second_notifier(
    tally: Tally, breaker: FrameProcessor | None, position: Position
) -> Scenario:
    output = Output(tally, failure="raises")
    worker = _worker(tally, breaker, position, before=[ErrorNotifier()], output=output)
    return Scenario(worker, _queue_message(worker))


async def _stt_flood(tally: Tally, breaker: FrameProcessor | None, position: Position) -> Scenario:
    worker = _worker(tally, breaker, position, before=[BrokenSTT(tally)], output=Output(tally))

    async def trigger() -> None:
        for _ in range(FLOOD_CHUNKS):
            chunk = InputAudioRawFrame(audio=bytes(640), sample_rate=16000, num_channels=1)
            await worker.queue_frame(chunk)
            await asyncio.sleep(FLOOD_CHUNK_SECS)

    return Scenario(worker, trigger)


async def _queued_message(
    tally: Tally, breaker: FrameProcessor | None, position: Position, *, warning: bool
) -> Scenario:
    output = Output(tally, failure="raises")
    worker = _worker(tally, breaker, position, output=output)

    async def play(*, after_message: bool) -> None:
        for _ in range(SOUND_CHUNKS):
            await worker.queue_frame(sound(after_message=after_message))
            await asyncio.sleep(CHUNK_SECS)

    async def trigger() -> None:
        if warning:
            await worker.queue_frame(message())
        await play(after_message=False)
        await worker.queue_frame(OutputTransportMessageFrame(message={"type": "app"}))
        await play(after_message=True)
        # The output is a chunk behind what it is fed.
        await asyncio.sleep(2 * CHUNK_SECS)

    return Scenario(worker, trigger)


CHAINS: dict[str, Chain] = {
    chain.name: chain
    for chain in (
        Chain(
            "send-raises",
            "sending raises; RTVI reports it to the client",
            partial(_one_output, failure="raises"),
        ),
        Chain(
            "send-pushes-error",
            "the transport pushes an ErrorFrame",
            partial(_one_output, failure="pushes-error"),
        ),
        Chain(
            "websocket-serializer",
            "WebSocket transport whose serializer raises",
            _websocket_serializer,
        ),
        Chain(
            "system-logs-raise",
            "log lines go to the client; sending raises",
            partial(_one_output, failure="raises", system_logs=True),
        ),
        Chain(
            "system-logs-silent",
            "log lines go to the client; sending only logs",
            partial(_one_output, failure="logs", system_logs=True),
        ),
        Chain(
            "spoken-apology",
            "an apology is spoken, and speech is broken",
            _spoken_apology,
        ),
        Chain(
            "two-dead-outputs",
            "two dead outputs: errors double each turn",
            _two_dead_outputs,
        ),
        Chain(
            "second-notifier",
            "RTVI and the app both report: grows each turn",
            _second_notifier,
        ),
        Chain(
            "stt-flood",
            f"recognition fails on {FLOOD_CHUNKS} chunks of sound",
            _stt_flood,
        ),
        Chain(
            "queued-message",
            "a queued message meets a dead client",
            partial(_queued_message, warning=True),
        ),
    )
}

QUEUED_MESSAGE_ALONE = Chain(
    "queued-message-alone",
    "the same without any failure before it, which nobody can foresee",
    partial(_queued_message, warning=False),
)
