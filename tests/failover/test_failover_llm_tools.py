"""Tools, interruptions and turns of the user, whoever answers."""

import asyncio

import pytest
from pipecat.frames.frames import (
    FunctionCallResultFrame,
    InterruptionFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)

from tests.failover.failover_parts import (
    FAIL,
    GOOD,
    HEARD,
    Bot,
    Call,
    Pause,
    Scripted,
    first_fails,
    words,
)
from tests.support.parts import settle

pytestmark = pytest.mark.releases


async def test__tool_is_called_after_half_a_sentence__the_half_is_said():
    first, second = first_fails([*words("Let me see"), Call("book"), FAIL])
    async with Bot(first, second).talking() as bot:
        bot.switcher.register_function("book", lambda params: None)
        await bot.ask()

        assert bot.answers == ["Let me see"] and second.asked == []


async def test__tool_called_at_the_first__result_answered_by_the_second():
    async def book(params):
        await params.result_callback("booked")

    first, second = first_fails([*words("Let me see"), Call("book")], [FAIL])
    async with Bot(first, second).talking() as bot:
        bot.switcher.register_function("book", book)
        await bot.ask()
        assert bot.answers == ["Let me see"]
        results = bot.ear.frames(FunctionCallResultFrame)
        assert [result.result for result in results] == ["booked"]
        await bot.ask()

        assert bot.answers == ["Let me see", HEARD]
        assert bot.told == ["failed first first failed: no answer True"]


async def test__tool_fails__the_provider_is_not_blamed():
    async def book(params):
        raise RuntimeError("no room")

    first, second = first_fails([Call("book"), Pause(1.0)], GOOD)
    async with Bot(first, second).talking() as bot:
        bot.switcher.register_function("book", book)
        await bot.ask()
        await bot.ask()

        assert bot.told == [] and second.asked == []


async def test__user_interrupts__tool_of_a_service_that_is_not_active_is_cancelled():
    cancelled = []

    async def book(params):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(params.llm)
            raise

    first, second = first_fails([Call("book")], [FAIL])
    async with Bot(first, second).talking() as bot:
        bot.switcher.register_function("book", book)
        await bot.ask()
        await bot.ask()
        assert bot.switcher.active_llm is second and cancelled == []
        await bot.interrupt()

        assert cancelled == [first]


async def test__interruption_and_turns_of_the_user__heard_by_all_and_leave_once():
    first, second = Scripted("first", GOOD), Scripted("second", GOOD)
    frames = [UserStartedSpeakingFrame(), InterruptionFrame(), UserStoppedSpeakingFrame()]
    heard = []
    for llm in (first, second):
        llm.add_event_handler("on_before_process_frame", lambda llm, f: heard.append((llm, f)))
    async with Bot(first, second).talking() as bot:
        heard.clear()
        for frame in frames:
            await bot.worker.queue_frame(frame)
            await settle()

        for frame in frames:
            assert sorted(llm.name for llm, f in heard if f is frame) == ["first", "second"]
            assert [f for f, _ in bot.ear.seen].count(frame) == 1
