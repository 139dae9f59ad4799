"""What the fleet's tests share: time moved by hand, a store that can be made to fail, and bots."""

import asyncio
import heapq
from contextlib import asynccontextmanager
from itertools import count

from pipecat.services.ai_service import AIService

from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.fleet import Fleet, FleetParams, Lease, ModeSet, Outage
from pipecat_circuit_breaker.fleet.store import Answer, Knowledge, StoreUnavailable
from pipecat_circuit_breaker.testing import Clock

#: How far the store's clock is ahead of the bots'.
AHEAD = 5000.0

#: How a connection is lost, unless a test says otherwise.
RESET = StoreUnavailable("connection reset")

KEY = "Voice: ConnectError in here"


class Voice(AIService):
    """A service."""


class Time(Clock):
    """A clock, and the sleep that goes by it."""

    def __init__(self):
        super().__init__()
        self._sleepers = []
        self._numbers = count()
        self.sleeps = 0

    async def sleep(self, secs):
        self.sleeps += 1
        done = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + secs, next(self._numbers), done))
        await done

    async def pass_(self, secs):
        """Let time pass, and everybody do what they do then."""
        end = self.now + secs
        await turns()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, done = heapq.heappop(self._sleepers)
            if not done.done():
                self.now = max(self.now, due)
                done.set_result(None)
                await turns()
        self.now = end
        await turns()


async def turns(number=30):
    for _ in range(number):
        await asyncio.sleep(0)


def outage(key=KEY, state="open", at=AHEAD, **fields):
    """A record as a store would have it: open ones since `at`, with a probe a second later."""
    times = {
        "suspected": {},
        "open": {"opened_at": at, "probe_at": at + 1.0},
        "closed": {"opened_at": at, "closed_at": at},
    }
    return Outage(**{"key": key, "state": state, "seen_at": at, **times[state], **fields})


RESET = StoreUnavailable("connection reset")


