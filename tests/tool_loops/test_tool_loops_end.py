"""A model that calls tools without end is asked for an answer without them, and no more."""

import copy

import pytest
from pipecat.frames.frames import (
    FunctionCallResultProperties,
    LLMContextFrame,
    LLMMessagesUpdateFrame,
    LLMRunFrame,
    ManuallySwitchServiceFrame,
)
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.parallel_pipeline import ParallelPipeline
from pipecat.pipeline.service_switcher import ServiceSwitcherStrategyManual
from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker import CircuitBreakerProcessor, Mode, ToolLoop
from pipecat_circuit_breaker.testing import running
from tests.support.tool_bot import (
    STORM,
    Model,
    Tool,
    aggregators,
    context_with_tools,
    llm_at,
    says,
    tools_are_off,
    until,
)
from tests.tool_loops.tool_loop_parts import (
    FAILED_LIMIT,
    FAILING,
    LIMIT,
    RELEASE,
    about_tools,
    calling,
    calls,
    fails,
    good,
    idle,
    in_a_row,
    rest,
)

pytestmark = pytest.mark.releases


#
# Loops
#


@pytest.mark.parametrize("do", [*FAILING, good])
async def test__no_breaker__model_goes_on__loops_until_somebody_pulls_the_plug(do):
    async with calling(calls(), do, breaker=False) as call:
        await call.hears(requests=STORM)

        assert call.tool.runs == STORM - 1


@pytest.mark.parametrize("do", FAILING)
async def test__tool_fails__model_obeys__answers_without_tools(do):
    async with calling(calls(), do) as call:
        await call.hears(requests=FAILED_LIMIT + 1)

        assert call.tool.runs == FAILED_LIMIT
        assert [tools_are_off(request) for request in call.model.asked] == [False] * 3 + [True]
        assert len(call.said) == 1
        assert call.loops == []


@pytest.mark.parametrize("do", FAILING)
async def test__tool_fails__model_disobeys__is_held_and_told(do):
    async with calling(calls(obeys=False), do) as call:
        await call.hears(requests=FAILED_LIMIT + 1)

        assert call.tool.runs == FAILED_LIMIT
        assert call.said == []
        assert call.loops == [
            ToolLoop(
                processor=call.llm.name,
                rounds=FAILED_LIMIT,
                failed_rounds=FAILED_LIMIT,
                tools=("look_up",),
                mode=Mode.GUARD,
            )
        ]


async def test__model_wants_another_tool_with_its_tools_off__is_told_which():
    def decide(request):
        return [("delete_all" if tools_are_off(request) else "look_up", {})]

    async with calling(decide, fails) as call:
        await call.hears(requests=FAILED_LIMIT + 1)

        assert [loop.tools for loop in call.loops] == [("look_up", "delete_all")]


async def test__tool_works__without_end__is_ended_at_the_limit():
    async with calling(calls(), good) as call:
        await call.hears(requests=LIMIT + 1)

        assert call.tool.runs == LIMIT
        assert tools_are_off(call.model.asked[-1])
        assert len(call.said) == 1


@pytest.mark.skipif(RELEASE < (1, 7), reason="before, pipecat answers no call of an unknown tool")
async def test__unknown_tool__is_a_tool_that_fails():
    async with calling(calls(tool="made_up"), good) as call:
        await call.hears(requests=FAILED_LIMIT + 1)

        assert len(call.said) == 1


@pytest.mark.parametrize("obeys", [True, False])
async def test__limit__is_logged_once_and_what_follows_once(obeys):
    async with calling(calls(obeys=obeys), fails) as call:
        await call.hears(requests=FAILED_LIMIT + 1)
        await call.worker.queue_frame(idle())
        await call.settled(FAILED_LIMIT + 2)

        lines = about_tools(call.log)
        assert len(lines) == (1 if obeys else 2)
        assert "3 times" in lines[0] and "look_up" in lines[0]


async def test__told_again_by_what_the_handler_asks__is_no_loop():
    async with calling(calls(obeys=False), fails) as call:

        async def on_tool_loop(breaker, loop):
            await call.worker.queue_frame(idle())

        call.breaker.add_event_handler("on_tool_loop", on_tool_loop)
        await call.hears(requests=FAILED_LIMIT + 2)

        assert len(call.loops) == 1


