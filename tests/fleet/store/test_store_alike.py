"""Memory and a server decide alike: the same steps, step by step, with the same answers.

Nothing here depends on time that passes: windows are long, waits are none, and a lease
either has run out at once or does not. What differs by the clocks is left out.
"""

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from pipecat_circuit_breaker.fleet import rules
from pipecat_circuit_breaker.fleet.memory import MemoryStore
from pipecat_circuit_breaker.fleet.redis import RedisStore
from pipecat_circuit_breaker.fleet.store import Report
from pipecat_circuit_breaker.testing import Clock
from tests.fleet import servers

KEYS = st.sampled_from(["a: 1", "b: 2", "c: 3"])
WHO = st.sampled_from([f"pod-{n}" for n in range(5)])
TOKENS = st.sampled_from(["t.1", "t.2", "t.3"])
# Fresh, from before the latest closing, and older than any vote.
AGES = st.sampled_from([0.0, 0.0, 20.0, 2000.0])
VOTE, HOLD = 50.0, 10_000.0

TIMES = {"seen_at", "opened_at", "closed_at", "probe_at", "instances", "lease"}


def plain(outage):
    if outage is None:
        return None
    kept = outage.model_dump(exclude=TIMES)
    kept["instances"] = set(outage.instances)
    kept["instances_before"] = set(outage.instances_before)
    kept["lease"] = outage.lease and (outage.lease.holder, outage.lease.token)
    for name in ("opened_at", "closed_at", "probe_at"):
        kept[name] = getattr(outage, name) is not None
    return kept


class Alike(RuleBasedStateMachine):
    server = None

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.server.flush()
        self.clock = Clock()
        self.memory = MemoryStore(clock=self.clock)
        self.redis = RedisStore(self.server.url, "test")

    def teardown(self):
        self.runner.run(self.redis.close())
        self.runner.close()

    def both(self, step):
        async def run():
            # So that one step is after the other on both clocks.
            self.clock.advance(0.002)
            await asyncio.sleep(0.002)
            return await step(self.memory), await step(self.redis)

        memory, redis = self.runner.run(run())
        if memory is not None:
            assert redis.did == memory.did
            assert plain(redis.outage) == plain(memory.outage)

    @rule(key=KEYS, who=WHO, votes=st.booleans(), age=AGES, need=st.integers(1, 4))
    def report(self, key, who, votes, age, need):
        what = Report(
            key=key,
            instance=who,
            token=f"{who}.token",
            votes=votes,
            failures=2,
            bots=(who, "one-more"),
            age_secs=age,
            waits=(0.0,),
        )
        self.both(
            lambda store: store.report(what, min_instances=need, vote_secs=VOTE, hold_secs=HOLD)
        )

    @rule(key=KEYS, who=WHO, token=TOKENS, secs=st.sampled_from([0.0, 1000.0]))
    def lease(self, key, who, token, secs):
        self.both(lambda store: store.lease(key, who, token, secs))

    @rule(
        key=KEYS,
        token=TOKENS,
        back=st.integers(0, 1),
        success=st.booleans(),
        wait=st.sampled_from([0.0, 500.0]),
    )
    def settle(self, key, token, back, success, wait):
        async def step(store):
            outages = {outage.key: outage for outage in (await store.read("t")).outages}
            generation = outages[key].generation - back if key in outages else 0
            return await store.settle(
                key, token, generation, success=success, waits=(0.0, 0.0, wait)
            )

        self.both(step)

    @rule(key=KEYS, who=WHO)
    def open(self, key, who):
        self.both(lambda store: store.open(key, who, "why", HOLD))

    @rule(key=KEYS, who=WHO)
    def close_outage(self, key, who):
        self.both(lambda store: store.close_outage(key, who, "why"))

    @rule(mode=st.sampled_from(["guard", "observe", "disabled"]), who=WHO)
    def set_mode(self, mode, who):
        self.both(lambda store: store.set_mode(mode, who, "why", HOLD))

    @rule()
    def read(self):
        async def run():
            return await self.memory.read("t"), await self.redis.read("t")

        memory, redis = self.runner.run(run())
        assert redis.mode.model_dump(exclude={"at"}) == memory.mode.model_dump(exclude={"at"})
        assert {o.key: plain(o) for o in redis.outages} == {o.key: plain(o) for o in memory.outages}
        assert [plain(o) for o in redis.history] == [plain(o) for o in memory.history]


@pytest.mark.parametrize("kind", servers.KINDS)
def test_memory_and_server_decide_alike(kind, monkeypatch):
    monkeypatch.setattr(rules, "MIN_WAIT_SECS", 0.0)
    with servers.Server(kind) as server:
        monkeypatch.setattr(Alike, "server", server)
        run_state_machine_as_test(
            Alike,
            settings=settings(
                max_examples=25, stateful_step_count=40, deadline=None, database=None
            ),
        )
