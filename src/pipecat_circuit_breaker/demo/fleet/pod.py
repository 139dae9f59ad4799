#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A process of bots: pipecat's own service in real pipelines, and what becomes of each call."""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from loguru import logger
from pipecat.frames.frames import LLMContextFrame
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.service_switcher import ServiceSwitcherStrategyManual
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker import CircuitBreakerProcessor, Incident
from pipecat_circuit_breaker.demo.failover.call import Ear, Service
from pipecat_circuit_breaker.demo.fleet.events import Event, What
from pipecat_circuit_breaker.fleet import Fleet, FleetParams, Outage
from pipecat_circuit_breaker.fleet.memory import MemoryStore
from pipecat_circuit_breaker.incident import Ending
from pipecat_circuit_breaker.testing import running

#: Seconds from one question to the next.
TURN_SECS = 1.0

#: Seconds after which the HTTP client gives up.
_CLIENT_SECS = 5.0


@dataclass(frozen=True)
class Plan:
    """What one process has to do.

    Parameters:
        pods: Names of the instances that it is: one, or all where there is no server.
        numbers: The number of each.
        of: How many pods there are in all.
        bots: Bots of each pod.
        redis: URL of the fleet's server; None keeps what the fleet knows in memory.
        alone: Base URL of the provider that dies, for bots without failover.
        primary: And for bots with failover, so that one can tell their requests apart.
        backup: Base URL of the provider that works.
    """

    pods: tuple[str, ...]
    numbers: tuple[int, ...]
    of: int
    bots: int
    redis: str | None
    alone: str
    primary: str
    backup: str

    @property
    def command(self) -> list[str]:
        """The command that carries it out."""
        return [sys.executable, "-m", __spec__.name, json.dumps(asdict(self))]


def has_failover(bot: int) -> bool:
    """Whether a bot of a pod has a second provider: two of five."""
    return bot % 2 == 1


class Model(Service):
    """pipecat's own service, which knows the name of its provider.

    Args:
        provider: The name.
        url: Base URL of the provider.
    """

    def __init__(self, provider: str, url: str) -> None:
        """Make a service whose client repeats nothing by itself."""
        super().__init__(url, _CLIENT_SECS, retries=0)
        self.provider = provider


def _provider(service: FrameProcessor) -> str:
    """What tells two providers apart that one host serves."""
    return str(getattr(service, "provider", ""))


class Bot:
    """One place of a pod, where one call follows another.

    Args:
        pod: Name of the pod.
        number: The bot's in the pod.
        order: Where it is among all bots of all pods, from 0 to 1.
        plan: Where the providers are.
        tell: Takes each event.
    """

    def __init__(
        self, pod: str, number: int, order: float, plan: Plan, tell: Callable[[Event], None]
    ) -> None:
        """Make it, without any call yet."""
        self.order = order
        self._pod = pod
        self._number = number
        self._plan = plan
        self._tell_all = tell
        self._random = Random(order)
        self._hang_up = asyncio.Event()
        self._is_over = False
        #: Set as long as there is a call.
        self.is_up = asyncio.Event()

    def hang_up(self) -> None:
        """End the call, upon which the next caller calls."""
        self._hang_up.set()

    async def run(self, fleet: Fleet | None) -> None:
        """Take one call after the other, until :meth:`end`.

        Args:
            fleet: Whom the breaker tells; None is nobody.
        """
        self._is_over = False
        while not self._is_over:
            self._hang_up.clear()
            await self._call(fleet)

    def end(self) -> None:
        """Take no more calls."""
        self._is_over = True
        self._hang_up.set()

    async def _call(self, fleet: Fleet | None) -> None:
        breaker, ear = CircuitBreakerProcessor(fleet=fleet), Ear()

        def opened(_: object, incident: Incident) -> None:
            self._tell(What.OPENED, failures=incident.failures)

        def closed(_: object, incident: Incident) -> None:
            if incident.ending is not Ending.PIPELINE_OVER:
                self._tell(What.CLOSED)

        breaker.add_event_handler("on_circuit_opened", opened)
        breaker.add_event_handler("on_circuit_half_opened", lambda *_: self._tell(What.PROBED))
        breaker.add_event_handler("on_circuit_closed", closed)
        async with running(breaker, self._llm(breaker), ear) as worker:
            worker.add_event_handler("on_pipeline_error", lambda *_: self._tell(What.HEARD))
            self.is_up.set()
            self._tell(What.CALL)
            await self._pause(self._random.uniform(0, TURN_SECS))
            turn = 0
            while not self._hang_up.is_set():
                ear.listen()
                context = LLMContext([{"role": "user", "content": f"question {turn}"}])
                await worker.queue_frame(LLMContextFrame(context))
                await self._pause(TURN_SECS)
                # Whoever hangs up does not wait for an answer.
                if ear.ended.is_set():
                    self._tell(What.ANSWERED if ear.heard else What.UNANSWERED)
                turn += 1
            self._tell(What.HUNG_UP)
            self.is_up.clear()

    def _llm(self, breaker: CircuitBreakerProcessor) -> FrameProcessor:
        if not has_failover(self._number):
            return Model("primary", self._plan.alone)
        services: Any = [Model("primary", self._plan.primary), Model("backup", self._plan.backup)]
        switcher = LLMSwitcher(services, ServiceSwitcherStrategyManual)
        breaker.failover(switcher)
        return switcher

    async def _pause(self, secs: float) -> None:
        try:
            await asyncio.wait_for(self._hang_up.wait(), secs)
        except TimeoutError:
            pass

    def _tell(self, what: What, **more: Any) -> None:
        number = self._number
        if self.is_up.is_set():
            self._tell_all(
                Event(time.monotonic(), what, self._pod, number, has_failover(number), **more)
            )


