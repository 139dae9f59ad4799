#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A clock that is moved by hand."""

import math


class Clock:
    """Monotonic seconds that pass only where a test says so.

    Parameters:
        now: What the clock shows, in seconds.

    Example::

        clock = Clock()
        breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
        ...
        clock.advance(60)
    """

    def __init__(self, now: float = 1000.0) -> None:
        """Initialize the clock.

        Args:
            now: What it shows at first, in seconds.
        """
        self.now = now

    def __call__(self) -> float:
        """Return what the clock shows, in seconds."""
        return self.now

    def advance(self, secs: float) -> None:
        """Let time pass.

        Args:
            secs: Seconds, 0 or more.

        Raises:
            ValueError: A monotonic clock cannot go there.
        """
        if not 0 <= secs < math.inf:
            raise ValueError(f"expected seconds that can pass, got {secs!r}")
        self.now += secs
