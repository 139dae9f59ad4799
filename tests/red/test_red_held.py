"""Tried, and it held; and how pipecat alone does what the failing tests ask for."""

from failover_parts import FAIL, HANG, Bot, Ear, Scripted, passed, words
from pipecat.frames.frames import (
    EndFrame,
    LLMContextFrame,
    LLMMessagesAppendFrame,
    LLMRunFrame,
    LLMTextFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.parallel_pipeline import ParallelPipeline
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from tenacity import wait_fixed
from test_red_llm import GOOD, HEARD, SECOND, Rich, filtering, turn

from bot import running
from pipecat_circuit_breaker import CircuitBreakerProcessor


async def test__control__speculative_answer_of_a_service_that_works_waits_for_the_turn():
    first = Rich("first", words(SECOND))
    async with Bot(first, Rich("second", GOOD)).talking() as bot:
        bot.context.add_message({"role": "user", "content": "hello"})
        await bot.worker.queue_frame(UserStartedSpeakingFrame())
        await bot.worker.queue_frame(LLMContextFrame(bot.context, speculation=True))
        await passed(3)
        assert [f for f, _ in bot.ear.seen if isinstance(f, LLMTextFrame)] == []
        await bot.worker.queue_frame(UserStoppedSpeakingFrame())
        await passed(1)
        assert bot.answers == [SECOND]


async def test__control__turn_completion_without_failures():
    first = filtering("first", ["● ", *GOOD])
    async with Bot(first, filtering("second", GOOD)).talking() as bot:
        for _ in range(3):
            await turn(bot)
        assert bot.answers == [HEARD] * 3


async def test__two_switchers_in_parallel__each_answers_once():
    breaker = CircuitBreakerProcessor()
    ears, branches = [Ear(), Ear()], []
    for n, ear in enumerate(ears):
        llms = [Scripted(f"first {n}", [FAIL]), Scripted(f"second {n}", GOOD)]
        switcher = LLMSwitcher(llms)
        breaker.failover(switcher)
        branches.append([switcher, ear])
    context = LLMContext([{"role": "user", "content": "hello"}])
    async with running(breaker, ParallelPipeline(*branches)) as worker:
        for _ in range(3):
            await worker.queue_frame(LLMContextFrame(context))
        await passed(5)
        assert [ear.answers for ear in ears] == [[HEARD] * 3] * 2


async def test__end_behind_a_hung_request__ends():
    first, second = Scripted("first", [HANG]), Scripted("second", GOOD)
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=None)
        await bot.worker.queue_frame(EndFrame())
        await passed(10)
        assert bot.answers == [HEARD]
        assert bot.worker.has_finished()


async def test__chinese_text__leaves_with_its_first_sentence():
    first = Scripted("first", ["你好", "，我在。", "你", HANG])
    async with Bot(first, Scripted("second", GOOD)).talking() as bot:
        await bot.ask(secs=20)
        assert bot.answers[0].startswith("你好，我在。")


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


async def test__parallel_tools_of_thirty_seconds__asked_again_once_and_nobody_blamed():
    context = LLMContext()
    pair = LLMContextAggregatorPair(context)
    breaker, ear = CircuitBreakerProcessor(), Ear()

    class Two(Scripted):
        async def answer(self, script, context):
            if script == "tools":
                from pipecat.services.llm_service import FunctionCallFromLLM

                await self.stop_ttfb_metrics()
                await self.run_function_calls(
                    [FunctionCallFromLLM("slow", str(n), {}, context) for n in range(2)]
                )
            else:
                await super().answer(script, context)

    first, second = Two("first", "tools", GOOD), Scripted("second", words(SECOND))
    switcher = LLMSwitcher([first, second])
    failover = breaker.failover(switcher)
    lost = []
    failover.add_event_handler("on_service_failed", lambda *a: lost.append(a))

    async def slow(params):
        import asyncio

        await asyncio.sleep(30)
        await params.result_callback({"ok": True})

    switcher.register_function("slow", slow)
    async with running(breaker, pair.user(), switcher, ear, pair.assistant()) as worker:
        say = {"role": "user", "content": "go"}
        await worker.queue_frame(LLMMessagesAppendFrame(messages=[say], run_llm=True))
        await passed(60)
        assert len(first.asked) == 2 and second.asked == [] and lost == []
        assert ear.answers == ["", HEARD]


async def test__control__vad_without_failover__answers_go_on():
    from pipecat.frames.frames import VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame

    first = filtering("first", ["● ", *GOOD])
    async with Bot(first, filtering("second", GOOD)).talking() as bot:
        await bot.worker.queue_frame(VADUserStartedSpeakingFrame())
        await bot.worker.queue_frame(VADUserStoppedSpeakingFrame())
        await turn(bot)
        assert bot.answers == [HEARD]
