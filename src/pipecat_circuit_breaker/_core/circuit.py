#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The circuit: a state machine of time and counts, and nothing else.

No I/O, no asyncio, no pipecat. Every method is one step that happens when a
frame comes, and returns the transitions that it has made, each with its
reason. Nothing here waits and no timer runs, because an error storm starves
timers first.

```
           max_errors in the window, trip(), or isolate()
  CLOSED ──────────────────────────────────────► OPEN ◄──┐
     ▲ ▲                                        │ │      │ the probe failed,
     │ └────────────────────────────────────────┘ │      │ or never reported
     │   cooldown over, used, and quiet           ▼      │
     └────────────────────────────────────── HALF_OPEN ──┘
        the probe succeeded,           cooldown over: one probe
        or was followed by quiet
```
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum

from pipecat_circuit_breaker._core.window import Window

_NEVER = float("inf")


class CircuitState(StrEnum):
    """The state of a circuit.

    Parameters:
        CLOSED: Everything passes; failures are counted.
        OPEN: Related errors and messages are held back until the cooldown is over.
        HALF_OPEN: One probe is on its way; everything else is still held back.
    """

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Admission(Enum):
    """What a circuit says to one frame that asks to pass.

    Parameters:
        PASS: The circuit is closed.
        HOLD: The circuit is open, or another probe is on its way.
        PROBE: The frame passes, and its outcome decides: report it with
            :meth:`Circuit.settle` and the circuit's ``generation`` of this moment.
    """

    PASS = "pass"
    HOLD = "hold"
    PROBE = "probe"


