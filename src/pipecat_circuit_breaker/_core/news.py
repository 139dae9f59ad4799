#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What is told of an incident: its changes, and what the log says of them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipecat_circuit_breaker._core.circuit import CircuitState
from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker.incident import FailedOver, Incident, held_in_words


class Change(StrEnum):
    """What has happened to an incident.

    Parameters:
        OPENED: It has begun.
        REOPENED: A probe has failed.
        PROBED: A probe was let through.
        CLOSED: It is over.
        NOBODY_ANSWERS: It is one of services that fail, and none answers any more.
        EASED: One of the services that fail works again, others do not.
        GAVE_UP: ``give_up`` has said so, some time after it was opened.
    """

    OPENED = "opened"
    REOPENED = "reopened"
    PROBED = "probed"
    CLOSED = "closed"
    NOBODY_ANSWERS = "nobody_answers"
    EASED = "eased"
    GAVE_UP = "gave_up"


@dataclass(frozen=True, slots=True)
class News:
    """One change, to be told.

    Parameters:
        change: What has happened.
        incident: The incident as it is then.
        gives_up: Whether it is given up from here on.
    """

    change: Change
    incident: Incident
    gives_up: bool = False


def log_level(news: News) -> str | None:
    """How loud the log says it, if at all: what is over, or may be, is no warning."""
    failover = news.incident.failover
    if failover is not None and news.change in (Change.PROBED, Change.REOPENED):
        return None  # a shadow request: its failover says why it failed
    if failover is not None and news.change in (Change.OPENED, Change.NOBODY_ANSWERS):
        return "ERROR" if failover.nobody_answers else "WARNING"
    is_open = news.incident.state is CircuitState.OPEN
    return "WARNING" if is_open and news.change is not Change.EASED else "INFO"


def log_line(news: News) -> str:
    """What the log says of a change."""
    incident = news.incident
    circuit = "circuit" if incident.mode is not Mode.OBSERVE else "observing: circuit"
    origin = one_line(incident.origin, 200)
    if incident.failover is not None:
        return _failover_line(news, circuit, incident.failover)
    errors = held_in_words(incident.held_errors, incident.observed_errors, "error")
    messages = held_in_words(incident.held_messages, incident.observed_messages, "message")
    match incident.state:
        case CircuitState.OPEN:
            wait = incident.probe_in_secs
            probe = "no probe" if wait is None else f"next probe in {wait:.1f} s"
            gave_up = ", giving up" if news.gives_up else ""
            return (
                f"{circuit} open: {origin} ({incident.trigger.value}, {incident.failures} failures, "
                f"opening {incident.openings}), {probe}{gave_up}. {incident.advice.text}"
            )
        case CircuitState.HALF_OPEN:
            return f"{circuit} half-open: {origin}, {errors}, {messages}, probing"
        case CircuitState.CLOSED:
            ending = "" if incident.ending is None else f" ({incident.ending.value})"
            return (
                f"{circuit} closed{ending}: {origin}, {errors}, {messages} in {incident.secs:.1f} s"
            )


def _failover_line(news: News, circuit: str, failover: FailedOver) -> str:
    """What the log says of services that failed, and of those that answer in their place."""
    incident = news.incident
    state = incident.state.value
    ending = "" if incident.ending is None else f" ({incident.ending.value})"
    others = [one_line(name, 100) for name in failover.failed if name != incident.origin.processor]
    along = f", and {', '.join(others)}" if others else ""
    told = f"{circuit} {state}{ending}: {one_line(incident.origin, 200)}{along}; {failover.outcome}"
    if news.change in (Change.OPENED, Change.NOBODY_ANSWERS):
        return f"{told}. {incident.advice.text}"
    back = "; one of the services that failed is back" if news.change is Change.EASED else ""
    return f"{told}, in {incident.secs:.1f} s{back}"


def log_fields(incident: Incident) -> dict[str, Any]:
    """What a structured log carries beside the line."""
    fields: dict[str, Any] = {
        "circuit_origin": str(incident.origin),
        "circuit_state": incident.state.value,
        "circuit_mode": incident.mode.value,
        "circuit_trigger": incident.trigger.value,
        "circuit_incident": incident.id,
        "circuit_advice": incident.advice.kind.value,
        "circuit_held_errors": incident.held_errors,
        "circuit_held_messages": incident.held_messages,
        "circuit_observed_errors": incident.observed_errors,
        "circuit_observed_messages": incident.observed_messages,
    }
    if incident.failover is not None:
        failover = incident.failover.model_dump()
        fields |= {f"circuit_failover_{name}": value for name, value in failover.items()}
    if incident.call is not None:
        call = incident.call.model_dump()
        fields |= {f"circuit_{name}": value for name, value in call.items()}
    return fields
