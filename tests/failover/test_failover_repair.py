"""A provider that refuses a picture, by pipecat's own service and real HTTP."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from pipecat.frames.frames import LLMContextFrame
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.processors.aggregators.llm_context import LLMContext

from pipecat_circuit_breaker import CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import running
from tests.failover.failover_parts import Ear, passed
from tests.support.tool_bot import Model, llm_at

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
ASKS = {"role": "user", "content": [{"type": "text", "text": "what is it?"}, PICTURE]}


@pytest.fixture
def event_loop_policy():
    return asyncio.DefaultEventLoopPolicy()


@asynccontextmanager
async def refusing():
    async def refuse(request):
        error = {"message": "this model takes no pictures", "type": "invalid_request_error"}
        return web.json_response({"error": error}, status=400)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", refuse)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    model = Model(lambda request: "")
    model.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield model
    finally:
        await runner.cleanup()


async def asked(*models):
    """The conversation after one request with a picture."""
    switcher = LLMSwitcher([llm_at(model) for model in models])
    breaker = CircuitBreakerProcessor()
    breaker.failover(switcher)
    context = LLMContext([{"role": "user", "content": "hello"}, dict(ASKS)])
    async with running(breaker, switcher, Ear()) as worker:
        await worker.queue_frame(LLMContextFrame(context))
        for _ in range(100):
            await passed(0.05)
            if all(model.asked for model in models[1:]):
                break
        await passed(0.3)
    return context


async def test__first_refuses_a_picture__second_is_asked_the_same_and_the_conversation_keeps_it():
    async with refusing() as first, Model(lambda r: "A cat. It sleeps.").serving() as second:
        context = await asked(first, second)

    assert len(second.asked) == 1
    assert "image_url" in json.dumps(second.asked[0]["messages"])
    assert len(context.get_messages()) == 2


@pytest.mark.skipif(
    not hasattr(LLMContext, "remove_invalid_file_message"), reason="no release before repairs"
)
async def test__every_service_refuses_a_picture__it_is_taken_out_once():
    async with refusing() as first, refusing() as second:
        context = await asked(first, second)

    assert [message["content"] for message in context.get_messages()] == ["hello"]
    assert "remove_invalid_file_message" not in vars(context)
