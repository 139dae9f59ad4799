"""An answer before it is certain that the user has finished (pipecat 1.12)."""

import pytest
from pipecat.frames.frames import (
    LLMContextFrame,
    LLMTextFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)

from tests.failover.failover_parts import DOWNSTREAM, FAIL, HANG, Bot, Rich, Scripted, passed, words

pytest.importorskip("pipecat.turns.speculation_gate", reason="no release before 1.12")

HEARD = "I am here. What can I do for you today?"
GOOD = words(HEARD)
SECOND = "This is the second one. It works."


async def speculate(bot):
    """The user may have finished, and the model is asked already."""
    bot.context.add_message({"role": "user", "content": "hello"})
    await bot.worker.queue_frame(UserStartedSpeakingFrame())
    await bot.worker.queue_frame(LLMContextFrame(bot.context, speculation=True))


@pytest.mark.parametrize("script", [words(SECOND), [FAIL]], ids=["works", "fails over"])
async def test__speculative_answer__waits_for_the_turn_whoever_gives_it(script):
    async with Bot(Rich("first", script), Rich("second", words(SECOND))).talking() as bot:
        await speculate(bot)
        await passed(3)
        texts = [f for f, _ in bot.ear.seen if isinstance(f, LLMTextFrame)]
        assert texts == [], "spoken before it is certain that the user has finished"
        await bot.worker.queue_frame(UserStoppedSpeakingFrame())
        await passed(3)
        assert bot.answers == [SECOND]


async def test__speculation_withdrawn_after_it_failed_over__no_start_is_left_behind():
    from pipecat.frames.frames import EagerEndOfTurnCancelFrame

    first = Rich("first", [FAIL], GOOD)
    second = Rich("second", ["This ", HANG], words(SECOND))
    async with Bot(first, second).talking() as bot:
        await speculate(bot)
        await passed(1)
        await bot.worker.queue_frame(EagerEndOfTurnCancelFrame())
        await passed(1)
        await bot.worker.queue_frame(UserStoppedSpeakingFrame())
        await bot.ask()
        assert bot.answers == [SECOND]


async def test__speculation_hangs_and_is_withdrawn__next_request_is_answered():
    from pipecat.frames.frames import EagerEndOfTurnCancelFrame

    first = Rich("first", [HANG], GOOD)
    second = Rich("second", words(SECOND))
    async with Bot(first, second).talking() as bot:
        await speculate(bot)
        await passed(1)
        await bot.worker.queue_frame(EagerEndOfTurnCancelFrame())
        await passed(1)
        await bot.worker.queue_frame(UserStoppedSpeakingFrame())
        await bot.ask()
        assert bot.answers == [HEARD] and bot.told == []


async def test__withdrawn_while_the_first_fails__second_is_not_asked():
    from pipecat.frames.frames import EagerEndOfTurnCancelFrame

    class FailsWhenWithdrawn(Scripted):
        async def answer(self, script, context):
            # It fails by itself as the withdrawal comes.
            await bot.switcher.process_frame(EagerEndOfTurnCancelFrame(), DOWNSTREAM)
            raise ConnectionError("no answer")

    first, second = FailsWhenWithdrawn("first", []), Scripted("second", words(SECOND))
    async with Bot(first, second).talking() as bot:
        first._handle_eager_end_of_turn_cancel = lambda frame: passed(0)
        bot.context.add_message({"role": "user", "content": "hello"})
        await bot.worker.queue_frame(LLMContextFrame(bot.context, speculation=True))
        await passed(3)
        assert second.asked == []
        assert bot.answers == []
