#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The counts that never go down, for one kind of failure."""

from collections import Counter
from dataclasses import dataclass, field, fields

from pipecat_circuit_breaker.incident import ProbeOutcome, Totals


@dataclass(slots=True)
class Tally:
    """The counts behind :class:`Totals`, for one kind of failure."""

    incidents: int = 0
    failures: int = 0
    openings: int = 0
    closings: int = 0
    held_errors: int = 0
    held_messages: int = 0
    observed_errors: int = 0
    observed_messages: int = 0
    unsent_messages: int = 0
    saved_requests: int = 0
    lost_requests: int = 0
    probes: Counter[ProbeOutcome] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Count what another has counted."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.probes.update(other.probes)

    def totals(self, name: str) -> Totals:
        """What has been counted, for people.

        Args:
            name: The name of what it was counted for.
        """
        return Totals(
            origin=name,
            **{count: getattr(self, count) for count in _COUNTS},
            probes_passed=self.probes[ProbeOutcome.PASSED],
            probes_failed=self.probes[ProbeOutcome.FAILED],
            probes_timed_out=self.probes[ProbeOutcome.TIMED_OUT],
        )


_COUNTS = tuple(count.name for count in fields(Tally) if count.type is int)
