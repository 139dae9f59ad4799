"""The state machine against a model of it, over random histories."""

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipecat_circuit_breaker.circuit import Admission, Circuit, CircuitState

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
MAX_ERRORS, WINDOW, PROBE_TIMEOUT, QUIET = 3, 10, 4, 6


def cooldown(openings):
    return min(2 ** min(openings, 10), 60)


class CircuitModel(RuleBasedStateMachine):
    """A circuit with no deque, no deadlines and no generations: a history, read anew each time."""

    def __init__(self):
        super().__init__()
        self.time = 0
        self.told = []
        self.circuit = Circuit(
            max_errors=MAX_ERRORS,
            window_secs=WINDOW,
            probe_timeout_secs=PROBE_TIMEOUT,
            quiet_secs=QUIET,
            cooldown=cooldown,
            clock=lambda: self.time,
            on_transition=lambda t: self.told.append((t.before, t.after)),
        )
        self.state, self.since, self.row = CLOSED, 0, 0
        self.errors = []
        self.quiet = False
        self.expected = []
        self.tickets = []

    def enter(self, state):
        self.expected.append((self.state, state))
        self.state, self.since = state, self.time
        if state is OPEN:
            self.row += 1
        if state is CLOSED:
            self.row, self.errors = 0, []

    def pass_time(self):
        if self.state is HALF_OPEN:
            if self.quiet and self.time - self.since >= QUIET:
                self.enter(CLOSED)
            elif not self.quiet and self.time - self.since >= PROBE_TIMEOUT:
                self.enter(OPEN)

    @rule(secs=st.integers(-5, 70))
    def wait(self, secs):
        self.time = max(self.time, self.time + secs)

    @rule()
    def fail(self):
        self.pass_time()
        opens = False
        if self.state is CLOSED:
            self.errors.append(self.time)
            opens = sum(self.time - t < WINDOW for t in self.errors) >= MAX_ERRORS
            if opens:
                self.enter(OPEN)
        assert self.circuit.fail() == opens

    @rule()
    def trip(self):
        self.pass_time()
        opens = self.state is CLOSED
        if opens:
            self.enter(OPEN)
        assert self.circuit.trip() == opens

    @rule(quiet=st.booleans())
    def ask(self, quiet):
        self.pass_time()
        if self.state is CLOSED:
            answer = Admission.PASS
        elif self.state is OPEN and self.time - self.since >= cooldown(self.row):
            answer = Admission.PROBE
            self.quiet = quiet
            self.enter(HALF_OPEN)
        else:
            answer = Admission.HOLD
        assert self.circuit.holds == (answer is Admission.HOLD)
        assert self.circuit.ask(quiet_closes=quiet) is answer
        if answer is Admission.PROBE:
            self.tickets.append((self.circuit.generation, len(self.expected)))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), success=st.booleans())
    def settle(self, data, success):
        generation, moment = data.draw(st.sampled_from(self.tickets))
        self.pass_time()
        decides = self.state is HALF_OPEN and moment == len(self.expected)
        if decides:
            self.enter(CLOSED if success else OPEN)
        assert self.circuit.settle(generation, success=success) == decides

    @invariant()
    def agrees(self):
        self.pass_time()
        self.circuit.look()
        assert self.circuit.state is self.state
        assert self.told == self.expected
        wait = self.circuit.probe_in_secs
        if self.state is OPEN:
            assert wait == max(0, self.since + cooldown(self.row) - self.time)
            assert math.isfinite(wait)
        else:
            assert wait is None
        if self.state is CLOSED:
            assert self.circuit.failures == sum(self.time - t < WINDOW for t in self.errors)
        assert self.circuit.failures <= MAX_ERRORS


CircuitModel.TestCase.settings = settings(
    max_examples=1000, stateful_step_count=30, deadline=None, derandomize=True
)
TestCircuitModel = CircuitModel.TestCase
