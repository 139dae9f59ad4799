"""Models that stand in for one another, and call tools: one turn, one count, one limit.

pipecat's own OpenAI services, against two local servers that play the models.
"""

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.service_switcher import ServiceSwitcherStrategyManual
from tenacity import wait_fixed

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import running
from tests.support.tool_bot import (
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
from tests.tool_loops.tool_loop_parts import fails, good

pytestmark = pytest.mark.releases

TOOL = [("look_up", {})]


def refuses():
    raise web.HTTPInternalServerError


class Call:
    """A call that is going on: what was asked of whom, what ran, what was told and said."""

    def __init__(self, first, second, tool, context, breaker, worker):
        self.first, self.second, self.tool, self.context = first, second, tool, context
        self.breaker, self.worker = breaker, worker
        self.loops, self.told = [], []

    async def hears(self, condition):
        await self.worker.queue_frame(says("hello"))
        await until(lambda: condition(self))
        # Long enough for another request to get through, if there were one.
        await asyncio.sleep(0.2)

    @property
    def said(self):
        return spoken(self.context)


@asynccontextmanager
async def calling(first, second, do, **params):
    """A bot with two models that decide so, and a tool that does this."""
    async with Model(first).serving() as one, Model(second).serving() as two:
        tool, context = Tool(do), context_with_tools("look_up")
        llms = [llm_at(model, look_up=tool) for model in (one, two)]
        for llm in llms:
            llm._client = llm._client.with_options(max_retries=0)
        breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(**params))
        switcher = LLMSwitcher(llms, ServiceSwitcherStrategyManual)
        failover = breaker.failover(switcher, cooldown=wait_fixed(0))
        user, assistant = aggregators(context)
        async with running(breaker, user, switcher, assistant) as worker:
            call = Call(one, two, tool, context, breaker, worker)

            async def on_tool_loop(_, loop):
                call.loops.append(loop)

            async def on_service_failed(_, service, error, saved):
                call.told.append(service)

            breaker.add_event_handler("on_tool_loop", on_tool_loop)
            failover.add_event_handler("on_service_failed", on_service_failed)
            yield call


async def test__asked_with_tools_off__first_fails__second_is_asked_with_tools_off_too():
    def first(request):
        return refuses() if tools_are_off(request) else TOOL

    async with calling(first, lambda request: "I could not look it up.", fails) as call:
        await call.hears(lambda call: call.said)

        assert call.tool.runs == 3
        assert [tools_are_off(request) for request in call.first.asked] == [False] * 3 + [True]
        assert [tools_are_off(request) for request in call.second.asked] == [True]
        assert call.loops == []


async def test__tools_called_at_the_first_and_then_at_the_second__are_rounds_of_one_turn():
    asked = 0

    def first(request):
        nonlocal asked
        asked += 1
        return TOOL if asked == 1 else refuses()

    def second(request):
        return "I could not look it up." if tools_are_off(request) else TOOL

    async with calling(first, second, fails) as call:
        await call.hears(lambda call: call.said)

        assert call.tool.runs == 3
        assert [tools_are_off(request) for request in call.second.asked] == [False, False, True]


async def test__model_disobeys_with_its_tools_off__is_neither_a_failure_nor_silence():
    async with calling(lambda request: TOOL, lambda request: "Yes.", fails) as call:
        await call.hears(lambda call: call.loops)

        assert len(call.loops) == 1
        assert call.tool.runs == 3
        assert call.second.asked == [] and call.told == []
        assert call.breaker.incidents == ()
        assert call.breaker.health()["status"] == "ok"


async def test__tool_called_in_the_shadow__is_not_run_and_no_round():
    asked = 0

    def first(request):
        nonlocal asked
        asked += 1
        return refuses() if asked == 1 else "Here." if asked > 3 else TOOL

    async with calling(first, lambda request: TOOL, good, max_tool_rounds=3) as call:
        await call.hears(lambda call: call.said)

        # One round at the second, and one more while the first is asked in the shadow; it is back,
        # calls a tool, and is then asked without.
        assert [tools_are_off(request) for request in call.second.asked] == [False, False]
        assert [tools_are_off(request) for request in call.first.asked] == [
            False,
            True,
            False,
            True,
        ]
        assert call.tool.runs == 3
        assert call.loops == []


async def test__tool_called_in_the_shadow_of_the_last_answer__is_no_loop():
    asked = 0

    def first(request):
        # In the shadow of each request to the second; the fourth of them is the last.
        nonlocal asked
        asked += 1
        return TOOL if asked == 4 else refuses()

    def second(request):
        return "I could not look it up." if tools_are_off(request) else TOOL

    async with calling(first, second, fails) as call:
        await call.hears(lambda call: call.said)

        assert len(call.first.asked) == 4 and len(call.second.asked) == 4
        assert call.loops == []
        assert call.tool.runs == 3
