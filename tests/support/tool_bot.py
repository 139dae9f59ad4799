"""A bot with pipecat's own OpenAI service, and a local server that plays a model which calls tools."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from pipecat.frames.frames import LLMMessagesAppendFrame
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.services.openai.llm import OpenAILLMService

#: Where a loop that nothing ends is cut off: the model is content at last.
STORM = 40

#: What the model answers: text, or the tools that it calls, each with its arguments.
Answer = str | list[tuple[str, dict[str, Any]]]


async def until(condition: Callable[[], Any]) -> None:
    """Turn the loop until the sockets have done what they have to do."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


class Model:
    """Serves chat completions, and keeps what it was asked.

    `decide` gets the request and says what the model answers; from the 40th request on it is text.
    """

    def __init__(self, decide: Callable[[dict[str, Any]], Answer]) -> None:
        self.decide = decide
        self.url = "http://127.0.0.1:9/v1"  # until it serves
        self.asked: list[dict[str, Any]] = []
        self.answered = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Model"]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        number = len(self.asked)
        answer = "I give up." if number >= STORM else self.decide(body)
        await self.may_answer.wait()
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        for delta in _deltas(number, answer):
            chunk = {
                "id": f"answer-{number}",
                "object": "chat.completion.chunk",
                "created": 0,
                "model": "played",
                "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
            }
            await stream.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await stream.write(b"data: [DONE]\n\n")
        await stream.write_eof()
        self.answered += 1
        return stream


def _deltas(number: int, answer: Answer) -> list[dict[str, Any]]:
    if isinstance(answer, str):
        return [{"role": "assistant", "content": word} for word in answer.split(" ")]
    calls = []
    for index, (name, arguments) in enumerate(answer):
        text = json.dumps(arguments)
        called = {"index": index, "id": f"call-{number}-{index}", "type": "function"}
        calls.append({**called, "function": {"name": name, "arguments": text[:1]}})
        calls.append({"index": index, "function": {"arguments": text[1:]}})
    return [{"tool_calls": [call]} for call in calls]


def tools_are_off(request: dict[str, Any]) -> bool:
    return request.get("tool_choice") == "none"


def texts(request: dict[str, Any]) -> str:
    return json.dumps(request["messages"])


class Tool:
    """A tool of the application: does what it is told to, and counts."""

    def __init__(self, do: Callable[[int], Any]) -> None:
        self.do = do
        self.runs = 0

    async def __call__(self, params: Any) -> None:
        self.runs += 1
        await params.result_callback(self.do(self.runs))


def context_with_tools(*names: str) -> LLMContext:
    # 1.14.0 moved them.
    try:
        from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
        from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema
    except ImportError:
        from pipecat.adapters.schemas.function_schema import FunctionSchema
        from pipecat.adapters.schemas.tools_schema import ToolsSchema

    schemas = [
        FunctionSchema(name=name, description=name, properties={}, required=[]) for name in names
    ]
    return LLMContext(tools=ToolsSchema(standard_tools=schemas))


def llm_at(model: Model, **tools: Tool) -> OpenAILLMService:
    llm = OpenAILLMService(
        api_key="key",
        base_url=model.url,
        settings=OpenAILLMService.Settings(model="played"),
    )
    for name, tool in tools.items():
        llm.register_function(name, tool)
    return llm


def aggregators(context: LLMContext) -> tuple[Any, Any]:
    pair = LLMContextAggregatorPair(context)
    return pair.user(), pair.assistant()


def says(text: str) -> LLMMessagesAppendFrame:
    return LLMMessagesAppendFrame(messages=[{"role": "user", "content": text}], run_llm=True)


def spoken(context: LLMContext) -> list[str]:
    """What the bot has said, as its context has it."""
    return [
        message["content"]
        for message in context.get_messages()
        if message.get("role") == "assistant" and message.get("content")
    ]
