"""What the processes of test_store_races.py do; spawned, so it imports no other part."""

import asyncio

from pipecat_circuit_breaker.fleet import rules
from pipecat_circuit_breaker.fleet.redis import RedisStore
from pipecat_circuit_breaker.fleet.store import Report


def vote(name, key, waits=(0.0,)):
    return Report(
        key=key,
        instance=name,
        token=name,
        votes=True,
        failures=1,
        bots=(name,),
        age_secs=0.0,
        waits=waits,
    )


def race(url, process, takers, rounds, barrier, results):
    """All takers vote, ask for the lease and settle, as fast as they can, in each round."""
    rules.MIN_WAIT_SECS = 0.0

    async def run():
        stores = [RedisStore(url, "race", timeout_secs=10.0) for _ in range(takers)]
        for number in range(rounds):
            key = f"round: {number}"
            names = [f"{process}.{n}" for n in range(takers)]
            barrier.wait()
            opened = await asyncio.gather(
                *(
                    store.report(vote(name, key), min_instances=3, vote_secs=60.0, hold_secs=600.0)
                    for store, name in zip(stores, names, strict=True)
                )
            )
            barrier.wait()
            leases = await asyncio.gather(
                *(
                    store.lease(key, name, name, 60.0)
                    for store, name in zip(stores, names, strict=True)
                )
            )
            barrier.wait()
            # Everybody claims the outcome, and the holder claims it twice.
            settled = await asyncio.gather(
                *(
                    store.settle(key, name, 1, success=True, waits=(0.0,))
                    for store, name in zip(stores * 2, names * 2, strict=True)
                )
            )
            results.put((number, *(sum(a.did for a in some) for some in (opened, leases, settled))))
        await asyncio.gather(*(store.close() for store in stores))

    asyncio.run(run())


def hold(url, secs, taken):
    """Take the lease, say so, and never come back."""

    async def run():
        store = RedisStore(url, "race")
        answer = await store.lease("k: 1", "pod-1", "holder", secs)
        taken.put(answer.did)
        await asyncio.sleep(60)

    asyncio.run(run())
