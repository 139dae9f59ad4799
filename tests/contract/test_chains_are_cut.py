"""Chains are cut wherever they turn: slowly, past no output, without RTVI, in a nested pipeline."""

import pytest
from loguru import logger
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    OutputTransportMessageUrgentFrame,
    TextFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIObserverParams

from pipecat_circuit_breaker import Trigger
from pipecat_circuit_breaker.testing import Output, running
from tests.contract.contract_parts import DOWN, MAX_ERRORS, UP, breaker_with
from tests.support.parts import Failing, Tap, app_message, dead, settle


async def test__slow_recursion__is_cut_by_its_length(clock):
    class Ticking(Output):
        async def send_message(self, frame):
            clock.advance(50.0)
            await super().send_message(frame)

    output, breaker = Ticking(dead), breaker_with(clock)
    told = []
    breaker.add_event_handler("on_circuit_opened", lambda _, incident: told.append(incident))
    async with running(breaker, output) as worker:
        await worker.queue_frame(app_message())
        await settle()
        assert len(output.failed) <= MAX_ERRORS
        assert told[0].trigger is Trigger.RECURSION


@pytest.mark.parametrize("failure", ["raises", "logs"])
async def test__system_logs_and_debug_sink__drops_produce_no_message(clock, failure):
    class Failed(Output):
        async def send_message(self, frame):
            try:
                await super().send_message(frame)
            except ConnectionError as e:
                if failure == "raises":
                    raise
                logger.warning(str(e))

    lines = []
    output, breaker = Failed(dead), breaker_with(clock)
    async with running(
        breaker, output, rtvi_observer_params=RTVIObserverParams(system_logs_enabled=True)
    ) as worker:
        await worker.queue_frame(app_message())
        await settle(500)
        logger.add(lines.append, level="DEBUG")
        failed = len(output.failed)
        if failure == "raises":
            await worker.queue_frames([app_message(n) for n in range(500)])
            await settle(1000)
            held = sum(c.held_messages for c in breaker.circuits)
            assert held >= 500
            assert len(output.failed) == failed
            assert lines == []
        else:
            await worker.queue_frame(app_message())
            await settle(500)
            # It fails and logs, as it did before; what the line sets off is held back.
            assert len(output.failed) == failed + 1
            assert len(lines) == 1


async def test__ErrorFrame_pushed_without_push_error__is_guarded_as_well(clock):
    class Bare(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection):
            await super().process_frame(frame, direction)
            if isinstance(frame, TTSSpeakFrame):
                await self.push_frame(ErrorFrame("bare"), UP)
            await self.push_frame(frame, direction)

    tap = Tap()
    async with running(breaker_with(clock), tap, Bare()) as worker:
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(20)])
        await settle()
        assert len(tap.frames(ErrorFrame)) == MAX_ERRORS


async def test__loop_in_mid_pipeline_that_never_meets_breaker_or_output__is_cut(clock):
    class Apologetic(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection):
            await super().process_frame(frame, direction)
            if isinstance(frame, ErrorFrame):
                await self.push_frame(TTSSpeakFrame("sorry"), DOWN)
            await self.push_frame(frame, direction)

    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "no"})
    async with running(Apologetic(), tts, Output(), breaker_with(clock)) as worker:
        await worker.queue_frame(TTSSpeakFrame("hello"))
        await settle()
        assert tts.errors == MAX_ERRORS + 1


async def test__pipeline_without_rtvi__is_guarded_as_well(clock):
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "no"})
    async with running(breaker_with(clock), tts, enable_rtvi=False) as worker:
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame))
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(50)])
        await settle()
        assert len(seen) == MAX_ERRORS


@pytest.mark.parametrize("between", [0, 1])
async def test__channel_that_is_no_output_transport__is_spared_what_belongs_to_the_chain(
    clock, between
):
    class Sender(FrameProcessor):
        sends = 0

        async def process_frame(self, frame: Frame, direction: FrameDirection):
            await super().process_frame(frame, direction)
            if isinstance(frame, OutputTransportMessageUrgentFrame):
                self.sends += 1
                raise ConnectionError("gone")
            await self.push_frame(frame, direction)

    class Notifier(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection):
            await super().process_frame(frame, direction)
            if isinstance(frame, ErrorFrame):
                for n in range(5):
                    await self.push_frame(app_message(n))
            await self.push_frame(frame, direction)

    sender = Sender()
    taps = [Tap() for _ in range(between)]
    async with running(breaker_with(clock), Notifier(), *taps, sender) as worker:
        await worker.queue_frame(app_message())
        await settle(1000)
        # What was in its queue when the circuit opened, and what the opening error sets off.
        assert sender.sends <= 20


async def test__direct_mode_processor__its_error_is_not_on_account_of_what_its_pusher_handles(
    clock,
):
    class Forwarder(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection):
            await super().process_frame(frame, direction)
            if isinstance(frame, OutputTransportMessageUrgentFrame):
                await self.push_frame(TextFrame("untracked"))
            await self.push_frame(frame, direction)

    direct = Failing(TextFrame, lambda n: {"error_msg": "no"}, enable_direct_mode=True)
    breaker = breaker_with(clock)
    async with running(breaker, Forwarder(), direct) as worker:
        for n in range(MAX_ERRORS):
            await worker.queue_frame(app_message(n))
            await settle()
        (incident,) = breaker.incidents
        # The client is told of it, and that message is what makes the next error.
        assert incident.chain[0].frame == "ErrorFrame"


async def test__first_processor_of_all__its_errors_are_judged(clock):
    tts, seen = Failing(TTSSpeakFrame, lambda n: {"error_msg": "no"}), []
    async with running(tts, breaker_with(clock), enable_rtvi=False) as worker:
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame))
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(20)])
        await settle()
        assert len(seen) == MAX_ERRORS


async def test__answer_from_inside_a_nested_pipeline__names_who_gave_it(clock):
    class Notifier(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection):
            await super().process_frame(frame, direction)
            if isinstance(frame, ErrorFrame):
                await self.push_frame(app_message())
            await self.push_frame(frame, direction)

    output, breaker, notifier = Output(dead), breaker_with(clock), Notifier()
    async with running(breaker, Pipeline([notifier]), output, enable_rtvi=False) as worker:
        await worker.queue_frame(app_message())
        await settle()
        (incident,) = breaker.incidents
        assert {step.processor for step in incident.chain[2::2]} == {notifier.name}
        assert incident.chain[0].processor == worker.name
