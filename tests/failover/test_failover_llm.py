"""What the caller hears, and what the application is told."""

import asyncio

import pytest
from failover_parts import (
    FAIL,
    HANG,
    PIECE,
    Bot,
    Call,
    Ear,
    Pause,
    Push,
    Rich,
    Scripted,
    passed,
    words,
)
from loguru import logger
from pipecat.frames.frames import (
    EndFrame,
    FunctionCallResultFrame,
    FunctionCallsStartedFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMMessagesAppendFrame,
    LLMRunFrame,
    LLMTextFrame,
    LLMThoughtStartFrame,
    LLMThoughtTextFrame,
    ManuallySwitchServiceFrame,
    OutputAudioRawFrame,
    StopFrame,
    TextFrame,
    TTSSpeakFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.parallel_pipeline import ParallelPipeline
from pipecat.pipeline.service_switcher import (
    ServiceSwitcher,
    ServiceSwitcherStrategyFailover,
    ServiceSwitcherStrategyManual,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.services.llm_service import FunctionCallFromLLM
from pipecat.utils.text.simple_text_aggregator import SimpleTextAggregator
from tenacity import wait_fixed

from bot import running, settle
from pipecat_circuit_breaker import CircuitBreakerProcessor

pytestmark = pytest.mark.releases

HEARD = "I am here. What can I do for you today?"
GOOD = words(HEARD)
SECOND = "This is the second one. It works."


def first_fails(*scripts):
    return Scripted("first", *scripts), Scripted("second", GOOD)


#
# Asked again
#


async def test__first_fails__second_answers__one_whole_answer_and_no_error():
    first, second = first_fails([FAIL])
    async with Bot(first, second).talking() as bot:
        await bot.ask()

        assert bot.answers == [HEARD]
        assert bot.errors == []
        assert bot.told == ["failed first first failed: no answer True"]
        assert first.asked == second.asked
        assert bot.switches == 1


async def test__first_hangs__second_is_asked_when_the_time_is_over_and_not_before():
    first, second = first_fails([HANG])
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=4.9)
        assert second.asked == []
        await passed(0.2)

        assert bot.answers == [HEARD]
        assert bot.told == ["failed first no answer within 5 s True"]
        assert first.running == 0


async def test__time_limit_is_a_setting():
    first, second = first_fails([HANG])
    async with Bot(first, second, attempt_timeout_secs=1.5).talking() as bot:
        await bot.ask(secs=1.6)

        assert bot.answers == [HEARD]


async def test__stream_breaks_in_its_first_sentence__nobody_hears_of_it():
    first, second = first_fails([*words("I am"), FAIL])
    async with Bot(first, second).talking() as bot:
        await bot.ask()

        assert bot.answers == [HEARD]
        assert bot.errors == []


async def test__late_token_of_the_first__nobody_hears_it():
    class Deaf(Scripted):
        async def answer(self, script, context):
            try:
                await super().answer(script, context)
            except asyncio.CancelledError:  # as a library that swallows it
                await self.push_frame(LLMTextFrame("Too late. "))
                await self.run_function_calls(
                    [FunctionCallFromLLM("book", "1", {}, context)],
                )

    called = []

    async def book(params):
        called.append(params)

    first, second = Deaf("first", ["I ", HANG]), Scripted("second", GOOD)
    async with Bot(first, second).talking() as bot:
        bot.switcher.register_function("book", book)
        await bot.ask(secs=6)
        assert bot.answers == [HEARD] and called == []


async def test__stream_stalls_in_its_first_sentence__asked_again():
    first, second = first_fails([*words("I am"), HANG])
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=6)

        assert bot.answers == [HEARD]


async def test__stream_breaks_after_its_first_sentence__lost_and_told_once():
    first, second = first_fails([*words("I am here. What can"), FAIL])
    async with Bot(first, second).talking() as bot:
        await bot.ask()
        await bot.ask()

        assert bot.answers == ["I am here. What can", HEARD]
        assert [error.error for error in bot.errors] == ["first failed: no answer"]
        assert bot.told == [
            "failed first first failed: no answer False",
            "lost I am here. What can",
        ]


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


async def test__service_repairs_the_context_of_a_shadow__the_conversation_stays():
    class Repairs(Scripted):
        async def answer(self, script, context):
            if len(self.asked) == 2:
                context.get_messages().clear()
            raise ConnectionError("refused")

    first, second = Repairs("first", GOOD), Scripted("second", GOOD)
    async with Bot(first, second).talking() as bot:
        for _ in range(3):
            await bot.ask()

        assert len(first.asked) == 2
        assert len(bot.context.get_messages()) == 3


async def test__somebody_else_stops_the_service__nobody_is_blamed_and_nothing_is_said():
    first, second = first_fails(["I ", HANG])
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=1)
        await first.queue_frame(InterruptionFrame())
        await passed(10)

        assert bot.answers == [""]
        assert bot.told == [] and second.asked == []


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


