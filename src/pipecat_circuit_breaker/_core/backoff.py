#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""How long to stay open, and when to give up, in tenacity's own vocabulary."""

import math
from collections.abc import Callable

from tenacity import RetryCallState, Retrying, wait_exponential, wait_exponential_jitter
from tenacity.stop import stop_base
from tenacity.wait import wait_base

#: Exponential with jitter, 1 s to 60 s: the first opening cools down for 1 to
#: 2 s, each one that follows without a recovery for about twice as long.
DEFAULT_COOLDOWN = wait_exponential_jitter(initial=1.0, max=60.0)

#: 0.1 s, doubling up to 10 s: a channel that was taken for dead by mistake is
#: back at once, and a dead one costs six sends a minute.
DEFAULT_CHANNEL_COOLDOWN = wait_exponential(multiplier=0.1, max=10.0)

#: Taken where a strategy raises or answers with something that is no duration.
FALLBACK_SECS = 60.0


def draw_cooldown(wait: wait_base, attempt: int, on_error: Callable[[Exception], None]) -> float:
    """Draw one cooldown.

    Args:
        wait: A tenacity wait. It sees ``attempt_number`` as it would in a retry loop.
        attempt: How many times in a row the circuit has opened, from 1.
        on_error: Told why, where the strategy fails and the fallback is taken.

    Returns:
        Seconds: finite and not negative.
    """
    try:
        secs = float(wait(_retry_state(attempt, 0.0)))
        if not math.isfinite(secs) or secs < 0:
            raise ValueError(f"cooldown must be a finite number of seconds >= 0, got {secs!r}")
    except Exception as e:
        on_error(e)
        return FALLBACK_SECS
    return secs


def gives_up(
    stop: stop_base, attempt: int, open_secs: float, on_error: Callable[[Exception], None]
) -> bool:
    """Ask whether to give up.

    Args:
        stop: A tenacity stop. It sees ``attempt_number`` and
            ``seconds_since_start`` as it would in a retry loop.
        attempt: How many times in a row the circuit has opened, from 1.
        open_secs: Seconds since the first of these openings.
        on_error: Told why, where the strategy fails; then it is not given up.
    """
    try:
        return bool(stop(_retry_state(attempt, open_secs)))
    except Exception as e:
        on_error(e)
        return False


def _retry_state(attempt: int, secs: float) -> RetryCallState:
    state = RetryCallState(Retrying(), fn=None, args=(), kwargs={})
    state.attempt_number = attempt
    # A strategy that looks at the outcome of the last attempt finds a failure.
    state.set_exception((RuntimeError, RuntimeError("circuit opened"), None))
    state.start_time, state.outcome_timestamp = 0.0, secs
    return state
