"""Services that judge whether the user has finished, by the first character of an answer."""

from pipecat.frames.frames import (
    LLMTextFrame,
    UserStartedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.turns.user_turn_completion_mixin import USER_TURN_COMPLETE_MARKER as DONE
from pipecat.turns.user_turn_completion_mixin import USER_TURN_INCOMPLETE_SHORT_MARKER as SHORT
from tenacity import wait_fixed

from tests.failover.failover_parts import FAIL, Bot, Rich, passed, words

HEARD = "I am here. What can I do for you today?"
GOOD = words(HEARD)
SECOND = "This is the second one. It works."


def filtering(name, *scripts):
    llm = Rich(name, *scripts)
    llm._filter_incomplete_user_turns = True
    return llm


def said(bot):
    """The answers; before 1.x a mark is text that is not spoken."""
    return [answer.replace(DONE, "").strip() for answer in bot.answers]


async def turn(bot, secs=2.0):
    """A turn of the user in a pipeline without interruptions."""
    await bot.worker.queue_frame(UserStartedSpeakingFrame())
    await bot.ask(secs=secs)


async def test__without_failures():
    first = filtering("first", [f"{DONE} ", *GOOD])
    async with Bot(first, filtering("second", GOOD)).talking() as bot:
        for _ in range(3):
            await turn(bot)
        assert said(bot) == [HEARD] * 3


async def test__first_breaks_before_its_marker__its_text_is_never_heard():
    first = filtering("first", ["I am the broken ", FAIL], [f"{DONE} ", *GOOD])
    second = filtering("second", [f"{DONE} ", *words(SECOND)])
    async with Bot(first, second).talking() as bot:
        await bot.ask()
        await bot.interrupt()
        await passed(1)
        said = "".join(f.text for f, _ in bot.ear.seen if isinstance(f, LLMTextFrame))
        assert "broken" not in said, said


async def test__shadow_is_answered__next_live_answer_has_no_marker_in_it():
    first = filtering("first", [FAIL], [f"{DONE} ", *GOOD])
    second = filtering("second", [f"{DONE} ", *words(SECOND)])
    async with Bot(first, second, cooldown=wait_fixed(1)).talking() as bot:
        for _ in range(3):
            await turn(bot)
        assert said(bot) == [SECOND, SECOND, HEARD], said(bot)


async def test__shadow_says_incomplete__next_live_answer_is_heard():
    first = filtering("first", [FAIL], [SHORT], [f"{DONE} ", *GOOD])
    second = filtering("second", [f"{DONE} ", *words(SECOND)])
    async with Bot(first, second, cooldown=wait_fixed(1)).talking() as bot:
        for _ in range(3):
            await turn(bot)
        assert said(bot) == [SECOND, SECOND, HEARD], said(bot)


async def test__shadow_without_marker__nothing_of_it_is_heard():
    first = filtering("first", [FAIL], ["A shadow text. "], [f"{DONE} ", *GOOD])
    second = filtering("second", [f"{DONE} ", *words(SECOND)])
    async with Bot(first, second, cooldown=wait_fixed(1)).talking() as bot:
        await bot.ask()
        await bot.ask()
        await bot.interrupt()
        await passed(1)
        said = "".join(f.text for f, _ in bot.ear.seen if isinstance(f, LLMTextFrame))
        assert "shadow" not in said, said


async def test__answered_by_second__incomplete_timer_of_second_stops_as_ever():
    # The start of an answer that the second gives does not pass the second's `push_frame`.
    first = filtering("first", [FAIL])
    second = filtering("second", [SHORT], [f"{DONE} ", *words(SECOND)])
    async with Bot(first, second, cooldown=wait_fixed(1)).talking() as bot:
        await bot.ask(secs=1)
        await bot.ask(secs=1)
        assert said(bot)[-1] == SECOND, said(bot)


async def test__vad_stop_reaches_services_that_are_not_active():
    first = filtering("first", [SHORT], [FAIL], [f"{DONE} ", *GOOD])
    second = filtering("second", [f"{DONE} ", *words(SECOND)])
    async with Bot(first, second, cooldown=wait_fixed(1)).talking() as bot:
        await bot.ask(secs=1)
        await bot.worker.queue_frame(VADUserStartedSpeakingFrame())
        await bot.ask(secs=1)  # fails over while the user is heard
        await bot.worker.queue_frame(VADUserStoppedSpeakingFrame())
        await bot.interrupt()
        await bot.ask(secs=2)
        await bot.interrupt()
        await bot.ask(secs=2)
        assert len(first.asked) == 4 and said(bot)[-1] == HEARD, said(bot)
