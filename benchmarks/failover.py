#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What a caller hears of 50 turns when the first of two LLM providers fails.

`python -m benchmarks.failover`. pipecat's own `OpenAILLMService` asks two real
HTTP servers on this machine, of which the first fails on command. A caller asks
a question every four seconds, or when the answer to the last one has ended, and
a turn counts as heard if the whole answer, and nothing else, left the switcher
between one start and one end.

Time is compressed: whatever takes seconds in the call (a turn, the caller's
patience, the client's timeout and its pauses between retries, the provider's
outage, time limits and cooldowns) takes `1 / --speed` of that here. What the
machine itself needs is not compressed, so it weighs more than in a real call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import openai._base_client
import pipecat
from aiohttp import web
from loguru import logger
from pipecat.frames.frames import (
    Frame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
)
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.service_switcher import (
    ServiceSwitcherStrategyFailover,
    ServiceSwitcherStrategyManual,
)
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.workers.runner import WorkerRunner
from rich.console import Console
from rich.table import Table

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor

TURN_SECS = 4.0
FIRST_WORD_SECS = 0.3
COLUMNS = ("no help", "pipecat's failover", "breaker.failover()")


@dataclass(frozen=True)
class Fault:
    """What is wrong with the first provider.

    Parameters:
        name: For people.
        status: The HTTP status it answers a turn with, given the turn and the
            seconds since the call began; 200 is an answer.
        hangs: Whether it never answers.
        breaks: Whether its stream breaks in the middle of the answer.
        client_timeout_secs: When the HTTP client gives up.
        patience_secs: When the caller speaks again; None is never.
    """

    name: str
    status: Callable[[int, float], int] = lambda turn, secs: 200
    hangs: bool = False
    breaks: bool = False
    client_timeout_secs: float = 600.0
    patience_secs: float | None = None


FAULTS = (
    Fault("HTTP 500", lambda turn, secs: 500),
    Fault("429 for 30 s", lambda turn, secs: 429 if secs < 30 else 200),
    Fault("hangs, client times out at 10 s", hangs=True, client_timeout_secs=10),
    Fault("hangs, the user speaks again after 8 s", hangs=True, patience_secs=8),
    Fault("stream breaks in mid-answer", breaks=True),
    Fault("500, one request in five", lambda turn, secs: 500 if turn % 5 == 4 else 200),
    Fault("401", lambda turn, secs: 401),
)


def answer_to(turn: int) -> list[str]:
    """The pieces in which the answer to a turn is streamed."""
    text = f"This is answer number {turn}. It has a middle. And here it ends."
    return [word if n == 0 else f" {word}" for n, word in enumerate(text.split())]


class Provider:
    """An HTTP server that speaks as much of OpenAI's protocol as pipecat needs."""

    def __init__(self, fault: Fault, speed: float) -> None:
        """Start with no requests."""
        self._fault = fault
        self._speed = speed
        self._began = 0.0
        self.requests = 0

    async def start(self) -> str:
        """Listen; returns the base URL for a client."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}/v1"

    async def stop(self) -> None:
        """Listen no longer."""
        await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        # The outage begins with the first question, however long the bot took to start.
        self._began = self._began or time.monotonic()
        asked = await request.json()
        turn = int(asked["messages"][-1]["content"].split()[-1])
        secs = (time.monotonic() - self._began) * self._speed
        if self._fault.hangs:
            await asyncio.sleep(3600)
        status = self._fault.status(turn, secs)
        if status != 200:
            return web.json_response({"error": {"message": f"status {status}"}}, status=status)
        await asyncio.sleep(FIRST_WORD_SECS / self._speed)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        pieces = answer_to(turn)
        for piece in pieces[: len(pieces) - 5] if self._fault.breaks else pieces:
            await response.write(_event(piece))
            await asyncio.sleep(0)
        if self._fault.breaks:
            await asyncio.sleep(0.005)  # what was sent is on its way
            request.transport.abort()  # type: ignore[union-attr]
            return response
        await response.write(_event(None) + b"data: [DONE]\n\n")
        return response


def _event(piece: str | None) -> bytes:
    choice = {
        "index": 0,
        "delta": {} if piece is None else {"content": piece},
        "finish_reason": "stop" if piece is None else None,
    }
    chunk = {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "m",
        "choices": [choice],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


class Ear(FrameProcessor):
    """Hears what leaves the switcher."""

    def __init__(self) -> None:
        """Start with nothing heard."""
        super().__init__()
        self.heard = ""
        self.starts = self.ends = 0
        self.ended = asyncio.Event()
        self.first_word = 0.0

    def listen(self) -> None:
        """Begin a turn."""
        self.heard, self.starts, self.ends, self.first_word = "", 0, 0, 0.0
        self.ended.clear()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Note what is said."""
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMTextFrame):
            self.first_word = self.first_word or time.monotonic()
            self.heard += frame.text
        elif isinstance(frame, LLMFullResponseStartFrame):
            self.starts += 1
        elif isinstance(frame, LLMFullResponseEndFrame):
            self.ends += 1
            self.ended.set()
        await self.push_frame(frame, direction)


@dataclass
class Call:
    """What one call came to.

    Parameters:
        heard: Turns whose whole answer was heard, once.
        requests: HTTP requests to the first and to the second provider.
        switches: How often another service became the active one.
        waits: Seconds of the call until the first word, of the turns that were heard.
        told: How often the application was told what.
    """

    heard: int = 0
    requests: tuple[int, int] = (0, 0)
    switches: int = 0
    waits: list[float] = field(default_factory=list)
    told: Counter[str] = field(default_factory=Counter)


