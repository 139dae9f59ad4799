"""An application that answers a failure with the next request: each such chain ends after a handful."""

import asyncio

import pytest
from pipecat.frames.frames import LLMContextFrame, ManuallySwitchServiceFrame, TTSSpeakFrame

from pipecat_circuit_breaker.testing import running
from tests.failover.failover_parts import FAIL, Bot, Scripted, passed, words
from tests.failover.test_failover_tts import BREAKS, Speaks
from tests.failover.test_failover_tts import Bot as Speaking

pytestmark = pytest.mark.releases

#: `max_errors`.
HANDFUL = 5
MANY = 400
GOOD = words("I am here. What can I do?")


def answering(bot, event, *frames, secs=0.0):
    """Have the application answer each event with frames, as often as it likes; returns its answers."""
    answers = []

    async def answer(*_):
        answers.append(event)
        await asyncio.sleep(secs)
        if len(answers) < MANY:
            for make in frames:
                await bot.worker.queue_frame(make())

    (bot.worker if event == "on_pipeline_error" else bot.failover).add_event_handler(event, answer)
    return answers


def asking(bot):
    return lambda: LLMContextFrame(bot.context)


@pytest.mark.parametrize("secs", [0, 3])
@pytest.mark.parametrize("script", [[FAIL], [*GOOD, FAIL]], ids=["fail", "break off"])
@pytest.mark.parametrize("event", ["on_pipeline_error", "on_request_lost"])
async def test__lost_request_is_asked_again__ends(event, script, secs):
    bot = Bot(Scripted("first", script), Scripted("second", script))
    async with bot.talking():
        answers = answering(bot, event, asking(bot), secs=secs)
        await bot.ask()
        await passed(600)
        assert 0 < len(answers) <= HANDFUL

        # That was one chain. What the user says begins another.
        del answers[:]
        await bot.ask()
        await passed(600)
        assert event == "on_pipeline_error" or 0 < len(answers) <= HANDFUL


@pytest.mark.parametrize("secs", [0, 3])
async def test__lost_sentence_is_said_again__ends(secs):
    bot = Speaking(Speaks("first", BREAKS), Speaks("second", BREAKS))
    async with running(*bot.line) as bot.worker:
        answers = answering(bot, "on_request_lost", lambda: TTSSpeakFrame("Again."), secs=secs)
        await bot.worker.queue_frame(TTSSpeakFrame("Hello."))
        await passed(600)

    assert 0 < len(answers) <= HANDFUL


async def test__application_goes_back_to_the_service_that_fails_and_asks_again__ends():
    bot = Bot(Scripted("first", [FAIL]), Scripted("second", GOOD))
    async with bot.talking():
        back = lambda: ManuallySwitchServiceFrame(service=bot.llms[0])  # noqa: E731
        answers = answering(bot, "on_service_failed", back, asking(bot))
        await bot.ask()
        await passed(600)

    assert 0 < len(answers) <= HANDFUL


class Flaky(Scripted):
    """Fails every second request."""

    async def answer(self, script, context):
        if len(self.asked) % 2:
            raise ConnectionError("flaky")
        await super().answer(script, context)


async def test__both_fail_now_and_then_and_each_failure_is_asked_again__ends():
    bot = Bot(Flaky("first", GOOD), Flaky("second", GOOD))
    async with bot.talking():
        answers = answering(bot, "on_service_failed", asking(bot))
        await bot.ask()
        await passed(600)

    # Two failures a request.
    assert 0 < len(answers) <= 2 * HANDFUL


async def test__requests_lost_one_after_another_on_no_account_of_each_other__each_is_told():
    bot = Bot(Scripted("first", [FAIL]), Scripted("second", [FAIL]))
    async with bot.talking():
        for _ in range(20):
            await bot.ask(secs=1)

    assert sum(told.startswith("lost") for told in bot.told) == 20
