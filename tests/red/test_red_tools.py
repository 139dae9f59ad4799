"""What breaks the tool-loop guard, alone and with failover."""

import asyncio
import copy

import pytest
from pipecat.frames.frames import (
    FunctionCallResultProperties,
    LLMContextFrame,
    LLMMessagesAppendFrame,
    LLMMessagesUpdateFrame,
    LLMRunFrame,
)
from pipecat.processors.frame_processor import FrameProcessor

from bot import running, settle
from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from tool_bot import Model, Tool, aggregators, context_with_tools, llm_at, says, until


@pytest.fixture
def event_loop_policy():
    return asyncio.DefaultEventLoopPolicy()


async def run_bot(model, llm, context, *, params=None, extra=(), between=(), secs=2.0, first=None):
    user, assistant = aggregators(context)
    breaker = CircuitBreakerProcessor(params=params or CircuitBreakerParams())
    loops = []

    @breaker.event_handler("on_tool_loop")
    async def on_tool_loop(breaker, loop):
        loops.append(loop)

    parts = [breaker, *extra, user, *between, llm, assistant]
    async with running(*parts) as worker:
        await (first or (lambda w: w.queue_frame(says("go"))))(worker)
        await asyncio.sleep(secs)
    return loops


async def test__same_user_message_object_appended_again__is_a_turn_each_time():
    """An application that appends a constant each minute: each is a message of the role `user`."""
    check = {"role": "user", "content": "check the oven"}

    def decide(request):
        if request["messages"][-1]["role"] == "tool" or request.get("tool_choice") == "none":
            return "Fine."
        return [("look", {})]

    tool = Tool(lambda n: {"ok": True})
    async with Model(decide).serving() as model:
        llm = llm_at(model, look=tool)

        async def first(worker):
            for _n in range(14):
                asked = len(model.asked)
                await worker.queue_frame(LLMMessagesAppendFrame(messages=[check], run_llm=True))
                await until(lambda a=asked: model.answered > a and not llm_is_busy(model))
                await asyncio.sleep(0.1)

        await run_bot(model, llm, context_with_tools("look"), first=first, secs=0.2)
        off = [n for n, r in enumerate(model.asked) if r.get("tool_choice") == "none"]
        assert (tool.runs, off) == (14, [])


def llm_is_busy(model):
    return len(model.asked) != model.answered


class Redactor(FrameProcessor):
    """Hands on a deep copy of each context, as one that takes personal data out does."""

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame):
            frame = LLMContextFrame(copy.deepcopy(frame.context))
        await self.push_frame(frame, direction)


@pytest.mark.parametrize("copies", [False, True])
async def test__failing_tool_asks_by_run_frame__ends(copies):
    context = context_with_tools("book")
    holder = {}

    async def book(params):
        book.runs += 1
        await params.result_callback(
            {"error": "down"}, properties=FunctionCallResultProperties(run_llm=False)
        )
        await asyncio.sleep(0.01)
        await holder["worker"].queue_frame(LLMRunFrame())

    book.runs = 0
    async with Model(lambda r: [("book", {})]).serving() as model:
        llm = llm_at(model)
        llm.register_function("book", book)

        async def first(worker):
            holder["worker"] = worker
            await worker.queue_frame(says("go"))

        await run_bot(
            model, llm, context, first=first, between=[Redactor()] if copies else [], secs=1.5
        )
        assert len(model.asked) <= 5, len(model.asked)


async def test__loop_by_messages_update_with_equal_messages__ends():
    """A flow: each transition sets the same messages anew, from its own template."""
    context = context_with_tools("book")
    holder = {}

    async def book(params):
        await params.result_callback(
            {"error": "down"}, properties=FunctionCallResultProperties(run_llm=False)
        )
        await asyncio.sleep(0.01)
        messages = copy.deepcopy(params.context.get_messages())
        await holder["worker"].queue_frame(LLMMessagesUpdateFrame(messages=messages, run_llm=True))

    async with Model(lambda r: [("book", {})]).serving() as model:
        llm = llm_at(model)
        llm.register_function("book", book)

        async def first(worker):
            holder["worker"] = worker
            await worker.queue_frame(says("go"))

        await run_bot(model, llm, context, first=first, secs=1.5)
        assert len(model.asked) <= 5, len(model.asked)


@pytest.mark.parametrize("how", ["raises", "unknown", "times out", "twice"])
async def test__loop_ends_however_the_tool_fails(how):
    context = context_with_tools("book")

    async def book(params):
        if how == "raises":
            raise ValueError("down")
        if how == "times out":
            await asyncio.sleep(10)
        await params.result_callback({"error": "down"})
        await params.result_callback({"error": "down"})

    async with Model(lambda r: [("book" if how != "unknown" else "bock", {})]).serving() as model:
        llm = llm_at(model)
        llm.register_function("book", book, timeout_secs=0.01 if how == "times out" else None)
        loops = await run_bot(model, llm, context, secs=2.0)
        assert len(model.asked) <= (11 if how == "times out" else 4), len(model.asked)
        assert len(loops) == 1


async def test__async_tool_that_fails__ends():
    context = context_with_tools("book")
    tool = Tool(lambda n: {"error": "down"})
    async with Model(lambda r: [("book", {})]).serving() as model:
        llm = llm_at(model)
        llm.register_function("book", tool, cancel_on_interruption=False)
        await run_bot(model, llm, context, secs=2.0)
        assert len(model.asked) <= 12, len(model.asked)


async def test__two_breakers__one_answer_and_one_telling():
    context = context_with_tools("book")
    tool = Tool(lambda n: {"error": "down"})
    async with Model(lambda r: [("book", {})]).serving() as model:
        llm = llm_at(model, book=tool)
        loops = await run_bot(model, llm, context, extra=[CircuitBreakerProcessor()], secs=1.5)
        assert len(model.asked) == 4
        assert len(loops) <= 1 and tool.runs == 3


async def test__twenty_turns_with_a_tool__all_tools_on():
    def decide(request):
        return "Fine." if request["messages"][-1]["role"] == "tool" else [("look", {})]

    tool = Tool(lambda n: {"ok": True})
    async with Model(decide).serving() as model:
        llm = llm_at(model, look=tool)

        async def first(worker):
            for n in range(20):
                await worker.queue_frame(says(f"look {n}"))
                await until(lambda n=n: model.answered >= 2 * (n + 1))
                await settle()

        await run_bot(model, llm, context_with_tools("look"), first=first, secs=0.2)
        assert tool.runs == 20
