#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The circuit: a state machine of time and counts, and nothing else.

No I/O, no asyncio, no pipecat. Every method is one step that happens when a
frame comes; nothing here waits and no timer runs, because an error storm
starves timers first.

```
            max_errors in the window, trip(), or isolate()
   CLOSED ─────────────────────────────────────► OPEN ◄──┐
      ▲                                           │      │ the probe failed,
      │ the probe succeeded,                      │      │ or never reported
      │ or it was quiet                           ▼      │
      └────────────────────────────────────── HALF_OPEN ─┘
                                     cooldown over: one probe
```
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum


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


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state.

    Parameters:
        before: The state that was left.
        after: The state that was entered.
        failures: Failures in the window when the state was left.
        span_secs: Seconds between the first and the last of them.
        by_time: Whether time alone decided: a probe that never reported, or
            whose silence was good news.
    """

    before: CircuitState
    after: CircuitState
    failures: int
    span_secs: float
    by_time: bool


@dataclass(frozen=True, slots=True)
class _Probe:
    deadline: float
    quiet_closes: bool


class Circuit:
    """A circuit breaker for one kind of failure.

    The clock may stand still or go back: time seen from in here never does.

    Args:
        max_errors: Failures within the window that open the circuit.
        window_secs: Length of the window. A failure exactly this old no longer counts.
        probe_timeout_secs: How long a probe may take to report.
        quiet_secs: How long it must be quiet after a probe whose silence is good news.
        cooldown: Seconds to stay open, given how many times in a row the
            circuit has opened (1 for the first). Called once per opening.
        clock: Monotonic seconds.
        on_transition: Called with each transition, in order, before the step returns.
    """

    def __init__(
        self,
        *,
        max_errors: int,
        window_secs: float,
        probe_timeout_secs: float,
        quiet_secs: float,
        cooldown: Callable[[int], float],
        clock: Callable[[], float],
        on_transition: Callable[[Transition], None],
    ) -> None:
        """Start closed, with no failures."""
        self._window_secs = window_secs
        self._max_errors = max_errors
        self._probe_timeout_secs = probe_timeout_secs
        self._quiet_secs = quiet_secs
        self._cooldown = cooldown
        self._clock = clock
        self._on_transition = on_transition

        self._state = CircuitState.CLOSED
        self._failures: deque[float] = deque(maxlen=max_errors)
        self._generation = 0
        self._openings_in_a_row = 0
        self._opened_at = float("-inf")
        self._retry_at = float("inf")
        self._probe: _Probe | None = None
        self._latest = float("-inf")

    @property
    def state(self) -> CircuitState:
        """The state as the last step left it."""
        return self._state

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
    def now(self) -> float:
        """The time, as the circuit sees it."""
        return self._now()

    @property
    def failures(self) -> int:
        """Failures in the window now."""
        self._forget(self._now())
        return len(self._failures)

    @property
    def probe_in_secs(self) -> float | None:
        """Seconds until the next probe may go (never negative); None where none may."""
        if self._state is not CircuitState.OPEN or self.is_isolated:
            return None
        return max(0.0, self._retry_at - self._now())

    @property
    def holds(self) -> bool:
        """Whether whoever asked to pass now would be held back."""
        if self._probe is not None:
            self.look()
        if self._state is CircuitState.OPEN:
            return self._now() < self._retry_at
        return self._state is CircuitState.HALF_OPEN

    @property
    def is_isolated(self) -> bool:
        """Whether it stays open whatever the time, until :meth:`close`."""
        return self._state is CircuitState.OPEN and self._retry_at == float("inf")

    def fail(self) -> bool:
        """Count one failure, where the circuit is closed.

        While it is open or half-open a failure is no news: it neither prolongs
        the cooldown nor decides about a probe that is not its own.

        Returns:
            Whether this failure opened the circuit.
        """
        self.look()
        if self._state is not CircuitState.CLOSED:
            return False
        now = self._now()
        self._forget(now)
        self._failures.append(now)
        if len(self._failures) < self._max_errors:
            return False
        self._open(now)
        return True

    def trip(self) -> bool:
        """Open the circuit whatever it has counted.

        Returns:
            Whether it was closed until now.
        """
        self.look()
        if self._state is not CircuitState.CLOSED:
            return False
        self._open(self._now())
        return True

    def isolate(self) -> bool:
        """Open the circuit until :meth:`close`: no probe goes, whatever the time.

        Returns:
            Whether it was not open until now.
        """
        self.look()
        self._retry_at = float("inf")
        if self._state is CircuitState.OPEN:
            return False
        self._openings_in_a_row += 1
        self._opened_at = self._now()
        self._enter(CircuitState.OPEN)
        return True

    def close(self) -> bool:
        """Close the circuit at once, and forget what was counted.

        Returns:
            Whether it was not closed until now.
        """
        self.look()
        if self._state is CircuitState.CLOSED:
            self._failures.clear()
            return False
        self._close()
        return True

    def ask(self, *, quiet_closes: bool) -> Admission:
        """Ask to pass.

        Args:
            quiet_closes: What silence would mean if the asker becomes the
                probe. True for one whose only outcome is another failure (an
                error that is let through): quiet for ``quiet_secs`` closes.
                False for one that must report (a message): silence for
                ``probe_timeout_secs`` reopens.
        """
        if self.holds:
            return Admission.HOLD
        if self._state is CircuitState.CLOSED:
            return Admission.PASS
        wait = self._quiet_secs if quiet_closes else self._probe_timeout_secs
        self._probe = _Probe(deadline=self._now() + wait, quiet_closes=quiet_closes)
        self._enter(CircuitState.HALF_OPEN)
        return Admission.PROBE

    def settle(self, generation: int, *, success: bool) -> bool:
        """Report the outcome of the probe.

        Args:
            generation: The circuit's generation when the probe was admitted.
            success: True closes the circuit, False reopens it.

        Returns:
            Whether it was decided by this: an outcome of another generation is void.
        """
        self.look()
        if self._state is not CircuitState.HALF_OPEN or generation != self._generation:
            return False
        if success:
            self._close()
        else:
            self._open(self._now())
        return True

    def look(self) -> None:
        """Do what time alone has decided: a probe that never reported."""
        probe = self._probe
        if probe is None or self._now() < probe.deadline:
            return
        if probe.quiet_closes:
            self._close(by_time=True)
        else:
            self._open(self._now(), by_time=True)

    def _now(self) -> float:
        now = self._clock()
        if now < self._latest:
            return self._latest
        self._latest = now
        return now

    def _forget(self, now: float) -> None:
        while self._failures and now - self._failures[0] >= self._window_secs:
            self._failures.popleft()

    def _open(self, now: float, *, by_time: bool = False) -> None:
        self._openings_in_a_row += 1
        self._opened_at = now
        self._retry_at = now + self._cooldown(self._openings_in_a_row)
        self._enter(CircuitState.OPEN, by_time=by_time)

    def _close(self, *, by_time: bool = False) -> None:
        self._openings_in_a_row = 0
        self._enter(CircuitState.CLOSED, by_time=by_time)
        self._failures.clear()

    def _enter(self, state: CircuitState, *, by_time: bool = False) -> None:
        failures = self._failures
        span = failures[-1] - failures[0] if failures else 0.0
        transition = Transition(self._state, state, len(failures), span, by_time)
        self._state = state
        self._generation += 1
        if state is not CircuitState.HALF_OPEN:
            self._probe = None
        self._on_transition(transition)
