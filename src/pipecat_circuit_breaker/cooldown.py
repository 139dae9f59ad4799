#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Draws cooldowns from tenacity's wait strategies."""

import math
from collections.abc import Callable

from tenacity import RetryCallState, Retrying, wait_exponential_jitter
from tenacity.wait import wait_base

#: Exponential with jitter, 1 s to 60 s: the first opening cools down for 1 to
#: 2 s, each one that follows without a recovery for about twice as long.
DEFAULT_COOLDOWN = wait_exponential_jitter(initial=1.0, max=60.0)

#: Taken where a strategy raises or answers with something that is no duration.
FALLBACK_SECS = 60.0


def draw(wait: wait_base, attempt: int, on_error: Callable[[Exception], None]) -> float:
    """Draw one cooldown.

    Args:
        wait: A tenacity wait. It sees ``attempt_number`` as it would in a retry loop.
        attempt: How many times in a row the circuit has opened, from 1.
        on_error: Told why, where the strategy fails and the fallback is taken.

    Returns:
        Seconds: finite and not negative.
    """
    state = RetryCallState(Retrying(), fn=None, args=(), kwargs={})
    state.attempt_number = attempt
    try:
        # A strategy that looks at the outcome of the last attempt finds a failure.
        state.set_exception((RuntimeError, RuntimeError("circuit opened"), None))
        secs = float(wait(state))
        if not math.isfinite(secs) or secs < 0:
            raise ValueError(f"cooldown must be a finite number of seconds >= 0, got {secs!r}")
    except Exception as e:
        on_error(e)
        return FALLBACK_SECS
    return secs
