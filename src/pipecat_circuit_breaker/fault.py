#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A circuit, and all that is known of the failure that it guards against."""

from dataclasses import dataclass
from enum import Enum

from pipecat_circuit_breaker.causality import Link
from pipecat_circuit_breaker.channel import Channel
from pipecat_circuit_breaker.circuit import Circuit, CircuitState
from pipecat_circuit_breaker.incident import ChainStep, CircuitSnapshot, Incident, Trigger
from pipecat_circuit_breaker.origin import Origin


class Mode(Enum):
    """What a breaker does with what it knows.

    Parameters:
        GUARD: Holds back what an open circuit holds back.
        OBSERVE: Counts, opens and tells as if it guarded, but lets everything pass.
        DISABLED: Lets everything pass and notes nothing.
    """

    GUARD = "guard"
    OBSERVE = "observe"
    DISABLED = "disabled"


@dataclass(slots=True, eq=False)
class Fault:
    """A circuit, with what is known of the failure that it guards against.

    Parameters:
        origin: Which processor failed, and how.
        circuit: Its circuit.
        latest: The frame that was counted last, while the circuit is closed.
        announcement: The error that opened it, and says so.
        mode: Its own mode; None for the breaker's.
        probe: The frame that is the probe, while the circuit is half-open.
        trigger: Why the circuit opened.
        chain: The chain of causes that opened it.
        failures: Failures in the window when it opened.
        openings: How often it has opened.
        held_errors: Errors held back since it left the closed state.
        held_messages: Messages held back since then.
        opened_first_at: When it left the closed state.
        given_up: Whether ``give_up`` has said to give up since then.
    """

    origin: Origin
    circuit: Circuit
    latest: Link | None = None
    announcement: Link | None = None
    mode: Mode | None = None
    probe: Link | None = None
    trigger: Trigger = Trigger.ERRORS
    chain: tuple[ChainStep, ...] = ()
    failures: int = 0
    openings: int = 0
    held_errors: int = 0
    held_messages: int = 0
    opened_first_at: float = 0.0
    given_up: bool = False

    @property
    def is_closed(self) -> bool:
        """Whether it holds nothing back."""
        self.circuit.look()
        return self.circuit.state is CircuitState.CLOSED

    @property
    def opening_remark(self) -> str:
        """What the error that opened the circuit says upstream."""
        if self.trigger is Trigger.RECURSION:
            why = "errors and messages set each other off"
        else:
            why = f"{self.failures} related errors"
        return f"circuit open, {why}: more like it are held back until it recovers"

    def is_announced_by(self, link: Link) -> bool:
        """Whether a message only says that this circuit is open."""
        return self.announcement is not None and link.descends_from(self.announcement)

    def snapshot(self) -> CircuitSnapshot:
        """What anybody may know of it now."""
        return CircuitSnapshot(
            origin=self.origin,
            state=self.circuit.state,
            failures=self.circuit.failures,
            openings=self.openings,
            held_errors=self.held_errors,
            held_messages=self.held_messages,
            probe_in_secs=self.circuit.probe_in_secs,
        )

    def stops(self, channel: Channel, kind: str, link: Link) -> bool:
        """Whether a channel cannot take a message because of this, while it is open."""
        if self.origin.processor_id != channel.processor_id:
            return False
        if self.circuit.is_isolated and self.origin.destination is None:
            return True
        return self.origin.destination == channel.destination and (
            self.circuit.is_isolated or channel.is_suspect(kind) or self.is_announced_by(link)
        )

    def incident(self, *, gave_up: bool = False) -> Incident:
        """What has led to the state that it has just entered."""
        return Incident(
            origin=self.origin,
            state=self.circuit.state,
            trigger=self.trigger,
            chain=self.chain,
            failures=self.failures,
            openings=self.openings,
            held_errors=self.held_errors,
            held_messages=self.held_messages,
            probe_in_secs=self.circuit.probe_in_secs,
            gave_up=gave_up,
        )
