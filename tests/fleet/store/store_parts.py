"""What the tests of the stores share: one set of tests, driven over memory and over real servers.

The memory store's clock is injected. A server decides by its own clock alone, so over
servers the same tests wait for real, in units of a tenth of a second.
"""

import asyncio
import contextlib
from dataclasses import replace

from pipecat_circuit_breaker.fleet.redis import RedisStore
from pipecat_circuit_breaker.fleet.store import Report
from tests.fleet.store.store_racers import vote

#: What the tests count time in, on a server.
UNIT_SECS = 0.1

KEY = "TTS[eu]: ConnectError in httpx.connect"
RECORDS = "{pcb:test}:1:outages"


class Told:
    """A store, and how its time passes."""

    def __init__(self, store, unit, after):
        self.store = store
        self.unit = unit
        self.after = after

    async def report(self, instance="pod-1", *, key=KEY, age=0.0, votes=True, need=1, **options):
        report = Report(
            key=key,
            instance=instance,
            token=options.pop("token", f"{instance}.token"),
            votes=votes,
            failures=options.pop("failures", 1),
            bots=options.pop("bots", (f"{instance}/bot",)),
            age_secs=age * self.unit,
            waits=tuple(w * self.unit for w in options.pop("waits", (2, 4))),
        )
        return await self.store.report(
            report,
            min_instances=need,
            vote_secs=options.pop("vote", 10) * self.unit,
            hold_secs=options.pop("hold", 100) * self.unit,
        )

    async def lease(self, token="t.1", *, secs=5, key=KEY, instance="pod-1"):
        return await self.store.lease(key, instance, token, secs * self.unit)

    async def settle(self, token, generation, success, waits=(2, 4), key=KEY):
        waits = tuple(w * self.unit for w in waits)
        return await self.store.settle(key, token, generation, success=success, waits=waits)

    async def due(self, **options):
        """An outage that may be probed."""
        answer = await self.report(**options)
        await self.after(2.1)
        return answer.outage


@contextlib.asynccontextmanager
async def a_store(server, *, flush=True, **options):
    if flush:
        server.flush()
    store = RedisStore(server.url, "test", **options)
    try:
        yield store
    finally:
        await store.close()


async def report(store, instance="pod-1", need=1, key=KEY, **changes):
    what = replace(vote(instance, key), **changes)
    return await store.report(what, min_instances=need, vote_secs=10.0, hold_secs=100.0)


STEPS = {
    "report": report,
    "lease": lambda store: store.lease(KEY, "pod-1", "t", 5.0),
    "settle": lambda store: store.settle(KEY, "t", 1, success=True, waits=(1.0,)),
    "open": lambda store: store.open(KEY, "eva", "", 100.0),
    "close_outage": lambda store: store.close_outage(KEY, "eva", ""),
    "set_mode": lambda store: store.set_mode("observe", "eva", "", 100.0),
    "read": lambda store: store.read("t"),
}


async def listen(store):
    async with store.news() as news:
        return await anext(news)


async def until(news, key):
    async for record in news:
        yield record
        if record is not None and record.key == key:
            return


def records(server):
    with server.client() as client:
        return client.hgetall(RECORDS)


async def soon(condition, secs=5.0):
    for _ in range(int(secs / 0.01)):
        if condition():
            return True
        await asyncio.sleep(0.01)
    return False
