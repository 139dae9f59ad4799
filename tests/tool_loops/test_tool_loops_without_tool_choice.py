"""LLM services that do not hand `tool_choice` on: an instruction tells the model."""

import inspect
import json
from importlib import import_module
from types import SimpleNamespace

import pytest
from pipecat.frames.frames import LLMContextFrame
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from tenacity import wait_fixed

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker._pipeline.tools import is_without_tools, without_tools
from pipecat_circuit_breaker.testing import running
from tests.support.tool_bot import STORM, Model, context_with_tools, llm_at, until
from tests.tool_loops.tool_loop_parts import FAILED_LIMIT, LIMIT, Relay, calls, rest, told

pytestmark = pytest.mark.releases


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
