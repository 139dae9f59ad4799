"""The contract, on real pipelines: what is stopped, and what never is."""

import asyncio
import gc
import weakref

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loguru import logger
from pipecat.frames.frames import (
    ControlFrame,
    DataFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InputTransportMessageFrame,
    InterruptionFrame,
    LLMTextFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    StopFrame,
    SystemFrame,
    TextFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.parallel_pipeline import ParallelPipeline
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import ProcessorUnusablePolicy
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIObserverParams
from pipecat.utils.errors import ErrorCategory
from tenacity import wait_fixed

from bot import Failing, Output, Tap, app_message, dead, ended, of_type, running, settle
from pipecat_circuit_breaker import (
    AdviceKind,
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    CircuitState,
    Origin,
    Trigger,
)
from pipecat_circuit_breaker._core.breaker import Breaker
from pipecat_circuit_breaker._core.causality import Causality
from pipecat_circuit_breaker._pipeline import doors
from pipecat_circuit_breaker._pipeline.patch import replace

DOWN, UP = FrameDirection.DOWNSTREAM, FrameDirection.UPSTREAM
MAX_ERRORS = CircuitBreakerParams().max_errors


def breaker_with(clock, **params):
    return CircuitBreakerProcessor(
        params=CircuitBreakerParams(clock=clock, cooldown=wait_fixed(5), **params)
    )


#
# Several outputs, several kinds of message
#


async def test__one_output_dead_one_alive__live_client_gets_every_message_once_in_order(clock):
    left, right = Output(dead), Output()
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    async with running(breaker, ParallelPipeline([left], [right])) as worker:
        for n in range(100):
            await worker.queue_frame(app_message(n))
            await settle(5)
        await settle()

        assert [m["n"] for m in of_type(right.sent, "app")] == [*range(100)]
        others = [m for m in right.sent if m["type"] != "app"]
        assert len(others) <= MAX_ERRORS + 2
        assert len(left.failed) <= MAX_ERRORS


async def test__one_output_dead_one_alive__burst__is_the_same(clock):
    left, right = Output(dead), Output()
    async with running(breaker_with(clock), ParallelPipeline([left], [right])) as worker:
        await worker.queue_frames([app_message(n) for n in range(100)])
        await settle()

        assert [m["n"] for m in of_type(right.sent, "app")] == [*range(100)]
        assert len([m for m in right.sent if m["type"] != "app"]) <= MAX_ERRORS + 2
        # While all that failed was of one kind, a message of another is tried once.
        assert len(left.failed) <= MAX_ERRORS + 1


async def test__outputs_in_a_row__first_one_dead__queued_messages_still_reach_the_second(clock):
    first, second = Output(dead), Output()
    async with running(breaker_with(clock), first, second) as worker:
        for n in range(20):
            await worker.queue_frame(OutputTransportMessageFrame(message={"type": "app", "n": n}))
            await settle(20)
        await settle()

        assert [m["n"] for m in of_type(second.sent, "app")] == [*range(20)]
        assert len(first.failed) <= MAX_ERRORS


@pytest.mark.parametrize("burst", [1, 50])
async def test__one_kind_always_fails__every_other_message_arrives(burst, clock):
    output = Output(lambda m: TypeError("not serialisable") if m.get("type") == "bad" else None)
    async with running(breaker_with(clock), output) as worker:
        for n in range(50):
            await worker.queue_frames([app_message(n, "bad") for _ in range(burst)])
            await worker.queue_frame(app_message(n))
            await settle(20)
        await settle()

        assert [m["n"] for m in of_type(output.sent, "app")] == [*range(50)]
        # They fail, as they would without a breaker; only their errors are held back.
        assert len(of_type(output.sent, "error")) == MAX_ERRORS


async def test__single_queued_message_that_fails__the_sound_goes_on():
    output = Output(dead)
    async with running(CircuitBreakerProcessor(), output) as worker:
        await worker.queue_frame(OutputTransportMessageFrame(message={"type": "app"}))
        await settle()
        sound = OutputAudioRawFrame(audio=b"\1\2" * 640, sample_rate=16000, num_channels=1)
        await worker.queue_frame(sound)
        await ended(worker)

        assert len(output.failed) >= 1
        assert b"\1\2" * 640 in bytes(output.audio)


#
# Clients
#


async def test__two_hundred_malformed_rtvi_messages__two_hundred_answers_and_no_circuit():
    class Client(FrameProcessor):
        async def process_frame(self, frame, direction):
            await super().process_frame(frame, direction)
            await self.push_frame(frame, direction)

    client, output, breaker = Client(), Output(), CircuitBreakerProcessor()
    async with running(breaker, client, output):
        for n in range(200):
            bad = InputTransportMessageFrame(message={"label": "rtvi-ai", "id": 7, "n": n})
            await client.push_frame(bad, UP)
            await settle(2)
        await settle()

        assert len(of_type(output.sent, "error")) == 200
        assert all(c.state is CircuitState.CLOSED for c in breaker.circuits)


async def test__valid_requests_answered_by_one_task__are_never_a_chain():
    output, breaker, client = Output(), CircuitBreakerProcessor(), Tap()
    async with running(breaker, client, output):
        for n in range(200):
            message = {"label": "rtvi-ai", "type": "no-such-type", "id": str(n), "data": {}}
            await client.push_frame(InputTransportMessageFrame(message=message), UP)
        await settle(2000)

        assert len(of_type(output.sent, "error-response")) == 200
        assert breaker.circuits == ()


#
# Errors that the worker has to see
#


async def test__fatal_error__in_the_middle_of_a_storm__cancels_the_worker():
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "no", "fatal": n == 50})
    finished = asyncio.Event()
    async with running(CircuitBreakerProcessor(), tts, Output()) as worker:
        worker.add_event_handler("on_pipeline_finished", lambda *_: finished.set())
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame.fatal))
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(50)])
        await asyncio.wait_for(finished.wait(), 10)

        assert seen.count(True) == 1
        assert len(seen) == MAX_ERRORS + 1


