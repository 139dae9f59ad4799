#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What is written down of one outage, until it is over."""

from collections import deque
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import uuid4

from pipecat_circuit_breaker._core.advice import ChannelFacts, Evidence
from pipecat_circuit_breaker._core.circuit import CircuitState
from pipecat_circuit_breaker._core.circuits import Guarded
from pipecat_circuit_breaker._core.origin import SERVICE_DOWN, Origin
from pipecat_circuit_breaker._core.tally import Tally
from pipecat_circuit_breaker.incident import (
    Call,
    ChainStep,
    Ending,
    FailedOver,
    ProbeOutcome,
    Trigger,
)

# What an outage holds at most, whatever a client or a provider sends.
_MAX_PROBES = 32


@dataclass(slots=True, eq=False)
class Probed:
    origin: Origin
    frame: str
    text: str
    at: datetime
    outcome: ProbeOutcome = ProbeOutcome.PENDING


@dataclass(slots=True, eq=False)
class Outage:
    """What is written down from an opening until all is closed again.

    A channel's circuit and the circuit of the errors that its failed deliveries
    make are one outage; likewise a service's and that of the errors of its
    requests, and the services that have failed at one request. Times are on the breaker's clock; ``opened_at`` ties
    them to the calendar.
    """

    evidence: Evidence
    steps_omitted: int
    failures: int
    rate: float | None
    opened_at: datetime
    opened_secs: float
    is_channel: bool
    id: str = field(default_factory=lambda: uuid4().hex)
    circuits: list[Guarded] = field(default_factory=list)
    openings: int = 0
    held_errors: int = 0
    observed_errors: int = 0
    observed_messages: int = 0
    call: Call | None = None
    held_kinds: dict[str, int] = field(default_factory=dict)
    probes: deque[Probed] = field(default_factory=lambda: deque(maxlen=_MAX_PROBES))
    has_given_up: bool = False
    failover: FailedOver | None = None
    ending: Ending | None = None
    # As long as nobody is told of it, its counts are kept apart, by the origin's name.
    tell_at: float = 0.0
    untold: dict[str, Tally] | None = None
    _steps: tuple[ChainStep, ...] | None = None

    @property
    def origin(self) -> Origin:
        return self.evidence.origin

    @property
    def name(self) -> str:
        """Under what it is counted, the same in every process.

        That a service fails which another stands in for is told apart: callers
        need not have noticed.
        """
        origin = self.origin
        return (origin if self.failover is None else origin.with_kind(SERVICE_DOWN)).shared_name

    @property
    def trigger(self) -> Trigger:
        return self.evidence.trigger

    @property
    def steps(self) -> tuple[ChainStep, ...]:
        """The chain: made when somebody is told, and not before."""
        if self._steps is None:
            self._steps = tuple(
                ChainStep(
                    hop=link.hop,
                    frame=link.frame,
                    processor=link.processor,
                    text=link.text,
                    at=self.moment(link.at),
                )
                for link in self.evidence.chain
            )
        return self._steps

    @property
    def state(self) -> CircuitState:
        states = {guarded.circuit.state for guarded in self.circuits}
        for state in (CircuitState.OPEN, CircuitState.HALF_OPEN):
            if state in states:
                return state
        return CircuitState.CLOSED

    @property
    def held_messages(self) -> int:
        return sum(self.held_kinds.values())

    def is_told_by(self, guarded: Guarded) -> bool:
        """Whether a circuit speaks for it: a channel's or a service's does, where there is one."""
        return _speaks(guarded) or not any(_speaks(other) for other in self.circuits)

    def moment(self, secs: float) -> datetime:
        """When something was, that is known on the breaker's clock."""
        return self.opened_at + timedelta(seconds=secs - self.opened_secs)

    def takes_over(self, other: "Outage") -> None:
        """Let what is known better of the same outage speak for it."""
        self.evidence, self.steps_omitted = other.evidence, other.steps_omitted
        self.failures, self.rate, self._steps = other.failures, other.rate, None

    def learns(self, facts: ChannelFacts, *, has_failed: bool) -> None:
        """Take in what has come to be known of its channel since.

        Args:
            facts: What is known of it now.
            has_failed: Whether it has just failed again: what gets through after
                the last failure got through because it was over.
        """
        known = self.evidence.channel
        if known is None:
            return
        if has_failed:
            kinds = dict.fromkeys((*known.failing_kinds, *facts.failing_kinds))
            known = replace(known, failing_kinds=(*kinds,), delivered=facts.delivered)
        has_gone = facts.went_at is not None and facts.went_at >= self.opened_secs
        if has_gone or facts.is_connected is False:
            known = replace(known, is_connected=False)
        self.evidence = replace(self.evidence, channel=known)


def _speaks(guarded: Guarded) -> bool:
    return guarded.is_channel or guarded.is_service
