"""The state machine, read as a specification."""

import pytest

from pipecat_circuit_breaker._core.circuit import Admission, Circuit, Reason, Transition
from tests.core.core_parts import (
    CLOSED,
    COOLDOWN,
    HALF_OPEN,
    MAX_ERRORS,
    OPEN,
    WINDOW,
    settings_for,
)


class CircuitBench:
    """A circuit with three errors in ten seconds, and a note of what it drew."""

    def __init__(self, clock, **overrides):
        self.clock = clock
        self.draws = []
        self.circuit = Circuit(settings_for(clock, cooldown=self._draw, **overrides))

    def _draw(self, openings):
        self.draws.append(openings)
        return COOLDOWN * openings

    def fail(self, times=1):
        return [_steps(self.circuit.fail()) for _ in range(times)]

    def ask(self, *, quiet_closes=False):
        return self.circuit.ask(quiet_closes=quiet_closes)[0]

    def settle(self, *, success, generation=None):
        generation = self.circuit.generation if generation is None else generation
        return _steps(self.circuit.settle(generation, success=success))

    def open(self):
        self.fail(MAX_ERRORS)
        assert self.circuit.state is OPEN

    def half_open(self, *, quiet_closes=False):
        self.open()
        self.clock.advance(COOLDOWN)
        assert self.ask(quiet_closes=quiet_closes) is Admission.PROBE


def _steps(transitions):
    return [(t.before, t.after, t.reason) for t in transitions]


OPENED = (CLOSED, OPEN, Reason.FAILURES)
PROBED = (OPEN, HALF_OPEN, Reason.PROBING)


@pytest.fixture
def bench(clock):
    return CircuitBench(clock)


#
# Closed
#


def test__new__nothing_has_happened__is_closed_with_zero_counts(bench):
    circuit = bench.circuit
    assert circuit.state is CLOSED
    assert circuit.is_closed
    assert (circuit.failures, circuit.generation, circuit.openings_in_a_row) == (0, 0, 0)
    assert circuit.opened_at == float("-inf")
    assert circuit.probe_in_secs is None
    assert not circuit.is_isolated
    assert not circuit.is_cool
    assert not circuit.is_ready
    assert circuit.ask(quiet_closes=False) == (Admission.PASS, ())
    assert circuit.look() == ()


def test__closed__one_failure_less_than_max__stays_closed(bench):
    assert bench.fail(2) == [[], []]
    assert bench.circuit.is_closed
    assert bench.circuit.failures == 2


def test__closed__failures_that_reach_max__opens_exactly_there(bench):
    # Sentinel compares with `>`, so that a ratio of 1.0 never trips.
    assert bench.fail(3) == [[], [], [OPENED]]
    assert bench.circuit.state is OPEN
    assert not bench.circuit.is_closed


def test__closed__max_errors_of_one__first_failure_opens(clock):
    assert CircuitBench(clock, max_errors=1).fail() == [[OPENED]]


def test__closed__failure_exactly_as_old_as_the_window__does_not_count(bench):
    bench.fail(2)
    bench.clock.advance(WINDOW)
    assert bench.fail() == [[]]
    assert bench.circuit.failures == 1


def test__closed__failure_just_inside_the_window__counts(bench):
    bench.fail(2)
    bench.clock.advance(WINDOW - 0.001)
    assert bench.fail() == [[OPENED]]


def test__closed__idle_for_an_hour__has_no_failures_left(bench):
    # fluxgate's window still counts them.
    bench.fail(2)
    bench.clock.advance(3600)
    assert bench.circuit.failures == 0
    assert bench.fail(2) == [[], []]


def test__closed__slow_failures__never_open(bench):
    for _ in range(100):
        bench.clock.advance(5.0)
        bench.fail()
    assert bench.circuit.is_closed


def test__closed__success__ends_the_count_and_returns_it(bench):
    bench.fail()
    bench.clock.advance(1.0)
    bench.fail()
    assert bench.circuit.succeed() == (1000.0, 1001.0)
    assert bench.circuit.failures == 0
    assert bench.fail(2) == [[], []]


def test__closed__success_taken_back__is_as_if_there_had_been_none(bench):
    bench.fail(2)
    counted = bench.circuit.succeed()
    bench.circuit.take_back(counted)
    assert bench.fail() == [[OPENED]]


