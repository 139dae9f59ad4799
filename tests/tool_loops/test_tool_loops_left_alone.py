"""What is no loop: tools that work, limits that are not reached, and each turn of the user."""

import pytest
from pipecat.frames.frames import InterruptionFrame, LLMMessagesAppendFrame

from pipecat_circuit_breaker import CircuitBreakerProcessor
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
    texts,
    tools_are_off,
    until,
)
from tests.tool_loops.tool_loop_parts import (
    FAILED_LIMIT,
    LIMIT,
    about_tools,
    calling,
    calls,
    fails,
    good,
    idle,
    rest,
)

pytestmark = pytest.mark.releases


#
# What is left alone
#


@pytest.mark.parametrize("rounds", [1, 6, LIMIT - 1])
async def test__good_calls_below_the_limit__are_untouched(rounds):
    async with calling(calls(rounds), good) as call:
        await call.hears(requests=rounds + 1)

        assert call.tool.runs == rounds
        assert not any("tool_choice" in request for request in call.model.asked)
        assert len(call.said) == 1
        assert about_tools(call.log) == [] and call.loops == []


async def test__as_many_good_calls_as_the_limit__run_and_the_last_answer_has_no_tools():
    async with calling(calls(LIMIT), good) as call:
        await call.hears(requests=LIMIT + 1)

        assert call.tool.runs == LIMIT
        assert len(call.said) == 1
        assert call.loops == []


async def test__one_more_than_the_limit__does_not_run():
    async with calling(calls(LIMIT + 1, obeys=False), good) as call:
        await call.hears(requests=LIMIT + 1)

        assert call.tool.runs == LIMIT
        assert [loop.rounds for loop in call.loops] == [LIMIT]


async def test__errors_that_are_null__are_none():
    async with calling(calls(6), lambda n: {"error": None, "seats": n}) as call:
        await call.hears(requests=7)

        assert call.tool.runs == 6


async def test__errors_below_the_limit_and_then_a_result__are_untouched():
    async with calling(calls(6), lambda n: fails(n) if n < FAILED_LIMIT else good(n)) as call:
        await call.hears(requests=7)

        assert call.tool.runs == 6


async def test__three_tools_at_once__are_one_round():
    def decide(request):
        if tools_are_off(request):
            return "I could not look it up."
        return [("look_up", {"n": n}) for n in range(3)]

    async with calling(decide, good) as call:
        await call.hears(requests=LIMIT + 1)

        assert call.tool.runs == 3 * LIMIT


async def test__tools_asked_for_off__application_context_is_not_touched():
    async with calling(calls(), fails) as call:
        choice, offered = call.context.tool_choice, call.context.tools

        await call.hears(requests=FAILED_LIMIT + 1)

        assert call.context.tool_choice is choice
        assert call.context.tools is offered
        roles = [message["role"] for message in call.context.get_messages()]
        assert roles == ["user", *["assistant", "tool"] * FAILED_LIMIT, "assistant"]
        # The messages are those of the context, and its tools are still offered.
        last = call.model.asked[-1]
        assert last["messages"] == call.context.get_messages()[:-1]
        assert last["tools"] == call.model.asked[0]["tools"]


async def test__limits_are_none__loops_as_without():
    async with calling(calls(), fails, max_tool_rounds=None, max_failed_tool_rounds=None) as call:
        await call.hears(requests=STORM)

        assert "run_function_calls" not in vars(call.llm)


async def test__limits_of_ones_own__hold():
    async with calling(calls(), fails, max_tool_rounds=2, max_failed_tool_rounds=None) as call:
        await call.hears(requests=3)


#
# Turns
#


async def test__user_speaks_again__counts_anew():
    async with calling(calls(), fails) as call:
        await call.hears("first", requests=4)
        await call.hears("second", requests=8)

        off = [tools_are_off(request) for request in call.model.asked]
        assert off == [False, False, False, True] * 2
        assert len(about_tools(call.log)) == 2


async def test__six_good_calls_in_each_of_three_turns__are_untouched():
    asked = 0

    def decide(request):
        nonlocal asked
        asked += 1
        return "Here you are." if asked % 7 == 0 else [("look_up", {"n": asked})]

    async with calling(decide, good) as call:
        for turn in range(1, 4):
            await call.hears(requests=7 * turn)

        assert call.tool.runs == 18
        assert not any("tool_choice" in request for request in call.model.asked)


async def test__application_asks_by_itself_after_the_limit__still_without_tools():
    async with calling(calls(), fails) as call:
        await call.hears(requests=4)

        await call.worker.queue_frame(idle())
        await call.settled(5)

        assert tools_are_off(call.model.asked[-1])
        assert call.tool.runs == FAILED_LIMIT


async def test__user_interrupts_in_the_middle__counts_anew_and_ends_all_the_same():
    async with calling(calls(), fails) as call:
        await call.worker.queue_frame(says("first"))
        await until(lambda: call.model.answered == 2)
        call.model.may_answer.clear()
        await until(lambda: len(call.model.asked) == 3)

        await call.worker.queue_frame(InterruptionFrame())
        await rest()
        call.model.may_answer.set()
        await call.worker.queue_frame(says("second"))
        await until(lambda: tools_are_off(call.model.asked[-1]))
        await rest()

        after = [request for request in call.model.asked if "second" in texts(request)]
        assert [tools_are_off(request) for request in after] == [False] * 3 + [True]
        assert len(call.said) == 1


async def test__user_interrupts_the_answer_without_tools__has_them_again():
    async with calling(calls(), fails) as call:
        await call.worker.queue_frame(says("first"))
        await until(lambda: call.model.answered == 3)
        call.model.may_answer.clear()
        await until(lambda: len(call.model.asked) == 4)
        assert tools_are_off(call.model.asked[-1])

        await call.worker.queue_frame(InterruptionFrame())
        await rest()
        call.model.may_answer.set()
        await call.worker.queue_frame(says("second"))
        await until(lambda: "second" in texts(call.model.asked[-1]))

        assert "tool_choice" not in call.model.asked[4]
        await until(lambda: tools_are_off(call.model.asked[-1]))


async def test__application_appends_one_and_the_same_message_each_minute__each_is_a_turn():
    context = context_with_tools("look")
    user, assistant = aggregators(context)
    check = {"role": "user", "content": "check the oven"}
    tool = Tool(lambda n: {"ok": True})

    def answer(request):
        return "Fine." if request["messages"][-1]["role"] == "tool" else [("look", {})]

    async with Model(answer).serving() as model:
        llm = llm_at(model, look=tool)
        async with running(CircuitBreakerProcessor(), user, llm, assistant) as worker:
            for turn in range(1, LIMIT + 4):
                await worker.queue_frame(LLMMessagesAppendFrame(messages=[check], run_llm=True))
                await until(lambda turn=turn: spoken(context).count("Fine.") == turn)

    assert tool.runs == LIMIT + 3
    assert not any(tools_are_off(request) for request in model.asked)