class FakeStore:
    """Keeps records in a dictionary; fails, or hangs, as a test says.

    `faults` holds for each method what it raises, or "slow": takes a second, or
    "hang", or "deaf": hangs and swallows being cancelled, as redis-py does on Python 3.11.
    """

    def __init__(self, time):
        self._time = time
        self._waits = {}
        self._generations = count(1)
        self.records = {}
        self.mode = ModeSet()
        self.faults = {}
        self.log = []
        self.reports = []
        self.listeners = set()
        self.released = asyncio.Event()

    @property
    def now(self):
        return self._time.now + AHEAD

    def put(self, record):
        """Make it so, and tell everybody."""
        if isinstance(record, ModeSet):
            self.mode = record
        else:
            self.records[record.key] = record
        for listener in self.listeners:
            listener.put_nowait(record)

    def drop_connections(self, how=RESET):
        for listener in self.listeners:
            listener.put_nowait(how)

    async def report(self, report, *, min_instances, vote_secs, hold_secs):
        await self._do("report")
        self.reports.append(report)
        if report.age_secs > vote_secs:
            return Answer(self.records.get(report.key), False)
        before = self.records.get(report.key)
        if before is None or before.is_over:
            before = outage(report.key, "suspected", self.now)
        votes = {**before.instances, report.instance: self.now} if report.votes else {}
        opens = not before.is_open and len(votes) >= min_instances
        self._waits[report.key] = report.waits
        fields = {
            "seen_at": self.now,
            "failures": before.failures + report.failures,
            "instances": votes or before.instances,
            "instance_count": len(votes),
        }
        if opens:
            fields |= self._opened(report.token) | {"probe_at": self.now + report.waits[0]}
        self.put(before.model_copy(update=fields))
        return Answer(self.records[report.key], opens)

    async def lease(self, key, instance, token, lease_secs):
        await self._do("lease")
        record = self.records.get(key)
        if record is None or not record.is_open or self.now < record.probe_at:
            return Answer(record, False)
        if record.lease is not None and record.lease.expires_at > self.now:
            return Answer(record, False)
        lease = Lease(holder=instance, token=token, expires_at=self.now + lease_secs)
        self.put(record.model_copy(update={"lease": lease}))
        return Answer(self.records[key], True)

    async def settle(self, key, token, generation, *, success, waits):
        await self._do("settle")
        record = self.records.get(key)
        if record is None or record.lease is None or record.lease.token != token:
            return Answer(record, False)
        if record.generation != generation:
            return Answer(record, False)
        fields = {"generation": next(self._generations), "lease": None, "changed_by": token}
        if success:
            fields |= {"state": "closed", "closed_at": self.now, "ending": "recovered"}
        else:
            fields |= {"probe_at": self.now + waits[0], "openings": record.openings + 1}
        self.put(record.model_copy(update=fields))
        return Answer(self.records[key], True)

    async def open(self, key, who, why, hold_secs):
        raise NotImplementedError

    async def close_outage(self, key, who, why):
        raise NotImplementedError

    async def set_mode(self, mode, who, why, hold_secs):
        raise NotImplementedError

    async def read(self, token=""):
        await self._do("read")
        return Knowledge(self.now, self.mode, tuple(self.records.values()))

    @asynccontextmanager
    async def news(self):
        await self._do("news")
        listener = asyncio.Queue()
        self.listeners.add(listener)
        try:
            yield self._heard(listener)
        finally:
            self.listeners.discard(listener)

    async def close(self):
        await self._do("close")

    async def _heard(self, listener):
        while True:
            record = await listener.get()
            if isinstance(record, Exception):
                raise record
            if record is None:
                return
            yield record

    async def _do(self, method):
        self.log.append(method)
        # Even the quickest answer takes a turn of the loop.
        await asyncio.sleep(0)
        match self.faults.get(method):
            case None:
                return
            case "slow":
                await self._time.sleep(1.0)
            case "hang":
                await self.released.wait()
            case "deaf":
                while not self.released.is_set():  # noqa: ASYNC110
                    try:
                        await self.released.wait()
                    except asyncio.CancelledError:
                        pass
            case fault:
                raise fault

    def _opened(self, token):
        return {
            "state": "open",
            "generation": next(self._generations),
            "opened_at": self.now,
            "openings": 1,
            "changed_by": token,
        }


def _share(failure):
    """As by default, but for services that cannot be heard too."""
    return isinstance(failure.processor, AIService) and not failure.is_of_one_request


class Process:
    """A process of a fleet, with one bot and its service."""

    _events = ("opened", "changed", "closed")

    def __init__(self, store, time, instance="pod-1", **params):
        self.fleet = Fleet(
            store=store,
            params=FleetParams(
                **{
                    "instance": instance,
                    "min_instances": 2,
                    "label": lambda processor: "",
                    "share": _share,
                    **params,
                }
            ),
            clock=time,
            sleep=time.sleep,
        )
        self.service = Voice()
        self.told = []
        self.closed = []
        for event in self._events:
            self.fleet.add_event_handler(f"on_fleet_outage_{event}", self._note(event))
        self.fleet.add_event_handler("on_fleet_alone", lambda fleet, reason: self._say("alone"))
        self.fleet.add_event_handler("on_fleet_connected", lambda fleet: self._say("connected"))
        self.view = None

    def join(self):
        self.view = self.fleet.join("bot", lambda: (), self.closed.append)
        return self.view

    def origin(self, kind="ConnectError"):
        """A failure of the service that the fleet is told of."""
        origin = Origin.of(self.service, kind, where="here")
        self.view.learn(origin, self.service, exception=OSError())
        return origin

    def fail(self, *, votes=True):
        self.view.failed(self.origin(), votes=votes)

    def _note(self, event):
        return lambda fleet, outage, first=None: self.told.append(
            (event, outage.key) if first is None else (event, outage.key, first)
        )

    def _say(self, what):
        self.told.append(what)