@pytest.mark.parametrize("prepare", [CircuitBench.open, CircuitBench.half_open])
def test__not_closed__success__forgets_nothing(bench, prepare):
    prepare(bench)
    assert bench.circuit.succeed() == ()
    assert bench.circuit.failures == 3
    bench.circuit.take_back((1.0, 2.0, 3.0))
    bench.clock.advance(-1.0)
    assert bench.circuit.failures == 3
    assert bench.circuit.trip() == ()


def test__take_back__while_open__is_not_counted(bench):
    bench.open()
    bench.clock.advance(WINDOW)
    bench.circuit.take_back((1009.0,))
    assert bench.circuit.failures == 0


def test__transition__of_an_opening__says_how_many_failures_in_what_time(bench):
    bench.fail()
    bench.clock.advance(1.5)
    bench.fail()
    bench.clock.advance(2.5)
    assert bench.circuit.fail() == (Transition(CLOSED, OPEN, Reason.FAILURES, 3, 4.0),)


def test__transition__of_a_later_step__counts_what_is_in_the_window_then(bench):
    bench.fail()
    bench.clock.advance(6.0)
    bench.fail(2)
    bench.clock.advance(5.0)
    _, transitions = bench.circuit.ask(quiet_closes=False)
    assert transitions == (Transition(OPEN, HALF_OPEN, Reason.PROBING, 2, 0.0),)


#
# The clock
#


def test__clock_that_goes_back__changes_nothing(bench):
    # The wall clock, as pybreaker, purgatory, hyx and aiobreaker use it, is set back.
    bench.open()
    bench.clock.advance(-3600)
    assert bench.circuit.now == 1000.0
    assert bench.circuit.probe_in_secs == COOLDOWN
    assert bench.ask() is Admission.HOLD
    bench.clock.advance(3600 + COOLDOWN)
    assert bench.ask() is Admission.PROBE


def test__clock_that_stands_still__opens_all_the_same(bench):
    bench.open()
    assert bench.circuit.failures == 3


#
# Open
#


def test__open__whoever_asks__is_held_back_and_counts_stay(bench):
    bench.open()
    assert bench.circuit.ask(quiet_closes=False) == (Admission.HOLD, ())
    assert bench.circuit.ask(quiet_closes=True) == (Admission.HOLD, ())
    assert bench.circuit.failures == 3


def test__open__failure__neither_prolongs_nor_tells(bench):
    bench.open()
    bench.clock.advance(2.0)
    assert bench.fail() == [[]]
    assert bench.circuit.probe_in_secs == COOLDOWN - 2.0
    assert bench.circuit.failures == 3


def test__open__one_tick_before_the_cooldown_is_over__holds(bench):
    bench.open()
    bench.clock.advance(COOLDOWN - 0.001)
    assert not bench.circuit.is_cool
    assert not bench.circuit.is_ready
    assert bench.ask() is Admission.HOLD
    assert bench.circuit.state is OPEN


def test__open__cooldown_exactly_over__next_frame_is_the_probe(bench):
    bench.open()
    bench.clock.advance(COOLDOWN)
    assert bench.circuit.is_cool
    assert bench.circuit.is_ready
    assert bench.circuit.state is OPEN, "to look is not to ask"
    admission, transitions = bench.circuit.ask(quiet_closes=False)
    assert admission is Admission.PROBE
    assert _steps(transitions) == [PROBED]
    assert bench.circuit.state is HALF_OPEN
    assert not bench.circuit.is_closed


def test__open__long_after_the_cooldown__time_to_probe_is_never_negative(bench):
    bench.open()
    bench.clock.advance(3600)
    assert bench.circuit.probe_in_secs == 0.0


def test__open__opened_at__is_when_it_last_opened(bench):
    bench.clock.advance(1.0)
    bench.half_open()
    assert bench.circuit.opened_at == 1001.0
    bench.clock.advance(1.0)
    bench.settle(success=False)
    assert bench.circuit.opened_at == 1007.0


def test__generation__each_change_of_state__is_another(bench):
    bench.half_open()
    assert bench.circuit.generation == 2
    bench.settle(success=True)
    assert bench.circuit.generation == 3


#
# Half-open
#


