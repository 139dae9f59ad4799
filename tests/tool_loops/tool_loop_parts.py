"""A bot that calls tools: pipecat's own OpenAI service, against a local server that plays the model.

What is counted are requests that have gone over HTTP. Written with names that every release from
0.0.108 on has.
"""

import asyncio
from contextlib import asynccontextmanager
from importlib.metadata import version

import pytest
from loguru import logger
from pipecat.frames.frames import LLMMessagesAppendFrame
from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import running
from tests.support.tool_bot import (
    STORM,
    Model,
    Tool,
    aggregators,
    context_with_tools,
    llm_at,
    says,
    spoken,
    tools_are_off,
    until,
)

RELEASE = tuple(int(part) for part in version("pipecat-ai").split(".")[:2])
LIMIT, FAILED_LIMIT = 10, 3


def calls(rounds=STORM, *, obeys=True, tool="look_up"):
    """A model that calls a tool so many times, and then answers; without tools at once if it obeys."""
    asked = 0

    def decide(request):
        nonlocal asked
        if tools_are_off(request) and obeys:
            return "I could not look it up."
        asked += 1
        if asked > rounds:
            return "Here you are."
        return [(tool, {"n": asked})]

    return decide


def good(n):
    return {"seats": n}


def raises(n):
    raise RuntimeError("no route to the booking system")


def fails(n):
    return {"error": "no route to the booking system"}


REPORTS_RAISED = pytest.mark.skipif(
    RELEASE < (1, 8), reason="before 1.8 a tool that raises never reports, and the turn hangs"
)
FAILING = [pytest.param(raises, marks=REPORTS_RAISED), fails]


class Call:
    """A call that is going on: what was asked, what ran, what was told and said."""

    def __init__(self, model, tool, context, llm, breaker, worker, log):
        self.model, self.tool, self.context, self.llm = model, tool, context, llm
        self.breaker, self.worker, self.log = breaker, worker, log
        self.loops = []

    async def hears(self, text="hello", *, requests):
        """Say something to the bot, and wait until it has asked the model so often, and no more."""
        await self.worker.queue_frame(says(text))
        await self.settled(requests)

    async def settled(self, requests):
        await until(lambda: self.model.answered >= requests)
        await rest()
        assert len(self.model.asked) == requests

    @property
    def said(self):
        return spoken(self.context)


async def rest():
    """Long enough for another request to get through, if there were one."""
    for _ in range(300):
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)


def in_a_row(user, llm, assistant):
    return [user, llm, assistant]


@asynccontextmanager
async def calling(decide, do, *, breaker=True, around=in_a_row, **params):
    """A bot whose model decides so, and whose tool does this."""
    log = []
    logger.add(lambda line: log.append(line.record["message"]), level="WARNING")
    async with Model(decide).serving() as model:
        tool, context = Tool(do), context_with_tools("look_up")
        llm = llm_at(model, look_up=tool)
        user, assistant = aggregators(context)
        guard = CircuitBreakerProcessor(params=CircuitBreakerParams(**params))
        first = [guard] if breaker else []
        async with running(*first, *around(user, llm, assistant)) as worker:
            call = Call(model, tool, context, llm, guard, worker, log)
            guard.add_event_handler("on_tool_loop", told(call.loops))
            yield call


def told(loops):
    async def on_tool_loop(breaker, loop):
        loops.append(loop)

    return on_tool_loop


def about_tools(log):
    return [line for line in log if "tools off" in line]


def idle():
    """What an application asks by itself: no turn of the user."""
    prompt = {"role": "developer", "content": "the user is quiet"}
    return LLMMessagesAppendFrame(messages=[prompt], run_llm=True)


class Relay(FrameProcessor):
    """Hands every frame on."""

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
