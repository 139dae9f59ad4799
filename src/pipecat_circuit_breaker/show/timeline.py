#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""An incident on a time axis: where to draw what.

The chain takes milliseconds and the circuit is open for minutes, so the time
before the opening and the time after it each have a scale of their own.
"""

from dataclasses import dataclass

from pipecat_circuit_breaker.incident import Incident
from pipecat_circuit_breaker.show.story import duration, is_error

WIDTH = 880
_LEFT = 92
_RIGHT = 20
_OPENING = 350
_PAD = 14


@dataclass(frozen=True)
class Mark:
    """Something that happened.

    Parameters:
        x: Where, from the left.
        kind: What: ``error``, ``message``, or the outcome of a probe.
        label: What to say of it.
    """

    x: float
    kind: str
    label: str


@dataclass(frozen=True)
class Tick:
    """A time that is written below the axis.

    Parameters:
        x: Where, from the left.
        label: The time.
        anchor: Which end of the label is there: ``start``, ``middle`` or ``end``.
    """

    x: float
    label: str
    anchor: str = "middle"


@dataclass(frozen=True)
class Timeline:
    """Where to draw what; lengths are in units of the picture's width, :data:`WIDTH`.

    Parameters:
        start: Where the axis begins.
        opening: Where the circuit opened.
        end: Where the axis ends: the closing, or the moment of this copy.
        closed: Whether it ends with the closing.
        causes: The chain's errors and messages.
        probes: The probes.
        ticks: Times below the axis.
    """

    start: float
    opening: float
    end: float
    closed: bool
    causes: tuple[Mark, ...]
    probes: tuple[Mark, ...]
    ticks: tuple[Tick, ...]


def timeline(incident: Incident) -> Timeline:
    """Lay an incident out on a time axis.

    Args:
        incident: The incident.
    """
    opened = incident.opened_at
    before = [(opened - step.at).total_seconds() for step in incident.chain]
    lead, after = max([0.0, *before]), incident.secs
    end = WIDTH - _RIGHT

    def back(secs: float) -> float:
        width = _OPENING - _LEFT - _PAD
        return _OPENING - (width * min(1.0, max(0.0, secs / lead)) if lead else 0.0)

    def on(secs: float) -> float:
        return _OPENING + ((end - _OPENING) * min(1.0, max(0.0, secs / after)) if after else 0.0)

    ticks = [Tick(_OPENING, "opened")]
    if lead >= 0.00005:
        ticks.append(Tick(back(lead), f"−{duration(lead)}"))
    if after:
        ticks += [
            Tick(on(after * part / 4), f"+{duration(after * part / 4)}") for part in (1, 2, 3)
        ]
        ticks.append(Tick(end, f"+{duration(after)}", "end"))
    return Timeline(
        start=_LEFT,
        opening=_OPENING,
        end=end,
        closed=incident.ended_at is not None,
        causes=tuple(
            Mark(
                back(secs),
                "error" if is_error(step) else "message",
                f"hop {step.hop}: {step.processor}",
            )
            for secs, step in zip(before, incident.chain, strict=True)
        ),
        probes=tuple(
            Mark(
                on((probe.at - opened).total_seconds()),
                probe.outcome.value,
                f"probe {n}: {probe.outcome.value.replace('_', ' ')}",
            )
            for n, probe in enumerate(incident.probes, 1)
        ),
        ticks=tuple(ticks),
    )