def test__half_open__fifty_more_ask__all_are_held_back(bench):
    # aiobreaker, purgatory and hyx let all fifty run.
    bench.half_open()
    assert [bench.ask() for _ in range(50)] == [Admission.HOLD] * 50
    assert bench.circuit.generation == 2


def test__half_open__time_to_probe__is_none(bench):
    bench.half_open()
    assert bench.circuit.probe_in_secs is None
    assert bench.circuit.is_cool
    assert not bench.circuit.is_ready


def test__half_open__failure_of_something_else__decides_nothing(bench):
    bench.half_open()
    assert bench.fail() == [[]]
    assert bench.circuit.state is HALF_OPEN


def test__half_open__probe_fails__reopens_for_a_full_new_wait(bench):
    bench.half_open()
    bench.clock.advance(1.0)
    assert bench.settle(success=False) == [(HALF_OPEN, OPEN, Reason.FAILED)]
    assert bench.circuit.state is OPEN
    assert bench.circuit.openings_in_a_row == 2
    assert bench.circuit.probe_in_secs == 2 * COOLDOWN


def test__half_open__probe_succeeds__closes_with_an_empty_window(bench):
    bench.half_open()
    assert bench.settle(success=True) == [(HALF_OPEN, CLOSED, Reason.PASSED)]
    assert bench.circuit.is_closed
    assert bench.circuit.failures == 0
    assert bench.circuit.openings_in_a_row == 0
    assert bench.fail() == [[]], "it cannot trip again at once"


@pytest.mark.parametrize("success", [True, False])
def test__settle__of_an_earlier_generation__is_void(bench, success):
    # circuitbreaker's late success closes an open circuit.
    closed = bench.circuit.generation
    bench.half_open()
    probing = bench.circuit.generation
    assert bench.settle(success=success, generation=closed) == []
    assert bench.circuit.state is HALF_OPEN
    bench.settle(success=False, generation=probing)
    bench.clock.advance(2 * COOLDOWN)
    bench.ask()
    assert bench.settle(success=success, generation=probing) == []
    assert bench.circuit.state is HALF_OPEN


@pytest.mark.parametrize("success", [True, False])
def test__settle__while_open__is_void(bench, success):
    bench.open()
    assert bench.settle(success=success) == []
    assert bench.circuit.state is OPEN


@pytest.mark.parametrize("success", [True, False])
def test__settle__while_closed__is_void(bench, success):
    assert bench.settle(success=success) == []
    assert bench.circuit.is_closed


def test__half_open__probe_never_reports__reopens_when_it_times_out(bench):
    # A cancelled probe closes hyx, and leaves purgatory half-open for good.
    bench.half_open()
    bench.clock.advance(3.999)
    assert bench.circuit.look() == ()
    assert bench.circuit.state is HALF_OPEN
    bench.clock.advance(0.001)
    admission, transitions = bench.circuit.ask(quiet_closes=False)
    assert admission is Admission.HOLD
    assert _steps(transitions) == [(HALF_OPEN, OPEN, Reason.TIMED_OUT)]
    assert bench.circuit.probe_in_secs == 2 * COOLDOWN


def test__half_open__probe_timed_out__the_next_probe_may_take_as_long(bench):
    bench.half_open()
    bench.clock.advance(4.0)
    bench.circuit.look()
    bench.clock.advance(2 * COOLDOWN)
    assert bench.ask() is Admission.PROBE
    bench.clock.advance(3.999)
    assert bench.circuit.look() == ()
    bench.clock.advance(0.001)
    assert _steps(bench.circuit.look()) == [(HALF_OPEN, OPEN, Reason.TIMED_OUT)]


def test__half_open__probe_reports_after_it_timed_out__is_void(bench):
    bench.half_open()
    late = bench.circuit.generation
    bench.clock.advance(4.0)
    assert bench.settle(success=True, generation=late) == [(HALF_OPEN, OPEN, Reason.TIMED_OUT)]
    assert bench.circuit.state is OPEN


def test__half_open__probe_whose_silence_is_good__never_times_out(bench):
    bench.half_open(quiet_closes=True)
    bench.clock.advance(3600)
    assert bench.circuit.look() == ()
    assert bench.circuit.state is HALF_OPEN