async def test__three_services__each_is_asked_once_and_in_order():
    first, second = Scripted("first", [FAIL]), Scripted("second", [HANG])
    third = Scripted("third", GOOD)
    async with Bot(first, second, third).talking() as bot:
        await bot.ask(secs=6)

        assert bot.answers == [HEARD]
        assert [len(llm.asked) for llm in bot.llms] == [1, 1, 1]
        assert [told.split()[:2] for told in bot.told] == [
            ["failed", "first"],
            ["failed", "second"],
        ]


#
# Held no longer than speech would wait
#


@pytest.mark.parametrize(
    "text",
    [HEARD, "No. 5 costs $29.9 today. Shall I book it?", "Yes", "Dr. Smith is in. He can see you"],
)
async def test__text_leaves_with_the_token_at_which_pipecat_would_speak(text):
    pieces = words(text)
    aggregator, speaks_at = SimpleTextAggregator(), len(pieces)
    for n, piece in enumerate(pieces):
        if [sentence async for sentence in aggregator.aggregate(piece)]:
            speaks_at = n
            break
    script = [step for piece in pieces for step in (piece, Pause(1.0))]
    async with Bot(Scripted("first", script), Scripted("second", GOOD)).talking() as bot:
        await bot.ask(secs=0.5)
        for n in range(len(pieces)):
            said = len(bot.ear.frames(LLMTextFrame))
            assert said == (0 if n < speaks_at else n + 1)
            await passed(1.0)

        assert bot.answers == [text]


async def test__tokens_are_spoken_as_they_come__nothing_is_held():
    def tokens():
        kind = SimpleTextAggregator().text.type.__class__("token")
        return SimpleTextAggregator(aggregation_type=kind)

    first, second = first_fails([*words("I am"), Pause(3.0), *words("here.")])
    async with Bot(first, second, text_aggregator=tokens).talking() as bot:
        await bot.ask(secs=1)
        assert bot.answers == ["I am..."]


async def test__aggregator_raises__nothing_is_held_and_it_is_reported_once():
    class Broken(SimpleTextAggregator):
        async def aggregate(self, text):
            raise LookupError("no data")
            yield

    lines = []
    logger.add(lines.append, level="ERROR", format="{message}")
    first, second = first_fails(["I ", Pause(3.0), "am."])
    async with Bot(first, second, text_aggregator=Broken).talking() as bot:
        await bot.ask(secs=1)
        assert bot.answers == ["I..."]
        await bot.ask(secs=6)
        assert bot.answers == ["I am.", "I am."]

    assert len([line for line in lines if "sentence ends" in line]) == 1


async def test__frames_behind_a_hung_request__keep_their_order():
    first, second = first_fails([HANG])
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=0)
        for n in range(3):
            await bot.worker.queue_frame(TextFrame(f"behind {n}"))
        await bot.ask(secs=6)
        await bot.worker.queue_frame(TextFrame("last"))
        await settle()

        texts = [frame.text.strip() for frame, _ in bot.ear.seen if isinstance(frame, TextFrame)]
        answer = HEARD.split()
        assert texts == [*answer, "behind 0", "behind 1", "behind 2", *answer, "last"]


#
# Back again
#


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


#
# Nobody answers
#


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


#
# Tools
#


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


#
# Thinking, and other pauses
#


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


async def test__five_requests_at_once__answered_in_order():
    first, second = Scripted("first", [FAIL], GOOD), Scripted("second", words(SECOND))
    async with Bot(first, second).talking() as bot:
        for _ in range(5):
            await bot.ask(secs=None)
        await passed(5)
        assert len(bot.answers) == 5


async def test__two_switchers_in_parallel__each_answers_once():
    breaker = CircuitBreakerProcessor()
    ears, branches = [Ear(), Ear()], []
    for n, ear in enumerate(ears):
        llms = [Scripted(f"first {n}", [FAIL]), Scripted(f"second {n}", GOOD)]
        switcher = LLMSwitcher(llms)
        breaker.failover(switcher)
        branches.append([switcher, ear])
    context = LLMContext([{"role": "user", "content": "hello"}])
    async with running(breaker, ParallelPipeline(*branches)) as worker:
        for _ in range(3):
            await worker.queue_frame(LLMContextFrame(context))
        await passed(5)
        assert [ear.answers for ear in ears] == [[HEARD] * 3] * 2


async def test__end_behind_a_hung_request__ends():
    first, second = Scripted("first", [HANG]), Scripted("second", GOOD)
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=None)
        await bot.worker.queue_frame(EndFrame())
        await passed(10)
        assert bot.answers == [HEARD]
        assert bot.worker.has_finished()


