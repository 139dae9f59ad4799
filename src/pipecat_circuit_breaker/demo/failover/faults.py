#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What may be wrong with the first of two providers."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """What is wrong with a provider.

    Parameters:
        name: What it is called on a command line.
        title: For people.
        status: The HTTP status it answers a turn with, given the turn and the seconds since the
            first question; 200 is an answer.
        hangs: Whether it never answers.
        breaks: Whether its stream breaks in the middle of the answer.
        client_timeout_secs: Seconds after which the HTTP client gives up.
        patience_secs: Seconds after which the caller speaks again; None is never.
    """

    name: str
    title: str
    status: Callable[[int, float], int] = lambda turn, secs: 200
    hangs: bool = False
    breaks: bool = False
    client_timeout_secs: float = 600.0
    patience_secs: float | None = None


NONE = Fault("none", "works")

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("http-500", "HTTP 500", lambda turn, secs: 500),
        Fault("rate-limit", "429 for 30 s", lambda turn, secs: 429 if secs < 30 else 200),
        Fault("hang", "hangs, the client times out at 10 s", hangs=True, client_timeout_secs=10),
        Fault(
            "hang-interrupted",
            "hangs, the user speaks again after 8 s",
            hangs=True,
            patience_secs=8,
        ),
        Fault("broken-stream", "stream breaks in mid-answer", breaks=True),
        Fault(
            "one-in-five",
            "500, one request in five",
            lambda turn, secs: 500 if turn % 5 == 4 else 200,
        ),
        Fault("http-401", "401", lambda turn, secs: 401),
    )
}