@pytest.mark.parametrize(
    "failing",
    [
        lambda n: {"error_msg": "no", "force_treat_as_permanent": n >= 50},
        lambda n: {
            "error_msg": "no",
            "category": ErrorCategory.AUTHENTICATION if n >= 50 else ErrorCategory.UNKNOWN,
        },
    ],
)
async def test__error_that_makes_a_processor_unusable__reaches_the_policy(failing):
    tts = Failing(TTSSpeakFrame, failing)
    finished = asyncio.Event()
    async with running(
        CircuitBreakerProcessor(),
        tts,
        Output(),
        processor_unusable_policy=ProcessorUnusablePolicy.CANCEL,
    ) as worker:
        worker.add_event_handler("on_pipeline_finished", lambda *_: finished.set())
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(49)])
        await settle()
        assert not finished.is_set()
        await worker.queue_frame(TTSSpeakFrame("hello"))
        await asyncio.wait_for(finished.wait(), 10)


async def test__processor_that_stays_unusable__is_heard_once_each_time_it_becomes_so():
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "no", "force_treat_as_permanent": True})
    async with running(
        CircuitBreakerProcessor(params=CircuitBreakerParams(max_errors=1)), tts, Output()
    ) as worker:
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame))
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(20)])
        await settle()
        assert len(seen) == 1


#
# Origins
#


async def test__errors_whose_texts_never_repeat__are_one_origin():
    tts = Failing(
        TTSSpeakFrame,
        lambda n: {
            "error_msg": f"request {n * 7919:08x} at 12:{n % 60:02}:00 to 10.0.0.{n} failed"
        },
    )
    breaker = CircuitBreakerProcessor()
    async with running(breaker, tts, Output()) as worker:
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame))
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(200)])
        await settle(500)

        (circuit,) = breaker.circuits
        assert circuit.state is CircuitState.OPEN
        assert circuit.held_errors == 195
        assert len(seen) == MAX_ERRORS


async def test__other_circuits__are_not_touched():
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "tts"})
    llm = Failing(LLMTextFrame, lambda n: {"error_msg": "llm"})
    async with running(CircuitBreakerProcessor(), tts, llm, Output()) as worker:
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame.error))
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(50)])
        await worker.queue_frames([LLMTextFrame("hello") for _ in range(3)])
        await settle()

        assert seen.count("llm") == 3


