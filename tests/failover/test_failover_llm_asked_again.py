"""A request that fails or hangs is asked again: one whole answer is heard, and no error."""

import asyncio

import pytest
from pipecat.frames.frames import (
    InterruptionFrame,
    LLMMessagesAppendFrame,
    LLMRunFrame,
    LLMTextFrame,
)
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.services.llm_service import FunctionCallFromLLM
from tenacity import wait_fixed

from pipecat_circuit_breaker import CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import running
from tests.failover.failover_parts import (
    FAIL,
    GOOD,
    HANG,
    HEARD,
    Bot,
    Ear,
    Scripted,
    first_fails,
    passed,
    words,
)

pytestmark = pytest.mark.releases


async def test__first_fails__second_answers__one_whole_answer_and_no_error():
    first, second = first_fails([FAIL])
    async with Bot(first, second).talking() as bot:
        await bot.ask()

        assert bot.answers == [HEARD]
        assert bot.errors == []
        assert bot.told == ["failed first first failed: no answer True"]
        assert first.asked == second.asked
        assert bot.switches == 1


async def test__first_hangs__second_is_asked_when_the_time_is_over_and_not_before():
    first, second = first_fails([HANG])
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=4.9)
        assert second.asked == []
        await passed(0.2)

        assert bot.answers == [HEARD]
        assert bot.told == ["failed first no answer within 5 s True"]
        assert first.running == 0


async def test__time_limit_is_a_setting():
    first, second = first_fails([HANG])
    async with Bot(first, second, attempt_timeout_secs=1.5).talking() as bot:
        await bot.ask(secs=1.6)

        assert bot.answers == [HEARD]


async def test__stream_breaks_in_its_first_sentence__nobody_hears_of_it():
    first, second = first_fails([*words("I am"), FAIL])
    async with Bot(first, second).talking() as bot:
        await bot.ask()

        assert bot.answers == [HEARD]
        assert bot.errors == []


async def test__late_token_of_the_first__nobody_hears_it():
    class Deaf(Scripted):
        async def answer(self, script, context):
            try:
                await super().answer(script, context)
            except asyncio.CancelledError:  # as a library that swallows it
                await self.push_frame(LLMTextFrame("Too late. "))
                await self.run_function_calls(
                    [FunctionCallFromLLM("book", "1", {}, context)],
                )

    called = []

    async def book(params):
        called.append(params)

    first, second = Deaf("first", ["I ", HANG]), Scripted("second", GOOD)
    async with Bot(first, second).talking() as bot:
        bot.switcher.register_function("book", book)
        await bot.ask(secs=6)
        assert bot.answers == [HEARD] and called == []


async def test__stream_stalls_in_its_first_sentence__asked_again():
    first, second = first_fails([*words("I am"), HANG])
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=6)

        assert bot.answers == [HEARD]


async def test__stream_breaks_after_its_first_sentence__lost_and_told_once():
    first, second = first_fails([*words("I am here. What can"), FAIL])
    async with Bot(first, second).talking() as bot:
        await bot.ask()
        await bot.ask()

        assert bot.answers == ["I am here. What can", HEARD]
        assert [error.error for error in bot.errors] == ["first failed: no answer"]
        assert bot.told == [
            "failed first first failed: no answer False",
            "lost I am here. What can",
        ]


async def test__service_repairs_the_context_of_a_shadow__the_conversation_stays():
    class Repairs(Scripted):
        async def answer(self, script, context):
            if len(self.asked) == 2:
                context.get_messages().clear()
            raise ConnectionError("refused")

    first, second = Repairs("first", GOOD), Scripted("second", GOOD)
    async with Bot(first, second).talking() as bot:
        for _ in range(3):
            await bot.ask()

        assert len(first.asked) == 2
        assert len(bot.context.get_messages()) == 3


async def test__somebody_else_stops_the_service__nobody_is_blamed_and_nothing_is_said():
    first, second = first_fails(["I ", HANG])
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=1)
        await first.queue_frame(InterruptionFrame())
        await passed(10)

        assert bot.answers == [""]
        assert bot.told == [] and second.asked == []


async def test__three_services__each_is_asked_once_and_in_order():
    first, second = Scripted("first", [FAIL]), Scripted("second", [HANG])
    third = Scripted("third", GOOD)
    async with Bot(first, second, third).talking() as bot:
        await bot.ask(secs=6)

        assert bot.answers == [HEARD]
        assert [len(llm.asked) for llm in bot.llms] == [1, 1, 1]
        assert [told.split()[:2] for told in bot.told] == [
            ["failed", "first"],
            ["failed", "second"],
        ]


async def test__run_frames_and_appends_quickly__each_is_answered():
    context = LLMContext()
    pair = LLMContextAggregatorPair(context)
    breaker, ear = CircuitBreakerProcessor(), Ear()
    first, second = Scripted("first", [FAIL]), Scripted("second", GOOD)
    switcher = LLMSwitcher([first, second])
    breaker.failover(switcher, cooldown=wait_fixed(1))
    async with running(breaker, pair.user(), switcher, ear, pair.assistant()) as worker:
        for n in range(4):
            say = {"role": "user", "content": f"q{n}"}
            await worker.queue_frame(LLMMessagesAppendFrame(messages=[say], run_llm=True))
            await worker.queue_frame(LLMRunFrame())
        await passed(20)
        assert ear.answers == [HEARD] * 8
        said = [m["content"] for m in context.get_messages() if m["role"] == "assistant"]
        assert said == [HEARD] * 8
