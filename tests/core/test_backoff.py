"""Cooldowns are tenacity's waits, giving up its stops."""

import pytest
import tenacity

from pipecat_circuit_breaker._core.backoff import (
    DEFAULT_CHANNEL_COOLDOWN,
    DEFAULT_COOLDOWN,
    FALLBACK_SECS,
    draw_cooldown,
    gives_up,
)


def fail(error):
    raise AssertionError(error)


def test__draw__default__grows_is_capped_and_stays_finite():
    first = draw_cooldown(DEFAULT_COOLDOWN, 1, fail)
    assert 1.0 <= first <= 2.0
    assert 32.0 <= draw_cooldown(DEFAULT_COOLDOWN, 6, fail) <= 33.0
    assert draw_cooldown(DEFAULT_COOLDOWN, 7, fail) == 60.0
    assert draw_cooldown(DEFAULT_COOLDOWN, 100_000, fail) == 60.0


def test__draw__default_of_a_channel__begins_at_a_tenth_of_a_second_and_doubles():
    draws = [draw_cooldown(DEFAULT_CHANNEL_COOLDOWN, n, fail) for n in (1, 2, 3, 7, 8, 100_000)]
    assert draws == [0.1, 0.2, 0.4, 6.4, 10.0, 10.0]


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (tenacity.wait_fixed(5), 5.0),
        (tenacity.wait_none(), 0.0),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(7)), 7.0),
        (tenacity.wait_fixed(1) + tenacity.wait_fixed(2), 3.0),
        (tenacity.wait_incrementing(start=1, increment=2), 3.0),
        (tenacity.wait_exception(lambda e: 4.0 if str(e) == "circuit opened" else 0.0), 4.0),
    ],
)
def test__draw__any_tenacity_wait__is_asked_as_in_a_retry_loop(wait, expected):
    assert draw_cooldown(wait, 2, fail) == expected


class Odd(tenacity.wait.wait_base):
    def __init__(self, answer):
        self.answer = answer

    def __call__(self, retry_state):
        if isinstance(self.answer, Exception):
            raise self.answer
        if callable(self.answer):
            return self.answer(retry_state)
        return self.answer


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), -1.0, "soon", None, OSError("x")])
def test__draw__strategy_that_fails__falls_back_and_tells_why(answer):
    errors = []
    assert draw_cooldown(Odd(answer), 1, errors.append) == FALLBACK_SECS == 60.0
    (error,) = errors
    if answer == -1.0:
        assert str(error) == "cooldown must be a finite number of seconds >= 0, got -1.0"
    if isinstance(answer, OSError):
        assert error is answer


def test__draw__strategy_that_looks_at_the_state__finds_a_failed_attempt_just_begun():
    def look(state):
        assert isinstance(state.retry_object, tenacity.Retrying)
        assert (state.fn, state.args, state.kwargs) == (None, (), {})
        assert (state.start_time, state.outcome_timestamp) == (0.0, 0.0)
        assert state.outcome.failed
        assert isinstance(state.outcome.exception(), RuntimeError)
        return state.attempt_number

    assert draw_cooldown(Odd(look), 3, fail) == 3.0


def test__gives_up__any_tenacity_stop__is_asked_as_in_a_retry_loop():
    assert [gives_up(tenacity.stop_after_attempt(3), n, 0.0, fail) for n in (2, 3)] == [False, True]
    assert [gives_up(tenacity.stop_after_delay(10), 1, s, fail) for s in (9, 10)] == [False, True]
    assert not gives_up(tenacity.stop_never, 10**6, 10**6, fail)
    either = tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(10)
    assert gives_up(either, 1, 11, fail)


def test__gives_up__answer_that_is_no_bool__is_one():
    class Ones(tenacity.stop.stop_base):
        def __call__(self, retry_state):
            return 1

    assert gives_up(Ones(), 1, 0.0, fail) is True


def test__gives_up__strategy_that_fails__goes_on_and_tells_why():
    failure = OSError("x")

    class OddStop(tenacity.stop.stop_base):
        def __call__(self, retry_state):
            raise failure

    errors = []
    assert gives_up(OddStop(), 1, 0.0, errors.append) is False
    assert errors == [failure]