async def test__counts__errors_that_do_not_count__are_neutral():
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "ignore me"})
    breaker = CircuitBreakerProcessor(
        params=CircuitBreakerParams(counts=lambda error: "ignore" not in error.error)
    )
    async with running(breaker, tts, Output()) as worker:
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame))
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(50)])
        await settle()

        assert len(seen) == 50
        assert breaker.circuits == ()


#
# What the one error says, and to whom
#


async def test__opening__goes_upstream_once_and_says_so_with_its_processor(clock):
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": f"no {n}"})
    output, breaker = Output(), breaker_with(clock)
    async with running(breaker, tts, output) as worker:
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame))
        for _ in range(20):
            await worker.queue_frame(TTSSpeakFrame("hello"))
            await settle(20)

        assert [frame.error for frame in seen[:-1]] == ["no 1", "no 2", "no 3", "no 4"]
        assert seen[-1].error.startswith("no 5 (circuit open, 5 related errors")
        assert seen[-1].processor is tts
        notices = of_type(output.sent, "error")
        assert len(notices) == 5
        assert "circuit open" in notices[-1]["data"]["error"]

        clock.advance(5.0)
        await worker.queue_frame(TTSSpeakFrame("hello"))
        await settle()
        assert seen[-1].error == "no 21 (circuit probed, 15 more like it were held back)"


async def test__events__name_origin_trigger_chain_and_counts(clock):
    output, breaker = Output(dead), breaker_with(clock)
    told = []
    for event in ("opened", "half_opened", "closed"):
        breaker.add_event_handler(
            f"on_circuit_{event}", lambda b, incident, e=event: told.append((e, b, incident))
        )
    async with running(breaker, output) as worker:
        await worker.queue_frame(app_message())
        await settle()
        await worker.queue_frame(app_message())
        await settle()
        output.fails = lambda message: None
        clock.advance(5.0)
        await worker.queue_frame(app_message())
        await settle()

        assert [event for event, _, _ in told] == ["opened", "half_opened", "closed"]
        assert all(b is breaker for _, b, _ in told)
        opened, _, closed = (incident for _, _, incident in told)
        assert opened.origin.processor == output.name
        assert opened.origin.kind == "ConnectionError"
        assert opened.trigger is Trigger.ERRORS
        assert opened.failures == MAX_ERRORS
        assert opened.probe_in_secs == pytest.approx(0.1), "that of the channel"
        assert [step.hop for step in opened.chain] == [*range(10)]
        assert opened.chain[0].frame == "OutputTransportMessageUrgentFrame"
        assert opened.chain[-1].frame == "ErrorFrame"
        assert opened.chain[-1].processor == output.name
        assert "the client is gone" in opened.chain[-1].text
        assert opened.model_dump_json()
        assert closed.state is CircuitState.CLOSED
        assert closed.held_messages == 2  # the notice that says "circuit open", and one more
        assert breaker.circuits[0].state is CircuitState.CLOSED


#
# Recovery
#


async def test__channel_comes_back__one_probe_and_all_is_well(clock):
    output, breaker = Output(dead), breaker_with(clock)
    async with running(breaker, output) as worker:
        await worker.queue_frame(app_message())
        await settle()
        for _ in range(3):
            clock.advance(5.0)
            await worker.queue_frames([app_message() for _ in range(10)])
            await settle()
        assert len(output.failed) == MAX_ERRORS + 3

        output.fails = lambda message: None
        clock.advance(5.0)
        await worker.queue_frames([app_message(n) for n in range(10)])
        await settle()
        assert [m["n"] for m in output.sent] == [*range(10)]
        assert breaker.circuits[0].state is CircuitState.CLOSED


