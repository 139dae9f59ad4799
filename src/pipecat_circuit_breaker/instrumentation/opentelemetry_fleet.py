#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""OpenTelemetry for a fleet: what one process knows of its outages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from threading import Lock
from weakref import WeakKeyDictionary, WeakSet

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from pipecat_circuit_breaker.fleet.fleet import Fleet
from pipecat_circuit_breaker.fleet.record import Outage

_SCOPE = "pipecat_circuit_breaker"
_NAME = "pipecat.circuit_breaker.fleet"
_FLEET = f"{_NAME}.name"
_KEY = f"{_NAME}.key"
_ENDING = f"{_NAME}.ending"
_OUTCOME = f"{_NAME}.probe.outcome"
_ORIGIN = "pipecat.circuit_breaker.origin"

#: Outages of a fleet that are told apart; what is beyond them is one.
_MAX_KEYS = 64
_OTHER_KEYS = "other"

#: Outages whose probes are followed.
_MAX_FOLLOWED = 256

#: A key without what a breaker's own metrics do not tell: label and place.
_OF_ORIGIN = re.compile(r"([^\[:]*)(?:\[.*?\])?: (.*?)(?: in \S+)?")


def instrument_fleet(fleet: Fleet, meter_provider: MeterProvider | None) -> None:
    """Instrument one fleet.

    Args:
        fleet: The fleet.
        meter_provider: Where the metrics go; None for the global one.
    """
    if meter_provider is metrics.get_meter_provider():
        meter_provider = None
    counts = _counts(meter_provider)
    counts.add(fleet)

    # The fleet comes with the call: what is registered with it must not hold it.
    def on_opened(fleet: Fleet, outage: Outage, first: bool) -> None:
        counts.opened(fleet, outage)

    def on_changed(fleet: Fleet, outage: Outage) -> None:
        counts.changed(fleet, outage)

    def on_closed(fleet: Fleet, outage: Outage, first: bool) -> None:
        counts.closed(fleet, outage)

    def on_connected(fleet: Fleet) -> None:
        counts.connected(fleet, True)

    def on_alone(fleet: Fleet, reason: str) -> None:
        counts.connected(fleet, False)

    fleet.add_event_handler("on_fleet_outage_opened", on_opened)
    fleet.add_event_handler("on_fleet_outage_changed", on_changed)
    fleet.add_event_handler("on_fleet_outage_closed", on_closed)
    fleet.add_event_handler("on_fleet_connected", on_connected)
    fleet.add_event_handler("on_fleet_alone", on_alone)


