"""What a bot with two models does with a failover just as without."""

import asyncio

import pytest
from pipecat.frames.frames import (
    ErrorFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    LLMThoughtTextFrame,
    ManuallySwitchServiceFrame,
    OutputAudioRawFrame,
    OutputImageRawFrame,
    OutputTransportMessageFrame,
    TextFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.processors.aggregators.llm_context import LLMContext

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import running
from tests.failover.failover_parts import (
    DOWNSTREAM,
    FAIL,
    HANG,
    PIECE,
    Bot,
    Call,
    Ear,
    Pause,
    Push,
    Rich,
    passed,
    words,
)
from tests.support.parts import Tap

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


#
# The application switches by hand
#


def switch_to(service):
    return ManuallySwitchServiceFrame(service=service)


@either_way
@pytest.mark.parametrize(
    "script",
    [[PIECE, HANG], ["I am here. What", HANG], [Push(lambda: LLMThoughtTextFrame("hm")), HANG]],
    ids=["piece", "text", "thought"],
)
async def test__first_hangs__application_switches_and_asks_again__answered(has_failover, script):
    bot = Models(has_failover, Rich("first", script))
    async with bot.talking() as worker:
        await worker.queue_frame(question())
        await passed(2)
        await worker.queue_frame(switch_to(bot.second))
        await worker.queue_frame(question())
        await passed(4)
        assert len(bot.second.asked) == 1


@pytest.mark.parametrize("asks_first", [False, True], ids=["switch, ask", "ask, switch"])
async def test__first_hangs__application_switches_and_asks__one_end_and_no_blame(asks_first):
    first, second = Rich("first", [PIECE, HANG]), Rich("second", GOOD)
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=2)
        if asks_first:
            await bot.ask(secs=0)
        await bot.worker.queue_frame(switch_to(second))
        if not asks_first:
            await bot.ask(secs=0)
        await passed(4)
        assert bot.answers == ["", HEARD] and bot.told == []
        assert first.running == 0

        await bot.ask()
        assert len(first.asked) == 1, "its choice is forgotten"


@either_way
async def test__application_switches_during_an_answer__it_is_heard_whole(has_failover):
    slow = [step for word in GOOD for step in (Pause(2), word)]
    bot = Models(has_failover, Rich("first", slow))
    async with bot.talking() as worker:
        await worker.queue_frame(question())
        await passed(3)
        await worker.queue_frame(switch_to(bot.second))
        await passed(20)
        assert bot.ear.answers == [HEARD]


@either_way
async def test__application_switches_and_asks_nothing__a_model_may_think_on(has_failover):
    bot = Models(has_failover, Rich("first", [PIECE, Pause(20), *GOOD]))
    async with bot.talking() as worker:
        await worker.queue_frame(question())
        await passed(2)
        await worker.queue_frame(switch_to(bot.second))
        await passed(30)
        assert bot.ear.answers == [HEARD]


async def test__next_request_waits_and_nobody_switches__a_model_may_think_on():
    first, second = Rich("first", [PIECE, Pause(20), *GOOD]), Rich("second", GOOD)
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=0)
        await bot.ask(secs=50)
        assert bot.answers == [HEARD, HEARD]
        assert second.asked == [] and bot.told == []


async def test__application_switches_and_asks_during_an_answer__both_are_heard_whole():
    slow = [step for word in GOOD for step in (Pause(4), word)]
    async with Bot(Rich("first", slow), Rich("second", words("Yes."))).talking() as bot:
        await bot.ask(secs=3)
        await bot.worker.queue_frame(switch_to(bot.llms[1]))
        await bot.ask(secs=60)
        assert bot.answers == [HEARD, "Yes."]


async def test__application_switches__whatever_else_is_queued_keeps_its_order():
    first, second = Rich("first", [PIECE, HANG]), Rich("second", words("Yes."))
    elsewhere = Rich("elsewhere", GOOD)
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=2)
        await bot.worker.queue_frame(TextFrame("one"))
        await bot.worker.queue_frame(switch_to(elsewhere))
        await bot.worker.queue_frame(switch_to(second))
        await bot.worker.queue_frame(TextFrame("two"))
        await bot.ask(secs=6)
        kinds = (TextFrame, ManuallySwitchServiceFrame)
        seen = [getattr(f, "text", "switch") for f, _ in bot.ear.seen if isinstance(f, kinds)]
        assert seen == ["one", "switch", "two", "Yes. "]


