"""Whatever comes from providers, clients and settings: no exception leaves the breaker."""

import asyncio

import tenacity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loguru import logger
from pipecat.frames.frames import (
    ErrorFrame,
    InputTransportMessageFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    TextFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pydantic import ValidationError

from pipecat_circuit_breaker import (
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    CircuitState,
    GiveUpPolicy,
    Mode,
)
from pipecat_circuit_breaker.testing import Output, running
from tests.support.parts import Tap, app_message, of_type, settle

UP = FrameDirection.UPSTREAM

fuzzed = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Mute(Exception):
    """An exception that cannot be shown."""

    def __str__(self):
        raise RuntimeError("no")

    __repr__ = __str__


class Hostile(dict):
    def get(self, *_):
        raise RuntimeError("no")

    __getitem__ = __contains__ = get


recursive: dict = {"type": "app"}
recursive["self"] = recursive
huge_type = type("X" * 100_000, (Exception,), {})

texts = st.one_of(
    st.text(max_size=50),
    st.sampled_from(
        [
            "<red>red</red> </nothing> {} {0} {error} %s \\g<1>",
            "one\nERROR | two\r\n\x1b[31mthree\x00\u2028four",
            "lone \ud800 surrogate",
            "x" * 2_000_000,
            "1" * 200_000,
            "#" * 200_000,
        ]
    ),
)
errors = st.builds(
    lambda text, exception: {"error": text, "exception": exception},
    st.one_of(texts, st.none(), st.integers(), st.just(b"bytes"), st.just(Mute())),
    st.sampled_from([None, Mute(), huge_type("x"), ValueError("<b>{}"), KeyError("\n")]),
)
messages = st.one_of(
    st.recursive(
        st.one_of(st.none(), st.integers(), st.floats(), texts),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.sampled_from(["label", "type", "id", "data", "x"]), inner),
        ),
        max_leaves=5,
    ),
    st.sampled_from([recursive, Hostile(type="app"), {"type": {"type": "type"}}]),
)
from_a_client = st.recursive(
    st.one_of(st.none(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["id", "type", "t"]), inner)
    ),
    max_leaves=5,
)


def library_lines():
    lines = []
    logger.add(
        lambda m: lines.append(m.record["message"]), level=0, filter="pipecat_circuit_breaker"
    )
    return lines


def run(scenario):
    logger.remove()
    asyncio.run(scenario)


@fuzzed
@given(st.lists(errors, max_size=12), st.sampled_from(["TTS", "<red>{}\nname", "x" * 10_000]))
def test__errors_of_any_kind__pass_or_are_held_back_and_the_rest_arrives(batch, name):
    async def scenario():
        lines = library_lines()
        tap, breaker = Tap(), CircuitBreakerProcessor()
        culprit, twin = Tap(name=name), Tap(name=name)
        async with running(tap, culprit, twin, breaker, Output(), enable_rtvi=False):
            for n, error in enumerate(batch):
                frame = ErrorFrame("x", exception=error["exception"])
                frame.error = error["error"]  # a subclass may say what it likes
                frame.processor = [culprit, None, twin][n % 3]
                await [culprit, culprit, twin][n % 3].push_frame(frame, UP)
                await culprit.push_frame(TextFrame("healthy"), UP)
            await settle()
            assert len(tap.frames(TextFrame)) == len(batch)
            for circuit in breaker.circuits:
                circuit.model_dump_json()
        for line in lines:
            assert "\n" not in line
            assert "breaker failed" not in line

    run(scenario())


@fuzzed
@given(st.lists(messages, max_size=8), st.booleans())
def test__messages_of_any_kind__arrive_over_a_healthy_channel(batch, urgent):
    frame_class = OutputTransportMessageUrgentFrame if urgent else OutputTransportMessageFrame

    async def scenario():
        output, breaker = Output(), CircuitBreakerProcessor()
        async with running(breaker, output, enable_rtvi=False):
            for message in batch:
                await output.queue_frame(frame_class(message=message))
            await settle(50)
            assert len(output.sent) == len(batch)
            assert breaker.circuits == ()

    run(scenario())


@fuzzed
@given(st.lists(messages, max_size=8))
def test__messages_of_any_kind__that_all_fail__end_the_storm(batch):
    async def scenario():
        lines = library_lines()
        output = Output(lambda message: huge_type("<red>{}\nERROR | injected"))
        breaker = CircuitBreakerProcessor()
        async with running(breaker, Tap(), output):
            for message in batch:
                frame = OutputTransportMessageFrame(message=message)
                await output.queue_frame(frame)
            await settle()
            assert len(output.failed) <= len(batch) + 12
        assert [line for line in lines if "\n" in line] == []

    run(scenario())


@fuzzed
@given(st.lists(st.dictionaries(st.sampled_from(["label", "type", "id", "data"]), from_a_client)))
def test__whatever_a_client_alone_can_send__opens_no_circuit(batch):
    async def scenario():
        output, breaker, client = Output(), CircuitBreakerProcessor(), Tap()
        async with running(breaker, client, output) as worker:
            for message in batch:
                for label in (message.get("label"), "rtvi-ai"):
                    message = {**message, "label": label}
                    await client.push_frame(InputTransportMessageFrame(message=message), UP)
            await settle()
            assert {c.state for c in breaker.circuits} <= {CircuitState.CLOSED}
            await worker.queue_frame(app_message(7))
            await settle()
            assert of_type([m for m in output.sent if isinstance(m, dict)], "app")

    run(scenario())


class Odd(tenacity.wait.wait_base, tenacity.stop.stop_base):
    def __init__(self, answer):
        self.answer = answer

    def __call__(self, retry_state):
        return answer(self.answer)


def answer(value):
    if isinstance(value, Exception):
        raise value
    return value


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(Mute())
)
settings_of_any_kind = st.fixed_dictionaries(
    {},
    optional={
        "max_errors": st.one_of(st.integers(-1, 5), anything),
        "window_secs": st.one_of(st.floats(0.001, 1e9), anything),
        "probe_timeout_secs": st.one_of(st.floats(0.001, 1e9), anything),
        "max_circuits": st.one_of(st.integers(0, 3), anything),
        "max_text": st.one_of(st.integers(15, 40), anything),
        "cooldown": st.one_of(anything.map(Odd), anything),
        "give_up": st.one_of(anything.map(Odd), anything),
        "give_up_policy": st.sampled_from([*GiveUpPolicy, "maybe", None]),
        "mode": st.sampled_from([*Mode, "maybe", None]),
        "counts": st.one_of(anything.map(lambda a: lambda _: answer(a)), anything),
        "destination": st.one_of(anything.map(lambda a: lambda _: answer(a)), anything),
        "unknown": anything,
    },
)


@settings(fuzzed, max_examples=150)
@given(settings_of_any_kind)
def test__settings_of_any_kind__are_refused_at_once_or_work(values):
    try:
        params = CircuitBreakerParams(**values)
    except ValidationError:
        return

    async def scenario():
        output, breaker = Output(), CircuitBreakerProcessor(params=params)
        async with running(breaker, output):
            for n in range(5):
                await output.push_frame(ErrorFrame(f"word{'x' * n} failed"), UP)
                await output.queue_frame(app_message(n))
            await settle(50)
            assert len(breaker.circuits) <= params.max_circuits

    run(scenario())
