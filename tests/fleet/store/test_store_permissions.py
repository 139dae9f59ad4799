"""The permissions that a store needs on its server: those that are documented, and no more."""

import asyncio

import pytest

from pipecat_circuit_breaker.fleet import redis as redis_store
from pipecat_circuit_breaker.fleet.redis import RedisStore
from pipecat_circuit_breaker.fleet.store import StoreUnavailable
from tests.fleet.store.store_parts import KEY, STEPS, listen, report, until

pytestmark = pytest.mark.usefixtures("probes_at_once")


def documented_rules():
    return redis_store.__doc__.partition(">SECRET")[2].replace("NAME", "test").split()


COMMANDS = [rule for rule in documented_rules() if rule.startswith("+")]


async def everything(url):
    store = RedisStore(url, "test", timeout_secs=1.0)
    try:
        async with store.news() as news:
            await report(store)
            assert [n async for n in until(news, KEY) if n][-1].is_open
            await asyncio.sleep(0.1)  # A ping.
            await report(store, key="TTS: other")
            assert [n.key async for n in until(news, "TTS: other") if n][-1] == "TTS: other"
            await store.lease(KEY, "pod-1", "t", 5.0)
            await store.settle(KEY, "t", 1, success=True, waits=(1.0,))
            await store.set_mode("observe", "eva", "", 5.0)
            await store.read("t")
            await store._ask("drop", dict, KEY, records_of(await store._ask("read", dict))[KEY])
    finally:
        await store.close()


def records_of(reply):
    fields = [text.decode() for text in reply[3]]
    return dict(zip(fields[::2], fields[1::2], strict=True))


async def test_the_documented_permissions_are_enough(any_server, monkeypatch):
    monkeypatch.setattr(redis_store, "_PING_SECS", 0.03)
    any_server.flush()
    any_server.flush_scripts()
    await everything(any_server.allow("pcb", "secret", *documented_rules()))


@pytest.mark.parametrize("command", COMMANDS)
async def test_each_of_the_documented_permissions_is_needed(any_server, command, monkeypatch):
    monkeypatch.setattr(redis_store, "_PING_SECS", 0.03)
    any_server.flush()
    any_server.flush_scripts()
    url = any_server.allow("pcb", "secret", *documented_rules(), f"-{command[1:]}")
    with pytest.raises(StoreUnavailable, match="NOPERM"):
        await everything(url)


async def test_whoever_has_no_permission_is_told_so_without_the_password(any_server):
    any_server.flush()
    url = any_server.allow("nobody", "hunter2", "-@all")
    for bad in (url, url.replace("hunter2", "wrong-hunter2")):
        store = RedisStore(bad, "test")
        for step in (*STEPS.values(), listen):
            with pytest.raises(StoreUnavailable) as raised:
                await step(store)
            assert str(raised.value) in ("NOPERM", "NOAUTH")
        await store.close()


async def test_another_fleet_of_the_server_is_out_of_reach(any_server):
    any_server.flush()
    store = RedisStore(any_server.allow("pcb", "secret", *documented_rules()), "production")
    for step in (*STEPS.values(), listen):
        with pytest.raises(StoreUnavailable, match="NOPERM"):
            await step(store)
    await store.close()
