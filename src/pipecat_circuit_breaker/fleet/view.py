#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What one bot's pipeline asks its fleet, and tells it: without waiting."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from loguru import logger
from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker._pipeline.patch import Undo
from pipecat_circuit_breaker.fleet import answers
from pipecat_circuit_breaker.fleet.link import Link
from pipecat_circuit_breaker.fleet.outbox import Outbox, Settlement
from pipecat_circuit_breaker.fleet.params import FleetParams
from pipecat_circuit_breaker.fleet.record import (
    MAX_COOLDOWN_SECS,
    MIN_WAIT_SECS,
    FleetMode,
    Outage,
)
from pipecat_circuit_breaker.fleet.sharing import Failure, key_of, service_name
from pipecat_circuit_breaker.fleet.snapshot import Snapshot

_T = TypeVar("_T")

#: Origins of which a bot knows what the fleet calls them.
MAX_ORIGINS = 256

#: A failure confirms one before it that is at most so many times as old as a vote may be.
LOOKS_WITHIN = 6

#: Services of which a process knows when they failed.
MAX_SERVICES = 256

#: Seconds that asking for the leases of a probe may take in all.
LEASE_SECS = 1.0


@dataclass(frozen=True, slots=True)
class Probe:
    """A request that may be made to see whether a service works again.

    Parameters:
        leases: Key, token and generation of each outage that its outcome decides.
        until: When the first of the leases runs out, on the clock of the process.
    """

    leases: tuple[tuple[str, str, int], ...]
    until: float


class SecondLooks:
    """Which services have failed twice in a row in this process, whichever bots asked them.

    One failed request is no news to a fleet; a second one confirms it, with no answer
    to any bot of the process in between.
    """

    def __init__(self, within_secs: float, clock: Callable[[], float]) -> None:
        """Initialize it with no service that has failed.

        Args:
            within_secs: Seconds within which the second has to come.
            clock: Monotonic seconds.
        """
        self._within_secs = within_secs
        self._clock = clock
        self._failed_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """How many services have failed and not worked since."""
        return len(self._failed_at)

    def fail(self, service: str) -> bool:
        """Note a failure; True where it confirms another.

        Not one within a second: a request may be reported twice.
        """
        before = self._failed_at.get(service, -math.inf)
        since = self._clock() - before
        if since < MIN_WAIT_SECS:
            return False
        self._failed_at[service] = self._clock()
        self._failed_at.move_to_end(service)
        if len(self._failed_at) > MAX_SERVICES:
            self._failed_at.popitem(last=False)
        return since <= self._within_secs

    def __contains__(self, service: object) -> bool:
        """Whether a service has failed, and not worked since."""
        return service in self._failed_at

    def work(self, service: str) -> None:
        """Note an answer."""
        self._failed_at.pop(service, None)


