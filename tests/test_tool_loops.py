"""A model that calls tools without end is asked for an answer without them, and no more.

pipecat's own OpenAI service, against a local server that plays the model: what is counted are requests
that have gone over HTTP. Written with names that every release from 0.0.108 on has.
"""

import asyncio
import copy
import inspect
import json
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.metadata import version
from types import SimpleNamespace

import pytest
from loguru import logger
from pipecat.frames.frames import (
    FunctionCallInProgressFrame,
    FunctionCallResultProperties,
    InterruptionFrame,
    LLMContextFrame,
    LLMMessagesAppendFrame,
    LLMMessagesUpdateFrame,
    LLMRunFrame,
    ManuallySwitchServiceFrame,
)
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.parallel_pipeline import ParallelPipeline
from pipecat.pipeline.service_switcher import ServiceSwitcherStrategyManual
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from tenacity import wait_fixed

from pipecat_circuit_breaker import (
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    Mode,
    ToolLoop,
)
from pipecat_circuit_breaker._pipeline.tools import is_without_tools, without_tools
from releases.room import running
from tool_bot import (
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

pytestmark = [
    pytest.mark.releases,
    # The older names are what runs on every release.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

RELEASE = tuple(int(part) for part in version("pipecat-ai").split(".")[:2])
LIMIT, FAILED_LIMIT = 10, 3


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Connect to loopback directly, whatever proxy the environment names."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


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


REPORTS_RAISED = pytest.mark.skipif(
    RELEASE < (1, 8), reason="before 1.8 a tool that raises never reports, and the turn hangs"
)
FAILING = [pytest.param(raises, marks=REPORTS_RAISED), fails]


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


def idle():
    """What an application asks by itself: no turn of the user."""
    prompt = {"role": "developer", "content": "the user is quiet"}
    return LLMMessagesAppendFrame(messages=[prompt], run_llm=True)


async def test__told_again_by_what_the_handler_asks__is_no_loop():
    async with calling(calls(obeys=False), fails) as call:

        async def on_tool_loop(breaker, loop):
            await call.worker.queue_frame(idle())

        call.breaker.add_event_handler("on_tool_loop", on_tool_loop)
        await call.hears(requests=FAILED_LIMIT + 2)

        assert len(call.loops) == 1


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


#
# Services that do not hand `tool_choice` on
#


class Played(FrameProcessor):
    """What the breaker sees of an LLM service that is not OpenAI's: it calls its tool at each request."""

    class Adapter:
        pass

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.asked = []
        self.ran = 0

    def get_llm_adapter(self):
        return self.Adapter()

    async def run_function_calls(self, function_calls):
        self.ran += 1
        for call in function_calls:
            call.context.get_messages().append(
                {
                    "role": "tool",
                    "tool_call_id": call.tool_call_id,
                    "content": json.dumps({"error": "no route"}),
                }
            )

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame):
            self.asked.append([*frame.context.get_messages()])
            await self.run_function_calls([Called(f"call-{len(self.asked)}", frame.context)])
        else:
            await self.push_frame(frame, direction)


class Called:
    function_name = "look_up"

    def __init__(self, tool_call_id, context):
        self.tool_call_id, self.context = tool_call_id, context


class Realtime(Played):
    """One that holds the conversation at its provider."""

    async def _handle_context(self, context):
        pass


class SaysRealtime(Played):
    """One of somebody else's, which says that it does."""

    def service_metadata_frame(self):
        return SimpleNamespace(is_realtime_service=True)


async def asked(llm, requests, brings=()):
    """Ask a model that fails as often, as what comes of its tools would."""
    context = context_with_tools("look_up")
    context.add_message({"role": "user", "content": "hello"})
    breaker, after = CircuitBreakerProcessor(), Relay()
    frames = []
    async with running(breaker, llm, after):
        for n in range(requests):
            context.add_messages([*brings] if n else [])
            frames.append(LLMContextFrame(context))
            await after.push_frame(frames[-1], FrameDirection.UPSTREAM)
            await until(lambda n=n: len(llm.asked) == n + 1)
        await rest()
    assert all(frame.context is context for frame in frames)
    return context


class Relay(FrameProcessor):
    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)


async def test__adapter_without_tool_choice__gets_an_instruction_once_and_the_context_none():
    llm = Played()

    context = await asked(llm, FAILED_LIMIT + 2)

    told = [[m["content"] for m in messages if m["role"] == "developer"] for messages in llm.asked]
    assert [len(texts) for texts in told] == [0, 0, 0, 1, 1]
    assert "Tools are off" in told[-1][0]
    assert llm.asked[-1][-1]["role"] == "developer"
    assert [m["role"] for m in context.get_messages()] == ["user", "tool", "tool", "tool"]
    assert llm.ran == FAILED_LIMIT


ADAPTERS = [
    ("gemini", "GeminiLLMAdapter"),
    ("anthropic", "AnthropicLLMAdapter"),
    ("bedrock", "AWSBedrockLLMAdapter"),
    ("open_ai_responses", "OpenAIResponsesLLMAdapter"),
]


def adapter_of(module, name):
    # 1.14.0 moved them.
    for package in ("pipecat.adapters.llm.services", "pipecat.adapters.services"):
        try:
            return getattr(import_module(f"{package}.{module}_adapter"), name)()
        except Exception:  # 0.0.108 raises nothing narrower
            continue
    pytest.skip(f"{name} needs a package that is not there")


