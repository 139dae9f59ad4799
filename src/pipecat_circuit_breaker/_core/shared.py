#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What other bots have found out: the core's view of a fleet, without any I/O."""

from typing import Protocol

from pipecat_circuit_breaker._core.origin import Origin


class SharedKnowledge(Protocol):
    """What is asked at a failure, and told after it. Nothing here waits.

    A circuit that is closed, at a processor that does not fail, asks nothing.
    """

    def knows(self, origin: Origin) -> float | None:
        """Whether an outage of the fleet goes on that this failure belongs to.

        Returns:
            Seconds until anybody looks whether it is over, above 0; None where
            nothing is known, or nobody can be asked now.
        """
        ...

    def failed(self, origin: Origin, *, votes: bool) -> None:
        """Tell the fleet of a failure.

        Args:
            origin: What has failed.
            votes: Whether the bot's own evidence has opened its circuit.
        """
        ...
