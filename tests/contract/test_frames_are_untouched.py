"""A healthy pipeline's frames pass untouched, and in order."""

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pipecat.frames.frames import (
    ControlFrame,
    DataFrame,
    EndFrame,
    ErrorFrame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMTextFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    SystemFrame,
    TextFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.pipeline import Pipeline

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker._pipeline import doors
from pipecat_circuit_breaker.testing import Output, ended, running
from tests.contract.contract_parts import DOWN, UP, breaker_with
from tests.support.parts import Failing, Tap, app_message, dead, settle


def sorts_of_frames():
    text = st.text(max_size=5)
    return st.one_of(
        text.map(TextFrame),
        text.map(LLMTextFrame),
        st.binary(min_size=2, max_size=8).map(
            lambda audio: InputAudioRawFrame(audio=audio, sample_rate=16000, num_channels=1)
        ),
        st.builds(InterruptionFrame),
        st.builds(ControlFrame),
        st.builds(DataFrame),
        st.builds(SystemFrame),
        text.map(ErrorFrame),
        st.integers().map(app_message),
        st.integers().map(lambda n: OutputTransportMessageFrame(message=n)),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    frames=st.lists(st.tuples(sorts_of_frames(), st.sampled_from([DOWN, UP])), max_size=40),
    place=st.integers(0, 3),
    nested=st.booleans(),
)
def test__healthy_pipeline__random_frames__same_objects_same_order(frames, place, nested):
    """The same frames, as they arrive without a breaker: counts and order at both ends."""

    async def arrivals(with_breaker):
        taps = [Tap(name="left"), Tap(name="middle"), Tap(name="right")]
        # Each error is of another kind of its own, so that nothing is related.
        processors = [*taps]
        if with_breaker:
            breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(max_errors=1000))
            processors.insert(place, Pipeline([breaker]) if nested else breaker)
        async with running(*processors, enable_rtvi=False):
            for tap in taps:
                tap.seen.clear()
            for frame, direction in frames:
                await taps[1].push_frame(frame, direction)
            await settle(60)
            ids = {id(frame) for frame, _ in frames}
            return [
                [(id(frame), direction) for frame, direction in tap.seen if id(frame) in ids]
                for tap in taps
            ]

    assert asyncio.run(arrivals(True)) == asyncio.run(arrivals(False))


async def test__frame_through_the_breaker__arrives_within_the_call_that_pushed_it():
    breaker, tap = CircuitBreakerProcessor(), Tap(enable_direct_mode=True)
    async with running(breaker, tap):
        frame = TextFrame("now")
        await breaker.queue_frame(frame, DOWN)
        assert tap.seen[-1][0] is frame


async def test__audio_during_a_storm__is_byte_identical(clock):
    output = Output(dead)
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "no"})
    pcm = bytes(range(256)) * 5  # 40 ms at 16 kHz: whole chunks
    async with running(breaker_with(clock), tts, output) as worker:
        for n in range(50):
            await worker.queue_frame(app_message(n))
            await worker.queue_frame(TTSSpeakFrame("hello"))
            await worker.queue_frame(
                OutputAudioRawFrame(audio=pcm, sample_rate=16000, num_channels=1)
            )
            await settle(3)
        await ended(worker)

        assert bytes(output.audio) == pcm * 50


async def test__errors_pass_untouched_until_a_circuit_opens():
    tap = Tap()
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "no", "exception": ValueError(n)})
    async with running(CircuitBreakerProcessor(), tap, tts) as worker:
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(4)])
        await settle()
        assert [e.error for e in tap.frames(ErrorFrame)] == ["no"] * 4
        assert [e.metadata for e in tap.frames(ErrorFrame)] == [{}] * 4


async def test__frame_with_a_callback__is_called_back_at_the_end_too(clock):
    output, called = Output(), []

    async def callback(processor, frame, direction):
        called.append(frame)

    async with running(breaker_with(clock), output) as worker:
        end = EndFrame()
        await output.queue_frame(end, DOWN, callback)
        await settle()
        assert called == [end]
        await worker.queue_frame(app_message())
        await settle()
        assert output.sent == []


async def test__kinds_of_frame_without_end__pass_and_are_not_kept(clock, monkeypatch):
    monkeypatch.setattr(doors, "_MAX_KINDS", len(doors.UNTRACKED))
    known, tap = {*doors.UNTRACKED}, Tap()
    async with running(breaker_with(clock), tap) as worker:
        sorts = [type(f"Sort{n}", (DataFrame,), {}) for n in range(20)]
        await worker.queue_frames([sort() for sort in sorts])
        await settle()
        assert [type(f) for f, _ in tap.seen if type(f) in sorts] == sorts
    assert not {*sorts} & doors.UNTRACKED
    assert len(doors.UNTRACKED) == len(known)