def test__settled_probe__its_deadline__is_over_with_it(bench):
    bench.half_open()
    bench.settle(success=False)
    bench.clock.advance(2 * COOLDOWN)
    bench.ask(quiet_closes=True)
    bench.clock.advance(3600)
    assert bench.circuit.look() == ()
    assert bench.circuit.state is HALF_OPEN


#
# Quiet
#


def test__quiet__never_used__closes_nothing(bench):
    bench.open()
    bench.clock.advance(1e6)
    assert bench.circuit.look() == ()
    assert bench.circuit.state is OPEN


def test__quiet__used_before_the_cooldown_is_over__says_nothing(bench):
    bench.open()
    bench.clock.advance(COOLDOWN - 0.001)
    assert bench.circuit.use() == ()
    bench.clock.advance(1e6)
    assert bench.circuit.look() == ()


def test__quiet__used_once_the_cooldown_is_over__closes_exactly_after_quiet_secs(bench):
    bench.open()
    bench.clock.advance(COOLDOWN)
    assert bench.circuit.use() == ()
    bench.clock.advance(WINDOW - 0.001)
    assert bench.circuit.look() == ()
    bench.clock.advance(0.001)
    assert _steps(bench.circuit.look()) == [(OPEN, CLOSED, Reason.QUIET)]


def test__quiet__used_again_meanwhile__counts_from_the_first_use(bench):
    bench.open()
    bench.clock.advance(COOLDOWN)
    bench.circuit.use()
    bench.clock.advance(6.0)
    bench.circuit.use()
    bench.clock.advance(4.0)
    assert _steps(bench.circuit.use()) == [(OPEN, CLOSED, Reason.QUIET)]


def test__quiet__probe_whose_silence_is_good__counts_from_the_use_after_it(bench):
    bench.half_open(quiet_closes=True)
    bench.clock.advance(30.0)
    bench.circuit.use()
    bench.clock.advance(WINDOW - 0.001)
    assert bench.circuit.look() == ()
    bench.clock.advance(0.001)
    assert _steps(bench.circuit.look()) == [(HALF_OPEN, CLOSED, Reason.QUIET)]


def test__quiet__a_probe_goes_after_the_use__counts_anew(bench):
    bench.open()
    bench.clock.advance(COOLDOWN)
    bench.circuit.use()
    bench.clock.advance(9.0)
    bench.ask(quiet_closes=True)
    bench.clock.advance(9.0)
    assert bench.circuit.look() == ()


def test__quiet__probe_that_must_report__is_no_proof(bench):
    bench.half_open()
    assert bench.circuit.use() == ()
    bench.clock.advance(PROBE_REPORTS)
    assert bench.circuit.look() == ()
    bench.settle(success=False)
    bench.clock.advance(2 * COOLDOWN)
    assert bench.circuit.look() == ()
    assert bench.circuit.state is OPEN


PROBE_REPORTS = 3.0


def test__quiet__closes__the_frame_that_asks_passes_and_a_failure_counts_anew(bench):
    bench.open()
    bench.clock.advance(COOLDOWN)
    bench.circuit.use()
    bench.clock.advance(WINDOW)
    admission, transitions = bench.circuit.ask(quiet_closes=True)
    assert admission is Admission.PASS
    assert _steps(transitions) == [(OPEN, CLOSED, Reason.QUIET)]


@pytest.mark.parametrize("step", ["fail", "trip", "isolate", "close"])
def test__quiet__was_over__each_step_closes_first(clock, step):
    bench = CircuitBench(clock, max_errors=1)
    bench.fail()
    bench.clock.advance(COOLDOWN)
    bench.circuit.use()
    bench.clock.advance(WINDOW)
    reasons = [t.reason for t in getattr(bench.circuit, step)()]
    assert reasons[0] is Reason.QUIET
    assert (
        reasons[1:]
        == {
            "fail": [Reason.FAILURES],
            "trip": [Reason.TRIPPED],
            "isolate": [Reason.BY_HAND],
            "close": [],
        }[step]
    )


def test__timed_out__a_failure_comes__tells_the_time_out_and_no_more(bench):
    bench.half_open()
    bench.clock.advance(4.0)
    assert bench.fail() == [[(HALF_OPEN, OPEN, Reason.TIMED_OUT)]]
    bench.clock.advance(2 * COOLDOWN)
    bench.ask()
    bench.clock.advance(4.0)
    assert _steps(bench.circuit.trip()) == [(HALF_OPEN, OPEN, Reason.TIMED_OUT)]


