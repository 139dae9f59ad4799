#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What processes of bots tell the one that shows it: a line of JSON for each event."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class What(StrEnum):
    """What has happened.

    Parameters:
        CALL: A call has begun.
        HUNG_UP: It is over.
        ANSWERED: A question was answered, by whichever provider.
        UNANSWERED: A question was not.
        HEARD: The application has heard an error.
        OPENED: A circuit has opened.
        PROBED: A bot's own circuit has let a probe through.
        CLOSED: A circuit has closed, as the provider is back.
        FLEET_OPENED: This process has heard that an outage of the fleet has begun.
        FLEET_CHANGED: It has heard of a probe.
        FLEET_CLOSED: It has heard that the outage is over.
        ALONE: The fleet's store does not answer.
    """

    CALL = "call"
    HUNG_UP = "hung up"
    ANSWERED = "answered"
    UNANSWERED = "unanswered"
    HEARD = "heard"
    OPENED = "opened"
    PROBED = "probed"
    CLOSED = "closed"
    FLEET_OPENED = "fleet opened"
    FLEET_CHANGED = "fleet changed"
    FLEET_CLOSED = "fleet closed"
    ALONE = "alone"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that has happened to a bot, or that a process has heard.

    Parameters:
        at: When, on the machine's monotonic clock, in seconds; all processes have the same.
        what: What.
        pod: The instance's name.
        bot: Its number in the pod; -1 where it is none of a bot.
        has_failover: Whether that bot has a second provider.
        failures: Failures of which a circuit has opened.
        first: Whether this process is the one of all whose step it was.
        probes: Probes of the fleet's outage until then.
        key: The outage's.
    """

    at: float
    what: What
    pod: str
    bot: int = -1
    has_failover: bool = False
    failures: int = 0
    first: bool = False
    probes: int = 0
    key: str = ""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Event":
        """Make one of what :meth:`as_json` returns."""
        return cls(**{**values, "what": What(values["what"])})

    def as_json(self) -> dict[str, Any]:
        """Return it as a dictionary of plain values."""
        return asdict(self)
