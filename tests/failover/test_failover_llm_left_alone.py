"""What a failover leaves alone: contexts, other errors and strategies, and the pipeline when it leaves."""

import pytest
from pipecat.frames.frames import LLMContextFrame
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.parallel_pipeline import ParallelPipeline
from pipecat.pipeline.service_switcher import (
    ServiceSwitcher,
    ServiceSwitcherStrategyFailover,
    ServiceSwitcherStrategyManual,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.filters.identity_filter import IdentityFilter

from pipecat_circuit_breaker import CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import running
from tests.failover.failover_parts import (
    FAIL,
    GOOD,
    HEARD,
    SECOND,
    Bot,
    Call,
    Ear,
    Scripted,
    first_fails,
    passed,
    words,
)

pytestmark = pytest.mark.releases


async def test__aggregators_around_it__the_context_holds_each_thing_once():
    async def book(params):
        await params.result_callback("booked")

    first, second = first_fails(["Let me see. ", Call("book")], [FAIL])
    bot = Bot(first, second)
    bot.switcher.register_function("book", book)
    pair = LLMContextAggregatorPair(bot.context)
    async with running(bot.breaker, pair.user(), bot.switcher, bot.ear, pair.assistant()) as worker:
        bot.worker = worker
        await bot.ask()

        # The second is asked with the call that the first has made, and its result.
        messages = bot.context.get_messages()
        assert [message["role"] for message in messages] == [
            *("user", "assistant", "assistant", "tool", "assistant"),
        ] or [message["role"] for message in messages] == [
            *("user", "assistant", "tool", "assistant", "assistant"),
        ]
        said = [message["content"] for message in messages if message.get("content")]
        assert said.count(HEARD) == 1 and said.count("Let me see.") == 1
        assert said.count('"booked"') == 1
        assert second.asked[0]["role"] in ("tool", "assistant")
    assert bot.told == ["failed first first failed: no answer True"]


async def test__strategy_of_pipecat_that_fails_over__one_switch_for_one_failure():
    first, second = first_fails([FAIL])
    bot = Bot(first, second, strategy=ServiceSwitcherStrategyFailover)
    async with bot.talking():
        await bot.ask()
        assert bot.answers == [HEARD] and bot.switches == 1


async def test__plain_service_switcher__works_as_well():
    first, second = first_fails([FAIL])
    bot = Bot(Scripted("unused", GOOD))
    bot.switcher = ServiceSwitcher([first, second], ServiceSwitcherStrategyManual)
    bot.failover = bot.breaker.failover(bot.switcher)
    async with bot.talking():
        await bot.ask()
        assert bot.answers == [HEARD]


async def test__leave__everything_is_as_it_was():
    first, second = first_fails([FAIL])
    before = [{**vars(first)}, {**vars(second)}]
    bot = Bot(first, second)
    bot.failover.leave()

    assert [vars(first).keys() - before[0].keys(), vars(second).keys() - before[1].keys()] == [
        {"_next", "_prev"} & (vars(first).keys() - before[0].keys()),
        {"_next", "_prev"} & (vars(second).keys() - before[1].keys()),
    ]
    assert "process_frame" not in vars(bot.switcher)


def test__not_asked_for__nothing_of_it_is_imported():
    import subprocess
    import sys

    code = (
        "import sys, pipecat_circuit_breaker as p; p.CircuitBreakerProcessor();"
        "print([m for m in sys.modules if 'failover' in m])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test__wrong_use__refused_at_once():
    breaker = CircuitBreakerProcessor()
    with pytest.raises(TypeError, match="ServiceSwitcher"):
        breaker.failover(IdentityFilter())
    with pytest.raises(TypeError, match="LLM, STT or TTS services"):
        breaker.failover(ServiceSwitcher([IdentityFilter()]))
    for secs in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="attempt_timeout_secs"):
            breaker.failover(ServiceSwitcher([Scripted("a", GOOD)]), attempt_timeout_secs=secs)
    switcher = ServiceSwitcher([Scripted("a", GOOD)])
    breaker.failover(switcher).leave()
    breaker.failover(switcher)
    with pytest.raises(ValueError, match="already"):
        breaker.failover(switcher)
    with pytest.raises(TypeError, match="tenacity"):
        breaker.failover(ServiceSwitcher([Scripted("a", GOOD)]), cooldown=5)


async def test__error_that_is_no_end__answer_goes_on__error_is_not_lost():
    class Grumbling(Scripted):
        async def answer(self, script, context):
            await self.push_error("a cache was missed")
            await super().answer(script, context)

    first, second = Grumbling("first", GOOD), Scripted("second", words(SECOND))
    async with Bot(first, second).talking() as bot:
        await bot.ask()
        assert bot.answers == [HEARD]
        assert [e.error for e in bot.errors] == ["a cache was missed"] or bot.told == []


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
