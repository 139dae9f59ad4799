"""Whatever a store says, a bot waits for a minute at most."""

import asyncio
import math

from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger

from pipecat_circuit_breaker.fleet import Lease, ModeSet
from pipecat_circuit_breaker.fleet.store import Answer, Knowledge, StoreUnavailable
from tests.fleet.fleet_parts import AHEAD, KEY, FakeStore, Process, Time, outage, turns

secs = st.floats(-1e300, 1e300) | st.sampled_from([0.0, AHEAD, AHEAD + 1000, AHEAD + 1001])


leases = st.none() | st.builds(Lease, holder=st.text(), token=st.text(), expires_at=secs)


records = st.builds(
    lambda key, state, **fields: outage(key, state, **fields),
    st.sampled_from([KEY, "Voice: b in c", "Voice[eu]: b", "x", "\x00", "Voice: "])
    | st.text(min_size=1, max_size=200),
    st.sampled_from(["suspected", "open", "closed"]),
    generation=st.integers(0, 2**53),
    seen_at=secs,
    opened_at=st.none() | secs,
    probe_at=st.none() | secs,
    closed_at=st.none() | secs,
    lease=leases,
    is_by_hand=st.booleans(),
    changed_by=st.text(max_size=64),
    failures=st.integers(0, 2**53),
)


modes = st.builds(ModeSet, mode=st.sampled_from(["guard", "observe", "disabled"]), at=secs)


clocks = st.floats() | st.sampled_from([AHEAD, AHEAD + 1000])


faults = st.sampled_from([StoreUnavailable("gone"), RuntimeError("a bug"), "hang"])


class HostileStore(FakeStore):
    """Answers with whatever it was given."""

    def __init__(self, time, answers, did):
        super().__init__(time)
        self._answers = answers
        self._did = did
        self.says = Knowledge(self.now, ModeSet(), ())

    def _next(self):
        return self._answers.pop() if self._answers else None

    async def report(self, report, **settings):
        await self._do("report")
        return Answer(self._next(), self._did)

    async def lease(self, *args):
        await self._do("lease")
        return Answer(self._next(), self._did)

    async def settle(self, *args, **kwargs):
        await self._do("settle")
        return Answer(self._next(), self._did)

    async def read(self, token=""):
        await self._do("read")
        return self.says


acts = st.one_of(
    st.tuples(st.just("put"), records | modes),
    st.tuples(st.just("says"), st.builds(Knowledge, clocks, modes, st.lists(records).map(tuple))),
    st.tuples(st.just("flood"), st.integers(0, 2**53)),
    st.tuples(st.just("fault"), st.tuples(st.sampled_from(["read", "lease", "report"]), faults)),
    st.tuples(st.just("heal"), st.none()),
    st.tuples(st.just("drop"), st.none()),
    st.tuples(st.just("pass"), st.floats(0, 20)),
    st.tuples(st.just("fail"), st.integers(0, 1000)),
    st.tuples(st.just("work"), st.none()),
    st.tuples(st.just("probe"), st.booleans()),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(acts, max_size=25), st.lists(records, max_size=10), st.booleans())
def test_whatever_a_store_says_a_bot_waits_a_minute_at_most(acts, answers, did):
    time = Time()
    faults = []
    logger.remove()
    logger.add(lambda line: faults.append(line), level="ERROR", filter=_is_of_the_engine)

    async def call():
        store = HostileStore(time, answers, did)
        process = Process(store, time)
        view, service = process.join(), process.service
        origins = [process.origin(), process.origin("b")]
        try:
            for act, value in acts:
                await _do(act, value, store, time, process, view, service)
                for origin in origins:
                    knows = view.knows(origin)
                    assert knows is None or 1 <= knows <= 60
                    assert knows is None or math.isfinite(knows)
                assert view.is_out(service) in (True, False)
                assert view.may_probe_soon(service) in (True, False)
                assert len(process.fleet.outages) <= 256
                assert len(view._keys) <= 256 and len(view._asked) <= 256
                assert len(process.fleet._outbox) <= 3 * 256
                process.fleet.status()
        finally:
            store.released.set()
            store.faults.clear()
            closing = asyncio.ensure_future(process.fleet.close())
            await time.pass_(5)
            await closing
            await turns()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(call())
    assert faults == []


def _is_of_the_engine(line):
    # What the store raises and must not is said; what the engine would raise on its
    # account must not be.
    return "a bug" not in str(line["exception"])


async def _do(act, value, store, time, process, view, service):
    match act:
        case "put":
            store.put(value)
        case "says":
            store.says = value
        case "flood":
            for number in range(300):
                store.put(outage(f"Voice: {number + value % 1000} in here"))
        case "fault":
            method, fault = value
            store.faults[method] = fault
        case "heal":
            store.faults.clear()
        case "drop":
            store.drop_connections()
        case "pass":
            await time.pass_(value)
        case "fail":
            for number in range(value):
                origin = process.origin(f"kind {number}")
                view.failed(origin, votes=True)
            view.service_failed(service, process.origin())
        case "work":
            view.service_worked(service)
            view.service_worked(process.service)
        case "probe":
            asking = asyncio.ensure_future(view.probe(service))
            await time.pass_(1)
            if (probe := asking.result()) is not None:
                view.settle(probe, success=value)
    await turns()