async def test__probe_that_hangs__times_out_and_reopens(clock):
    hanging = asyncio.Event()

    class Hanging(Output):
        async def send_message(self, frame):
            if hanging.is_set():
                await asyncio.Event().wait()
            await super().send_message(frame)

    output, breaker = Hanging(dead), breaker_with(clock)
    async with running(breaker, output) as worker:
        await worker.queue_frame(app_message())
        await settle()
        hanging.set()
        clock.advance(5.0)
        await worker.queue_frame(OutputTransportMessageFrame(message={"type": "app"}))
        await settle()
        assert breaker.circuits[0].state is CircuitState.HALF_OPEN
        await worker.queue_frame(app_message())
        await settle()
        assert breaker.circuits[0].state is CircuitState.HALF_OPEN
        clock.advance(10.0)
        await worker.queue_frame(app_message())
        await settle()
        assert breaker.circuits[0].state is CircuitState.OPEN
        assert breaker.circuits[0].openings == 2


async def test__late_failure_of_a_message_from_before__decides_nothing(clock):
    release = asyncio.Event()

    class Slow(Output):
        async def send_message(self, frame):
            if frame.message.get("slow"):
                await release.wait()
                raise ConnectionError("late")
            await super().send_message(frame)

    output, breaker = Slow(dead), breaker_with(clock, max_errors=1)
    async with running(breaker, output) as worker:
        slow = OutputTransportMessageFrame(message={"type": "slow", "slow": True})
        await worker.queue_frame(slow)  # hangs in the audio task
        await settle()
        clock.advance(1.0)
        await worker.queue_frame(app_message())
        await settle()
        assert breaker.circuits[0].state is CircuitState.OPEN
        output.fails = lambda message: None
        clock.advance(5.0)
        await worker.queue_frame(app_message())
        await settle()
        assert breaker.circuits[0].state is CircuitState.CLOSED
        release.set()
        await settle()
        assert breaker.circuits[0].state is CircuitState.CLOSED


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


#
# Untouched
#


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


#
# The breaker itself
#


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


async def test__listener_that_answers_each_event_with_a_message__feeds_no_chain(clock):
    output, breaker = Output(dead), breaker_with(clock)
    async with running(breaker, output) as worker:

        async def tell_client(breaker, incident):
            await worker.rtvi.send_server_message({"degraded": True})

        for event in ("opened", "half_opened", "closed"):
            breaker.add_event_handler(f"on_circuit_{event}", tell_client)
        await worker.queue_frame(app_message())
        await settle()
        assert len(output.failed) <= MAX_ERRORS + 1


async def test__listener_that_raises__changes_nothing(clock):
    output, breaker = Output(dead), breaker_with(clock)

    @breaker.event_handler("on_circuit_opened")
    async def on_circuit_opened(breaker, incident):
        raise RuntimeError("listener")

    async with running(breaker, output) as worker:
        await worker.queue_frame(app_message())
        await settle()
        assert len(output.failed) == MAX_ERRORS
        assert breaker.circuits[0].state is CircuitState.OPEN


async def test__two_breakers__share_the_work_and_judge_once(clock):
    first, second = breaker_with(clock), breaker_with(clock)
    told = []
    for breaker in (first, second):
        breaker.add_event_handler("on_circuit_opened", lambda b, _: told.append(b))
    output = Output(dead)
    async with running(first, Pipeline([Tap(), second]), output) as worker:
        await worker.queue_frame(app_message())
        await settle()
        assert len(output.failed) == MAX_ERRORS
        assert first.circuits == second.circuits
        assert told == [first, second]


async def test__failure_inside_the_breaker__lets_the_frame_through_and_is_reported_once(clock):
    lines = []
    logger.add(lines.append, level="ERROR", filter="pipecat_circuit_breaker")
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "no"})

    def counts(error):
        raise RuntimeError("broken setting")

    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(counts=counts))
    async with running(breaker, tts) as worker:
        seen = []
        worker.add_event_handler("on_pipeline_error", lambda _, frame: seen.append(frame))
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(3)])
        await settle()
        assert len(seen) == 3
        assert len(lines) == 1


