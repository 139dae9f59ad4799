#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""An outage of a fleet as an incident: what is kept of it, in people's times."""

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker.fleet.record import (
    KEY_CHARS,
    MAX_INSTANCES,
    WHO_CHARS,
    WHY_CHARS,
    Outage,
)

__all__ = ["FleetIncident"]

_ID_CHARS = 16

#: The last second that is a date.
_LAST_SECOND = 253_402_300_799.0

#: A rate is told over a second at least: at the opening hardly any time has passed.
_LEAST_SECS = 1.0


def _cut(chars: int) -> AfterValidator:
    return AfterValidator(lambda text: one_line(text, chars))


_Who = Annotated[str, _cut(WHO_CHARS)]
_Count = Annotated[int, Field(ge=0, le=2**53)]


class FleetIncident(BaseModel):
    """One outage of a fleet, from its opening to its end.

    It is the same after a journey through JSON:
    ``FleetIncident.model_validate_json(incident.model_dump_json())``. All times are of the
    server's clock.

    Parameters:
        id: The same in every process and in every copy, and unique.
        fleet: The fleet's name.
        key: What has failed: the name that it has in every process.
        state: ``open`` or ``closed``.
        opened_at: When it opened.
        at: The latest time that this copy knows of.
        seen_at: When a failure was reported last.
        ended_at: When it was over; None before.
        ending: ``recovered``, ``by_hand`` or ``forgotten``; None before.
        instances: Names of instances that have seen it, at most 64.
        instance_count: How many there are in all.
        bots: About how many bots have seen it.
        failures: Failures that were reported.
        openings: The first, and one more for each probe that failed.
        lost_probes: Leases that have run out without an outcome.
        opened_by: The instance whose report has opened it, or who did by hand.
        closed_by: The instance whose probe has closed it, or who did by hand.
        why: What they said, where it was by hand.
        is_by_hand: Whether somebody has opened it by hand.
    """

    model_config = ConfigDict(frozen=True)

    id: Annotated[str, _cut(_ID_CHARS)]
    fleet: Annotated[str, _cut(WHO_CHARS)]
    key: Annotated[str, _cut(KEY_CHARS)]
    state: Literal["open", "closed"]
    opened_at: AwareDatetime
    at: AwareDatetime
    seen_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    ending: Literal["recovered", "by_hand", "forgotten"] | None = None
    instances: Annotated[tuple[_Who, ...], Field(max_length=MAX_INSTANCES)] = ()
    instance_count: _Count = 0
    bots: _Count = 0
    failures: _Count = 0
    openings: _Count = 0
    lost_probes: _Count = 0
    opened_by: _Who | None = None
    closed_by: _Who | None = None
    why: Annotated[str, _cut(WHY_CHARS)] = ""
    is_by_hand: bool = False

    @classmethod
    def of(cls, fleet: str, outage: Outage) -> "FleetIncident | None":
        """Make one of a record: None where it has never been open.

        Args:
            fleet: The fleet's name.
            outage: The record.
        """
        if outage.opened_at is None:
            return None
        identity = f"{fleet}\n{outage.key}\n{outage.opened_at!r}"
        is_over = outage.state == "closed"
        return cls(
            id=hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()[:_ID_CHARS],
            fleet=fleet,
            key=outage.key,
            state="closed" if is_over else "open",
            opened_at=moment(outage.opened_at),
            at=moment(max(outage.opened_at, outage.failed_at, outage.closed_at or 0.0)),
            seen_at=moment(outage.failed_at),
            ended_at=moment(outage.closed_at) if is_over and outage.closed_at else None,
            ending=outage.ending if is_over else None,
            instances=tuple(outage.instances),
            instance_count=max(outage.instance_count, len(outage.instances)),
            bots=outage.bots,
            failures=outage.failures,
            openings=outage.openings,
            lost_probes=outage.lost_probes,
            opened_by=outage.opened_by,
            closed_by=outage.closed_by if is_over else None,
            why=outage.why,
            is_by_hand=outage.is_by_hand,
        )

    @property
    def secs(self) -> float:
        """Seconds from the opening to the end, or to this copy."""
        return max(0.0, ((self.ended_at or self.at) - self.opened_at).total_seconds())

    @property
    def rate(self) -> float:
        """Failures a second from the opening to the latest that was reported."""
        return rate(self.failures, (self.seen_at - self.opened_at).total_seconds())


def rate(failures: int, secs: float) -> float:
    """Failures a second.

    Args:
        failures: How many.
        secs: In how many seconds; below one counts as one.
    """
    return failures / max(_LEAST_SECS, secs)


def moment(secs: float) -> datetime:
    """A time of the server's clock as a date; one that is out of range as the nearest that is one.

    Args:
        secs: Seconds since 1970.
    """
    return datetime.fromtimestamp(min(max(secs, 0.0), _LAST_SECOND), UTC)
