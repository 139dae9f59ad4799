"""Fixtures of the stores' tests: a store in memory or on a real server, and servers alone."""

import asyncio

import pytest

from pipecat_circuit_breaker.fleet import record, redis, rules
from pipecat_circuit_breaker.fleet.memory import MemoryStore
from pipecat_circuit_breaker.fleet.redis import RedisStore
from tests.fleet import servers
from tests.fleet.store.store_parts import UNIT_SECS, Told


@pytest.fixture(scope="session", params=["memory", *servers.KINDS])
def kept_in(request):
    """None for memory, or else a server."""
    if request.param == "memory":
        yield None
    else:
        with servers.Server(request.param) as server:
            yield server


@pytest.fixture
async def told(kept_in, clock, monkeypatch):
    if kept_in is None:

        async def advance(units):
            clock.advance(units)

        yield Told(MemoryStore(clock=clock), 1.0, advance)
        return

    async def wait(units):
        await asyncio.sleep(units * UNIT_SECS)

    monkeypatch.setattr(rules, "MIN_WAIT_SECS", 0.0)
    kept_in.flush()
    store = RedisStore(kept_in.url, "test")
    yield Told(store, UNIT_SECS, wait)
    await store.close()


@pytest.fixture
def short_tombstone(told, monkeypatch):
    """Twenty units, so that nobody waits for a minute."""
    for module in (record, redis, rules):
        monkeypatch.setattr(module, "TOMBSTONE_SECS", 20 * told.unit)


@pytest.fixture(scope="module", params=servers.KINDS)
def any_server(request):
    with servers.Server(request.param) as server:
        yield server


@pytest.fixture(scope="module")
def redis7():
    with servers.Server("redis7") as server:
        yield server


@pytest.fixture
def probes_at_once(monkeypatch):
    monkeypatch.setattr(rules, "MIN_WAIT_SECS", 0.0)