@pytest.mark.parametrize("part", ["link_of", "note_queued", "judge_error", "deliver"])
async def test__part_of_the_breaker_that_raises__frames_pass_and_it_is_reported(part, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a bug of ours")

    lines = []
    logger.add(lines.append, level="ERROR", filter="pipecat_circuit_breaker")
    for owner in (Causality, Breaker):
        if hasattr(owner, part):
            monkeypatch.setattr(owner, part, broken)
    tts, output = Failing(TTSSpeakFrame, lambda n: {"error_msg": "no"}), Output()
    async with running(CircuitBreakerProcessor(), tts, output) as worker:

        async def answer(worker, frame):
            if tts.errors < 3:
                await worker.queue_frame(TTSSpeakFrame("sorry"))

        worker.add_event_handler("on_pipeline_error", answer)
        await worker.queue_frames([TTSSpeakFrame("hello"), app_message(1)])
        await settle()
        assert tts.errors == 3
        assert len(of_type(output.sent, "app")) == 1
        assert len(of_type(output.sent, "error")) == 3
    assert lines


async def test__origins_without_end__stay_within_the_bound(clock):
    words = ["ab", "cd", "ef", "gh", "ij", "kl", "mn", "op", "qr", "st"]
    tts = Failing(
        TTSSpeakFrame, lambda n: {"error_msg": " ".join(words[int(d)] for d in f"{n:03}")}
    )
    breaker = breaker_with(clock, max_circuits=100)
    async with running(breaker, tts, Output()) as worker:
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(999)])
        await settle(2000)
        assert tts.errors == 999
        assert len(breaker.circuits) == 100


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


async def test__same_pipeline_in_a_second_worker__is_guarded_anew(clock):
    output, breaker = Output(dead), breaker_with(clock)
    async with running(breaker, output) as worker:
        await worker.queue_frame(app_message())
        await settle()
        await worker.queue_frame(StopFrame())
        await settle()
    assert len(output.failed) == MAX_ERRORS
    async with running(breaker, output) as worker:
        assert breaker.circuits == ()
        await worker.queue_frame(app_message())
        await settle()
        assert len(output.failed) == 2 * MAX_ERRORS
        await worker.queue_frame(StopFrame())
        await settle()


async def test__processor_that_becomes_unusable_again__is_heard_again(clock):
    tts = Failing(
        TTSSpeakFrame, lambda n: {"error_msg": "no", "force_treat_as_permanent": n in (10, 20)}
    )
    async with running(breaker_with(clock, max_errors=1), tts) as worker:
        seen = []
        worker.add_event_handler(
            "on_pipeline_error", lambda _, frame: seen.append(frame.processor.is_usable)
        )
        for _ in range(30):
            await worker.queue_frame(TTSSpeakFrame("hello"))
            await settle(20)
            if tts.errors == 15:
                await tts.set_usable(True)
        # The one that opened the circuit, and twice the one that cost the usability.
        assert seen == [True, False, False]


async def test__pipeline__is_not_relinked_and_left_as_it_was_found(clock):
    upstream, tts, breaker = Tap(), Failing(TTSSpeakFrame, lambda n: {}), breaker_with(clock)
    output = Output()
    async with running(breaker, upstream, tts, output) as worker:
        observer = upstream.processor_setup.observer
        assert (breaker.next, upstream.next, tts.next) == (upstream, tts, output)
        guarded = {name for p in (upstream, output, observer) for name in vars(p)}
        assert guarded >= {"queue_frame", "send_message", "on_process_frame"}
        assert "queue_frame" in vars(worker)
    assert breaker._guard is not None
    await breaker._guard.leave()
    for instance in (upstream, tts, output, worker, observer):
        assert not {"queue_frame", "send_message", "on_process_frame"} & vars(instance).keys()


async def test__pipeline_that_is_over__is_not_kept_in_memory(clock):
    breaker = breaker_with(clock)
    async with running(breaker, Output(dead)) as worker:
        await worker.queue_frame(app_message())
        await settle()
        gone = weakref.ref(worker)
    del worker, breaker
    await settle()
    gc.collect()
    assert gone() is None


async def test__message_of_a_listener__reaches_the_client_that_is_there(clock):
    left, right, breaker = Output(dead), Output(), breaker_with(clock)
    async with running(breaker, ParallelPipeline([left], [right])) as worker:

        @breaker.event_handler("on_circuit_opened")
        async def on_circuit_opened(breaker, incident):
            await worker.rtvi.send_server_message({"degraded": True})

        await worker.queue_frame(app_message())
        await settle()
        assert len(of_type(right.sent, "server-message")) == 1
        assert len(left.failed) <= MAX_ERRORS + 1


