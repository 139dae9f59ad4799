#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What a fleet is told once, in code."""

import os
import re
import socket
from collections.abc import Callable
from hashlib import sha1
from typing import Annotated

from pipecat.processors.frame_processor import FrameProcessor
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pipecat_circuit_breaker._core.backoff import DEFAULT_COOLDOWN
from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker.fleet.record import MAX_HOLD_SECS, MAX_INSTANCES
from pipecat_circuit_breaker.fleet.sharing import Failure, label_of, shares
from pipecat_circuit_breaker.params import Count, Seconds, Wait

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

#: Characters of an instance's name that are kept.
INSTANCE_CHARS = 64


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"expected 1 to 64 letters, digits, '.', '_' or '-', got {one_line(repr(value), 100)}"
        )
    return value


def this_instance() -> str:
    """The machine or pod: ``POD_NAME``, ``HOSTNAME``, or else the host's name."""
    for variable in ("POD_NAME", "HOSTNAME"):
        if name := os.environ.get(variable, "").strip():
            return _short(name)
    return _short(socket.gethostname())


def _short(name: str) -> str:
    """A name that is not too long, and still another for each."""
    if len(name) <= INSTANCE_CHARS:
        return one_line(name, INSTANCE_CHARS)
    digest = sha1(name.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()[:8]
    return f"{one_line(name, INSTANCE_CHARS - 9)}-{digest}"


_UpToADay = Annotated[Seconds, Field(le=MAX_HOLD_SECS)]


class FleetParams(BaseModel):
    """Settings of a fleet; immutable, and refused at once where out of range.

    Parameters:
        name: Fleets of one server are kept apart by it: 1 to 64 letters, digits,
            ``.``, ``_`` and ``-``. Staging must not share one with production.
        instance: The machine or pod that this process is part of, at most 64
            characters. It has one vote, however many bots it runs. By default
            ``POD_NAME``, ``HOSTNAME``, or the host's name.
        min_instances: Instances that have to see a failure within ``vote_secs``
            before it is an outage of the fleet, 1 to 64.
        vote_secs: Seconds for which a vote counts, above 0. A report that is
            older when it comes to the server is refused.
        hold_secs: Seconds after the last vote or failed probe of an outage, above 0,
            after which it is forgotten.
        lease_secs: Seconds that a probe may take from its lease to its outcome,
            above 0. After them another process may probe.
        cooldown: A tenacity wait: seconds from the opening of an outage to its first
            probe, and from each that fails to the next; kept within 1 and 600.
            ``attempt_number`` is 1 for the first. By default 1 to 2 s, about doubling
            up to a minute.
        share: Whether a failure is the fleet's concern, see
            :func:`~pipecat_circuit_breaker.fleet.sharing.shares`, the default.
        label: What tells two uses of one service class apart, as a region or an
            account: a short text, and no secret. It is part of the name under
            which an outage is shared. By default the host that the service asks,
            where it says.

    Raises:
        pydantic.ValidationError: A value is out of range or of another type; the
            message names the field and the value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: Annotated[str, AfterValidator(_name)] = "pipecat"
    instance: Annotated[str, Field(min_length=1, max_length=INSTANCE_CHARS)] = Field(
        default_factory=this_instance
    )
    min_instances: Annotated[Count, Field(ge=1, le=MAX_INSTANCES)] = 3
    vote_secs: _UpToADay = 10.0
    hold_secs: _UpToADay = 600.0
    lease_secs: _UpToADay = 15.0
    cooldown: Wait = DEFAULT_COOLDOWN
    share: Callable[[Failure], bool] = shares
    label: Callable[[FrameProcessor], str] = label_of

    @model_validator(mode="after")
    def _outages_outlive_probes(self) -> "FleetParams":
        if self.hold_secs < max(self.lease_secs, self.vote_secs):
            raise ValueError(
                f"hold_secs={self.hold_secs:g} would forget an outage that is being probed: "
                f"expected at least lease_secs={self.lease_secs:g} and vote_secs={self.vote_secs:g}"
            )
        return self
