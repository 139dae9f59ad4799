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
            secs: Seconds; below 0 for a clock that goes back, which none should.

        Raises:
            ValueError: The seconds are not finite.
        """
        if not math.isfinite(secs):
            raise ValueError(f"expected a finite number of seconds, got {secs!r}")
        self.now += secs
