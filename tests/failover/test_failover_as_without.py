"""What a bot with two models does with a failover just as without."""

import asyncio

import pytest
from failover_parts import FAIL, HANG, Bot, Call, Ear, Pause, Push, Rich, passed, words
from pipecat.frames.frames import (
    ErrorFrame,
    LLMContextFrame,
    LLMTextFrame,
    LLMThoughtTextFrame,
    OutputAudioRawFrame,
    OutputImageRawFrame,
    OutputTransportMessageFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.processors.aggregators.llm_context import LLMContext

from bot import Tap, running
from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor

pytestmark = pytest.mark.releases

HEARD = "I am here. What can I do?"
GOOD = words(HEARD)

either_way = pytest.mark.parametrize("has_failover", [False, True], ids=["without", "with"])


def question():
    return LLMContextFrame(LLMContext([{"role": "user", "content": "question"}]))


def message():
    return OutputTransportMessageFrame({"mark": 1})


class Models:
    """A bot with two models."""

    def __init__(self, has_failover, first, second=None):
        self.first, self.second = first, second or Rich("second", GOOD)
        self.switcher = LLMSwitcher([self.first, self.second])
        self.breaker = CircuitBreakerProcessor(
            params=CircuitBreakerParams(clock=lambda: asyncio.get_event_loop().time())
        )
        if has_failover:
            self.breaker.failover(self.switcher)
        self.front, self.ear = Tap(), Ear()

    def talking(self):
        return running(self.breaker, self.front, self.switcher, self.ear)


#
# What is no text of an answer
#


@either_way
@pytest.mark.parametrize(
    "make",
    [
        lambda: LLMThoughtTextFrame("hm"),
        lambda: TTSSpeakFrame("One moment."),
        message,
        lambda: OutputImageRawFrame(b"1", (1, 1), "RGB"),
        lambda: OutputAudioRawFrame(b"1234", 16000, 1),
    ],
    ids=["thought", "speech", "message", "image", "audio"],
)
async def test__pushed_before_the_first_text__leaves_at_once(has_failover, make):
    bot = Models(has_failover, Rich("first", [Push(make), Pause(4), *GOOD]))
    async with bot.talking() as worker:
        await worker.queue_frame(question())
        await passed(2)
        assert len(bot.ear.frames(type(make()))) == 1


@either_way
async def test__pushed_within_a_sentence__does_not_overtake_it(has_failover):
    bot = Models(has_failover, Rich("first", ["I am ", Push(message), "here. ", "What?"]))
    async with bot.talking() as worker:
        await worker.queue_frame(question())
        await passed(1)
        kinds = (LLMTextFrame, OutputTransportMessageFrame)
        seen = [type(frame) for frame, _ in bot.ear.seen if isinstance(frame, kinds)]
        assert seen == [LLMTextFrame, OutputTransportMessageFrame, LLMTextFrame, LLMTextFrame]


@either_way
@pytest.mark.parametrize(
    "script",
    [
        [Push(message), FAIL],
        ["I am ", Push(message), FAIL],
        ["I am ", Push(message), "here", HANG],
    ],
    ids=["then fails", "within a sentence, then fails", "within a sentence, then hangs"],
)
async def test__pushed_by_a_service_that_fails__leaves_all_the_same(has_failover, script):
    bot = Models(has_failover, Rich("first", script))
    async with bot.talking() as worker:
        await worker.queue_frame(question())
        await passed(6)
        assert len(bot.ear.frames(OutputTransportMessageFrame)) == 1


async def test__thoughts_of_a_service_that_fails__it_is_asked_again_all_the_same():
    thought = Push(lambda: LLMThoughtTextFrame("hm"))
    first, second = Rich("first", [thought, "I am ", FAIL]), Rich("second", [thought, *GOOD])
    async with Bot(first, second).talking() as bot:
        await bot.ask()
        assert bot.answers == [HEARD] and bot.errors == []
        assert len(bot.ear.frames(LLMThoughtTextFrame)) == 2


#
# Errors behind which an answer goes on
#


class Warns(Rich):
    """A tuple in a script is an error behind which the answer goes on."""

    async def answer(self, script, context):
        for step in script:
            if isinstance(step, tuple):
                await self.push_error(*step)
            else:
                await super().answer([step], context)


async def book(params):
    await params.result_callback("booked")


@either_way
@pytest.mark.parametrize(
    ("script", "errors"),
    [
        ([("one",), Call("book")], ["one"]),
        ([("one",), ("two",), *GOOD], ["one", "two"]),
        ([*GOOD, ("one",), ("two",), Call("book")], ["one", "two"]),
    ],
    ids=["then a tool", "two, then text", "behind text, then a tool"],
)
async def test__error_behind_which_the_answer_goes_on__heard_once(has_failover, script, errors):
    bot = Models(has_failover, Warns("first", script))
    bot.switcher.register_function("book", book)
    async with bot.talking() as worker:
        await worker.queue_frame(question())
        await passed(3)
        assert [frame.error for frame in bot.front.frames(ErrorFrame)] == errors


async def test__error_then_a_tool__the_request_is_not_lost():
    async with Bot(Warns("first", [("one",), Call("book")]), Rich("second", GOOD)).talking() as bot:
        bot.switcher.register_function("book", book)
        await bot.ask()
        assert bot.told == []
