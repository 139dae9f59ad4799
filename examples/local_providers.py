#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Providers of language and speech on this machine, with OpenAI's HTTP interface."""

import json

from aiohttp import web

#: Samples a second of the sound that comes for each letter.
RATE, SAMPLES_PER_LETTER = 24_000, 1_200


class Provider:
    """Answers questions and speaks texts, or refuses to.

    Args:
        name: Said in its answers, and printed at each request.
    """

    def __init__(self, name: str) -> None:
        """Start well."""
        self.name = name
        self.fails = {"llm": False, "tts": False}

    async def start(self) -> str:
        """Listen on a free port; returns the base URL for a client."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/v1/audio/speech", self._speak)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}/v1"

    async def stop(self) -> None:
        """Listen no longer."""
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        question = (await request.json())["messages"][-1]["content"]
        if self._refuses("llm"):
            return web.json_response({"error": {"message": "out of order"}}, status=500)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in f"The {self.name} model heard: {question}. What else?".split():
            await response.write(_event({"content": f"{word} "}, None))
        await response.write(_event({}, "stop") + b"data: [DONE]\n\n")
        return response

    async def _speak(self, request: web.Request) -> web.Response:
        text = (await request.json())["input"]
        if self._refuses("tts"):
            return web.json_response({"error": {"message": "out of order"}}, status=500)
        return web.Response(body=b"\1\0" * SAMPLES_PER_LETTER * len(text))

    def _refuses(self, what: str) -> bool:
        fails = self.fails[what]
        print(f"    [{self.name} {what}: {'HTTP 500' if fails else 'ok'}]", flush=True)
        return fails


def _event(delta: dict[str, str], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "local"}
    return b"data: " + json.dumps(chunk | {"choices": [choice]}).encode() + b"\n\n"
