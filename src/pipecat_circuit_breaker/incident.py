#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What the breaker tells: plain, immutable data."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from pipecat_circuit_breaker.circuit import CircuitState
from pipecat_circuit_breaker.origin import Origin


class Trigger(StrEnum):
    """Why a circuit opened.

    Parameters:
        ERRORS: ``max_errors`` related errors within ``window_secs``.
        RECURSION: A chain of more than ``max_hops`` tracked frames, or
            messages that keep setting off messages.
        PROBE: The probe failed, or never reported.
        CLIENT_GONE: A watched transport has no client any more.
        MANUAL: Somebody opened it by hand.
    """

    ERRORS = "errors"
    RECURSION = "recursion"
    PROBE = "probe"
    CLIENT_GONE = "client_gone"
    MANUAL = "manual"


class ChainStep(BaseModel):
    """One tracked frame in a chain of causes.

    Parameters:
        hop: Tracked frames between it and its root; 0 for the root.
        frame: Name of the frame's class.
        processor: Name of the processor that pushed it.
        text: What it said: one line, shortened.
        at: When it was pushed, in seconds on the breaker's clock.
    """

    model_config = ConfigDict(frozen=True)

    hop: int
    frame: str
    processor: str
    text: str
    at: float


class CircuitSnapshot(BaseModel):
    """One circuit at one moment.

    Parameters:
        origin: Which processor failed, and how.
        state: The circuit's state.
        failures: Failures in the window.
        openings: How often it has opened in all.
        held_errors: Errors held back since it last left the closed state.
        held_messages: Messages held back since then, one for each channel.
        probe_in_secs: Seconds until the next probe may go; None where none may.
    """

    model_config = ConfigDict(frozen=True)

    origin: Origin
    state: CircuitState
    failures: int
    openings: int
    held_errors: int
    held_messages: int
    probe_in_secs: float | None


class Incident(BaseModel):
    """One change of a circuit's state, and what led to it.

    Parameters:
        origin: Which processor failed, and how.
        state: The state that was entered.
        trigger: Why the circuit opened (the last time, where it now closes).
        chain: The chain of causes that opened it, from its root.
        failures: Failures in the window when it opened.
        openings: How often it has opened in all.
        held_errors: Errors held back since it left the closed state.
        held_messages: Messages held back since then, one for each channel.
        probe_in_secs: Seconds until the next probe may go; None where none may.
        gave_up: Whether it is with this opening that ``give_up`` said to give up.
    """

    model_config = ConfigDict(frozen=True)

    origin: Origin
    state: CircuitState
    trigger: Trigger
    chain: tuple[ChainStep, ...]
    failures: int
    openings: int
    held_errors: int
    held_messages: int
    probe_in_secs: float | None
    gave_up: bool
