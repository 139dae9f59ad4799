#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The sums over all breakers of a process, of those that are gone too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock
from weakref import WeakSet, ref

from pipecat_circuit_breaker._core.circuit import CircuitState
from pipecat_circuit_breaker._pipeline.guard import Guard
from pipecat_circuit_breaker.incident import Incident, Totals
from pipecat_circuit_breaker.processor import CircuitBreakerProcessor

#: Names of origins that are told apart in a process; what is beyond them is one.
_MAX_ORIGINS = 256
_OTHER_ORIGINS = "other"


#: Times that totals are read anew where the pipeline counted a new origin meanwhile.
_READS = 5

_COUNTED = [name for name in Totals.model_fields if name != "origin"]
_WORST_FIRST = (CircuitState.OPEN, CircuitState.HALF_OPEN, CircuitState.CLOSED)


@dataclass(eq=False)
class _Source:
    """What one guard counts, and the last of it that was read.

    Parameters:
        guard: The guard. Held weakly: it goes with its pipeline.
        totals: What it had counted when it was read last.
        open: The name of the origin and the state of each circuit that was not closed then.
        running: Whether its pipeline still runs.
    """

    guard: ref[Guard]
    totals: tuple[Totals, ...] = ()
    open: tuple[tuple[str, CircuitState], ...] = ()
    running: bool = True

    def read(self) -> bool:
        """Read what has been counted since; False where the guard is gone."""
        guard = self.guard()
        if guard is None:
            return False
        for _ in range(_READS):
            try:
                self.totals, self.open = guard.totals, guard.open_circuits
                return True
            except RuntimeError:
                # Whoever collects metrics does it in a thread of its own, and
                # the pipeline's thread has just counted an origin that is new.
                continue
        return True


class Counts:
    """Adds up what the breakers of a process count, by the shared name of the origin.

    A sum never goes down: what a breaker had counted is kept when it is gone.
    Breakers that share a pipeline share their counts, and add to the sums once.
    Safe to read from any thread.
    """

    def __init__(self) -> None:
        """Start with nothing counted."""
        self._lock = Lock()
        self._breakers: WeakSet[CircuitBreakerProcessor] = WeakSet()
        self._sources: dict[int, _Source] = {}
        self._gone: dict[str, Counter[str]] = {}
        self._names: set[str] = set()

    def add(self, breaker: CircuitBreakerProcessor) -> None:
        """Count what a breaker counts from now on, and what it has counted before."""
        with self._lock:
            self._breakers.add(breaker)
            self._read()

    def note(self, breaker: CircuitBreakerProcessor, incident: Incident) -> None:
        """Note a transition of one of its circuits."""
        with self._lock:
            self._note(breaker, incident)

    def leave(self, breaker: CircuitBreakerProcessor) -> None:
        """Read what a breaker has counted in the end: its pipeline is over."""
        with self._lock:
            source = self._source_of(breaker)
            if source is not None:
                source.read()
                source.running = False
                source.open = ()

    @property
    def totals(self) -> list[Totals]:
        """What all of them have counted, by the name of the origin."""
        with self._lock:
            self._read()
            sums = {name: counts.copy() for name, counts in self._gone.items()}
            for source in self._sources.values():
                self._sum_up(source.totals, sums)
        return [Totals(origin=name, **counts) for name, counts in sums.items()]

    @property
    def states(self) -> dict[str, Counter[CircuitState]]:
        """For each name of an origin how many running pipelines have it in which state.

        Where several circuits of one pipeline bear the name, the worst state is
        the one that counts.
        """
        with self._lock:
            self._read()
            states: dict[str, Counter[CircuitState]] = {name: Counter() for name in self._gone}
            for source in self._sources.values():
                not_closed: dict[str, set[CircuitState]] = {}
                for origin, state in source.open if source.running else ():
                    not_closed.setdefault(self._name(origin), set()).add(state)
                for name in {self._name(totals.origin) for totals in source.totals}:
                    counter = states.setdefault(name, Counter())
                    if source.running:
                        found = not_closed.get(name, {CircuitState.CLOSED})
                        counter[next(state for state in _WORST_FIRST if state in found)] += 1
        return states

    def _read(self) -> None:
        for breaker in [*self._breakers]:
            self._source_of(breaker)
        for key, source in [*self._sources.items()]:
            if not source.read():
                self._retire(key)

    def _note(self, breaker: CircuitBreakerProcessor, incident: Incident) -> None:
        source = self._source_of(breaker)
        if source is not None and source.running:
            source.read()

    def _source_of(self, breaker: CircuitBreakerProcessor) -> _Source | None:
        guard = breaker.guard
        if guard is None:
            return None
        source = self._sources.get(id(guard))
        if source is not None and source.guard() is guard:
            return source
        # An id is given out again once its guard is gone.
        self._retire(id(guard))
        source = self._sources[id(guard)] = _Source(ref(guard))
        return source

    def _retire(self, key: int) -> None:
        source = self._sources.pop(key, None)
        if source is not None:
            self._sum_up(source.totals, self._gone)

    def _sum_up(self, totals: Iterable[Totals], sums: dict[str, Counter[str]]) -> None:
        for counted in totals:
            counts = sums.setdefault(
                self._name(counted.origin), Counter(dict.fromkeys(_COUNTED, 0))
            )
            for name in _COUNTED:
                counts[name] += getattr(counted, name)

    def _name(self, origin: str) -> str:
        """The name under which an origin is told: once it has one it keeps it."""
        if origin not in self._names:
            if len(self._names) >= _MAX_ORIGINS:
                return _OTHER_ORIGINS
            self._names.add(origin)
        return origin