def test__quiet__what_it_was_used_for_failed__counts_from_the_next_use(bench):
    bench.open()
    bench.clock.advance(COOLDOWN)
    bench.circuit.use()
    bench.clock.advance(9.0)
    bench.circuit.disturb()
    bench.circuit.use()
    bench.clock.advance(9.0)
    assert bench.circuit.look() == ()
    bench.clock.advance(1.0)
    assert _steps(bench.circuit.look()) == [(OPEN, CLOSED, Reason.QUIET)]


#
# Other evidence, and by hand
#


def test__trip__closed__opens_whatever_was_counted(bench):
    assert _steps(bench.circuit.trip()) == [(CLOSED, OPEN, Reason.TRIPPED)]
    assert bench.circuit.probe_in_secs == COOLDOWN
    assert bench.circuit.opened_at == 1000.0


def test__trip__open__changes_nothing(bench):
    bench.open()
    bench.clock.advance(1.0)
    assert bench.circuit.trip() == ()
    assert bench.circuit.probe_in_secs == COOLDOWN - 1.0


def test__cooldown__is_drawn_once_per_opening_and_grows_until_it_closes(bench):
    # fluxgate draws its jitter anew at each look.
    bench.half_open()
    bench.circuit.probe_in_secs  # noqa: B018  a look draws nothing
    bench.settle(success=False)
    bench.clock.advance(2 * COOLDOWN)
    bench.ask()
    bench.settle(success=True)
    bench.open()
    assert bench.draws == [1, 2, 1]


def test__isolate__closed__opens_until_it_is_closed_by_hand(bench):
    assert _steps(bench.circuit.isolate()) == [(CLOSED, OPEN, Reason.BY_HAND)]
    assert bench.circuit.is_isolated
    bench.clock.advance(1e9)
    assert bench.ask() is Admission.HOLD
    assert bench.circuit.probe_in_secs is None
    assert not bench.circuit.is_cool
    assert _steps(bench.circuit.close()) == [(OPEN, CLOSED, Reason.BY_HAND)]
    assert not bench.circuit.is_isolated


def test__isolate__open__stays_so_without_another_transition(bench):
    bench.open()
    bench.clock.advance(COOLDOWN)
    bench.circuit.use()
    assert bench.circuit.isolate() == ()
    assert bench.circuit.is_isolated
    assert bench.circuit.openings_in_a_row == 1
    bench.clock.advance(1e9)
    assert bench.circuit.look() == ()


def test__isolate__half_open__the_probe_is_void(bench):
    bench.half_open()
    late = bench.circuit.generation
    assert _steps(bench.circuit.isolate()) == [(HALF_OPEN, OPEN, Reason.BY_HAND)]
    assert bench.circuit.openings_in_a_row == 2
    assert bench.settle(success=True, generation=late) == []
    bench.clock.advance(100.0)
    assert bench.circuit.look() == ()
    assert bench.circuit.is_isolated


def test__isolate__counts_as_an_opening_of_its_moment(bench):
    bench.clock.advance(7.0)
    bench.circuit.isolate()
    assert bench.circuit.openings_in_a_row == 1
    assert bench.circuit.opened_at == 1007.0
    assert bench.draws == []


def test__isolate__used__is_no_proof_against_it(bench):
    bench.circuit.isolate()
    bench.circuit.use()
    bench.clock.advance(1e9)
    assert bench.circuit.look() == ()


def test__close__before_the_cooldown_is_over__closes_with_an_empty_window(bench):
    bench.open()
    assert _steps(bench.circuit.close()) == [(OPEN, CLOSED, Reason.BY_HAND)]
    assert bench.circuit.failures == 0
    assert bench.circuit.openings_in_a_row == 0


def test__close__for_a_reason__says_it(bench):
    bench.open()
    assert _steps(bench.circuit.close(Reason.OVER)) == [(OPEN, CLOSED, Reason.OVER)]


def test__close__closed__only_clears_the_window(bench):
    bench.fail()
    assert bench.circuit.close() == ()
    assert bench.circuit.failures == 0
    assert bench.circuit.generation == 0
