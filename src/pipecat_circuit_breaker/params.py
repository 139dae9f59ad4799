#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The breaker's settings."""

import time
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any

from pipecat.frames.frames import ErrorFrame, Frame
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from pipecat_circuit_breaker._core.backoff import DEFAULT_CHANNEL_COOLDOWN, DEFAULT_COOLDOWN
from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.text import one_line

__all__ = ["CircuitBreakerParams", "GiveUpPolicy"]


def _shown(value: Any) -> str:
    try:
        return one_line(repr(value), 100)
    except Exception:
        return one_line(value, 100)


def _number(value: Any) -> Any:
    # pydantic takes True for 1 and "5" for 5; in a threshold both are slips.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {_shown(value)}")
    return value


def _wait(value: Any) -> Any:
    if not isinstance(value, wait_base):
        raise ValueError(f"expected a tenacity wait such as wait_fixed(5), got {_shown(value)}")
    return value


def _stop(value: Any) -> Any:
    if value is not None and not isinstance(value, stop_base):
        raise ValueError(
            f"expected a tenacity stop such as stop_after_attempt(5), or None, got {_shown(value)}"
        )
    return value


def _count_all(error: ErrorFrame) -> bool:
    return True


def _participant(frame: Any) -> str | None:
    # Daily's and LiveKit's message frames have one.
    participant = getattr(frame, "participant_id", None)
    return participant if isinstance(participant, str) else None


class GiveUpPolicy(Enum):
    """What to do when a circuit gives up, as pipecat's ``ProcessorUnusablePolicy``.

    Parameters:
        CONTINUE: Only tell ``on_circuit_given_up``; the circuit goes on probing.
        END: End the pipeline once what is queued has been played.
        CANCEL: Cancel the pipeline right away.
    """

    CONTINUE = "continue"
    END = "end"
    CANCEL = "cancel"


Count = Annotated[int, BeforeValidator(_number)]
Wait = Annotated[wait_base, BeforeValidator(_wait)]
Rounds = Annotated[int, BeforeValidator(_number), Field(ge=1, le=10_000)]
Seconds = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]


class CircuitBreakerParams(BaseModel):
    """Settings of a circuit breaker; immutable, and refused at once where out of range.

    Parameters:
        max_errors: How much is too much, 1 to 10,000: errors of one origin
            within the window, failures that caused each other (however slowly),
            or deliveries that fail in a row. Four times as many errors of one
            processor, of whatever origin, are too much as well.
        window_secs: Length of the window in seconds, above 0. An error
            exactly this old no longer counts. Causes last six windows, those
            that another task has inherited one.
        cooldown: A tenacity wait: seconds a circuit stays open before it lets
            a probe pass. Drawn once per opening; ``attempt_number`` is the
            number of openings in a row without a recovery. By default 1 s,
            doubling up to 60 s, and up to 1 s of jitter.
        channel_cooldown: The same for a channel that is down: seconds until
            one message is tried. By default 0.1 s, doubling up to 10 s.
        grace_secs: Seconds for which nobody is told of an outage of a transport that
            is watched, above 0: its client may only have hung up, and a
            transport hears of that later than its sends fail. Then it was no
            outage. Errors and messages are held back from the start all the same.
        absence_secs: Seconds for which nobody may be connected to a transport
            that is watched, while the bot goes on sending, before that is told:
            once, by one line of the log at WARNING. Above 0. It is no incident.
        probe_timeout_secs: Seconds after which a message that is the probe and
            has not reported (a send that hangs, a frame that an interruption
            dropped) counts as failed, above 0.
        max_tool_rounds: Answers in one turn of the user in which a model may call
            tools, however many at once, 1 to 10,000. After them it is asked once
            more with its tools off. None is any number.
        max_failed_tool_rounds: The same for answers whose tools have all failed.
        give_up: A tenacity stop: when to give up, asked at each opening, but for
            those of a channel, of a service that has a failover, and the first
            on the word of a fleet. ``attempt_number`` is the number of openings
            in a row, ``seconds_since_start`` counts from the first of them.
            None is never.
        give_up_policy: What to do then. Anything but ``CONTINUE`` needs ``give_up``.
        mode: Whether to guard, only to observe, or to do nothing;
            :meth:`CircuitBreakerProcessor.set_mode` changes it at runtime.
        destination: To whom a message goes, where an output serves several
            apart: a function of the frame that returns its name, or None. Each gets a
            circuit of its own. By default the frame's ``participant_id`` (Daily,
            LiveKit), if it has one, else None.
        notify_client: Whether to send the client one RTVI server message when
            its channel can take everything again: ``{"type": "circuit-closed",
            "secs": …, "held_messages": …}``.
        counts: Which errors count: a function of the ``ErrorFrame``, by default
            ``lambda error: True``. An error for which this returns
            False is neutral: it passes and decides nothing.
        max_circuits: Origins that are kept at most, 1 to 100,000. Beyond it
            the circuit that was longest without news goes, closed ones first.
        max_text: Characters kept of any text, 16 to 10,000.
        clock: Returns monotonic seconds, by default ``time.monotonic``; for tests.

    Raises:
        pydantic.ValidationError: A value is out of range, not a number, NaN,
            or contradicts another; the message names the field and the value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    max_errors: Count = Field(default=5, ge=1, le=10_000)
    window_secs: Seconds = 10.0
    cooldown: Wait = DEFAULT_COOLDOWN
    channel_cooldown: Wait = DEFAULT_CHANNEL_COOLDOWN
    grace_secs: Seconds = 2.0
    absence_secs: Seconds = 60.0
    probe_timeout_secs: Seconds = 10.0
    max_tool_rounds: Rounds | None = 10
    max_failed_tool_rounds: Rounds | None = 3
    give_up: Annotated[stop_base | None, BeforeValidator(_stop)] = None
    give_up_policy: GiveUpPolicy = GiveUpPolicy.CONTINUE
    mode: Mode = Mode.GUARD
    destination: Callable[[Frame], str | None] = _participant
    notify_client: Annotated[bool, Field(strict=True)] = False
    counts: Callable[[ErrorFrame], bool] = _count_all
    max_circuits: Count = Field(default=256, ge=1, le=100_000)
    max_text: Count = Field(default=200, ge=16, le=10_000)
    clock: Callable[[], float] = time.monotonic

    @model_validator(mode="after")
    def _policy_needs_a_stop(self) -> "CircuitBreakerParams":
        if self.give_up is None and self.give_up_policy is not GiveUpPolicy.CONTINUE:
            raise ValueError(
                f"give_up_policy={self.give_up_policy} never applies without give_up: "
                "expected a tenacity stop such as stop_after_attempt(5)"
            )
        return self
