#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The latest failures, as far as they are not too old to matter."""

from collections import deque
from collections.abc import Iterable


class Window:
    """Times of the latest failures.

    Args:
        size: Failures that are kept.
        secs: A failure exactly this old no longer counts.
    """

    __slots__ = ("_secs", "_times")

    def __init__(self, size: int, secs: float) -> None:
        """Start with no failures."""
        self._times: deque[float] = deque(maxlen=size)
        self._secs = secs

    @property
    def is_full(self) -> bool:
        """Whether there are as many as are kept."""
        return len(self._times) == self._times.maxlen

    @property
    def span_secs(self) -> float:
        """Seconds between the first and the last of them."""
        return self._times[-1] - self._times[0] if self._times else 0.0

    def add(self, now: float) -> bool:
        """Add a failure.

        Returns:
            Whether that makes as many as are kept.
        """
        self.count(now)
        self._times.append(now)
        return self.is_full

    def count(self, now: float) -> int:
        """How many there are now."""
        times = self._times
        while times and now - times[0] >= self._secs:
            times.popleft()
        return len(times)

    def clear(self) -> tuple[float, ...]:
        """Forget all of them.

        Returns:
            What there was, for :meth:`restore`.
        """
        if not self._times:
            return ()
        times = (*self._times,)
        self._times.clear()
        return times

    def restore(self, times: Iterable[float]) -> None:
        """Put back what was forgotten, before what has come since."""
        since = (*self._times,)
        self._times.clear()
        self._times.extend((*times, *since))
