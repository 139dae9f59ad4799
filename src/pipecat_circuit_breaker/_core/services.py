#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Services that stand in for each other: what has become of the requests to them.

Who is asked is decided elsewhere. Here is told what came of it, in the terms of
circuits, so that a service that fails is an incident like any other.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from pipecat_circuit_breaker._core.causality import Link
from pipecat_circuit_breaker._core.circuit import Circuit, CircuitState, Transition
from pipecat_circuit_breaker._core.circuits import Guarded
from pipecat_circuit_breaker._core.journal import Journal, Opening
from pipecat_circuit_breaker._core.origin import NOBODY_ANSWERS, SERVICE_DOWN, Origin, Processor
from pipecat_circuit_breaker.incident import Trigger


class Keeper(Protocol):
    """Who knows every circuit."""

    def moved(self, guarded: Guarded, transition: Transition, opening: Opening) -> None:
        """Write down what the circuit of a service has done."""
        ...


class Services:
    """The services of one switcher, by their place in it.

    Args:
        keeper: Who knows every circuit.
        journal: Where it is written down.
        switcher: The switcher.
        services: Each service, and the circuit by which it is asked or not.
    """

    def __init__(
        self,
        keeper: Keeper,
        journal: Journal,
        switcher: Processor,
        services: Iterable[tuple[Processor, Circuit]],
    ) -> None:
        """Start with nothing asked."""
        self._keeper = keeper
        self._journal = journal
        self._switcher = switcher
        members = tuple(services)
        self._services = tuple(service for service, _ in members)
        self.circuits = tuple(
            Guarded(Origin.of(service, SERVICE_DOWN), circuit) for service, circuit in members
        )
        #: Whether none of them has answered the latest request.
        self.is_out = False
        #: Name of the one that has answered last; None before.
        self.answers: str | None = None

    @property
    def processors(self) -> tuple[Processor, ...]:
        """The services, in their order."""
        return self._services

    @property
    def switcher(self) -> str:
        """The switcher's name."""
        return self._switcher.name

    @property
    def name(self) -> str:
        """Under what it is counted that none answers, the same in every process."""
        return Origin.of(self._switcher, NOBODY_ANSWERS).shared_name

    def changed(
        self, changes: Iterable[tuple[int, Transition]], failed: Mapping[int, Link] | None = None
    ) -> None:
        """Write down what their circuits have done.

        Args:
            changes: Which circuit has done what, in order.
            failed: The errors of the services that have failed at this request.
        """
        failed = failed or {}
        # One of them, or the switcher, may report an error of another as its own.
        whose = (self._switcher, *(self._services[service] for service in failed))
        known = [link.origin for link in failed.values() if link.origin is not None]
        for service in failed:
            for origin in known:
                for who in whose:
                    self.circuits[service].note_failed_with(
                        Origin.of(who, origin.kind, where=origin.where)
                    )
        first: Guarded | None = None
        for service, transition in changes:
            guarded = self.circuits[service]
            opening = Opening(
                Trigger.FAILOVER,
                failed.get(service),
                switcher=self._switcher.name,
                failed_with=first,
            )
            self._keeper.moved(guarded, transition, opening)
            if transition.after is CircuitState.HALF_OPEN:
                self._journal.shadow(guarded)
            if transition.before is CircuitState.CLOSED:
                first = first or guarded

    def took_over(self, service: int, others: Iterable[int]) -> None:
        """Note that a service answers a request in place of others.

        Args:
            service: The service.
            others: Those that would have been asked before it, and fail.
        """
        self.answers = self.circuits[service].origin.processor
        self._journal.took_over(self.answers, [self.circuits[other] for other in others])

    def answered(self, service: int, others: Collection[int]) -> None:
        """Note that a service has answered a request, in place of others where there are any.

        Args:
            service: The service.
            others: Those that would have been asked before it, and fail.
        """
        self.answers = self.circuits[service].origin.processor
        if others:
            self._journal.saved(self.answers, [self.circuits[other] for other in others])

    def lost(self, services: Collection[int]) -> None:
        """Note that a request has got no answer, or not the whole of it.

        Args:
            services: Those that fail.
        """
        self._journal.lost([self.circuits[service] for service in services])

    def went_out(self) -> None:
        """Note that none of them answers any more."""
        if not self.is_out:
            self.is_out = True
            self._journal.nobody_answers(self.name, self.circuits)

    def came_back(self) -> None:
        """Note that one of them answers again."""
        if self.is_out:
            self.is_out = False
            self._journal.somebody_answers(self.name, self.circuits)