class View:
    """What one bot sees of its fleet. Nothing here waits but :meth:`probe`."""

    def __init__(
        self,
        params: FleetParams,
        link: Link,
        snapshot: Snapshot,
        outbox: Outbox,
        looks: SecondLooks,
        *,
        name: str,
        instance: str,
        services: Callable[[], Iterable[FrameProcessor]],
        on_closed: Callable[[frozenset[Origin]], None],
        look_again: Callable[[], None],
        on_left: Callable[["View"], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Initialize a view; :meth:`Fleet.join` does.

        Args:
            params: The fleet's.
            link: Who talks to the store.
            snapshot: What is known.
            outbox: What is to be told.
            looks: Those of the process.
            name: The bot's, unique in the fleet.
            instance: On whose account its votes go.
            services: Asked which processors of the pipeline may be listened to.
            on_closed: Called with the origins that it has asked about when their
                outage is over.
            look_again: Called when all bots of the process have to have a look at whom
                they listen to.
            on_left: Called once when it leaves.
            clock: Monotonic seconds.
        """
        self._params = params
        self._link = link
        self._snapshot = snapshot
        self._outbox = outbox
        self._looks = looks
        self._name = name
        self._instance = instance
        self._services = services
        self._on_closed = on_closed
        self._names: OrderedDict[int, str] = OrderedDict()
        self._look_again = look_again
        # Those that are listened to, by their id.
        self._heard: dict[int, Undo] = {}
        self._on_left = on_left
        self._clock = clock
        self._keys: OrderedDict[Origin, str | None] = OrderedDict()
        self._processors: dict[Origin, FrameProcessor] = {}
        # Which outages circuits may have opened on account of: the key of an origin is that
        # of its latest failure.
        self._asked: dict[Origin, str] = {}
        self._faults: set[str] = set()
        self._has_left = False

    def leave(self) -> None:
        """Neither ask nor tell any more: the pipeline is over."""
        if not self._has_left:
            self._has_left = True
            for stop_hearing in self._heard.values():
                stop_hearing()
            self._heard.clear()
            self._keys.clear()
            self._processors.clear()
            self._asked.clear()
            self._on_left(self)

    def learn(
        self,
        origin: Origin,
        processor: FrameProcessor,
        *,
        category: str | None = None,
        exception: BaseException | None = None,
        by_delivery: bool = False,
    ) -> bool:
        """Note what a failure is called in the fleet, if it is the fleet's concern.

        Asked of each failure: one exception may be a provider's fault, or a request's.

        Args:
            origin: What has failed.
            processor: Which processor that is.
            category: See :class:`~pipecat_circuit_breaker.fleet.Failure`.
            exception: See there.
            by_delivery: See there. A channel is not forgotten on account of a
                message that is not shared.

        Returns:
            Whether the fleet is concerned.
        """
        if self._has_left:
            return False
        failure = Failure(
            processor,
            kind=origin.kind,
            where=origin.where,
            category=category,
            exception=exception,
            by_delivery=by_delivery,
        )
        key = self._key(failure)
        if by_delivery and key is None:
            return False
        self._keys[origin] = key
        self._processors[origin] = processor
        if len(self._keys) > MAX_ORIGINS:
            oldest, _ = self._keys.popitem(last=False)
            self._asked.pop(oldest, None)
            self._processors.pop(oldest, None)
        return key is not None

    def knows(self, origin: Origin) -> float | None:
        """Whether an outage of the fleet goes on that a failure belongs to.

        Returns:
            Seconds until anybody looks whether it is over, 1 to 60; None where
            nothing is known, the store does not answer, or somebody has said
            that bots are not to act on it.
        """
        key = self._keys.get(origin)
        outage = None if key is None or not self._acts else self._snapshot.open_at(key)
        if outage is None:
            return None
        self._asked[origin] = outage.key
        now = self._snapshot.now
        if outage.is_by_hand or outage.probe_at is None or now is None:
            return MAX_COOLDOWN_SECS
        return min(MAX_COOLDOWN_SECS, max(MIN_WAIT_SECS, outage.probe_at - now))

    def failed(self, origin: Origin, *, votes: bool) -> None:
        """Tell the fleet of a failure, where it is more than one that may happen to anybody.

        That is so where the bot's own evidence has opened its circuit, where the
        fleet knows of the outage, and where a service has failed again with no
        answer in between: people speak so slowly that five failures in ten seconds
        never come.

        Args:
            origin: What has failed.
            votes: Whether the bot's own evidence has opened the circuit.
        """
        if (key := self._keys.get(origin)) is None:
            return
        self._asked[origin] = key
        processor = self._processors.get(origin)
        if processor is not None and answers.are_heard(processor):
            if (name := self._service(processor)) is not None:
                votes = self._look(name) or votes
        if votes or self._snapshot.open_at(key) is not None:
            self._tell(key, votes=votes)

    @property
    def is_connected(self) -> bool:
        """Whether what is known may be used."""
        return self._link.is_connected

    def is_out(self, service: FrameProcessor) -> bool:
        """Whether an outage of the fleet goes on that concerns a service."""
        return bool(self._acts and self._outages(service))

    def may_probe_soon(self, service: FrameProcessor) -> bool:
        """Whether it is time to see whether a service works again, and nobody does so now."""
        return self._acts and any(map(self._snapshot.is_due, self._outages(service)))

    async def probe(self, service: FrameProcessor) -> Probe | None:
        """Ask to be the one of the fleet that probes; a second at most.

        Not to be awaited where frames have to wait for it.

        Returns:
            What :meth:`settle` needs; None where another one probes, or the store
            does not answer.
        """
        begun, leases = self._clock(), []
        for outage in self._outages(service) if self._acts else ():
            left = LEASE_SECS - (self._clock() - begun)
            if left <= 0 or self._has_left:
                break
            if not self._snapshot.is_due(outage):
                continue
            lease = await self._link.lease(outage.key, left)
            if lease is None:
                break
            token, answer = lease
            if answer.did and answer.outage is not None:
                leases.append((outage.key, token, answer.outage.generation))
        if not leases:
            return None
        return Probe(tuple(leases), begun + self._params.lease_secs)

    def settle(self, probe: Probe, *, success: bool) -> None:
        """Tell the fleet what became of a probe.

        Args:
            probe: As it was granted.
            success: True ends the outages that it was for; False takes their next wait.
        """
        for key, token, generation in probe.leases:
            self._outbox.settle(Settlement(key, token, generation, success, probe.until))
        self._link.wake()

    def service_failed(self, service: FrameProcessor, origin: Origin) -> None:
        """Tell the fleet that a service which another stands in for has failed a request.

        Args:
            service: The service.
            origin: How it has failed.
        """
        name = self._service(service)
        key = self._keys.get(origin)
        if name is not None and key is not None:
            self._tell(key, votes=self._look(name))

    def service_worked(self, service: FrameProcessor) -> None:
        """Note that a service has answered a request, or that an output has delivered a message."""
        if not self._looks and not self._snapshot.is_any_open:
            return  # nobody waits for it
        if (name := self._service(service)) is not None:
            if name in self._looks:
                self._looks.work(name)
                self._look_again()
            for outage in self._snapshot.open_of(name):
                self._try_out(outage.key)

    def came_back(self, service: FrameProcessor, secs: float) -> bool:
        """Whether another bot has seen within so many seconds that a service works again."""
        name = self._service(service) if self._acts else None
        now = self._snapshot.now
        if name is None or now is None or self._snapshot.open_of(name):
            return False
        ends = (
            outage.closed_at
            for outage in self._snapshot.over_of(name)
            if outage.ending == "recovered" and outage.closed_at is not None
        )
        return now - max(ends, default=-math.inf) < secs

    def changed(self) -> None:
        """Listen to those services of which the fleet has to know whether they answer."""
        if self._has_left:
            return
        try:
            for service in self._services():
                # Whether bots may act on it now or not: it has to end.
                is_wanted = bool(self._outages(service)) or (self._service(service) in self._looks)
                if is_wanted and service.id not in self._heard and answers.are_heard(service):
                    self._heard[service.id] = answers.stand_at(service, self._note_answer)
                elif not is_wanted and (stop := self._heard.pop(service.id, None)) is not None:
                    stop()
        except Exception as e:
            self._report_fault("listening to services", e)

    def _look(self, name: str) -> bool:
        """Note a failure of a service; True where it is the second in a row in this process."""
        is_first = name not in self._looks
        is_second = self._looks.fail(name)
        if is_first:
            # From now on an answer to any of its bots counts.
            self._look_again()
        return is_second

    def _note_answer(self, service: FrameProcessor) -> None:
        try:
            self.service_worked(service)
        except Exception as e:
            self._report_fault("noting an answer", e)

    def closed(self, key: str) -> None:
        """Have circuits closed that were opened since an outage of the fleet was known."""
        # What has failed before is no first look at what fails now.
        self._looks.work(key.partition(": ")[0])
        over = frozenset(origin for origin, asked in self._asked.items() if asked == key)
        if not over:
            return
        for origin in over:
            del self._asked[origin]
        try:
            self._on_closed(over)
        except Exception as e:
            self._report_fault("closing circuits", e)

    @property
    def _acts(self) -> bool:
        return self._link.is_connected and self._mode == "guard"

    @property
    def _mode(self) -> FleetMode:
        return self._snapshot.mode.mode

    def _outages(self, service: FrameProcessor) -> list[Outage]:
        if not self._snapshot.is_any_open or (name := self._service(service)) is None:
            return []
        return self._snapshot.open_of(name)

    def _tell(self, key: str, *, votes: bool) -> None:
        if self._mode == "disabled":
            return
        if self._outbox.fail(key, self._instance, self._name, votes=votes):
            self._link.wake()

    def _try_out(self, key: str) -> None:
        """End an outage by what has worked, if its wait is over.

        What fails does not prolong it: where one machine is sick, and the others are
        well again, it would always be the first.
        """
        if self._has_left or not self._link.is_connected or self._mode == "disabled":
            return
        if (outage := self._snapshot.open_at(key)) is None:
            return
        if self._outbox.try_out(outage):
            self._link.wake()

    def _key(self, failure: Failure) -> str | None:
        try:
            if not _answer(self._params.share(failure), bool):
                return None
        except Exception as e:
            self._report_fault("`share`", e)
            return None
        service = self._service(failure.processor)
        return None if service is None else key_of(service, failure)

    def _service(self, processor: FrameProcessor) -> str | None:
        """What the outages of a service begin with; asked until there is an answer."""
        if (known := self._names.get(processor.id)) is not None:
            return known
        try:
            name = service_name(processor, _answer(self._params.label(processor), str))
        except Exception as e:
            self._report_fault("`label`", e)
            return None
        self._names[processor.id] = name
        if len(self._names) > MAX_SERVICES:
            self._names.popitem(last=False)
        return name

    def _report_fault(self, what: str, e: Exception) -> None:
        if what not in self._faults:
            self._faults.add(what)
            logger.error(f"{what} failed, nothing is shared: {one_line(repr(e), 200)}")


def _answer(answer: Any, expected: type[_T]) -> _T:
    """What the application has answered, if it is what was asked for."""
    if isinstance(answer, Coroutine):
        answer.close()
    if not isinstance(answer, expected):
        raise TypeError(f"expected {expected.__name__}, got {one_line(repr(answer), 100)}")
    return answer
