#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The frame with which the breaker tells processors and observers what happened."""

from dataclasses import dataclass
from typing import Any

from pipecat.frames.frames import SystemFrame

__all__ = ["CircuitBreakerFrame"]


@dataclass
class CircuitBreakerFrame(SystemFrame):
    """A circuit has changed its state.

    The breaker pushes one in both directions at each transition. Processors,
    observers and debuggers see it; RTVI does not forward it to the client.

    Parameters:
        incident: What has happened since the circuit opened, in JSON's types,
            because debuggers and buses serialise every frame:
            ``Incident.model_validate(frame.incident)`` is the record.
    """

    incident: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name}(incident: {self.incident['id']}, state: {self.incident['state']})"