class _Counts:
    """What the fleets of this process were told of. Safe to read from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._fleets: WeakSet[Fleet] = WeakSet()
        self._connected: WeakKeyDictionary[Fleet, bool] = WeakKeyDictionary()
        self._keys: dict[str, dict[str, None]] = {}
        self._opened: Counter[tuple[str, str]] = Counter()
        self._closed: Counter[tuple[str, str, str]] = Counter()
        self._probes: Counter[tuple[str, str, str]] = Counter()
        # Openings and lost probes of each that goes on, as they were last heard of.
        self._followed: dict[tuple[str, str], tuple[int, int]] = {}

    def add(self, fleet: Fleet) -> None:
        with self._lock:
            self._fleets.add(fleet)
            if fleet.is_connected:
                self._connected[fleet] = True

    def opened(self, fleet: Fleet, outage: Outage) -> None:
        with self._lock:
            name, key = self._name(fleet, outage)
            self._opened[name, key] += 1
            if len(self._followed) >= _MAX_FOLLOWED:
                del self._followed[next(iter(self._followed))]
            self._followed[name, outage.key] = (outage.openings, outage.lost_probes)

    def changed(self, fleet: Fleet, outage: Outage) -> None:
        with self._lock:
            self._count_probes(fleet, outage)

    def closed(self, fleet: Fleet, outage: Outage) -> None:
        with self._lock:
            self._count_probes(fleet, outage)
            name, key = self._name(fleet, outage)
            self._followed.pop((name, outage.key), None)
            ending = outage.ending or "forgotten"
            self._closed[name, key, ending] += 1
            if ending == "recovered":
                self._probes[name, key, "passed"] += 1

    def connected(self, fleet: Fleet, is_connected: bool) -> None:
        with self._lock:
            self._connected[fleet] = is_connected

    def observe_outages(self, _: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            is_open: dict[tuple[str, str], int] = {}
            for fleet in [*self._fleets]:
                for outage in _outages_of(fleet):
                    is_open[self._name(fleet, outage)] = 1
            # One that is over is told, too, or its series would stop at what it was last.
            return [
                Observation(
                    is_open.get((name, key), 0), {**_named(name, key), _ORIGIN: _origin(key)}
                )
                for name, keys in self._keys.items()
                for key in keys
            ]

    def observe_opened(self, _: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            return [Observation(n, _named(*each)) for each, n in self._opened.items()]

    def observe_closed(self, _: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            return [
                Observation(n, {**_named(name, key), _ENDING: ending})
                for (name, key, ending), n in self._closed.items()
            ]

    def observe_probes(self, _: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            return [
                Observation(n, {**_named(name, key), _OUTCOME: outcome})
                for (name, key, outcome), n in self._probes.items()
            ]

    def observe_connected(self, _: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            # Of several of one name the one that is worst off is what counts.
            found: dict[str, int] = {}
            for fleet, is_connected in [*self._connected.items()]:
                if not is_connected and not _has_bots(fleet):
                    # Nobody looks any more whether the server is back, and nobody has to.
                    continue
                name = fleet.params.name
                found[name] = min(found.get(name, 1), int(is_connected))
            return [Observation(n, {_FLEET: name}) for name, n in found.items()]

    def _count_probes(self, fleet: Fleet, outage: Outage) -> None:
        name, key = self._name(fleet, outage)
        openings, lost = self._followed.get(
            (name, outage.key), (outage.openings, outage.lost_probes)
        )
        self._probes[name, key, "failed"] += max(0, outage.openings - openings)
        self._probes[name, key, "lost"] += max(0, outage.lost_probes - lost)
        if (name, outage.key) in self._followed:
            self._followed[name, outage.key] = (outage.openings, outage.lost_probes)

    def _name(self, fleet: Fleet, outage: Outage) -> tuple[str, str]:
        """The names under which an outage is told: once it has them it keeps them."""
        name = fleet.params.name
        keys = self._keys.setdefault(name, {})
        if outage.key not in keys:
            if len(keys) >= _MAX_KEYS:
                keys[_OTHER_KEYS] = None
                return name, _OTHER_KEYS
            keys[outage.key] = None
        return name, outage.key


def _outages_of(fleet: Fleet) -> tuple[Outage, ...]:
    # Whoever collects does it in a thread of its own, and the fleet's has just heard of another.
    for _ in range(5):
        try:
            return fleet.outages
        except RuntimeError:
            continue
    return ()


def _has_bots(fleet: Fleet) -> bool:
    try:
        return fleet.status()["bots"] > 0
    except RuntimeError:
        # As above; and what changes is in use.
        return True


def _named(name: str, key: str) -> dict[str, str]:
    return {_FLEET: name, _KEY: key}


def _origin(key: str) -> str:
    found = _OF_ORIGIN.fullmatch(key)
    return f"{found[1]}: {found[2]}" if found else key


@cache
def _counts(provider: MeterProvider | None) -> _Counts:
    counts = _Counts()
    meter = metrics.get_meter(_SCOPE, meter_provider=provider)
    meter.create_observable_up_down_counter(
        f"{_NAME}.outages",
        [counts.observe_outages],
        "{outage}",
        "Outages of the fleet that go on, as this process knows: every process tells the same",
    )
    meter.create_observable_counter(
        f"{_NAME}.outages_opened",
        [counts.observe_opened],
        "{outage}",
        "Outages of the fleet of whose opening this process has heard",
    )
    meter.create_observable_counter(
        f"{_NAME}.outages_closed",
        [counts.observe_closed],
        "{outage}",
        "Outages of the fleet of whose end this process has heard, by ending",
    )
    meter.create_observable_counter(
        f"{_NAME}.probes",
        [counts.observe_probes],
        "{probe}",
        "Probes of the fleet of which this process has heard, by outcome",
    )
    meter.create_observable_up_down_counter(
        f"{_NAME}.connected",
        [counts.observe_connected],
        "{process}",
        "1 where the fleet's store answers this process, 0 where its bots behave as if alone",
    )
    return counts
