#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""An LLM provider on this machine that fails on command."""

import asyncio
import json
import time

from aiohttp import web

from pipecat_circuit_breaker.demo.failover.faults import Fault

FIRST_WORD_SECS = 0.3


class Provider:
    """An HTTP server that speaks as much of OpenAI's protocol as pipecat needs.

    Args:
        name: Said in each answer, so that one knows whose it is.
        fault: What is wrong with it.
        speed: How many times faster than in a call the time goes.
    """

    def __init__(self, name: str, fault: Fault, speed: float) -> None:
        """Start with no requests."""
        self._name = name
        self._fault = fault
        self._speed = speed
        self._began = 0.0
        self.requests = 0

    async def start(self) -> str:
        """Listen.

        Returns:
            The base URL for a client.
        """
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

    def answer_to(self, turn: int) -> str:
        """What it says.

        Args:
            turn: The number of the question.

        Returns:
            The whole answer.
        """
        return f"This is answer {turn} of the {self._name}. It has a middle. And here it ends."

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
        try:
            await self._speak(request, response, turn)
        except ConnectionResetError:
            pass  # whoever has asked has hung up
        return response

    async def _speak(self, request: web.Request, response: web.StreamResponse, turn: int) -> None:
        await response.prepare(request)
        words = self.answer_to(turn).split()
        for n, word in enumerate(words[:-5] if self._fault.breaks else words):
            await response.write(_event(f" {word}" if n else word))
            await asyncio.sleep(0)
        if self._fault.breaks:
            await asyncio.sleep(0.005)  # what was sent is on its way
            if request.transport is not None:
                request.transport.abort()
            return
        await response.write(_event(None) + b"data: [DONE]\n\n")


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