async def test__chinese_text__leaves_with_its_first_sentence():
    first = Scripted("first", ["你好", "，我在。", "你", HANG])
    async with Bot(first, Scripted("second", GOOD)).talking() as bot:
        await bot.ask(secs=20)
        assert bot.answers[0].startswith("你好，我在。")


async def test__run_frames_and_appends_quickly__each_is_answered():
    context = LLMContext()
    pair = LLMContextAggregatorPair(context)
    breaker, ear = CircuitBreakerProcessor(), Ear()
    first, second = Scripted("first", [FAIL]), Scripted("second", GOOD)
    switcher = LLMSwitcher([first, second])
    breaker.failover(switcher, cooldown=wait_fixed(1))
    async with running(breaker, pair.user(), switcher, ear, pair.assistant()) as worker:
        for n in range(4):
            say = {"role": "user", "content": f"q{n}"}
            await worker.queue_frame(LLMMessagesAppendFrame(messages=[say], run_llm=True))
            await worker.queue_frame(LLMRunFrame())
        await passed(20)
        assert ear.answers == [HEARD] * 8
        said = [m["content"] for m in context.get_messages() if m["role"] == "assistant"]
        assert said == [HEARD] * 8


#
# What it leaves alone
#


async def test__aggregators_around_it__the_context_holds_each_thing_once():
    async def book(params):
        await params.result_callback("booked")

    first, second = first_fails(["Let me see. ", Call("book")], [FAIL])
    bot = Bot(first, second)
    bot.switcher.register_function("book", book)
    pair = LLMContextAggregatorPair(bot.context)
    async with running(bot.breaker, pair.user(), bot.switcher, bot.ear, pair.assistant()) as worker:
        bot.worker = worker
        await bot.ask()

        # The second is asked with the call that the first has made, and its result.
        messages = bot.context.get_messages()
        assert [message["role"] for message in messages] == [
            *("user", "assistant", "assistant", "tool", "assistant"),
        ] or [message["role"] for message in messages] == [
            *("user", "assistant", "tool", "assistant", "assistant"),
        ]
        said = [message["content"] for message in messages if message.get("content")]
        assert said.count(HEARD) == 1 and said.count("Let me see.") == 1
        assert said.count('"booked"') == 1
        assert second.asked[0]["role"] in ("tool", "assistant")
    assert bot.told == ["failed first first failed: no answer True"]


async def test__strategy_of_pipecat_that_fails_over__one_switch_for_one_failure():
    first, second = first_fails([FAIL])
    bot = Bot(first, second, strategy=ServiceSwitcherStrategyFailover)
    async with bot.talking():
        await bot.ask()
        assert bot.answers == [HEARD] and bot.switches == 1


async def test__plain_service_switcher__works_as_well():
    first, second = first_fails([FAIL])
    bot = Bot(Scripted("unused", GOOD))
    bot.switcher = ServiceSwitcher([first, second], ServiceSwitcherStrategyManual)
    bot.failover = bot.breaker.failover(bot.switcher)
    async with bot.talking():
        await bot.ask()
        assert bot.answers == [HEARD]


async def test__leave__everything_is_as_it_was():
    first, second = first_fails([FAIL])
    before = [{**vars(first)}, {**vars(second)}]
    bot = Bot(first, second)
    bot.failover.leave()

    assert [vars(first).keys() - before[0].keys(), vars(second).keys() - before[1].keys()] == [
        {"_next", "_prev"} & (vars(first).keys() - before[0].keys()),
        {"_next", "_prev"} & (vars(second).keys() - before[1].keys()),
    ]
    assert "process_frame" not in vars(bot.switcher)


def test__not_asked_for__nothing_of_it_is_imported():
    import subprocess
    import sys

    code = (
        "import sys, pipecat_circuit_breaker as p; p.CircuitBreakerProcessor();"
        "print([m for m in sys.modules if 'failover' in m])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test__wrong_use__refused_at_once():
    breaker = CircuitBreakerProcessor()
    with pytest.raises(TypeError, match="ServiceSwitcher"):
        breaker.failover(IdentityFilter())
    with pytest.raises(TypeError, match="LLM, STT or TTS services"):
        breaker.failover(ServiceSwitcher([IdentityFilter()]))
    for secs in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="attempt_timeout_secs"):
            breaker.failover(ServiceSwitcher([Scripted("a", GOOD)]), attempt_timeout_secs=secs)
    switcher = ServiceSwitcher([Scripted("a", GOOD)])
    breaker.failover(switcher).leave()
    breaker.failover(switcher)
    with pytest.raises(ValueError, match="already"):
        breaker.failover(switcher)
    with pytest.raises(TypeError, match="tenacity"):
        breaker.failover(ServiceSwitcher([Scripted("a", GOOD)]), cooldown=5)