async def test__counts__is_asked_once_about_an_error_that_passes_several_gates(clock):
    asked = []
    llm = Failing(LLMTextFrame, lambda n: {"error_msg": "llm"})
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "tts"})
    breaker = breaker_with(clock, counts=lambda error: asked.append(error.error))
    async with running(breaker, llm, tts) as worker:
        await worker.queue_frames([LLMTextFrame("hello"), TTSSpeakFrame("hello")])
        await settle()
        assert sorted(asked) == ["llm", "tts"]


@pytest.mark.parametrize("cancelled", [False, True])
async def test__messages_that_one_task_sends_by_calling_the_output__are_no_chain(clock, cancelled):
    class Cancelling(Output):
        async def send_message(self, frame):
            await super().send_message(frame)
            if cancelled:
                raise asyncio.CancelledError

    output, breaker = Cancelling(), breaker_with(clock)

    async def talk():
        for n in range(200):
            try:
                await output.send_message(app_message(n))
            except asyncio.CancelledError:
                continue

    async with running(breaker, output, enable_rtvi=False):
        await asyncio.create_task(talk())
        assert len(output.sent) == 200
        assert breaker.circuits == ()


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


#
# Doors
#


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
    monkeypatch.setattr(doors, "_MAX_UNTRACKED", len(doors.UNTRACKED))
    known, tap = {*doors.UNTRACKED}, Tap()
    async with running(breaker_with(clock), tap) as worker:
        sorts = [type(f"Sort{n}", (DataFrame,), {}) for n in range(20)]
        await worker.queue_frames([sort() for sort in sorts])
        await settle()
        assert [type(f) for f, _ in tap.seen if type(f) in sorts] == sorts
    assert not {*sorts} & doors.UNTRACKED
    assert len(doors.UNTRACKED) == len(known)


def test__function_in_front_of_a_method__is_taken_back_and_leaves_what_others_put_there():
    class Thing:
        def speak(self):
            return "class"

    thing = Thing()
    undo = replace(thing, "speak", lambda: "ours")
    assert thing.speak() == "ours"
    undo()
    assert (thing.speak(), vars(thing)) == ("class", {})

    thing.speak = lambda: "its own"
    undo = replace(thing, "speak", lambda: "ours")
    undo()
    assert thing.speak() == "its own"

    undo = replace(thing, "speak", lambda: "ours")
    thing.speak = lambda: "somebody else's"
    undo()
    assert thing.speak() == "somebody else's"


#
# Incidents that are kept
#


async def test__incidents__are_as_of_now_and_at_most_a_hundred(clock):
    output, breaker = Output(), breaker_with(clock)
    async with running(breaker, output) as worker:
        for n in range(105):
            await breaker.open_circuits(Origin.of(output, f"E{n}"))
            if n < 104:
                await breaker.close_circuits()
        assert [i.origin.kind for i in breaker.incidents] == [f"E{n}" for n in range(5, 105)]
        await worker.queue_frames([app_message(n) for n in range(3)])
        await settle()
        assert breaker.incidents[-1].held_messages == 3


async def test__handler_that_ends_the_bot_on_an_error__is_no_answer(clock):
    class Slow(Failing):
        async def process_frame(self, frame: Frame, direction: FrameDirection):
            if isinstance(frame, TTSSpeakFrame):
                await settle(50)
            await super().process_frame(frame, direction)

    tts, breaker = Slow(TTSSpeakFrame, lambda n: {"error_msg": "no"}), breaker_with(clock)
    async with running(breaker, tts) as worker:

        async def end(worker, frame):
            await worker.queue_frame(EndFrame())

        worker.add_event_handler("on_pipeline_error", end)
        await worker.queue_frames([TTSSpeakFrame("hello") for _ in range(MAX_ERRORS)])
        await settle(1000)
        assert breaker.incidents[0].advice.kind is AdviceKind.PROCESSOR_FAILS
