#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Reads incidents from JSON that somebody has kept."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker.fleet.incident import FleetIncident
from pipecat_circuit_breaker.incident import Incident

_MAX_SHOWN = 80


def incidents_of(text: str) -> list[Incident | FleetIncident]:
    """Read incidents.

    Args:
        text: An incident as JSON, of a bot or of a fleet; a list of them, or one on each line.

    Returns:
        The latest copy of each, the one that opened first at the beginning.

    Raises:
        ValueError: It is none of that; the message is one line that says
            where, what was expected and what is there instead.
    """
    latest: dict[str, Incident | FleetIncident] = {}
    for where, value in _values(text):
        incident = _incident(where, value)
        known = latest.get(incident.id)
        if known is None or _rank(incident) >= _rank(known):
            latest[incident.id] = incident
    if not latest:
        raise ValueError("expected at least one incident, got none")
    return sorted(latest.values(), key=lambda incident: incident.opened_at)


def _rank(incident: Incident | FleetIncident) -> tuple[bool, datetime]:
    # A process that was cut off from its fleet takes an outage for forgotten, and says so later
    # than those that have heard how it ended.
    is_told = isinstance(incident, FleetIncident) and incident.ending in ("recovered", "by_hand")
    return is_told, incident.at


def _values(text: str) -> Iterator[tuple[str, Any]]:
    try:
        whole = _parse(text)
    except ValueError:
        lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
        if len(lines) < 2 or not _is_json(lines[0][1]):
            raise
        for number, line in lines:
            try:
                yield f"line {number}: ", _parse(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
        return
    if isinstance(whole, list):
        yield from ((f"incident {n}: ", value) for n, value in enumerate(whole, 1))
    else:
        yield "", whole


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        there = text[error.pos :].split("\n", 1)[0] or "the end"
        raise ValueError(
            f"expected JSON, got {one_line(there, _MAX_SHOWN)} "
            f"at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON: {one_line(error, _MAX_SHOWN)}") from error


def _is_json(line: str) -> bool:
    try:
        _parse(line)
    except ValueError:
        return False
    return True


def _incident(where: str, value: Any) -> Incident | FleetIncident:
    if not isinstance(value, dict):
        raise ValueError(f"{where}expected an incident, got {_shown(value)}")
    kind: type[Incident | FleetIncident] = FleetIncident if "fleet" in value else Incident
    try:
        incident = kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise ValueError(f"{where}{name}: expected a value, got none") from error
        expected = first["msg"].replace("Input should be", "expected", 1)
        raise ValueError(f"{where}{name}: {expected}, got {_shown(first['input'])}") from error
    if isinstance(incident, FleetIncident):
        return incident
    for name, at in _times(incident):
        if at.tzinfo is None:
            raise ValueError(
                f"{where}{name}: expected a time with an offset such as +00:00, got {at}"
            )
    return incident


def _times(incident: Incident) -> Iterable[tuple[str, datetime]]:
    yield "opened_at", incident.opened_at
    yield "at", incident.at
    if incident.ended_at is not None:
        yield "ended_at", incident.ended_at
    yield from ((f"chain.{n}.at", step.at) for n, step in enumerate(incident.chain))
    yield from ((f"probes.{n}.at", probe.at) for n, probe in enumerate(incident.probes))


def _shown(value: Any) -> str:
    return one_line(json.dumps(value, default=str, ensure_ascii=False), _MAX_SHOWN)
