#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A provider of models, voices and transcriptions on this machine, which fails on command."""

import json
from contextlib import suppress
from typing import Any

from aiohttp import web

#: Bytes of sound for each letter of a text: 10 ms of 16-bit samples at 24 kHz.
_BYTES_PER_LETTER = 480


class Provider:
    """A server with as much of OpenAI's HTTP interface as pipecat's services ask for.

    Pipecat's ``OpenAILLMService``, ``OpenAITTSService`` and ``OpenAISTTService`` take its
    address as their ``base_url``. The model repeats each question in its answer, the voice
    hums 10 ms for each letter, and every transcription is "hello". No account is needed.

    What fails answers with HTTP 500, and asks OpenAI's client not to try again. A user can
    break it in a conversation: the questions ``/fail llm``, ``/fail tts``, ``/fail stt`` and
    ``/heal llm`` (and so on) are commands.

    Example::

        async with Provider() as provider:
            llm = OpenAILLMService(api_key="-", base_url=provider.base_url)
            provider.fails["llm"] = True
    """

    def __init__(self, name: str = "local") -> None:
        """Initialize the provider; nothing fails.

        Args:
            name: Said in each answer, so that one knows whose it is.
        """
        self.name = name
        #: By ``"llm"``, ``"tts"`` and ``"stt"``, whether it fails at present.
        self.fails: dict[str, bool] = {"llm": False, "tts": False, "stt": False}
        #: By the same names, the requests so far, those that failed included.
        self.requests: dict[str, int] = {"llm": 0, "tts": 0, "stt": 0}
        self._runner: web.AppRunner | None = None
        self._base_url = ""

    @property
    def base_url(self) -> str:
        """Where it listens, as a service takes it.

        Raises:
            RuntimeError: It has not been started, or has been stopped.
        """
        if self._runner is None:
            raise RuntimeError(f"expected a provider that was started: {self.name}")
        return self._base_url

    async def start(self, port: int = 0) -> str:
        """Listen on 127.0.0.1.

        Args:
            port: The port; 0 is any that is free.

        Returns:
            The base URL.
        """
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/v1/audio/speech", self._speak)
        app.router.add_post("/v1/audio/transcriptions", self._transcribe)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        host, port = self._runner.addresses[0][:2]
        self._base_url = f"http://{host}:{port}/v1"
        return self._base_url

    async def stop(self) -> None:
        """Listen no longer."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> "Provider":
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        question = _text((await request.json())["messages"][-1].get("content"))
        answer = self._obey(question) or f"The {self.name} model heard: {question}. What else?"
        if self._refuses("llm"):
            return _failure()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        # Whoever is interrupted hangs up in mid-answer.
        with suppress(ConnectionError):
            await response.prepare(request)
            for word in answer.split():
                await response.write(_event({"content": f"{word} "}, None))
            await response.write(_event({}, "stop") + b"data: [DONE]\n\n")
        return response

    async def _speak(self, request: web.Request) -> web.Response:
        text = _text((await request.json()).get("input"))
        if self._refuses("tts"):
            return _failure()
        return web.Response(body=b"\1\0" * (_BYTES_PER_LETTER // 2) * len(text))

    async def _transcribe(self, request: web.Request) -> web.Response:
        await request.read()
        return _failure() if self._refuses("stt") else web.json_response({"text": "hello"})

    def _refuses(self, what: str) -> bool:
        self.requests[what] += 1
        return self.fails[what]

    def _obey(self, question: str) -> str | None:
        match question.split():
            case ["/fail" | "/heal" as what, ("llm" | "tts" | "stt") as which]:
                self.fails[which] = what == "/fail"
                return f"The {self.name} {which} {'fails' if self.fails[which] else 'works'} now."
        return None


def _failure() -> web.Response:
    """What tells the client that it need not try again: who fails here fails until it is healed."""
    return web.json_response(
        {"error": {"message": "out of order"}}, status=500, headers={"x-should-retry": "false"}
    )


def _text(content: Any) -> str:
    return content if isinstance(content, str) else ""


def _event(delta: dict[str, str], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "local"}
    return b"data: " + json.dumps(chunk | {"choices": [choice]}).encode() + b"\n\n"
