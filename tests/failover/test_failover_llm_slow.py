"""A model that is slow, thinks or pauses is not taken for one that fails."""

import pytest
from pipecat.frames.frames import (
    FunctionCallsStartedFrame,
    LLMThoughtStartFrame,
    LLMThoughtTextFrame,
)

from tests.failover.failover_parts import (
    FAIL,
    GOOD,
    HEARD,
    PIECE,
    SECOND,
    Bot,
    Call,
    Pause,
    Push,
    Rich,
    first_fails,
    words,
)

pytestmark = pytest.mark.releases


async def test__slow_but_alive__is_not_taken_from_it():
    # Each piece comes within the limit, the whole takes much longer.
    slow = [step for word in GOOD for step in (Pause(4.0), word)]
    first, second = first_fails(slow)
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=60)

        assert bot.answers == [HEARD]
        assert second.asked == [] and bot.told == []


async def test__arguments_of_a_tool_take_long__are_not_taken_from_it():
    first, second = first_fails([Pause(4.0), PIECE, Pause(9.0), Call("book")])
    async with Bot(first, second).talking() as bot:
        bot.switcher.register_function("book", lambda params: None)
        await bot.ask(secs=15)

        assert len(bot.ear.frames(FunctionCallsStartedFrame)) == 1
        assert second.asked == [] and bot.told == []


async def test__shadow_is_slow_but_alive__it_is_back():
    first, second = first_fails([FAIL], [Pause(4.0), PIECE, Pause(9.0), "Yes. "], GOOD)
    async with Bot(first, second).talking() as bot:
        for _ in range(2):
            await bot.ask(secs=20)

        assert bot.told[1:] == ["recovered first"]


async def test__pauses_in_the_middle_of_an_answer__is_not_taken_from_it():
    first, second = first_fails([*words("I am here. What"), Pause(20.0), *words("is it?")])
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=30)

        assert bot.answers == ["I am here. What is it?"]
        assert second.asked == [] and bot.told == []


async def test__model_thinks_for_long_after_a_thought_frame__it_is_not_asked_again():
    thought = Push(LLMThoughtStartFrame)
    first = Rich("first", [thought, Pause(6.0), *GOOD])
    second = Rich("second", words(SECOND))
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=15)
        assert second.asked == []
        assert bot.told == []
        assert bot.answers == [HEARD]


async def test__all_models_think_for_long__no_outage():
    thought = Push(lambda: LLMThoughtTextFrame("hm"))
    first = Rich("first", [thought, Pause(6.0), *GOOD])
    second = Rich("second", [thought, Pause(6.0), *words(SECOND)])
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=30)
        assert bot.told == []
        assert bot.answers == [HEARD]


async def test__sentence_then_a_tool_whose_arguments_take_long__no_silence():
    # A Responses API stream: no piece of the arguments is a sign of life.
    first = Rich("first", ["Let me check that for you.", PIECE, Pause(6.0), Call("book")])
    second = Rich("second", words(SECOND))
    called = []

    async def book(params):
        called.append(params.function_name)

    async with Bot(first, second).talking() as bot:
        bot.switcher.register_function("book", book)
        await bot.ask(secs=15)
        assert second.asked == []
        assert called == ["book"]
