"""A handler of a processor's own `on_error` event: pipecat calls it before the error travels."""

import pytest
from pipecat.frames.frames import ErrorFrame, TextFrame, TTSSpeakFrame

from pipecat_circuit_breaker.testing import Output, running
from tests.cut.cut_parts import TTS, DeadOutput, heard, message, raises
from tests.support.parts import On, settle

AT_MOST = 10


@pytest.mark.parametrize("secs", [0.0, 2.6, 15.0])
async def test__apology_on_the_services_own_event__tts_is_broken__ends(guard, storm, clock, secs):
    tts = TTS(storm, meanwhile=lambda: clock.advance(secs))
    async with running(*guard.line(tts, Output())) as worker:

        @tts.event_handler("on_error")
        async def apologise(processor, error):
            await worker.queue_frame(TTSSpeakFrame("Sorry!"))

        await worker.queue_frame(TTSSpeakFrame("Hello!"))
        await storm.over()

    storm.assert_cut(guard, AT_MOST)


async def test__notice_on_an_outputs_own_event__output_is_dead__ends(guard, storm):
    output = DeadOutput(storm, raises)
    async with running(*guard.line(output)) as worker:

        @output.event_handler("on_error")
        async def notice(processor, error):
            await worker.queue_frame(message("notice"))

        await worker.queue_frame(message("hello"))
        await storm.over()

    storm.assert_cut(guard, AT_MOST)


async def test__loop_over_the_event__cut__the_circuit_opens_once_and_is_heard(guarded, storm):
    tts = TTS(storm)
    async with running(*guarded.line(tts, Output())) as worker:

        @tts.event_handler("on_error")
        async def apologise(processor, error):
            await worker.queue_frame(TTSSpeakFrame("Sorry!"))

        with heard(worker) as errors:
            await worker.queue_frame(TTSSpeakFrame("Hello!"))
            await storm.over()
        incidents = guarded.breaker.incidents

    assert len(errors) <= AT_MOST
    assert len(incidents) == 1
    assert incidents[0].origin.processor == tts.name


async def test__errors_that_are_no_loop__held_back__its_handler_hears_every_one(guard):
    # An application may count there, and act at a number of its own.
    told = []

    async def fails(processor, frame, direction):
        await processor.push_error("the model does not answer")

    stt = On(TextFrame, fails)
    stt.add_event_handler("on_error", lambda processor, error: told.append(error.error))
    async with running(*guard.line(stt, Output())) as worker:
        for _ in range(30):
            await worker.queue_frame(TextFrame("chunk"))
        await settle(600)

    assert len(told) == 30


async def test__error_that_makes_a_service_unusable__in_a_loop__its_handler_hears_of_it(guard):
    told = []

    async def fails(processor, frame, direction):
        await processor.push_error("gone for good", force_treat_as_permanent=len(told) == 5)

    stt = On(TextFrame, fails)
    async with running(*guard.line(stt, Output())) as worker:

        @stt.event_handler("on_error")
        async def again(processor, error):
            told.append(processor.is_usable)
            if processor.is_usable:
                await worker.queue_frame(TextFrame("again"))

        await worker.queue_frame(TextFrame("chunk"))
        await settle(600)

    # The circuit is open by then.
    assert told == [True] * 5 + [False]


async def test__apology_after_each_push__tts_is_broken__ends(guard, storm):
    tts = TTS(storm)
    async with running(*guard.line(tts, Output())) as worker:

        @tts.event_handler("on_after_push_frame")
        async def apologise(processor, frame):
            if isinstance(frame, ErrorFrame):
                await worker.queue_frame(TTSSpeakFrame("Sorry!"))

        await worker.queue_frame(TTSSpeakFrame("Hello!"))
        await storm.over()

    storm.assert_cut(guard, AT_MOST)


async def test__subclass_that_tries_again_where_it_reports__ends(guard, storm):
    class Retries(TTS):
        async def push_error_frame(self, error, *args, **kwargs):
            await super().push_error_frame(error, *args, **kwargs)
            await self.queue_frame(TTSSpeakFrame("again"))

    async with running(*guard.line(Retries(storm), Output())) as worker:
        await worker.queue_frame(TTSSpeakFrame("Hello!"))
        await storm.over()

    storm.assert_cut(guard, AT_MOST)
