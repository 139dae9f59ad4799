#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Who is asked next: what is known of each service of a switcher, and nothing else.

No pipecat, no asyncio, no I/O. Services are numbers, in the order in which
they were given; the driver tells what became of each request.
"""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from pipecat_circuit_breaker._core.circuit import (
    Admission,
    Circuit,
    Reason,
    Settings,
    Transition,
    Transitions,
)

#: A service that fails again so soon after it came back is kept away for longer each time.
RELAPSE_SECS = 120.0

#: What circuits have done and nobody has asked for, at most.
_MAX_CHANGES = 100

#: How long a shadow request may take from end to end.
PROBE_TIMEOUT_SECS = 60.0


@dataclass(frozen=True, slots=True)
class Probe:
    """A shadow request that is due.

    Parameters:
        service: Whom to ask.
        generation: What :meth:`Roster.settle` needs to know the outcome by.
    """

    service: int
    generation: int


class _Health:
    """One service's circuit, and its relapses."""

    def __init__(self, cooldown: Callable[[int], float], clock: Callable[[], float]) -> None:
        self._cooldown = cooldown
        self._openings = 0
        self._closed_at = -RELAPSE_SECS
        #: Whether it has failed again soon after it came back.
        self.has_relapsed = False
        self.circuit = Circuit(
            Settings(
                max_errors=1,
                window_secs=1.0,
                probe_timeout_secs=PROBE_TIMEOUT_SECS,
                quiet_secs=float("inf"),
                cooldown=self._draw,
                clock=clock,
            )
        )

    def _draw(self, openings_in_a_row: int) -> float:
        # The circuit forgets its openings when it closes. A provider that fails
        # one request in five would then be switched every few seconds.
        if openings_in_a_row == 1:
            self.has_relapsed = self.circuit.now - self._closed_at < RELAPSE_SECS
            if not self.has_relapsed:
                self._openings = 0
        self._openings += 1
        return self._cooldown(self._openings)

    def close(self) -> Transitions:
        self._closed_at = self.circuit.now
        return self.circuit.close(Reason.RECOVERED)


