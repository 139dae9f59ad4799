"""Whatever a store says: a bot whose channel works loses no message, and a chain still ends."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha1
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pipecat.frames.frames import (
    ErrorFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    TTSSpeakFrame,
)

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.fleet import Fleet, FleetParams, Lease, ModeSet, Outage
from pipecat_circuit_breaker.fleet.store import Answer, Knowledge, StoreUnavailable
from pipecat_circuit_breaker.testing import Output, running
from tests.support.jumping import Jumping
from tests.support.parts import Failing, Tap, settle

MAX_ERRORS = CircuitBreakerParams().max_errors

#: What the bot's own failures are called in the fleet, and what has never failed.
KEYS = (
    "Output: channel down",
    "Output: ConnectionError",
    f"Failing: error {sha1(b'speech # was refused').hexdigest()[:8]}",
    "Tap: channel down",
)

times = st.floats(-1e6, 1e6)
records = st.builds(
    Outage,
    key=st.sampled_from(KEYS),
    state=st.sampled_from(["suspected", "open", "open", "open", "closed"]),
    generation=st.integers(0, 50),
    seen_at=times,
    opened_at=st.none() | times,
    closed_at=st.none() | times,
    probe_at=st.none() | times,
    openings=st.integers(0, 2**53),
    lease=st.none()
    | st.builds(Lease, holder=st.text(max_size=5), token=st.text(), expires_at=times),
    is_by_hand=st.booleans(),
    ending=st.sampled_from([None, "recovered", "by_hand"]),
)


class Hostile:
    """Says something of what is drawn, whoever asks what."""

    def __init__(self, pool, seed):
        self.pool = pool
        # Not drawn as it goes on: it is asked by tasks, which hypothesis knows nothing of.
        self.random = Random(seed)

    def _answer(self):
        if self.random.random() < 0.05:
            raise StoreUnavailable("not now")
        return Answer(self.random.choice([None, *self.pool]), self.random.random() < 0.5)

    async def report(self, report, **_):
        return self._answer()

    async def lease(self, *_):
        return self._answer()

    async def settle(self, *_, **__):
        return self._answer()

    async def read(self, token=""):
        some = self.random.sample(self.pool, self.random.randint(0, len(self.pool)))
        return Knowledge(self.random.uniform(-1e6, 1e6), ModeSet(), tuple(some))

    @asynccontextmanager
    async def news(self):
        async def heard():
            while True:
                yield self.random.choice(self.pool)
                await asyncio.sleep(self.random.uniform(0.01, 5.0))

        yield heard()

    async def close(self):
        pass


stores = st.builds(Hostile, st.lists(records, min_size=1, max_size=12), st.integers(0, 2**32))


@dataclass
class Plan:
    steps: list
    rtvi: bool
    answers: bool


plans = st.builds(
    Plan,
    steps=st.lists(
        st.tuples(st.sampled_from(["message", "urgent", "speak"]), st.floats(0.0, 8.0)),
        min_size=5,
        max_size=40,
    ),
    rtvi=st.booleans(),
    answers=st.booleans(),
)


def now():
    return asyncio.get_running_loop().time()


async def run(plan, store):
    fleet = Fleet(
        store=store,
        params=FleetParams(share=lambda failure: True, label=lambda processor: ""),
        clock=now,
    )
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=now), fleet=fleet)
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": f"speech {n} was refused"})
    output, heard = Output(), []
    async with running(breaker, Tap(), tts, output, enable_rtvi=plan.rtvi) as worker:

        async def on_pipeline_error(worker, error: ErrorFrame):
            heard.append((now(), error.error))
            if plan.answers and tts.errors < 500:
                await worker.queue_frame(TTSSpeakFrame("Sorry."))

        worker.add_event_handler("on_pipeline_error", on_pipeline_error)
        for n, (step, secs) in enumerate(plan.steps):
            if step == "speak":
                await worker.queue_frame(TTSSpeakFrame("Hello."))
            else:
                urgent = step == "urgent"
                kind = OutputTransportMessageUrgentFrame if urgent else OutputTransportMessageFrame
                await worker.queue_frame(kind(message={"type": "app", "n": n}))
            await settle(60)
            await asyncio.sleep(secs)
        await settle()
    await fleet.close()
    return output, tts, heard


def in_jumping_time(run):
    policy = Jumping()
    loop = policy.new_event_loop()
    try:
        return loop.run_until_complete(run)
    finally:
        loop.close()


random_plans = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@random_plans
@given(plans, stores)
def test__hostile_store__channel_that_works__loses_no_message(plan, store):
    output, tts, heard = in_jumping_time(run(plan, store))

    sent = [n for n, (step, _) in enumerate(plan.steps) if step != "speak"]
    assert [m["n"] for m in output.sent if "n" in m] == sent


@random_plans
@given(plans, stores)
def test__hostile_store__what_feeds_itself__ends(plan, store):
    plan.answers = True
    output, tts, heard = in_jumping_time(run(plan, store))

    asked = sum(step == "speak" for step, _ in plan.steps)
    secs = sum(secs for _, secs in plan.steps)
    # Each chain goes on for a handful of failures; a store that opens and closes without end
    # lets one more through in a window, a cooldown that is over too.
    assert tts.errors <= asked * (MAX_ERRORS + 2) + 2 * (secs / 5.0 + 1)