class Redactor(FrameProcessor):
    """Hands on a deep copy of each context, as one that takes personal data out does."""

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame):
            frame = LLMContextFrame(copy.deepcopy(frame.context))
        await self.push_frame(frame, direction)


def has_result(context, call):
    found = [m for m in context.get_messages() if m.get("tool_call_id") == call]
    return bool(found) and "error" in found[0]["content"]


def run_again(context):
    return LLMRunFrame()


def say_again(context):
    """A flow that sets the same conversation anew."""
    return LLMMessagesUpdateFrame(messages=copy.deepcopy(context.get_messages()), run_llm=True)


@pytest.mark.parametrize("between", [[], [Redactor]], ids=["as it is", "copied"])
@pytest.mark.parametrize("again", [run_again, say_again])
async def test__failing_tool_has_the_model_asked_anew__ends(again, between):
    context = context_with_tools("book")
    user, assistant = aggregators(context)
    told = []

    async def book(params):
        await params.result_callback(
            {"error": "down"}, properties=FunctionCallResultProperties(run_llm=False)
        )
        # Not before the result is in the context.
        await until(lambda: has_result(context, params.tool_call_id))
        await worker.queue_frame(again(context))

    async with Model(lambda request: [("book", {})]).serving() as model:
        llm = llm_at(model)
        llm.register_function("book", book)
        breaker = CircuitBreakerProcessor()
        breaker.add_event_handler("on_tool_loop", lambda breaker, loop: told.append(loop))
        async with running(breaker, user, *[make() for make in between], llm, assistant) as worker:
            await worker.queue_frame(says("go"))
            await until(lambda: told or len(model.asked) > FAILED_LIMIT + 1)

    assert [loop.failed_rounds for loop in told] == [FAILED_LIMIT]
    assert len(model.asked) == FAILED_LIMIT + 1


#
# Modes
#


async def test__observe__changes_nothing_and_tells_once():
    async with calling(calls(), fails, mode=Mode.OBSERVE) as call:
        await call.hears(requests=STORM)

        assert call.tool.runs == STORM - 1
        assert not any("tool_choice" in request for request in call.model.asked)
        [loop] = call.loops
        assert (loop.mode, loop.rounds) == (Mode.OBSERVE, FAILED_LIMIT)
        assert ["would be" in line for line in about_tools(call.log)] == [True]


async def test__disabled__changes_nothing_and_tells_nothing():
    async with calling(calls(), fails, mode=Mode.DISABLED) as call:
        await call.hears(requests=STORM)

        assert about_tools(call.log) == [] and call.loops == []


#
# Several models
#


async def test__two_models_side_by_side__each_has_its_own_count():
    async with Model(calls(6)).serving() as other:
        tool, context = Tool(good), context_with_tools("look_up")
        before, after = aggregators(context)
        branch = in_a_row(before, llm_at(other, look_up=tool), after)

        def around(*parts):
            return [ParallelPipeline([*parts], branch)]

        async with calling(calls(), fails, around=around) as call:
            await call.worker.queue_frame(says("hello"))
            await until(lambda: other.answered == 7 and call.model.answered == 4)
            await rest()

            assert (len(call.model.asked), len(other.asked)) == (4, 7)
            assert tool.runs == 6


async def test__models_that_stand_in_for_one_another__go_on_in_one_count():
    tool = Tool(good)
    async with Model(calls()).serving() as other:
        backup = llm_at(other, look_up=tool)

        def around(user, llm, assistant):
            llms = LLMSwitcher(llms=[llm, backup], strategy_type=ServiceSwitcherStrategyManual)
            return [user, llms, assistant]

        async with calling(calls(), good, around=around) as call:
            await call.worker.queue_frame(says("hello"))
            await until(lambda: call.tool.runs == 4)
            await call.worker.queue_frame(ManuallySwitchServiceFrame(service=backup))
            await until(lambda: any(map(tools_are_off, other.asked)))
            await rest()

            assert call.tool.runs + tool.runs == LIMIT
            assert len(call.model.asked) + len(other.asked) == LIMIT + 1
