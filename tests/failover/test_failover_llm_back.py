"""A service that failed is back when a shadow request, which the caller does not hear, is answered."""

import asyncio

import pytest
from pipecat.frames.frames import (
    FunctionCallsStartedFrame,
    LLMTextFrame,
    ManuallySwitchServiceFrame,
    StopFrame,
)
from tenacity import wait_fixed

from tests.failover.failover_parts import (
    FAIL,
    GOOD,
    HANG,
    HEARD,
    SECOND,
    Bot,
    Call,
    Pause,
    Scripted,
    first_fails,
    passed,
    words,
)

pytestmark = pytest.mark.releases


async def test__first_works_again__a_shadow_finds_out_and_the_caller_does_not_hear_it():
    first, second = first_fails([FAIL], words("Nobody hears this. Really nobody."), GOOD)
    async with Bot(first, second).talking() as bot:
        for _ in range(4):
            await bot.ask()

        assert bot.answers == [HEARD] * 4
        # Failed, 8 s later asked in the shadow, and then live again.
        assert (len(first.asked), len(second.asked)) == (3, 3)
        assert bot.told == ["failed first first failed: no answer True", "recovered first"]
        assert bot.switches == 2


async def test__shadow_is_over__the_service_is_asked_and_left_as_if_there_had_been_none():
    class Leaves(Scripted):
        """Leaves a task behind, as services do that receive over a connection."""

        async def answer(self, script, context):
            if len(self.asked) == 2:
                self.receiver = self.create_task(self.receive())
            await super().answer(script, context)

        async def receive(self):
            await asyncio.sleep(1)
            await self.push_frame(LLMTextFrame("late"))

    first = Leaves("first", [FAIL], words("I am here."))
    async with Bot(
        first, Scripted("second", words("Yes.")), cooldown=wait_fixed(1)
    ).talking() as bot:
        await bot.ask()
        before = {*vars(first)}
        asked = bot.context.get_messages()[-1]
        await bot.ask()
        await passed(2)

        assert {*vars(first)} - before == {"receiver"}
        # Nobody was told that tools are off, since there are none.
        assert first.asked[1] == bot.context.get_messages()[-1] != asked
        assert [f.text for f in bot.ear.frames(LLMTextFrame)][-1] == "late"


@pytest.mark.parametrize("still", [[FAIL], [HANG], [*words("I am here. What can"), FAIL]])
async def test__first_is_still_down__one_shadow_per_cooldown_and_no_word_of_it(still):
    first, second = first_fails([FAIL], still)
    heard = []
    first.add_event_handler("on_error", lambda _, error: heard.append(error))
    async with Bot(first, second, cooldown=wait_fixed(15)).talking() as bot:
        for _ in range(20):
            await bot.ask()

        assert bot.answers == [HEARD] * 20
        assert bot.told == ["failed first first failed: no answer True"]
        # 80 s, 15 s each, counted from the end of the shadow before.
        assert 4 <= len(first.asked) <= 6
        assert len(heard) == 1
        await passed(6)
        assert first.running == 0


async def test__asked_live_while_a_shadow_is_at_it__the_shadow_gives_way():
    first = Scripted("first", [FAIL], ["I ", Pause(30.0)], GOOD)
    second = Scripted("second", GOOD, GOOD, [Pause(1.0), FAIL])
    async with Bot(first, second).talking() as bot:
        for _ in range(3):
            await bot.ask()

        assert bot.answers == [HEARD] * 3
        assert first.most_running == 1
        assert bot.told[1:] == ["failed second second failed: no answer True", "recovered first"]


async def test__shadow_wants_a_tool__nothing_is_called():
    called = []

    async def book(params):
        called.append(params.llm)
        await params.result_callback("booked")

    first, second = first_fails([FAIL], [Call("book")])
    async with Bot(first, second).talking() as bot:
        bot.switcher.register_function("book", book)
        for _ in range(3):
            await bot.ask()
        assert len(first.asked) == 2 and called == []
        assert bot.ear.frames(FunctionCallsStartedFrame) == []
        assert "recovered first" in bot.told


async def test__one_request_in_five_fails__nobody_hears_it_and_it_is_switched_rarely():
    script = [[FAIL] if n % 5 == 4 else GOOD for n in range(200)]
    first, second = first_fails(*script)
    async with Bot(first, second).talking() as bot:
        for _ in range(50):
            await bot.ask()

        assert bot.answers == [HEARD] * 50
        assert bot.switches <= 10  # ten requests failed, or would have


async def test__application_switches_by_hand__its_choice_comes_first():
    first, second = Scripted("first", words("First.")), Scripted("second", words("Second."))
    async with Bot(first, second).talking() as bot:
        await bot.worker.queue_frame(ManuallySwitchServiceFrame(service=second))
        await bot.ask()
        second.scripts = [[FAIL]]
        await bot.ask()
        second.scripts = [words("Second.")]
        for _ in range(3):
            await bot.ask()

        assert bot.answers == ["Second.", "First.", "First.", "First.", "Second."]


async def test__switched_by_hand_to_a_service_in_its_cooldown__it_is_asked():
    first, second = Scripted("first", [FAIL], GOOD), Scripted("second", words(SECOND))
    async with Bot(first, second, cooldown=wait_fixed(100)).talking() as bot:
        await bot.ask()
        await bot.worker.queue_frame(ManuallySwitchServiceFrame(service=first))
        await bot.ask()
        assert bot.answers == [SECOND, HEARD]


async def test__stop_frame_while_a_shadow_hangs__no_task_is_left():
    first = Scripted("first", [FAIL], [HANG])
    second = Scripted("second", GOOD)
    bot = Bot(first, second, attempt_timeout_secs=30, cooldown=wait_fixed(1))
    async with bot.talking():
        await bot.ask()
        await bot.ask()
        assert first.running == 1
        await bot.worker.queue_frame(StopFrame())
        await passed(2)
        assert first.running == 0, "the shadow request goes on after the call"


async def test__completion_timeout_in_a_shadow__application_is_not_told():
    class TimesOut(Scripted):
        async def answer(self, script, context):
            if script is None:
                await self._call_event_handler("on_completion_timeout")
                raise TimeoutError("slow")
            await super().answer(script, context)

    first, second = TimesOut("first", None), Scripted("second", GOOD)
    heard = []
    async with Bot(first, second, cooldown=wait_fixed(1)).talking() as bot:

        @first.event_handler("on_completion_timeout")
        async def on_completion_timeout(llm):
            heard.append(1)

        await bot.ask()
        assert len(heard) == 1
        await bot.ask()
        await passed(1)
        assert len(first.asked) == 2
        assert len(heard) == 1, "told of a request that nobody asked"