class Roster:
    """Decides which service is asked, and when a failed one is tried again.

    Args:
        services: How many there are, at least one.
        cooldown: Seconds that a service is left alone, given how many times it
            has failed in a row or soon after coming back (1 for the first).
        clock: Monotonic seconds.
        is_out: Whether others know a service to be out; then it is asked after
            those of which nobody says so.
    """

    def __init__(
        self,
        services: int,
        cooldown: Callable[[int], float],
        clock: Callable[[], float],
        is_out: Callable[[int], bool] = lambda service: False,
    ) -> None:
        """Start with every service in order."""
        self._is_out_elsewhere = is_out
        self._health = [_Health(cooldown, clock) for _ in range(services)]
        self._preferred = 0
        self._is_out = False
        self._changes: deque[tuple[int, Transition]] = deque(maxlen=_MAX_CHANGES)

    @property
    def is_out(self) -> bool:
        """Whether there is an outage: no service answered the last request."""
        return self._is_out

    @property
    def circuits(self) -> tuple[Circuit, ...]:
        """The circuit of each service."""
        return tuple(health.circuit for health in self._health)

    @property
    def failing(self) -> tuple[int, ...]:
        """Those that do not work, in the order in which they would be asked."""
        failing = (s for s in range(len(self._health)) if not self.works(s))
        return tuple(sorted(failing, key=self._order))

    def take_changes(self) -> tuple[tuple[int, Transition], ...]:
        """What the circuits of which services have done since this was last asked, in order."""
        changes = (*self._changes,)
        self._changes.clear()
        return changes

    def prefer(self, service: int) -> None:
        """Note that the application has chosen a service: it is asked before the others.

        Also where it has failed: who chooses it knows more than its cooldown.
        """
        self._preferred = service
        self._note(service, self._health[service].circuit.close())

    def works(self, service: int) -> bool:
        """Whether a service is taken to work."""
        return self._health[service].circuit.is_closed

    def in_place_of(self, service: int) -> tuple[int, ...]:
        """Those that would be asked before a service, and do not work."""
        return tuple(s for s in self.failing if self._order(s) < self._order(service))

    def next(self, tried: Collection[int]) -> int | None:
        """Whom to ask, after those who have failed at this request.

        Returns:
            A service that works, the preferred one first, then in order.
            Where none does, the one whose probe is due first: silence is worse
            than one request more. None where all have been tried.
        """
        left = [service for service in range(len(self._health)) if service not in tried]
        return min(left, key=self._rank, default=None)

    def probes(self, asked: int) -> tuple[Probe, ...]:
        """Shadow requests that go beside a live one; each is handed out once per cooldown.

        None goes to a service that others know to be out: one of all looks whether it works.

        Args:
            asked: Who is asked live. Where that one is not known to work, the
                live requests are the probes.
        """
        if not self.works(asked):
            return ()
        due = []
        for service, health in enumerate(self._health):
            if self._is_out_elsewhere(service):
                continue
            # The live one works, so it passes; the others are held until they are due.
            admission, transitions = health.circuit.ask(quiet_closes=False)
            self._note(service, transitions)
            if admission is Admission.PROBE:
                due.append(Probe(service, health.circuit.generation))
        return tuple(due)

    def fail(self, service: int) -> bool:
        """Note a request that a service has failed.

        Returns:
            Whether that is news: it was taken to work before.
        """
        circuit = self._health[service].circuit
        # A live request that fails answers the question of a shadow request as well.
        self._note(service, circuit.settle(circuit.generation, success=False))
        opened = circuit.fail()
        self._note(service, opened)
        return bool(opened)

    def succeed(self, service: int) -> bool:
        """Note a request that a service has answered.

        Returns:
            Whether that is news: it was not taken to work before.
        """
        if self.works(service):
            return False
        self._note(service, self._health[service].close())
        return True

    def bring_back(self, service: int) -> bool:
        """Note that others have seen a service work that has failed here.

        Not where it has failed again soon after it came back: then its own cooldown
        says when it is asked.

        Returns:
            Whether it is taken to work now.
        """
        health = self._health[service]
        return not health.has_relapsed and self.succeed(service)

    def failing_secs(self, service: int) -> float:
        """For how many seconds a service does not work; 0 where it does."""
        circuit = self._health[service].circuit
        return 0.0 if circuit.is_closed else circuit.now - circuit.opened_at

    def settle(self, probe: Probe, *, success: bool) -> bool:
        """Note the outcome of a shadow request.

        Returns:
            Whether the service is back.
        """
        health = self._health[probe.service]
        circuit = health.circuit
        if circuit.generation != probe.generation or circuit.is_closed:
            return False
        if success:
            self._note(probe.service, health.close())
            return True
        self._note(probe.service, circuit.settle(probe.generation, success=False))
        return False

    def due_in_secs(self, service: int) -> float:
        """Seconds until a service that does not work may be asked live again; 0 where it works."""
        circuit = self._health[service].circuit
        circuit.look()
        return circuit.probe_in_secs or 0.0

    def admit(self, service: int) -> None:
        """Note that a service is asked live: if it was due, this is its one probe."""
        self._health[service].circuit.ask(quiet_closes=False)

    def comes_before(self, service: int, other: int) -> bool:
        """Whether a service is preferred to another, if both work."""
        return (service != self._preferred, service) < (other != self._preferred, other)

    def begin_outage(self) -> bool:
        """Note that no service has answered; True where that is news."""
        began, self._is_out = not self._is_out, True
        return began

    def end_outage(self) -> bool:
        """Note that a service works; True where that is news."""
        ended, self._is_out = self._is_out, False
        return ended

    def _rank(self, service: int) -> tuple[float, bool, int]:
        circuit = self._health[service].circuit
        self._note(service, circuit.look())
        # One that a shadow request is just asking comes after those that are due.
        if circuit.is_closed:
            return 0.5 if self._is_out_elsewhere(service) else 0.0, *self._order(service)
        return 1.0 + (circuit.probe_in_secs or 0.0), *self._order(service)

    def _order(self, service: int) -> tuple[bool, int]:
        return service != self._preferred, service

    def _note(self, service: int, transitions: Transitions) -> None:
        self._changes.extend((service, transition) for transition in transitions)
