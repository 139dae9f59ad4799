"""What breaks failover between LLM services."""

import asyncio

from failover_parts import FAIL, HANG, PIECE, Bot, Call, Pause, Scripted, passed, words
from pipecat.frames.frames import (
    LLMContextFrame,
    LLMTextFrame,
    LLMThoughtStartFrame,
    LLMThoughtTextFrame,
    StopFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from tenacity import wait_fixed

HEARD = "I am here. What can I do for you today?"
GOOD = words(HEARD)
SECOND = "This is the second one. It works."


class Push:
    """A frame that the service pushes while it answers."""

    def __init__(self, make):
        self.make = make


class Rich(Scripted):
    """As `Scripted`; text goes the way that pipecat's own services send it."""

    async def answer(self, script, context):
        for step in script:
            if isinstance(step, Push):
                await self.stop_ttfb_metrics()
                await self.push_frame(step.make())
            elif isinstance(step, str) and not isinstance(step, Call):
                await self.stop_ttfb_metrics()
                await self._push_llm_text(step)
                await asyncio.sleep(0)
            else:
                await super().answer([step], context)


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


async def test__speculative_request_fails_over__second_does_not_speak_before_the_turn_ends():
    first = Rich("first", [FAIL])
    second = Rich("second", words(SECOND))
    async with Bot(first, second).talking() as bot:
        bot.context.add_message({"role": "user", "content": "hello"})
        await bot.worker.queue_frame(UserStartedSpeakingFrame())
        await bot.worker.queue_frame(LLMContextFrame(bot.context, speculation=True))
        await passed(3)
        texts = [f for f, _ in bot.ear.seen if isinstance(f, LLMTextFrame)]
        assert texts == [], "spoken before it is certain that the user has finished"
        await bot.worker.queue_frame(UserStoppedSpeakingFrame())
        await passed(3)
        assert bot.answers == [SECOND]


async def test__speculative_request_fails_over__one_start_one_end_in_order():
    first = Rich("first", [FAIL])
    second = Rich("second", words(SECOND))
    async with Bot(first, second).talking() as bot:
        bot.context.add_message({"role": "user", "content": "hello"})
        await bot.worker.queue_frame(UserStartedSpeakingFrame())
        await bot.worker.queue_frame(LLMContextFrame(bot.context, speculation=True))
        await passed(3)
        await bot.worker.queue_frame(UserStoppedSpeakingFrame())
        await passed(3)
        assert bot.answers == [SECOND]


async def test__speculation_withdrawn_after_it_failed_over__no_start_is_left_behind():
    from pipecat.frames.frames import EagerEndOfTurnCancelFrame

    first = Rich("first", [FAIL], GOOD)
    second = Rich("second", ["This ", HANG], words(SECOND))
    async with Bot(first, second).talking() as bot:
        bot.context.add_message({"role": "user", "content": "hello"})
        await bot.worker.queue_frame(UserStartedSpeakingFrame())
        await bot.worker.queue_frame(LLMContextFrame(bot.context, speculation=True))
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
        bot.context.add_message({"role": "user", "content": "hello"})
        await bot.worker.queue_frame(UserStartedSpeakingFrame())
        await bot.worker.queue_frame(LLMContextFrame(bot.context, speculation=True))
        await passed(1)
        await bot.worker.queue_frame(EagerEndOfTurnCancelFrame())
        await passed(1)
        await bot.worker.queue_frame(UserStoppedSpeakingFrame())
        await bot.ask()
        assert bot.answers == [HEARD] and bot.told == []


async def test__switched_by_hand_to_a_service_in_its_cooldown__it_is_asked():
    from pipecat.frames.frames import ManuallySwitchServiceFrame

    first, second = Scripted("first", [FAIL], GOOD), Scripted("second", words(SECOND))
    async with Bot(first, second, cooldown=wait_fixed(100)).talking() as bot:
        await bot.ask()
        await bot.worker.queue_frame(ManuallySwitchServiceFrame(service=first))
        await bot.ask()
        assert bot.answers == [SECOND, HEARD]


async def test__seven_hundred_turns__nothing_grows():
    import gc
    import tracemalloc

    first, second = Scripted("first", GOOD, [FAIL]), Scripted("second", words(SECOND))
    bot = Bot(first, second, cooldown=wait_fixed(1))
    async with bot.talking():

        async def turns(n):
            for _ in range(n):
                bot.context.set_messages([])
                await bot.ask(secs=1.5)
                bot.ear.seen.clear()
                bot.front.seen.clear()
                bot.told.clear()
                first.asked[:] = first.asked[-2:]
                second.asked[:] = second.asked[-2:]

        await turns(200)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.take_snapshot()
        await turns(500)
        gc.collect()
        after = tracemalloc.take_snapshot()
        tracemalloc.stop()
        ours = [
            s
            for s in after.compare_to(before, "filename")
            if "circuit_breaker" in s.traceback[0].filename and s.size_diff > 20_000
        ]
        assert ours == []


def filtering(name, *scripts):
    llm = Rich(name, *scripts)
    llm._filter_incomplete_user_turns = True
    return llm


async def test__turn_completion_first_breaks_before_its_marker__its_text_is_never_heard():
    first = filtering("first", ["I am the broken ", FAIL], ["● ", *GOOD])
    second = filtering("second", ["● ", *words(SECOND)])
    async with Bot(first, second).talking() as bot:
        await bot.ask()
        await bot.interrupt()
        await passed(1)
        said = "".join(f.text for f, _ in bot.ear.seen if isinstance(f, LLMTextFrame))
        assert "broken" not in said, said


async def turn(bot, secs=2.0):
    """A turn of the user in a pipeline without interruptions."""
    await bot.worker.queue_frame(UserStartedSpeakingFrame())
    await bot.ask(secs=secs)


async def test__turn_completion_shadow_is_answered__next_live_answer_has_no_marker_in_it():
    first = filtering("first", [FAIL], ["● ", *GOOD])
    second = filtering("second", ["● ", *words(SECOND)])
    async with Bot(first, second, cooldown=wait_fixed(1)).talking() as bot:
        for _ in range(3):
            await turn(bot)
        assert bot.answers == [SECOND, SECOND, HEARD], bot.answers


async def test__turn_completion_shadow_says_incomplete__next_live_answer_is_heard():
    first = filtering("first", [FAIL], ["◐"], ["● ", *GOOD])
    second = filtering("second", ["● ", *words(SECOND)])
    async with Bot(first, second, cooldown=wait_fixed(1)).talking() as bot:
        for _ in range(3):
            await turn(bot)
        assert bot.answers == [SECOND, SECOND, HEARD], bot.answers


async def test__turn_completion_shadow_without_marker__nothing_of_it_is_heard():
    first = filtering("first", [FAIL], ["A shadow text. "], ["● ", *GOOD])
    second = filtering("second", ["● ", *words(SECOND)])
    async with Bot(first, second, cooldown=wait_fixed(1)).talking() as bot:
        await bot.ask()
        await bot.ask()
        await bot.interrupt()
        await passed(1)
        said = "".join(f.text for f, _ in bot.ear.seen if isinstance(f, LLMTextFrame))
        assert "shadow" not in said, said


async def test__turn_completion_answered_by_second__incomplete_timer_of_second_stops_as_ever():
    # The start of an answer that the second gives does not pass the second's `push_frame`.
    first = filtering("first", [FAIL])
    second = filtering("second", ["◐"], ["● ", *words(SECOND)])
    async with Bot(first, second, cooldown=wait_fixed(1)).talking() as bot:
        await bot.ask(secs=1)
        await bot.ask(secs=1)
        assert bot.answers[-1] == SECOND, bot.answers


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


async def test__silent_after_its_first_piece__second_is_asked():
    # OpenAI's first chunk has a role and no text; then the stream hangs.
    first, second = Scripted("first", [PIECE, HANG]), Scripted("second", GOOD)
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=60)
        assert bot.answers == [HEARD]


async def test__five_requests_at_once__answered_in_order():
    first, second = Scripted("first", [FAIL], GOOD), Scripted("second", words(SECOND))
    async with Bot(first, second).talking() as bot:
        for _ in range(5):
            await bot.ask(secs=None)
        await passed(5)
        assert len(bot.answers) == 5


async def test__vad_stop_reaches_services_that_are_not_active():
    from pipecat.frames.frames import VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame

    first = filtering("first", ["◐"], [FAIL], ["● ", *GOOD])
    second = filtering("second", ["● ", *words(SECOND)])
    async with Bot(first, second, cooldown=wait_fixed(1)).talking() as bot:
        await bot.ask(secs=1)
        await bot.worker.queue_frame(VADUserStartedSpeakingFrame())
        await bot.ask(secs=1)  # fails over while the user is heard
        await bot.worker.queue_frame(VADUserStoppedSpeakingFrame())
        await bot.interrupt()
        await bot.ask(secs=2)
        await bot.interrupt()
        await bot.ask(secs=2)
        assert len(first.asked) == 4 and bot.answers[-1] == HEARD, bot.answers
