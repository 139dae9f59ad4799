#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What a fleet writes down of one outage: what every process can read, and none has to trust."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pipecat_circuit_breaker._core.text import one_line

#: Rises where a process could not make sense of what another release has written.
RECORD_VERSION = 1

#: Characters of the name under which an outage is shared.
KEY_CHARS = 200

#: Characters of a name of an instance or a person, and of a reason.
WHO_CHARS = 64
WHY_CHARS = 200

#: Instances that an outage names; it counts more.
MAX_INSTANCES = 64

#: Bytes of a record. A longer one is not read. Twice 64 names fit, whatever is in them.
MAX_BYTES = 24_576

#: Outages that a fleet keeps. Those beyond are not shared.
MAX_OUTAGES = 256

#: How long the record of an outage that is over is kept, in seconds, so that a process
#: that missed the news does not take it for one that goes on.
TOMBSTONE_SECS = 60.0

#: Seconds between two probes of a fleet, at least: with none, 835 were counted in 5 s.
MIN_WAIT_SECS = 1.0

#: Seconds between two probes of a fleet, at most, whatever somebody asks for.
MAX_WAIT_SECS = 600.0

#: Seconds for which a record, a lease or a mode is kept, at most.
MAX_HOLD_SECS = 86_400.0

#: A bot's own circuit believes a fleet's cooldown up to so many seconds.
MAX_COOLDOWN_SECS = 60.0

State = Literal["suspected", "open", "closed"]
FleetMode = Literal["guard", "observe", "disabled"]


def _cut(chars: int) -> AfterValidator:
    return AfterValidator(lambda text: one_line(text, chars))


_Secs = Annotated[float, Field(allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Who = Annotated[str, _cut(WHO_CHARS)]
_Why = Annotated[str, _cut(WHY_CHARS)]


class Lease(BaseModel):
    """Who may probe, and until when.

    Parameters:
        holder: The instance.
        token: Known to the process that holds it.
        expires_at: Until when, in the server's seconds.
    """

    model_config = ConfigDict(frozen=True)

    holder: _Who
    token: Annotated[str, _cut(WHO_CHARS)]
    expires_at: _Secs


class Outage(BaseModel):
    """An outage of a fleet. All times are seconds on the server's clock.

    Parameters:
        version: Of the record. One of another version is not read.
        key: What has failed: the name that it has in every process.
        state: ``suspected`` as long as too few instances have seen it; ``open``;
            ``closed`` for a minute after its end.
        generation: Rises with every opening, every failed probe and the closing.
            The outcome of a probe of an earlier one is void.
        opened_at: Since when it is open.
        seen_at: Of what it was seen last: a vote, or a probe that failed.
        hold_secs: For how long it is kept after that, where nothing more is heard.
        closed_at: When it was over; None before. Of one that is suspected: when the
            one before it was over.
        probe_at: When a probe may go; None where none may, because it was opened by hand.
        wait_secs: How long it waits for that in all.
        openings: The first, and one more for each probe that failed.
        failures: Failures that were reported.
        instances: Instances that have seen it, and when each reported last; at most 64.
        instances_before: Of one that is suspected: the instances that had seen the one
            before it, where that has recovered. Alone they open no other for a minute.
        instance_count: How many there are in all, as far as they were told apart.
        bots: About how many bots have seen it.
        lost_probes: Leases that have run out without an outcome.
        lease: Who is probing; None where nobody is.
        opened_by: The instance whose report has opened it, or who did by hand.
        closed_by: The instance whose probe has closed it, or who did by hand.
        why: What they said, where it was by hand.
        ending: ``recovered``, ``by_hand``, or ``forgotten`` where nothing was heard of it any more.
        is_by_hand: Whether somebody has opened it by hand: then only that closes it.
        changed_by: Token of the process whose step has opened or closed it last, or has
            found it forgotten, so that one of all knows that it was first; empty where it
            was by hand.
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    key: Annotated[str, Field(min_length=1, max_length=KEY_CHARS), _cut(KEY_CHARS)]
    state: State
    generation: _Count = 0
    opened_at: _Secs | None = None
    seen_at: _Secs
    hold_secs: Annotated[float, Field(ge=0, le=MAX_HOLD_SECS)] = 600.0
    closed_at: _Secs | None = None
    probe_at: _Secs | None = None
    wait_secs: Annotated[float, Field(ge=0, le=MAX_WAIT_SECS)] = 0.0
    openings: _Count = 0
    failures: _Count = 0
    instances: Annotated[dict[_Who, _Secs], Field(max_length=MAX_INSTANCES)] = Field(
        default_factory=dict
    )
    instances_before: Annotated[dict[_Who, _Secs], Field(max_length=MAX_INSTANCES)] = Field(
        default_factory=dict
    )
    instance_count: _Count = 0
    bots: _Count = 0
    lost_probes: _Count = 0
    lease: Lease | None = None
    opened_by: _Who | None = None
    closed_by: _Who | None = None
    why: _Why = ""
    ending: Literal["recovered", "by_hand", "forgotten"] | None = None
    is_by_hand: bool = False
    changed_by: Annotated[str, _cut(WHO_CHARS)] = ""

    @classmethod
    def read(cls, text: str | bytes) -> "Outage | None":
        """Read what anybody may have written: None for what is no record of ours."""
        if len(text) > MAX_BYTES:
            return None
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None

    @property
    def is_open(self) -> bool:
        """Whether it goes on."""
        return self.state == "open"

    @property
    def is_over(self) -> bool:
        """Whether this is the tombstone of one that is over."""
        return self.state == "closed"

    @property
    def failed_at(self) -> float:
        """When a failure was reported last, a vote or not, as far as instances are named."""
        return max([self.seen_at, *self.instances.values()])

    @property
    def expires_at(self) -> float:
        """Until when it is kept, on the server's clock, where nothing more is heard."""
        if self.closed_at is not None and self.is_over:
            return self.closed_at + TOMBSTONE_SECS
        expires_at = self.seen_at + self.hold_secs
        if self.state == "suspected" and self.closed_at is not None:
            # It also says when the one before was over.
            return max(expires_at, self.closed_at + TOMBSTONE_SECS)
        return expires_at


class ModeSet(BaseModel):
    """What somebody wants the bots to do with what the fleet knows.

    Parameters:
        version: As above.
        mode: ``guard``: act on it. ``observe``: report, and only tell. ``disabled``:
            neither report nor act. Each bot's own breaker goes on in its own mode.
        who: Who said so; None where nobody has.
        why: And why.
        at: When, on the server's clock.
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    mode: FleetMode = "guard"
    who: _Who | None = None
    why: _Why = ""
    at: _Secs = 0.0

    @classmethod
    def read(cls, text: str | bytes) -> "ModeSet | None":
        """Read what anybody may have written: None for what is no such thing."""
        if len(text) > MAX_BYTES:
            return None
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None
