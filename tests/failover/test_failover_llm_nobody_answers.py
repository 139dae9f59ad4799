"""No service answers: one outage, told once; and requests that a user interrupts."""

import pytest
from loguru import logger
from pipecat.frames.frames import OutputAudioRawFrame, TTSSpeakFrame
from pipecat.pipeline.service_switcher import ServiceSwitcherStrategyManual

from tests.failover.failover_parts import FAIL, GOOD, HANG, HEARD, Bot, Scripted, first_fails, words

pytestmark = pytest.mark.releases


async def test__all_fail__one_outage_and_each_request_lost__over_when_one_answers():
    first, second = Scripted("first", *[[FAIL]] * 3, GOOD), Scripted("second", [FAIL])
    async with Bot(first, second).talking() as bot:
        for _ in range(5):
            await bot.ask()

        assert bot.answers == ["", "", "", HEARD, HEARD]
        assert len(bot.errors) == 3
        assert [told.split()[0] for told in bot.told] == [
            *("failed", "failed", "lost", "outage", "lost", "lost"),
            *("recovered", "outage"),
        ]
        assert bot.told[-1] == "outage over" and not bot.failover.is_out


async def test__all_fail__each_service_reports_its_error_once():
    first, second = Scripted("first", [FAIL]), Scripted("second", [FAIL])
    heard, lines = [], []
    for llm in (first, second):
        llm.add_event_handler("on_error", lambda llm, _: heard.append(llm))
    logger.add(lines.append, level="ERROR", format="{message}")
    async with Bot(first, second).talking() as bot:
        await bot.ask()

        assert heard == [first, second]
        # The breaker's own line is another one: the outage.
        own = [line for line in lines if "circuit open" not in line]
        assert [sum(f"{llm} failed: no" in line for line in own) for llm in heard] == [1, 1]
        assert [error.error for error in bot.errors] == ["second failed: no answer"]


async def test__all_hang__the_error_is_heard_and_the_answer_ends():
    async with Bot(Scripted("first", [HANG]), Scripted("second", [HANG])).talking() as bot:
        await bot.ask(secs=11)

        assert bot.answers == [""]
        assert [error.error for error in bot.errors] == ["no answer within 5 s"]
        assert bot.failover.is_out
        assert all(llm.running == 0 for llm in bot.llms)


async def test__outage__announced_once():
    first, second = Scripted("first", *[[FAIL]] * 3, GOOD, [FAIL]), Scripted("second", [FAIL])
    async with Bot(first, second, announcement="One moment.").talking() as bot:
        for _ in range(3):
            await bot.ask()
        assert [frame.text for frame in bot.ear.frames(TTSSpeakFrame)] == ["One moment."]

        for _ in range(2):  # it works, and fails again: the next outage
            await bot.ask()
        assert len(bot.ear.frames(TTSSpeakFrame)) == 2


async def test__announcement_is_recorded__played():
    sound = OutputAudioRawFrame(b"\0\0" * 160, 16000, 1)
    async with Bot(Scripted("only", [FAIL]), announcement=sound).talking() as bot:
        await bot.ask()
        assert bot.ear.frames(OutputAudioRawFrame) == [sound]


async def test__user_interrupts_before_the_time_is_over__nobody_is_blamed():
    first, second = first_fails([HANG], GOOD)
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=3)
        await bot.interrupt()
        await bot.ask()

        assert bot.answers == ["", HEARD]
        assert bot.told == [] and second.asked == []


async def test__user_interrupts_the_answer_of_the_second__the_request_was_saved():
    first, second = first_fails([FAIL])
    second.scripts = [[*words("I am here. What"), HANG]]
    async with Bot(first, second).talking() as bot:
        await bot.ask()
        await bot.interrupt()

        assert bot.answers == ["I am here. What"]
        assert bot.told == ["failed first first failed: no answer True"]


async def test__strategy_switches_by_itself_when_all_failed__no_choice_of_the_application():
    class AtAnyError(ServiceSwitcherStrategyManual):
        async def handle_error(self, error):
            others = [s for s in self.services if s is not self.active_service]
            return await self._set_active_if_available(others[0])

    first = Scripted("first", [FAIL], [FAIL], GOOD)
    second = Scripted("second", GOOD, [FAIL], GOOD)
    async with Bot(first, second, strategy=AtAnyError).talking() as bot:
        for _ in range(8):
            await bot.ask()

        assert bot.answers[2:] == [HEARD] * 6
        assert bot.switcher.active_llm is first