class Service(OpenAILLMService):
    """pipecat's own, whose client retries as often, and gives up as soon, as it is told."""

    def __init__(self, url: str, timeout_secs: float, retries: int) -> None:
        """Make a service for one provider."""
        super().__init__(
            api_key="none", base_url=url, settings=OpenAILLMService.Settings(model="m")
        )
        self._client = self._client.with_options(
            timeout=httpx.Timeout(timeout_secs), max_retries=retries
        )


async def call(fault: Fault, column: str, turns: int, speed: float, retries: int) -> Call:
    """Make one call."""
    providers = Provider(fault, speed), Provider(Fault("none"), speed)
    urls = [await provider.start() for provider in providers]
    limit = fault.client_timeout_secs / speed
    services: Any = [Service(url, limit, retries) for url in urls]
    is_ours = column == COLUMNS[2]
    strategy: Any = ServiceSwitcherStrategyManual
    if column == COLUMNS[1]:
        strategy = ServiceSwitcherStrategyFailover
    switcher, ear, result = LLMSwitcher(services, strategy), Ear(), Call()
    breaker = CircuitBreakerProcessor(
        params=CircuitBreakerParams(clock=lambda: time.monotonic() * speed)
    )
    if is_ours:
        failover = breaker.failover(switcher, attempt_timeout_secs=5 / speed)
        for event in ("on_service_failed", "on_service_recovered", "on_request_lost", "on_outage"):
            failover.add_event_handler(
                event, lambda *_, event=event: result.told.update([event.removeprefix("on_")])
            )

    def switched(*_: Any) -> None:
        result.switches += 1

    switcher.strategy.add_event_handler("on_service_switched", switched)
    front = [breaker] if is_ours else []
    worker = PipelineWorker(Pipeline([*front, switcher, ear]), idle_timeout_secs=None)
    started = asyncio.Event()
    worker.add_event_handler("on_pipeline_started", lambda *_: started.set())
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await started.wait()
    for turn in range(turns):
        ear.listen()
        began = time.monotonic()
        context = LLMContext([{"role": "user", "content": f"question {turn}"}])
        await worker.queue_frame(LLMContextFrame(context))
        patience = None if fault.patience_secs is None else fault.patience_secs / speed
        try:
            await asyncio.wait_for(ear.ended.wait(), patience)
        except TimeoutError:
            pass
        await asyncio.sleep(max(0.0, began + TURN_SECS / speed - time.monotonic()))
        once = ear.starts == ear.ends == 1
        if once and ear.heard == "".join(answer_to(turn)):
            result.heard += 1
            result.waits.append((ear.first_word - began) * speed)
        if not ear.ended.is_set():
            await worker.queue_frame(InterruptionFrame())
            # Or what ends here would be taken for the end of the next answer.
            await asyncio.wait_for(ear.ended.wait(), 5)
    await runner.cancel()
    await running
    for provider in providers:
        await provider.stop()
    result.requests = (providers[0].requests, providers[1].requests)
    return result


async def measure(options: argparse.Namespace, console: Console) -> list[list[Call]]:
    """Make every call: those of one fault at once, the faults one after another."""
    rows = []
    for fault in FAULTS:
        if options.only and options.only not in fault.name:
            continue
        with console.status(fault.name):
            rows.append(
                await asyncio.gather(
                    *(
                        call(fault, column, options.turns, options.speed, options.retries)
                        for column in COLUMNS
                    )
                )
            )
    return rows


def table(rows: list[list[Call]], options: argparse.Namespace) -> Table:
    """The table: turns heard, and what it took."""
    shown = Table(
        title=f"Turns heard, of {options.turns}; then HTTP requests to the first + the second "
        f"provider, switches, and the longest wait for a first word. pipecat {pipecat.version()}, "
        f"client retries {options.retries}, time x {options.speed:g}"
    )
    shown.add_column("fault of the primary")
    for column in COLUMNS:
        shown.add_column(column, justify="right")
    names = [fault.name for fault in FAULTS if not options.only or options.only in fault.name]
    for name, calls in zip(names, rows, strict=True):
        shown.add_row(
            name,
            *(
                f"{c.heard}   ({c.requests[0]} + {c.requests[1]}, {c.switches}, "
                + (f"{max(c.waits):.1f} s)" if c.waits else "-)")
                for c in calls
            ),
        )
    return shown


def main() -> int:
    """Run it, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--speed", type=float, default=10.0, help="how much time is compressed")
    parser.add_argument("--retries", type=int, default=0, help="of OpenAI's client; its own is 2")
    parser.add_argument("--only", help="a part of a fault's name")
    options = parser.parse_args()
    logger.remove()
    # The client's pauses between retries are seconds of the call too.
    client: Any = openai._base_client
    client.INITIAL_RETRY_DELAY /= options.speed
    client.MAX_RETRY_DELAY /= options.speed
    console = Console(width=150)
    rows = asyncio.run(measure(options, console))
    console.print(table(rows, options))
    for fault, calls in zip(
        [f for f in FAULTS if not options.only or options.only in f.name], rows, strict=True
    ):
        waits = statistics.median(calls[2].waits) if calls[2].waits else 0.0
        told = ", ".join(f"{what} {n}" for what, n in sorted(calls[2].told.items()))
        console.print(f"{fault.name}: median wait {waits:.1f} s; told: {told or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
