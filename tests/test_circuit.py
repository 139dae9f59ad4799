"""The state machine, read as a specification."""

import pytest

from pipecat_circuit_breaker.circuit import Admission, Circuit, CircuitState

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
COOLDOWN = 5.0


class Bench:
    """A circuit with three errors in ten seconds, and a note of what it did."""

    def __init__(self, clock, waits=None, **overrides):
        self.clock = clock
        self.draws = []
        self.transitions = []
        self.circuit = Circuit(
            **{
                "max_errors": 3,
                "window_secs": 10.0,
                "probe_timeout_secs": 4.0,
                "quiet_secs": 10.0,
                "cooldown": self._draw if waits is None else waits,
                "clock": clock,
                "on_transition": lambda t: self.transitions.append((t.before, t.after)),
                **overrides,
            }
        )

    def _draw(self, openings):
        self.draws.append(openings)
        return COOLDOWN * openings

    def open(self):
        for _ in range(3):
            self.circuit.fail()
        assert self.circuit.state is OPEN

    def half_open(self, quiet_closes=False):
        self.open()
        self.clock.advance(COOLDOWN)
        assert self.circuit.ask(quiet_closes=quiet_closes) is Admission.PROBE


@pytest.fixture
def bench(clock):
    return Bench(clock)


def test__new__circuit__is_closed_with_zero_counts(bench):
    assert bench.circuit.state is CLOSED
    assert bench.circuit.failures == 0
    assert bench.circuit.probe_in_secs is None
    assert bench.circuit.ask(quiet_closes=False) is Admission.PASS
    assert bench.transitions == []


def test__closed__one_failure_less_than_max__stays_closed(bench):
    assert [bench.circuit.fail() for _ in range(2)] == [False, False]
    assert bench.circuit.state is CLOSED


def test__closed__failure_that_reaches_max__opens(bench):
    assert [bench.circuit.fail() for _ in range(3)] == [False, False, True]
    assert bench.circuit.state is OPEN
    assert bench.transitions == [(CLOSED, OPEN)]


def test__closed__max_errors_of_one__first_failure_opens(clock):
    bench = Bench(clock, max_errors=1)
    assert bench.circuit.fail()


def test__closed__failure_exactly_as_old_as_the_window__does_not_count(bench):
    bench.circuit.fail()
    bench.circuit.fail()
    bench.clock.advance(10.0)
    assert not bench.circuit.fail()
    assert bench.circuit.failures == 1


def test__closed__failure_just_inside_the_window__counts(bench):
    bench.circuit.fail()
    bench.circuit.fail()
    bench.clock.advance(9.999)
    assert bench.circuit.fail()


def test__closed__idle__empties_the_window(bench):
    bench.circuit.fail()
    bench.clock.advance(3600)
    assert bench.circuit.failures == 0


def test__closed__slow_failures__never_open(bench):
    for _ in range(100):
        bench.clock.advance(5.0)
        bench.circuit.fail()
    assert bench.circuit.state is CLOSED


def test__clock_that_goes_back__changes_nothing(bench):
    bench.open()
    bench.clock.advance(-3600)
    assert bench.circuit.probe_in_secs == COOLDOWN
    assert bench.circuit.ask(quiet_closes=False) is Admission.HOLD
    bench.clock.advance(3600 + COOLDOWN)
    assert bench.circuit.ask(quiet_closes=False) is Admission.PROBE


def test__clock_that_stands_still__opens_all_the_same(bench):
    bench.open()
    assert bench.circuit.failures == 3


def test__open__whoever_asks__is_held_back_and_counts_stay(bench):
    bench.open()
    assert bench.circuit.ask(quiet_closes=False) is Admission.HOLD
    assert bench.circuit.holds
    assert bench.circuit.failures == 3


def test__open__failure__neither_prolongs_nor_tells(bench):
    bench.open()
    bench.clock.advance(2.0)
    assert not bench.circuit.fail()
    assert bench.circuit.probe_in_secs == COOLDOWN - 2.0
    assert bench.transitions == [(CLOSED, OPEN)]


def test__open__one_tick_before_the_cooldown_is_over__holds(bench):
    bench.open()
    bench.clock.advance(COOLDOWN - 0.001)
    assert bench.circuit.ask(quiet_closes=False) is Admission.HOLD
    assert bench.circuit.state is OPEN


def test__open__cooldown_exactly_over__next_frame_is_the_probe(bench):
    bench.open()
    bench.clock.advance(COOLDOWN)
    assert not bench.circuit.holds
    assert bench.circuit.state is OPEN, "to look is not to ask"
    assert bench.circuit.ask(quiet_closes=False) is Admission.PROBE
    assert bench.circuit.state is HALF_OPEN


def test__open__long_after_the_cooldown__time_to_probe_is_never_negative(bench):
    bench.open()
    bench.clock.advance(3600)
    assert bench.circuit.probe_in_secs == 0.0


def test__half_open__second_asker__is_held_back(bench):
    bench.half_open()
    assert [bench.circuit.ask(quiet_closes=False) for _ in range(50)] == [Admission.HOLD] * 50


def test__half_open__time_to_probe__is_none(bench):
    bench.half_open()
    assert bench.circuit.probe_in_secs is None


def test__half_open__failure_of_something_else__decides_nothing(bench):
    bench.half_open()
    assert not bench.circuit.fail()
    assert bench.circuit.state is HALF_OPEN