class Pod:
    """The bots of one instance.

    Args:
        name: The instance's name.
        number: The pod's, from 0.
        plan: What to do.
        tell: Takes each event.
    """

    def __init__(self, name: str, number: int, plan: Plan, tell: Callable[[Event], None]) -> None:
        """Make it, without any call yet."""
        self._name = name
        self._plan = plan
        self._tell = tell
        places = plan.of * plan.bots
        # Neighbours hang up in different pods.
        self.bots = [
            Bot(name, bot, (bot * plan.of + number + 0.5) / places, plan, tell)
            for bot in range(plan.bots)
        ]

    async def run(self, store: MemoryStore | None, *, is_fleet: bool) -> None:
        """Run all its bots, until they are ended.

        Args:
            store: Where the fleet keeps what it knows; None is the plan's server.
            is_fleet: Whether there is a fleet at all.
        """
        fleet = self._fleet(store) if is_fleet else None
        if fleet is not None:
            # As a process does when it starts, long before an outage.
            await fleet.start()
        try:
            await asyncio.gather(*(bot.run(fleet) for bot in self.bots))
        finally:
            if fleet is not None:
                await fleet.close()

    def _fleet(self, store: MemoryStore | None) -> Fleet:
        params = FleetParams(name="demo", instance=self._name, label=_provider)
        fleet = Fleet(None if store else self._plan.redis, params=params, store=store)

        def tell(what: What, outage: Outage, first: bool = False) -> None:
            # Each has failed that opened it again; the one that closed it has not.
            probes = outage.openings - 1 + outage.lost_probes + (outage.ending == "recovered")
            self._tell(
                Event(
                    time.monotonic(),
                    what,
                    self._name,
                    first=first,
                    probes=probes,
                    key=outage.key,
                )
            )

        for event, what in (
            ("opened", What.FLEET_OPENED),
            ("changed", What.FLEET_CHANGED),
            ("closed", What.FLEET_CLOSED),
        ):
            fleet.add_event_handler(
                f"on_fleet_outage_{event}",
                lambda _, outage, first=False, what=what: tell(what, outage, first),
            )
        fleet.add_event_handler(
            "on_fleet_alone",
            lambda _, reason: self._tell(
                Event(time.monotonic(), What.ALONE, self._name, key=reason)
            ),
        )
        return fleet


class _Process:
    """The process: it does what it is told on its standard input."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._pods = [
            Pod(name, number, plan, lambda event: _write(event.as_json()))
            for name, number in zip(plan.pods, plan.numbers, strict=True)
        ]
        self._bots = [bot for pod in self._pods for bot in pod.bots]
        self._orders: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()
        _write({"is": "ready"})
        while True:
            order = await self._orders.get()
            await self._play(is_fleet=order["is_fleet"])
            _write({"is": "over"})

    async def _play(self, *, is_fleet: bool) -> None:
        store = MemoryStore() if self._plan.redis is None else None
        async with asyncio.TaskGroup() as group:
            for pod in self._pods:
                group.create_task(pod.run(store, is_fleet=is_fleet))
            for bot in self._bots:
                await bot.is_up.wait()
            _write({"is": "up"})
            while (order := await self._orders.get())["do"] != "end":
                for bot in self._bots:
                    self._loop.call_later(bot.order * order["secs"], bot.hang_up)
            for bot in self._bots:
                bot.end()

    def _read(self) -> None:
        for line in sys.stdin:
            self._loop.call_soon_threadsafe(self._orders.put_nowait, json.loads(line))
        # Whoever has started this process is gone, or needs it no more.
        os._exit(0)


def _write(values: dict[str, Any]) -> None:
    os.write(1, (json.dumps(values) + "\n").encode())


async def _main() -> None:
    values = json.loads(sys.argv[1])
    await _Process(Plan(**values)).run()


if __name__ == "__main__":
    logger.remove()
    asyncio.run(_main())