async def test__frame_of_the_switch_has_a_callback__called_once():
    called = []

    async def switched(*args):
        called.append(args)

    first, second = Rich("first", [PIECE, HANG]), Rich("second", GOOD)
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=2)
        frame = switch_to(second)
        await bot.switcher.queue_frame(frame, callback=switched)
        assert called == [(bot.switcher, frame, DOWNSTREAM)]
        assert bot.switcher.active_llm is second


async def test__request_is_over__queue_frame_of_the_switcher_is_what_it_was():
    async with Bot(Rich("first", [HANG], GOOD), Rich("second", GOOD)).talking() as bot:
        before = bot.switcher.queue_frame
        await bot.ask(secs=2)
        assert bot.switcher.queue_frame != before
        await bot.interrupt()
        assert bot.switcher.queue_frame == before


#
# Frames at a service that are not of the request
#


@either_way
async def test__queued_at_a_service_while_its_request_fails__not_lost(has_failover):
    bot = Models(has_failover, Rich("first", ["I ", Pause(1), FAIL]))
    async with bot.talking() as worker:
        await worker.queue_frame(question())
        await passed(0.5)
        await bot.first.queue_frame(message())
        await bot.first.queue_frame(LLMTextFrame("Still there."))
        await passed(10)
        assert len(bot.ear.frames(OutputTransportMessageFrame)) == 1
        assert "Still there." in [frame.text for frame in bot.ear.frames(LLMTextFrame)]


class Busy(Rich):
    """Takes 6 s for a line before it hands it on."""

    async def process_frame(self, frame, direction):
        if isinstance(frame, TTSSpeakFrame):
            await asyncio.sleep(6)
        await super().process_frame(frame, direction)


@either_way
async def test__service_works_on_the_frame_before__it_is_waited_for(has_failover):
    bot = Models(has_failover, Busy("first", [Pause(4), *GOOD]))
    async with bot.talking() as worker:
        await worker.queue_frame(TTSSpeakFrame("One moment."))
        await worker.queue_frame(question())
        await passed(20)
        assert len(bot.ear.frames(TTSSpeakFrame)) == 1
        assert bot.ear.answers == [HEARD]
        assert (len(bot.first.asked), len(bot.second.asked)) == (1, 0)


async def test__service_is_interrupted_while_the_request_waits_there__nobody_is_blamed():
    first, second = Busy("first", GOOD), Rich("second", GOOD)
    async with Bot(first, second).talking() as bot:
        await bot.worker.queue_frame(TTSSpeakFrame("One moment."))
        await bot.ask(secs=2)
        await first.queue_frame(InterruptionFrame())
        await passed(20)
        assert (first.asked, second.asked, bot.told) == ([], [], [])
        await bot.ask()
        assert bot.answers == [HEARD]


async def test__service_is_interrupted_and_says_no_end__one_end_leaves_and_nobody_is_blamed():
    class SaysNoEnd(Rich):
        async def process_frame(self, frame, direction):
            if isinstance(frame, LLMContextFrame) and self.asked == []:
                self.asked.append(frame)
                await self.push_frame(LLMFullResponseStartFrame())
                await asyncio.Event().wait()
            await super().process_frame(frame, direction)

    first, second = SaysNoEnd("first", GOOD), Rich("second", GOOD)
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=2)
        await first.queue_frame(InterruptionFrame())
        await passed(1)
        assert bot.answers == [""]
        await bot.ask()
        assert bot.answers == ["", HEARD] and bot.told == []
        assert [member._asked for member in bot.failover._members] == [set(), set()]


async def test__switched_from_while_the_request_waits__the_frame_before_is_not_cut():
    first, second = Busy("first", words("Too late.")), Rich("second", GOOD)
    async with Bot(first, second).talking() as bot:
        await bot.worker.queue_frame(TTSSpeakFrame("One moment."))
        await bot.ask(secs=0.1)
        await bot.worker.queue_frame(switch_to(second))
        await bot.ask(secs=10)
        assert len(bot.ear.frames(TTSSpeakFrame)) == 1
        assert bot.answers == [HEARD] and bot.told == []