def test__half_open__probe_fails__reopens_for_a_full_new_wait(bench):
    bench.half_open()
    bench.clock.advance(1.0)
    assert bench.circuit.settle(bench.circuit.generation, success=False)
    assert bench.circuit.state is OPEN
    assert bench.circuit.probe_in_secs == 2 * COOLDOWN


def test__half_open__probe_succeeds__closes_with_an_empty_window(bench):
    bench.half_open()
    assert bench.circuit.settle(bench.circuit.generation, success=True)
    assert bench.circuit.state is CLOSED
    assert bench.circuit.failures == 0
    assert not bench.circuit.fail(), "it cannot trip again at once"


@pytest.mark.parametrize("success", [True, False])
def test__settle__of_an_earlier_generation__is_void(bench, success):
    closed = bench.circuit.generation
    bench.half_open()
    probing = bench.circuit.generation
    assert not bench.circuit.settle(closed, success=success)
    assert bench.circuit.state is HALF_OPEN
    bench.circuit.settle(probing, success=False)
    bench.clock.advance(2 * COOLDOWN)
    bench.circuit.ask(quiet_closes=False)
    assert not bench.circuit.settle(probing, success=success)
    assert bench.circuit.state is HALF_OPEN


@pytest.mark.parametrize("success", [True, False])
def test__settle__while_open__is_void(bench, success):
    bench.open()
    assert not bench.circuit.settle(bench.circuit.generation, success=success)
    assert bench.circuit.state is OPEN


def test__half_open__probe_never_reports__reopens_when_it_times_out(bench):
    bench.half_open()
    bench.clock.advance(3.999)
    bench.circuit.look()
    assert bench.circuit.state is HALF_OPEN
    bench.clock.advance(0.001)
    assert bench.circuit.ask(quiet_closes=False) is Admission.HOLD
    assert bench.circuit.state is OPEN
    assert bench.circuit.probe_in_secs == 2 * COOLDOWN


def test__half_open__probe_reports_after_it_timed_out__is_void(bench):
    bench.half_open()
    late = bench.circuit.generation
    bench.clock.advance(4.0)
    assert not bench.circuit.settle(late, success=True)
    assert bench.circuit.state is OPEN


def test__half_open__quiet_after_an_error_that_was_let_through__closes(bench):
    bench.half_open(quiet_closes=True)
    bench.clock.advance(9.999)
    bench.circuit.look()
    assert bench.circuit.state is HALF_OPEN
    bench.clock.advance(0.001)
    bench.circuit.look()
    assert bench.circuit.state is CLOSED


def test__trip__closed__opens_whatever_was_counted(bench):
    assert bench.circuit.trip()
    assert bench.circuit.state is OPEN


def test__trip__open__changes_nothing(bench):
    bench.open()
    bench.clock.advance(1.0)
    assert not bench.circuit.trip()
    assert bench.circuit.probe_in_secs == COOLDOWN - 1.0


def test__cooldown__is_drawn_once_per_opening_and_grows_until_it_closes(bench):
    bench.half_open()
    bench.circuit.probe_in_secs  # noqa: B018  a look draws nothing
    bench.circuit.settle(bench.circuit.generation, success=False)
    bench.clock.advance(2 * COOLDOWN)
    bench.circuit.ask(quiet_closes=False)
    bench.circuit.settle(bench.circuit.generation, success=True)
    bench.open()
    assert bench.draws == [1, 2, 1]


def test__transitions__are_told_once_each_and_in_order(bench):
    bench.half_open()
    bench.circuit.settle(bench.circuit.generation, success=False)
    bench.clock.advance(2 * COOLDOWN)
    bench.circuit.ask(quiet_closes=False)
    bench.circuit.settle(bench.circuit.generation, success=True)
    assert bench.transitions == [
        (CLOSED, OPEN),
        (OPEN, HALF_OPEN),
        (HALF_OPEN, OPEN),
        (OPEN, HALF_OPEN),
        (HALF_OPEN, CLOSED),
    ]


def test__isolate__from_any_state__stays_open_whatever_the_time(clock):
    for prepare in (lambda b: None, Bench.open, Bench.half_open):
        bench = Bench(clock)
        prepare(bench)
        was_open = bench.circuit.state is OPEN
        assert bench.circuit.isolate() is not was_open
        assert bench.circuit.is_isolated
        bench.clock.advance(1e9)
        assert bench.circuit.ask(quiet_closes=False) is Admission.HOLD
        assert bench.circuit.probe_in_secs is None
        assert bench.circuit.close()
        assert bench.circuit.state is CLOSED
        assert not bench.circuit.is_isolated


def test__isolate__counts_as_an_opening_of_its_moment(bench):
    bench.clock.advance(7.0)
    bench.circuit.isolate()
    assert bench.circuit.openings_in_a_row == 1
    assert bench.circuit.opened_at == 1007.0
    assert bench.draws == []


def test__isolate__probe_on_its_way__is_void(bench):
    bench.half_open()
    late = bench.circuit.generation
    bench.circuit.isolate()
    assert not bench.circuit.settle(late, success=True)
    bench.clock.advance(100.0)
    bench.circuit.look()
    assert bench.circuit.is_isolated


def test__close__before_the_cooldown_is_over__closes_with_an_empty_window(bench):
    bench.open()
    assert bench.circuit.close()
    assert bench.circuit.failures == 0
    assert bench.circuit.openings_in_a_row == 0


def test__close__closed__only_clears_the_window(bench):
    bench.circuit.fail()
    assert not bench.circuit.close()
    assert bench.circuit.failures == 0
    assert bench.transitions == []
