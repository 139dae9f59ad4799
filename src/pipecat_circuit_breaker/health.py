#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""How a pipeline is, in a few lines of JSON: for a status page, or a readiness probe."""

from collections import Counter
from typing import Literal, TypedDict

from pipecat_circuit_breaker._core.circuit import CircuitState
from pipecat_circuit_breaker._core.origin import CHANNEL_DOWN, SERVICE_DOWN
from pipecat_circuit_breaker._core.services import Services
from pipecat_circuit_breaker._pipeline.guard import Guard
from pipecat_circuit_breaker.incident import CircuitSnapshot

__all__ = ["ChannelHealth", "FailoverHealth", "Health", "ProcessorHealth"]

#: Kinds of failure, and destinations, that are named for each processor.
_MAX_NAMES = 8

_WORST_FIRST = (CircuitState.OPEN, CircuitState.HALF_OPEN, CircuitState.CLOSED)


class ProcessorHealth(TypedDict):
    """One processor of which errors have been counted.

    Parameters:
        state: The worst state of its circuits: ``closed``, ``open``, ``half_open``.
        failing: How it fails, where a circuit is not closed; at most 8.
        held_errors: Errors held back since, or that would have been.
        probe_in_secs: Seconds until the next probe may go; None where none may.
    """

    state: str
    failing: list[str]
    held_errors: int
    probe_in_secs: float | None


class ChannelHealth(TypedDict):
    """One output transport.

    Parameters:
        state: The worst state of its channels' circuits.
        connected: Whether somebody is; None where nobody watches.
        down: Destinations that are down; at most 8. Empty where it has but one.
        held_messages: Messages held back since, or that would have been.
        unsent_messages: Messages that were not sent since nobody is connected.
        probe_in_secs: Seconds until the next probe may go; None where none may.
    """

    state: str
    connected: bool | None
    down: list[str]
    held_messages: int
    unsent_messages: int
    probe_in_secs: float | None


class FailoverHealth(TypedDict):
    """The services of one switcher that has a failover.

    Parameters:
        status: ``ok``; ``degraded`` where a service fails; ``out`` where none has
            answered the latest request.
        answers: Name of the service that has answered last; None before, and while
            none does.
        failing: Names of the services that fail.
        probe_in_secs: Seconds until the next of them may be asked again to see
            whether it works; None where none fails, or one is being asked.
    """

    status: Literal["ok", "degraded", "out"]
    answers: str | None
    failing: list[str]
    probe_in_secs: float | None


class Health(TypedDict):
    """How a pipeline is.

    Parameters:
        status: ``ok``; ``degraded`` where a circuit is not closed; ``out`` where no
            service of a switcher answers that has a failover; ``idle`` before
            the pipeline is set up; ``over`` after its end.
        mode: The breaker's mode; None before the pipeline is set up.
        pipeline: Name of its worker; None likewise.
        processors: By name, each of which errors have been counted.
        channels: By name, each output transport.
        failovers: By name, each switcher that has a failover.
    """

    status: Literal["ok", "degraded", "out", "idle", "over"]
    mode: str | None
    pipeline: str | None
    processors: dict[str, ProcessorHealth]
    channels: dict[str, ChannelHealth]
    failovers: dict[str, FailoverHealth]


def health_of(guard: Guard | None) -> Health:
    """Say how a pipeline is.

    Args:
        guard: Who guards it; None before it is set up.
    """
    if guard is None:
        return Health(
            status="idle", mode=None, pipeline=None, processors={}, channels={}, failovers={}
        )
    # A channel and the errors of its deliveries are one incident: what was held back counts once.
    held: Counter[tuple[str, str]] = Counter()
    for incident in guard.open_incidents:
        held[incident.origin.processor, "errors"] += incident.held_errors
        held[incident.origin.processor, "messages"] += incident.held_messages
    errors: dict[str, list[CircuitSnapshot]] = {}
    channels: dict[str, list[CircuitSnapshot]] = {}
    for circuit in guard.circuits:
        if circuit.origin.kind == SERVICE_DOWN:
            continue  # a service that others stand in for
        kind = channels if circuit.origin.kind == CHANNEL_DOWN else errors
        kind.setdefault(circuit.origin.processor, []).append(circuit)
    is_closed = all(circuit.state is CircuitState.CLOSED for circuit in guard.circuits)
    status: Literal["ok", "degraded", "out", "over"] = "ok" if is_closed else "degraded"
    if any(services.is_out for services in guard.failovers):
        status = "out"
    return Health(
        status="over" if guard.has_left else status,
        mode=guard.mode.value,
        pipeline=guard.worker.name,
        processors={
            name: ProcessorHealth(
                state=_worst(circuits),
                failing=[_how(circuit) for circuit in _not_closed(circuits)][:_MAX_NAMES],
                held_errors=held[name, "errors"],
                probe_in_secs=_soonest(circuits),
            )
            for name, circuits in errors.items()
        },
        channels={
            name: ChannelHealth(
                state=_worst(channels.get(name, [])),
                connected=facts.is_connected,
                down=[
                    circuit.origin.destination
                    for circuit in _not_closed(channels.get(name, []))
                    if circuit.origin.destination is not None
                ][:_MAX_NAMES],
                held_messages=held[name, "messages"],
                unsent_messages=unsent,
                probe_in_secs=_soonest(channels.get(name, [])),
            )
            for name, facts, unsent in guard.channels
        },
        failovers={services.switcher: _of_failover(services) for services in guard.failovers},
    )


def _of_failover(services: Services) -> FailoverHealth:
    failing = [guarded for guarded in services.circuits if not guarded.circuit.is_closed]
    waits = [guarded.circuit.probe_in_secs for guarded in failing]
    known = [wait for wait in waits if wait is not None]
    return FailoverHealth(
        status="out" if services.is_out else "degraded" if failing else "ok",
        answers=None if services.is_out else services.answers,
        failing=[guarded.origin.processor for guarded in failing],
        probe_in_secs=round(min(known), 3) if known else None,
    )


def _not_closed(circuits: list[CircuitSnapshot]) -> list[CircuitSnapshot]:
    return [circuit for circuit in circuits if circuit.state is not CircuitState.CLOSED]


def _worst(circuits: list[CircuitSnapshot]) -> str:
    states = {circuit.state for circuit in circuits} or {CircuitState.CLOSED}
    return next(state for state in _WORST_FIRST if state in states).value


def _soonest(circuits: list[CircuitSnapshot]) -> float | None:
    waits = [circuit.probe_in_secs for circuit in circuits if circuit.probe_in_secs is not None]
    return round(min(waits), 3) if waits else None


def _how(circuit: CircuitSnapshot) -> str:
    origin = circuit.origin
    return f"{origin.kind} in {origin.where}" if origin.where else origin.kind