class Reason(Enum):
    """Why a circuit has changed its state.

    Parameters:
        FAILURES: As many failures within the window as open it.
        TRIPPED: Other evidence than its own count.
        BY_HAND: Somebody opened or closed it.
        PROBING: The cooldown is over, and a probe goes.
        PASSED: The probe succeeded.
        FAILED: The probe failed.
        TIMED_OUT: The probe never reported.
        QUIET: It was used, and quiet.
        RECOVERED: What was guarded has been seen to work.
        FORGOTTEN: It had to make room for another.
        OVER: Its pipeline is over.
        TAKEN_BACK: What had failed turned out to be no failure.
    """

    FAILURES = "failures"
    TRIPPED = "tripped"
    BY_HAND = "by_hand"
    PROBING = "probing"
    PASSED = "passed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    QUIET = "quiet"
    RECOVERED = "recovered"
    FORGOTTEN = "forgotten"
    OVER = "over"
    TAKEN_BACK = "taken_back"


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state.

    Parameters:
        before: The state that was left.
        after: The state that was entered.
        reason: Why.
        failures: Failures in the window when the state was left.
        span_secs: Seconds between the first and the last of them.
    """

    before: CircuitState
    after: CircuitState
    reason: Reason
    failures: int
    span_secs: float


#: What a step has brought about, in order. As a rule nothing.
Transitions = tuple[Transition, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """What circuits of one sort have in common.

    Parameters:
        max_errors: Failures within the window that open a circuit.
        window_secs: Length of the window. A failure exactly this old no longer counts.
        probe_timeout_secs: How long a probe may take to report.
        quiet_secs: How long it must be quiet after a probe whose silence is
            good news, counted from when what is guarded is used again.
        cooldown: Seconds to stay open, given how many times in a row the
            circuit has opened (1 for the first). Called once per opening.
        clock: Monotonic seconds. It may stand still or go back: time seen by
            a circuit never does.
    """

    max_errors: int
    window_secs: float
    probe_timeout_secs: float
    quiet_secs: float
    cooldown: Callable[[int], float]
    clock: Callable[[], float]


class Circuit:
    """A circuit breaker for one kind of failure.

    Args:
        settings: Its thresholds and times.
    """

    __slots__ = (
        "_deadline",
        "_failures",
        "_generation",
        "_latest",
        "_opened_at",
        "_openings_in_a_row",
        "_retry_at",
        "_settings",
        "_state",
        "_used_at",
    )

    def __init__(self, settings: Settings) -> None:
        """Start closed, with no failures."""
        self._settings = settings
        self._state = CircuitState.CLOSED
        self._failures = Window(settings.max_errors, settings.window_secs)
        self._generation = 0
        self._openings_in_a_row = 0
        self._opened_at = -_NEVER
        self._retry_at = _NEVER
        # Until when a probe has to report; never for one whose silence is good news.
        self._deadline = _NEVER
        # When it was first used since there was something to prove.
        self._used_at = _NEVER
        self._latest = -_NEVER

    @property
    def state(self) -> CircuitState:
        """The state as the last step left it."""
        return self._state

    @property
    def is_closed(self) -> bool:
        """Whether that is closed."""
        return self._state is CircuitState.CLOSED

    @property
    def generation(self) -> int:
        """How many times the state has changed; an outcome from an older one is void."""
        return self._generation

    @property
    def openings_in_a_row(self) -> int:
        """How many times it has opened since it was last closed."""
        return self._openings_in_a_row

    @property
    def opened_at(self) -> float:
        """When the circuit last opened, on the circuit's clock."""
        return self._opened_at

    @property
    def retry_at(self) -> float:
        """When the cooldown is over; infinite where it has never opened, or was opened by hand."""
        return self._retry_at

    @property
    def now(self) -> float:
        """The time, as the circuit sees it."""
        now = self._settings.clock()
        if now < self._latest:
            return self._latest
        self._latest = now
        return now

    @property
    def failures(self) -> int:
        """Failures in the window now."""
        return self._failures.count(self.now)

    @property
    def is_isolated(self) -> bool:
        """Whether it stays open whatever the time, until :meth:`close`."""
        return self._state is CircuitState.OPEN and self._retry_at == _NEVER

    @property
    def is_cool(self) -> bool:
        """Whether it is not closed, and its cooldown is over."""
        return not self.is_closed and self.now >= self._retry_at

    @property
    def is_ready(self) -> bool:
        """Whether it is open, and the next that asks is the probe."""
        return self._state is CircuitState.OPEN and self.now >= self._retry_at

    @property
    def probe_in_secs(self) -> float | None:
        """Seconds until the next probe may go (never negative); None where none may."""
        if self._state is not CircuitState.OPEN or self._retry_at == _NEVER:
            return None
        return max(0.0, self._retry_at - self.now)

    def look(self) -> Transitions:
        """Do what time alone has decided."""
        if self._state is CircuitState.CLOSED:
            return ()
        now = self.now
        if now >= self._deadline:
            return self._open(now, Reason.TIMED_OUT)
        if now - self._used_at >= self._settings.quiet_secs:
            return self._enter(CircuitState.CLOSED, Reason.QUIET)
        return ()

    def fail(self) -> Transitions:
        """Count one failure, where the circuit is closed.

        While it is open or half-open a failure is no news: it neither prolongs
        the cooldown nor decides about a probe that is not its own.
        """
        before = self.look()
        if self._state is not CircuitState.CLOSED:
            return before
        now = self.now
        if not self._failures.add(now):
            return before
        return before + self._open(now, Reason.FAILURES)

    def succeed(self) -> tuple[float, ...]:
        """End the count of failures, where the circuit is closed.

        Returns:
            What was counted, for :meth:`take_back`.
        """
        return self._failures.clear() if self._state is CircuitState.CLOSED else ()

    def take_back(self, counted: tuple[float, ...]) -> None:
        """Count again what :meth:`succeed` has forgotten: it was no success."""
        if self._state is CircuitState.CLOSED:
            self._failures.restore(counted)

    def trip(self, wait: float | None = None) -> Transitions:
        """Open the circuit whatever it has counted.

        Args:
            wait: Seconds to stay open, where somebody knows better than the cooldown.
        """
        before = self.look()
        if self._state is not CircuitState.CLOSED:
            return before
        return before + self._open(self.now, Reason.TRIPPED, wait)

    def isolate(self) -> Transitions:
        """Open the circuit until :meth:`close`: no probe goes, whatever the time."""
        before = self.look()
        if self._state is CircuitState.OPEN:
            self._retry_at = self._used_at = _NEVER
            return before
        self._openings_in_a_row += 1
        self._opened_at = self.now
        self._retry_at = _NEVER
        return before + self._enter(CircuitState.OPEN, Reason.BY_HAND)

    def close(self, reason: Reason = Reason.BY_HAND) -> Transitions:
        """Close the circuit at once, and forget what was counted.

        Args:
            reason: Why.
        """
        before = self.look()
        if self._state is CircuitState.CLOSED:
            self._failures.clear()
            return before
        return before + self._enter(CircuitState.CLOSED, reason)

    def ask(self, *, quiet_closes: bool) -> tuple[Admission, Transitions]:
        """Ask to pass.

        Args:
            quiet_closes: What silence would mean if the asker becomes the
                probe. True for one whose only outcome is another failure (an
                error that is let through): quiet for ``quiet_secs`` of use
                closes. False for one that must report (a message): silence for
                ``probe_timeout_secs`` reopens.
        """
        before = self.look()
        if self._state is CircuitState.CLOSED:
            return Admission.PASS, before
        now = self.now
        if self._state is CircuitState.HALF_OPEN or now < self._retry_at:
            return Admission.HOLD, before
        if not quiet_closes:
            self._deadline = now + self._settings.probe_timeout_secs
        return Admission.PROBE, before + self._enter(CircuitState.HALF_OPEN, Reason.PROBING)

    def settle(self, generation: int, *, success: bool) -> Transitions:
        """Report the outcome of the probe.

        Args:
            generation: The circuit's generation when the probe was admitted:
                an outcome of another one is void.
            success: True closes the circuit, False reopens it.
        """
        before = self.look()
        if self._state is not CircuitState.HALF_OPEN or generation != self._generation:
            return before
        if success:
            return before + self._enter(CircuitState.CLOSED, Reason.PASSED)
        return before + self._open(self.now, Reason.FAILED)

    def use(self) -> Transitions:
        """Note that what is guarded is used: from now on quiet says something."""
        before = self.look()
        if self._used_at == _NEVER and self._deadline == _NEVER and self.is_cool:
            self._used_at = self.now
        return before

    def disturb(self) -> None:
        """Note that what seemed to be use came to nothing: it has to be used again."""
        self._used_at = _NEVER

    def _open(self, now: float, reason: Reason, wait: float | None = None) -> Transitions:
        self._openings_in_a_row += 1
        self._opened_at = now
        if wait is None:
            wait = self._settings.cooldown(self._openings_in_a_row)
        self._retry_at = now + wait
        return self._enter(CircuitState.OPEN, reason)

    def _enter(self, state: CircuitState, reason: Reason) -> Transitions:
        failures = self._failures
        transition = Transition(
            self._state, state, reason, failures.count(self.now), failures.span_secs
        )
        self._state = state
        self._generation += 1
        self._used_at = _NEVER
        if state is not CircuitState.HALF_OPEN:
            self._deadline = _NEVER
        if state is CircuitState.CLOSED:
            self._openings_in_a_row = 0
            failures.clear()
        return (transition,)
