"""A request with a picture that the first provider refuses."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from failover_parts import Ear
from pipecat.frames.frames import LLMContextFrame
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.processors.aggregators.llm_context import LLMContext

from bot import running
from pipecat_circuit_breaker import CircuitBreakerProcessor
from tool_bot import Model, llm_at


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
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def test__first_refuses_a_picture__second_is_asked_the_same_question():
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    asks = {"role": "user", "content": [{"type": "text", "text": "what is it?"}, picture]}
    async with refusing() as url, Model(lambda r: "A cat. It sleeps.").serving() as model:
        second = llm_at(model)
        refused = Model(lambda r: "")
        refused.url = url
        switcher = LLMSwitcher([llm_at(refused), second])
        breaker = CircuitBreakerProcessor()
        breaker.failover(switcher)
        context = LLMContext([{"role": "user", "content": "hello"}, dict(asks)])
        ear = Ear()
        async with running(breaker, switcher, ear) as worker:
            await worker.queue_frame(LLMContextFrame(context))
            await asyncio.sleep(1.5)
        assert len(model.asked) == 1
        assert "image_url" in json.dumps(model.asked[0]["messages"]), model.asked[0]["messages"]
        assert len(context.get_messages()) == 2