@pytest.mark.parametrize(("module", "name"), ADAPTERS)
async def test__real_adapter_without_tool_choice__instruction_reaches_the_provider(module, name):
    llm, adapter = Played(), adapter_of(module, name)
    llm.get_llm_adapter = lambda: adapter
    context = context_with_tools("look_up")
    context.add_message({"role": "user", "content": "hello"})

    request = without_tools(llm, LLMContextFrame(context))

    wants = inspect.signature(adapter.get_llm_invocation_params).parameters
    caching = {"enable_prompt_caching": False} if "enable_prompt_caching" in wants else {}
    given = adapter.get_llm_invocation_params(request.context, **caching)
    given = await given if inspect.isawaitable(given) else given
    assert str(given).count("Tools are off") == 1
    assert "look_up" in str(given["tools"])
    assert len(context.get_messages()) == 1


async def test__no_tools_in_the_context__gets_an_instruction_and_no_choice():
    # OpenAI refuses a choice of tools where there are none.
    llm = llm_at(Model(calls()))

    request = without_tools(llm, LLMContextFrame(context_with_tools()))

    assert request.context.tool_choice != "none"
    assert "Tools are off" in request.context.get_messages()[-1]["content"]


async def test__service_mends_the_messages__mends_the_application_s():
    context = context_with_tools("look_up")

    request = without_tools(Played(), LLMContextFrame(context))
    request.context.add_message({"role": "user", "content": "hello"})

    assert [m["role"] for m in context.get_messages()] == ["user"]
    assert [m["role"] for m in request.context.get_messages()] == ["user", "developer"]


@pytest.mark.parametrize("kind", [Realtime, SaysRealtime])
async def test__realtime_service__is_left_alone(kind):
    llm = kind()

    await asked(llm, FAILED_LIMIT + 2)

    assert llm.ran == FAILED_LIMIT + 2
    assert not any(m["role"] == "developer" for messages in llm.asked for m in messages)


async def test__tool_brings_a_picture_each_time__ends_all_the_same():
    llm = Played()
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}

    await asked(llm, FAILED_LIMIT + 2, brings=[{"role": "user", "content": [url]}])

    assert llm.ran == FAILED_LIMIT


async def test__tools_of_the_provider_only__are_tools():
    context = LLMContext()
    context._tools = SimpleNamespace(standard_tools=[], custom_tools={"openai": [{}]})

    request = without_tools(Played(), LLMContextFrame(context))

    assert request.context.tool_choice == "none"


async def test__asked_without_tools_by_somebody_else__held_not_counted_and_not_told():
    llm, loops = Played(), []
    breaker = CircuitBreakerProcessor()
    breaker.add_event_handler("on_tool_loop", told(loops))
    request = without_tools(llm, LLMContextFrame(context_with_tools("look_up")))
    async with running(breaker, llm):
        for n in range(LIMIT + 1):
            await llm.run_function_calls([Called(f"call-{n}", request.context)])
        await rest()

        assert llm.ran == 0
        assert loops == []

        await llm.run_function_calls([Called("call", context_with_tools("look_up"))])
        assert llm.ran == 1


class Broken(Played):
    """Calls its tool once, which fails, and then fails itself."""

    def __init__(self, clock):
        super().__init__()
        self._clock = clock

    async def process_frame(self, frame, direction):
        if not self.asked or not isinstance(frame, LLMContextFrame) or len(self.asked) >= STORM:
            await super().process_frame(frame, direction)
            return
        await FrameProcessor.process_frame(self, frame, direction)
        self.asked.append(frame.context)
        self._clock.advance(8.0)
        await self.push_error("the provider is down")


async def test__request_without_tools__has_the_cause_that_it_had(clock):
    # Slower than the window: only its lineage tells that it is a loop.
    llm, context = Broken(clock), context_with_tools("look_up")
    params = CircuitBreakerParams(
        max_failed_tool_rounds=1, cooldown=wait_fixed(10_000), clock=clock
    )
    async with running(CircuitBreakerProcessor(params=params), llm) as worker:

        async def on_pipeline_error(worker, frame):
            await worker.queue_frame(LLMContextFrame(context))

        worker.add_event_handler("on_pipeline_error", on_pipeline_error)
        for _ in range(2):
            await worker.queue_frame(LLMContextFrame(context))
            await rest()

        assert is_without_tools(llm.asked[1])
        assert len(llm.asked) <= 10


#
# The breaker itself
#


async def test__pipeline_is_over__service_is_as_it_was():
    async with calling(calls(1), good) as call:
        assert "run_function_calls" in vars(call.llm)
        await call.hears(requests=2)

    assert "run_function_calls" not in vars(call.llm)


async def test__breaker_fails__tools_run_and_it_is_reported_once(monkeypatch):
    from pipecat_circuit_breaker._core.tool_rounds import ToolRounds

    def broken(*args, **kwargs):
        raise ValueError("a bug")

    async with calling(calls(6), good) as call:
        monkeypatch.setattr(ToolRounds, "asked", broken)
        monkeypatch.setattr(ToolRounds, "called", broken)
        await call.hears(requests=7)

        assert call.tool.runs == 6
        assert len([line for line in call.log if "circuit breaker failed" in line]) == 2


async def test__listener_raises__the_other_is_told():
    async with calling(calls(obeys=False), fails) as call:
        call.breaker.guard._loop_listeners.insert(0, raises)

        await call.hears(requests=FAILED_LIMIT + 1)

        assert call.tool.runs == FAILED_LIMIT
        assert len(call.loops) == 1


async def test__tools_off__frames_of_the_last_calls__do_not_reach_anybody():
    seen = []

    class Tap(Relay):
        async def process_frame(self, frame, direction):
            if isinstance(frame, FunctionCallInProgressFrame):
                seen.append(frame)
            await super().process_frame(frame, direction)

    def around(user, llm, assistant):
        return [user, llm, Tap(), assistant]

    async with calling(calls(obeys=False), fails, around=around) as call:
        await call.hears(requests=FAILED_LIMIT + 1)

        assert len(seen) == FAILED_LIMIT


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
