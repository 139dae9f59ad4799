"""pipecat's own service for OpenAI's Responses API, against a real HTTP server (time limit 1 s)."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from pipecat.frames.frames import LLMContextFrame
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.services.openai.responses import llm as responses

from pipecat_circuit_breaker import CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import running
from tests.failover.failover_parts import Ear
from tests.support.tool_bot import context_with_tools

#: 0.0.108 has no service with a socket, and no name for the other.
_Service = getattr(responses, "OpenAIResponsesHttpLLMService", responses.OpenAIResponsesLLMService)


@pytest.fixture
def event_loop_policy():
    return asyncio.DefaultEventLoopPolicy()


def piece(**said):
    return {"sequence_number": 0, "output_index": 0, "item_id": "i", **said}


def text(delta):
    return piece(type="response.output_text.delta", content_index=0, delta=delta, logprobs=[])


def thought(delta):
    return piece(type="response.reasoning_summary_text.delta", summary_index=0, delta=delta)


def item(name, **more):
    call = {"type": "function_call", "id": "i", "call_id": "c", "name": name, "arguments": ""}
    return piece(type="response.output_item.added", item={**call, "status": "in_progress"}, **more)


def argument(delta):
    return piece(type="response.function_call_arguments.delta", delta=delta)


def done(name, arguments):
    call = {"type": "function_call", "id": "i", "call_id": "c", "name": name}
    return piece(
        type="response.output_item.done",
        item={**call, "arguments": arguments, "status": "completed"},
    )


@asynccontextmanager
async def serving(*events):
    asked = []

    async def answer(request):
        asked.append(await request.json())
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        for event in events:
            if isinstance(event, float):
                await asyncio.sleep(event)
                continue
            await stream.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        await stream.write_eof()
        return stream

    app = web.Application()
    app.router.add_post("/v1/responses", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1", asked
    finally:
        await runner.cleanup()


async def call(first_url, second_url):
    llms = [
        _Service(
            api_key="k",
            base_url=url,
            settings=_Service.Settings(model="gpt-5"),
        )
        for url in (first_url, second_url)
    ]
    called = []

    async def book(params):
        called.append(params.arguments)

    switcher = LLMSwitcher(llms)
    breaker = CircuitBreakerProcessor()
    breaker.failover(switcher, attempt_timeout_secs=1.0)
    switcher.register_function("book", book)
    context = context_with_tools("book")
    context.add_message({"role": "user", "content": "book it"})
    ear = Ear()
    async with running(breaker, switcher, ear) as worker:
        await worker.queue_frame(LLMContextFrame(context))
        await asyncio.sleep(5)
    return ear.answers, called


async def test__arguments_stream_for_long_after_a_sentence__it_is_not_asked_again():
    arguments = [x for _ in range(20) for x in (argument(" "), 0.1)]
    first = (text("Let me book that."), item("book"), *arguments, done("book", '{"a": 1}'))
    async with serving(*first) as (one, asked), serving(text("Second. ")) as (two, again):
        answers, called = await call(one, two)
    assert len(asked) == 1
    assert again == []
    assert called == [{"a": 1}] and answers == ["Let me book that."]


async def test__arguments_stream_for_long_without_text__it_is_not_asked_again():
    arguments = [x for _ in range(20) for x in (argument(" "), 0.1)]
    first = (item("book"), *arguments, done("book", '{"a": 1}'))
    async with serving(*first) as (one, asked), serving(text("Second. ")) as (two, again):
        answers, called = await call(one, two)
    assert again == [] and called == [{"a": 1}]


@pytest.mark.skipif(
    not hasattr(responses, "ResponseReasoningSummaryTextDeltaEvent"),
    reason="0.0.108 pushes no thoughts of this service",
)
async def test__model_thinks_on_after_its_summary__it_is_not_asked_again():
    first = (thought("I have to think."), 2.0, text("Here you are. "))
    async with serving(*first) as (one, asked), serving(text("Second. ")) as (two, again):
        answers, _ = await call(one, two)
    assert again == []
    assert answers == ["Here you are."]
