"""The state machine against a model of it, over random histories."""

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipecat_circuit_breaker._core.circuit import Admission, Circuit, Reason, Settings
from tests.core.core_parts import CLOSED, HALF_OPEN, OPEN

MAX_ERRORS, WINDOW, PROBE_TIMEOUT, QUIET = 3, 10, 4, 6


def cooldown(openings):
    return min(2 ** min(openings, 10), 60)


class CircuitModel(RuleBasedStateMachine):
    """A circuit with no deque, no deadlines and no generations: a history, read anew each time.

    `changes` is all that ever happened to the state, `errors` when it failed, `uses` when it was
    used. What the circuit keeps is worked out from these.
    """

    def __init__(self):
        super().__init__()
        self.time = 0
        self.circuit = Circuit(
            Settings(
                max_errors=MAX_ERRORS,
                window_secs=WINDOW,
                probe_timeout_secs=PROBE_TIMEOUT,
                quiet_secs=QUIET,
                cooldown=cooldown,
                clock=lambda: self.time,
            )
        )
        self.changes = [(CLOSED, 0, None)]
        self.by_hand = self.must_report = False
        self.errors, self.uses = [], []
        self.tickets, self.forgotten = [], None

    # What follows from the history

    @property
    def state(self):
        return self.changes[-1][0]

    @property
    def since(self):
        return self.changes[-1][1]

    @property
    def openings(self):
        states = [state for state, *_ in self.changes]
        closed_at = max(n for n, state in enumerate(states) if state is CLOSED)
        return states[closed_at:].count(OPEN)

    @property
    def opened_at(self):
        return max(at for state, at, _ in self.changes if state is OPEN)

    @property
    def retry_at(self):
        return math.inf if self.by_hand else self.opened_at + cooldown(self.openings)

    @property
    def in_window(self):
        return [t for t in self.errors if self.time - t < WINDOW][-MAX_ERRORS:]

    @property
    def used_at(self):
        """The first use that says something."""
        if self.state is CLOSED or (self.state is HALF_OPEN and self.must_report):
            return None
        return next((t for t in self.uses if t >= self.retry_at), None)

    def enter(self, state, reason):
        before = self.state
        self.uses = []
        self.by_hand = state is OPEN and reason is Reason.BY_HAND
        self.changes.append((state, self.time, reason))
        if state is CLOSED:
            self.errors = []
        return (before, state, reason)

    def due(self):
        """What time alone has decided."""
        if self.state is HALF_OPEN and self.must_report:
            if self.time - self.since >= PROBE_TIMEOUT:
                return [self.enter(OPEN, Reason.TIMED_OUT)]
        elif self.used_at is not None and self.time - self.used_at >= QUIET:
            return [self.enter(CLOSED, Reason.QUIET)]
        return []

    def check(self, transitions, expected):
        assert [(t.before, t.after, t.reason) for t in transitions] == expected

    # What may happen

    @rule(secs=st.sampled_from([-5, 0, 1, 2, 3, 4, 5, 6, 8, 10, 16, 70]))
    def wait(self, secs):
        self.time = max(self.time, self.time + secs)

    @rule()
    def fail(self):
        expected = self.due()
        if self.state is CLOSED:
            self.errors.append(self.time)
            if len(self.in_window) >= MAX_ERRORS:
                expected.append(self.enter(OPEN, Reason.FAILURES))
        self.check(self.circuit.fail(), expected)

    @rule()
    def succeed(self):
        counted = ()
        if self.state is CLOSED:
            counted, self.errors = self.errors, []
        answer = self.circuit.succeed()
        assert [t for t in answer if self.time - t < WINDOW] == [
            t for t in counted if self.time - t < WINDOW
        ]
        self.forgotten = (len(self.changes), answer)

    @precondition(lambda self: self.forgotten)
    @rule()
    def take_back(self):
        moment, counted = self.forgotten
        self.forgotten = None
        if moment != len(self.changes):
            return  # whoever took part in this knows that it is void
        self.circuit.take_back(counted)
        if self.state is CLOSED:
            self.errors = [*counted, *self.errors]

    @rule()
    def trip(self):
        expected = self.due()
        if self.state is CLOSED:
            expected.append(self.enter(OPEN, Reason.TRIPPED))
        self.check(self.circuit.trip(), expected)

    @rule()
    def use(self):
        expected = self.due()
        self.check(self.circuit.use(), expected)
        if self.state is not CLOSED:
            self.uses.append(self.time)

    @rule()
    def isolate(self):
        expected = self.due()
        if self.state is OPEN:
            self.by_hand, self.uses = True, []
        else:
            expected.append(self.enter(OPEN, Reason.BY_HAND))
        self.check(self.circuit.isolate(), expected)

    @rule(reason=st.sampled_from([Reason.BY_HAND, Reason.RECOVERED, Reason.OVER]))
    def close(self, reason):
        expected = self.due()
        if self.state is CLOSED:
            self.errors = []
        else:
            expected.append(self.enter(CLOSED, reason))
        self.check(self.circuit.close(reason), expected)

    @rule(quiet=st.booleans())
    def ask(self, quiet):
        expected = self.due()
        if self.state is CLOSED:
            answer = Admission.PASS
        elif self.state is OPEN and self.time >= self.retry_at:
            answer = Admission.PROBE
            expected.append(self.enter(HALF_OPEN, Reason.PROBING))
            self.must_report = not quiet
        else:
            answer = Admission.HOLD
        admission, transitions = self.circuit.ask(quiet_closes=quiet)
        assert admission is answer
        self.check(transitions, expected)
        if answer is Admission.PROBE:
            self.tickets.append((self.circuit.generation, len(self.changes)))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), success=st.booleans())
    def settle(self, data, success):
        generation, moment = data.draw(st.sampled_from(self.tickets[-3:]))
        expected = self.due()
        if self.state is HALF_OPEN and moment == len(self.changes):
            reason = Reason.PASSED if success else Reason.FAILED
            expected.append(self.enter(CLOSED if success else OPEN, reason))
        self.check(self.circuit.settle(generation, success=success), expected)

    @rule()
    def look(self):
        self.check(self.circuit.look(), self.due())

    @invariant()
    def agrees(self):
        circuit = self.circuit
        assert circuit.state is self.state
        assert circuit.is_closed == (self.state is CLOSED)
        assert circuit.generation == len(self.changes) - 1
        assert circuit.is_isolated == (self.state is OPEN and self.by_hand)
        assert circuit.failures <= MAX_ERRORS
        if self.state is CLOSED:
            assert circuit.failures == len(self.in_window)
            assert not circuit.is_cool
            assert circuit.openings_in_a_row == 0
        else:
            assert circuit.is_cool == (self.time >= self.retry_at)
            assert circuit.openings_in_a_row == self.openings
            assert circuit.opened_at == self.opened_at
        if self.state is OPEN and not self.by_hand:
            assert circuit.probe_in_secs == max(0, self.retry_at - self.time)
        else:
            assert circuit.probe_in_secs is None


CircuitModel.TestCase.settings = settings(
    max_examples=400, stateful_step_count=40, deadline=None, derandomize=True, database=None
)
TestCircuitModel = CircuitModel.TestCase
