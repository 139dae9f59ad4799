"""One opening, one lease and one closing out of many processes that ask at once."""

import asyncio
import multiprocessing
from collections import Counter

import pytest

from pipecat_circuit_breaker.fleet import rules
from pipecat_circuit_breaker.fleet.memory import MemoryStore
from pipecat_circuit_breaker.fleet.redis import RedisStore
from tests.fleet import servers
from tests.fleet.store import store_racers

pytestmark = servers.once

PROCESSES, TAKERS = 4, 25


@pytest.mark.parametrize(("kind", "rounds"), [("redis7", 50), ("redis6", 10), ("valkey", 10)])
def test_of_a_hundred_takers_in_four_processes_exactly_one_gets_it(kind, rounds):
    spawn = multiprocessing.get_context("spawn")
    with servers.Server(kind) as server:
        barrier, results = spawn.Barrier(PROCESSES, timeout=60), spawn.Queue()
        processes = [
            spawn.Process(
                target=store_racers.race,
                args=(server.url, n, TAKERS, rounds, barrier, results),
                daemon=True,
            )
            for n in range(PROCESSES)
        ]
        for process in processes:
            process.start()
        opened, leased, closed = Counter(), Counter(), Counter()
        for _ in range(PROCESSES * rounds):
            number, *did = results.get(timeout=60)
            for counter, count in zip((opened, leased, closed), did, strict=True):
                counter[number] += count
        for process in processes:
            process.join(timeout=10)
            assert process.exitcode == 0
    one_each = dict.fromkeys(range(rounds), 1)
    assert opened == one_each
    assert leased == one_each
    assert closed == one_each


async def test_of_a_hundred_takers_in_memory_exactly_one_gets_it(clock):
    store = MemoryStore(clock=clock)
    await store.report(
        store_racers.vote("a", "k: 1"), min_instances=1, vote_secs=60.0, hold_secs=600.0
    )
    clock.advance(10)
    taken = await asyncio.gather(*(store.lease("k: 1", "pod", f"t.{n}", 10) for n in range(100)))
    assert sum(answer.did for answer in taken) == 1


async def test_a_holder_that_is_killed_loses_the_lease_by_itself(monkeypatch):
    monkeypatch.setattr(rules, "MIN_WAIT_SECS", 0.0)
    spawn = multiprocessing.get_context("spawn")
    with servers.Server("redis7") as server:
        store = RedisStore(server.url, "race")
        vote = store_racers.vote("pod-1", "k: 1")
        await store.report(vote, min_instances=1, vote_secs=60.0, hold_secs=600.0)
        taken = spawn.Queue()
        holder = spawn.Process(target=store_racers.hold, args=(server.url, 0.5, taken), daemon=True)
        holder.start()
        assert await asyncio.to_thread(taken.get, timeout=30)
        holder.kill()
        assert not (await store.lease("k: 1", "pod-2", "next", 5)).did
        await asyncio.sleep(0.55)
        answer = await store.lease("k: 1", "pod-2", "next", 5)
        assert answer.did and answer.outage.lost_probes == 1
        await store.close()
