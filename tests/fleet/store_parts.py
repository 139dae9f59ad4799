"""What the tests of the stores share: one set of tests, driven over memory and over real servers.

The memory store's clock is injected. A server decides by its own clock alone, so over
servers the same tests wait for real, in units of a tenth of a second.
"""

from pipecat_circuit_breaker.fleet.store import Report

#: What the tests count time in, on a server.
UNIT_SECS = 0.1

KEY = "TTS[eu]: ConnectError in httpx.connect"


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
