"""The two sentences that stand above all others, over random pipelines, failures and messages.

Nothing that gets through is ever held back. Every chain that feeds itself ends after a handful of
failures.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pipecat.frames.frames import (
    ErrorFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.parallel_pipeline import ParallelPipeline
from pipecat.pipeline.pipeline import Pipeline
from pipecat.processors.filters.identity_filter import IdentityFilter

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.demo.parts import ErrorNotifier
from pipecat_circuit_breaker.testing import Clock, Output, running
from tests.support.parts import Failing, Tap, settle

MAX_ERRORS = CircuitBreakerParams().max_errors

#: The longest cooldown of a channel, and a little more than that.
LONGEST_SECS = 10.0
LONGER_SECS = 10.5

KINDS = ("a", "b", "c")
HOW = ("raises", "pushes an error", "pushes an error later")
EXCEPTIONS = (ConnectionError, TypeError, ValueError)


@dataclass
class Mood:
    """How an output fails: for which messages, and in which way."""

    fails: set[tuple[str, int]]
    kinds: set[str]
    notices: bool
    how: str

    def refuses(self, message: Any) -> bool:
        if message.get("label") == "rtvi-ai" or message["type"] == "sorry":
            return self.notices
        return message["type"] in self.kinds or (message["type"], message["n"] % 7) in self.fails


@dataclass
class Attempt:
    at: float
    kind: str
    n: int | None
    arrived: bool


class Moody(Output):
    """An output that fails by the message alone: what it would deliver is known beforehand."""

    def __init__(self, mood: Mood, clock: Clock) -> None:
        super().__init__()
        self.mood = mood
        self.clock = clock
        self.attempts: list[Attempt] = []
        self.later: set[asyncio.Task] = set()

    async def send_message(self, frame: Any) -> None:
        message, mood = frame.message, self.mood
        refused = mood.refuses(message)
        kind = f"{message.get('label', '')}/{message['type']}"
        self.attempts.append(Attempt(self.clock(), kind, message.get("n"), not refused))
        if not refused:
            self.sent.append(message)
        elif mood.how == "raises":
            raise EXCEPTIONS[len(kind) % 3](f"no {kind} number {len(self.attempts)}")
        elif mood.how == "pushes an error":
            await self.push_error(f"no {kind} number {len(self.attempts)}")
        else:
            task = asyncio.create_task(self.push_error(f"no {kind} number {len(self.attempts)}"))
            self.later.add(task)
            task.add_done_callback(self.later.discard)


moods = st.builds(
    Mood,
    fails=st.sets(st.tuples(st.sampled_from(KINDS), st.integers(0, 6)), max_size=10),
    kinds=st.sets(st.sampled_from(KINDS), max_size=2),
    notices=st.booleans(),
    how=st.sampled_from(HOW),
)


@dataclass
class Plan:
    """A pipeline, and what goes through it."""

    moods: list[Mood]
    nested: bool
    before: list[str]
    place: int
    rtvi: bool
    notifier: bool
    tts: bool
    answers: bool
    messages: list[tuple[str, bool]]
    step_secs: float
    outputs: list[Moody] = field(default_factory=list)

    def build(self, clock: Clock, breaker: CircuitBreakerProcessor, tts: Failing) -> list[Any]:
        parts = {"tap": Tap, "filter": IdentityFilter, "direct": Direct}
        line: list[Any] = [parts[name]() for name in self.before]
        if self.nested and line:
            line = [Pipeline(line)]
        if self.notifier:
            line.append(ErrorNotifier())
        if self.tts:
            line.append(tts)
        self.outputs = [Moody(mood, clock) for mood in self.moods]
        if len(self.outputs) == 1:
            line.append(self.outputs[0])
        else:
            line.append(ParallelPipeline(*([output] for output in self.outputs)))
        line.insert(self.place % (len(line) + 1), breaker)
        return line


class Direct(Tap):
    def __init__(self) -> None:
        super().__init__(enable_direct_mode=True)


plans = st.builds(
    Plan,
    moods=st.lists(moods, min_size=1, max_size=2),
    nested=st.booleans(),
    before=st.lists(st.sampled_from(["tap", "filter", "direct"]), max_size=3),
    place=st.integers(0, 6),
    rtvi=st.booleans(),
    notifier=st.booleans(),
    tts=st.booleans(),
    answers=st.booleans(),
    messages=st.lists(st.tuples(st.sampled_from(KINDS), st.booleans()), min_size=1, max_size=30),
    step_secs=st.sampled_from([0.0, 0.05, 0.4, LONGER_SECS]),
)


async def run(plan: Plan) -> tuple[CircuitBreakerProcessor, list[ErrorFrame], Failing]:
    clock = Clock()
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": f"speech {n} was refused"})
    heard: list[ErrorFrame] = []
    line = plan.build(clock, breaker, tts)
    async with running(*line, enable_rtvi=plan.rtvi) as worker:

        async def on_pipeline_error(worker: Any, error: ErrorFrame) -> None:
            heard.append(error)
            if plan.answers and tts.errors < 300:
                await worker.queue_frame(TTSSpeakFrame("Sorry."))

        worker.add_event_handler("on_pipeline_error", on_pipeline_error)
        for n, (kind, urgent) in enumerate(plan.messages):
            frame = OutputTransportMessageUrgentFrame if urgent else OutputTransportMessageFrame
            await worker.queue_frame(frame(message={"type": kind, "n": n}))
            await settle(60)
            clock.advance(plan.step_secs)
        await settle()
    return breaker, heard, tts


def excused(output: Moody, n: int) -> bool:
    """Whether a message that would have arrived came at a channel that was down."""
    before = [attempt for attempt in output.attempts if attempt.n is None or attempt.n < n]
    row: list[Attempt] = []
    for attempt in before:
        row = [] if attempt.arrived else [*row, attempt]
    return len(row) >= MAX_ERRORS


random_plans = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@random_plans
@given(plans)
def test__random_bot__what_gets_through__is_never_held_back(plan):
    asyncio.run(run(plan))

    for output in plan.outputs:
        arrived = [message["n"] for message in output.sent if "n" in message]
        assert len(arrived) == len(set(arrived)), "each once"
        would = [
            n
            for n, (kind, _) in enumerate(plan.messages)
            if not output.mood.refuses({"type": kind, "n": n})
        ]
        missing = [n for n in would if n not in arrived]
        if plan.step_secs > LONGEST_SECS:
            assert missing == [], "every cooldown is over when the next one comes"
        assert all(excused(output, n) for n in missing)


@random_plans
@given(plans)
def test__random_bot__what_feeds_itself__ends_after_a_handful(plan):
    plan.step_secs = 0.0  # no cooldown ends, so no probe is to be counted
    _, heard, tts = asyncio.run(run(plan))

    # A processor of which errors are heard, and how: kinds of exceptions, or of texts.
    origins = {(e.processor.name if e.processor else "", _how(e)) for e in heard}
    assert len(heard) <= MAX_ERRORS * len(origins)
    assert tts.errors <= len(heard), "each error is answered once"
    for output in plan.outputs:
        set_off = [a for a in output.attempts if a.n is None and not a.arrived]
        # Whoever tells the client tells it once of each error that is heard.
        assert len(set_off) <= (plan.rtvi + plan.notifier) * len(heard)


def _how(error: ErrorFrame) -> str:
    if error.exception is not None:
        return type(error.exception).__name__
    return error.error.split(" number ")[0].split(" (circuit")[0].rstrip("0123456789 ")
