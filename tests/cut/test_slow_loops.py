"""Chains that turn so slowly that no window ever fills. The clock moves in the part that fails."""

import pytest
from pipecat.frames.frames import (
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMMessagesAppendFrame,
    LLMTextFrame,
    TextFrame,
    TTSSpeakFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.llm_service import LLMService

from pipecat_circuit_breaker.testing import Output, running
from tests.cut.cut_parts import TTS
from tests.support.parts import On, settle

#: Seconds that a turn takes; five of them are more than a window.
TURN_SECS = 2.6

#: Failures of one lineage that are a loop, and what one that says so sets off.
AT_MOST = 10


def apologise_with(make):
    async def apologise(worker, error):
        await worker.queue_frame(make(error))

    return apologise


@pytest.mark.parametrize("secs", [TURN_SECS, 8.0, 15.0])
async def test__spoken_apology__slow_turns__ends(guard, storm, clock, secs):
    tts = TTS(storm, meanwhile=lambda: clock.advance(secs))
    async with running(*guard.line(tts, Output())) as worker:
        worker.add_event_handler(
            "on_pipeline_error", apologise_with(lambda _: TTSSpeakFrame("Sorry!"))
        )
        await worker.queue_frame(TTSSpeakFrame("Hello!"))
        await storm.over()

    storm.assert_cut(guard, AT_MOST)


class TalkativeLLM(LLMService):
    """A language model that finds an answer to everything."""

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame):
            await self.push_frame(LLMFullResponseStartFrame())
            await self.push_frame(LLMTextFrame("Sorry, something went wrong."))
            await self.push_frame(LLMFullResponseEndFrame())
        else:
            await self.push_frame(frame, direction)


class SpeaksTexts(FrameProcessor):
    """Makes one utterance of each text of the model."""

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMTextFrame):
            frame = TTSSpeakFrame(frame.text)
        await self.push_frame(frame, direction)


async def test__apology_through_a_model__slow_turns__ends(guard, storm, clock):
    aggregators = LLMContextAggregatorPair(LLMContext())
    tts = TTS(storm, meanwhile=lambda: clock.advance(TURN_SECS))
    bot = [aggregators.user(), TalkativeLLM(), SpeaksTexts(), tts]
    async with running(*guard.line(*bot, Output())) as worker:
        say = {"role": "developer", "content": "Apologise for the error."}
        worker.add_event_handler(
            "on_pipeline_error",
            apologise_with(lambda _: LLMMessagesAppendFrame(messages=[say], run_llm=True)),
        )
        await worker.queue_frame(LLMMessagesAppendFrame(messages=[say], run_llm=True))
        await storm.over()

    storm.assert_cut(guard, AT_MOST)


async def test__two_origins_in_turn__slow_turns__ends(guard, storm, clock):
    # The speech fails, its apology goes over the model, which fails; that is spoken.
    async def no_answer(llm, frame, direction):
        if storm.turn():
            clock.advance(TURN_SECS)
            await llm.push_error("the model does not answer")

    llm = On(LLMMessagesAppendFrame, no_answer)
    tts = TTS(storm, meanwhile=lambda: clock.advance(TURN_SECS))
    async with running(*guard.line(llm, tts, Output())) as worker:

        def answer(error):
            if error.processor is tts:
                return LLMMessagesAppendFrame(messages=[])
            return TTSSpeakFrame("Sorry, I cannot think.")

        worker.add_event_handler("on_pipeline_error", apologise_with(answer))
        await worker.queue_frame(TTSSpeakFrame("Hello!"))
        await storm.over()

    storm.assert_cut(guard, AT_MOST)


async def test__two_users__each_fails_slowly_now_and_then__all_errors_are_heard(
    guarded, storm, clock
):
    # No loop: what fails was asked for from outside each time, so its lineage is short.
    errors = []
    tts = TTS(storm, meanwhile=lambda: clock.advance(TURN_SECS))
    async with running(*guarded.line(tts, Output())) as worker:
        worker.add_event_handler("on_pipeline_error", lambda _, error: errors.append(error))
        for n in range(20):
            await worker.queue_frame(TTSSpeakFrame(f"Hello {n}!"))
            await settle(60)

    assert storm.turns == 20
    assert len(errors) == 20


@pytest.mark.parametrize("rtvi", [True, False])
@pytest.mark.parametrize("secs", [TURN_SECS, 8.0])
async def test__asked_again_by_a_handler__next_to_the_pipelines_source__ends(
    guard, storm, clock, secs, rtvi
):
    """The handler is called in the failing processor's own task: there is nobody in between."""

    async def fails(processor, frame, direction):
        if storm.turn():
            clock.advance(secs)
            await processor.push_error("bad")

    async def ask_again(worker, error):
        await worker.queue_frame(TextFrame("again"))

    async with running(*guard.line(On(TextFrame, fails), Output()), enable_rtvi=rtvi) as worker:
        worker.add_event_handler("on_pipeline_error", ask_again)
        await worker.queue_frame(TextFrame("hello"))
        await storm.over()

    storm.assert_cut(guard, AT_MOST)
