"""Cooldowns are tenacity's waits."""

import pytest
import tenacity

from pipecat_circuit_breaker.backoff import DEFAULT_COOLDOWN, FALLBACK_SECS, draw_cooldown, gives_up


def fail(error):
    raise AssertionError(error)


def test__draw__default__grows_is_capped_and_stays_finite():
    first = draw_cooldown(DEFAULT_COOLDOWN, 1, fail)
    assert 1.0 <= first <= 2.0
    assert 32.0 <= draw_cooldown(DEFAULT_COOLDOWN, 6, fail) <= 33.0
    assert draw_cooldown(DEFAULT_COOLDOWN, 7, fail) == 60.0
    assert draw_cooldown(DEFAULT_COOLDOWN, 100_000, fail) == 60.0


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (tenacity.wait_fixed(5), 5.0),
        (tenacity.wait_none(), 0.0),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(7)), 7.0),
        (tenacity.wait_fixed(1) + tenacity.wait_fixed(2), 3.0),
        (tenacity.wait_incrementing(start=1, increment=2), 3.0),
        (tenacity.wait_exception(lambda e: 4.0 if "circuit" in str(e) else 0.0), 4.0),
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
        return self.answer


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), -1.0, "soon", None, OSError("x")])
def test__draw__strategy_that_fails__falls_back_and_tells_why(answer):
    errors = []
    assert draw_cooldown(Odd(answer), 1, errors.append) == FALLBACK_SECS
    assert len(errors) == 1


def test__gives_up__any_tenacity_stop__is_asked_as_in_a_retry_loop():
    assert [gives_up(tenacity.stop_after_attempt(3), n, 0.0, fail) for n in (2, 3)] == [False, True]
    assert [gives_up(tenacity.stop_after_delay(10), 1, s, fail) for s in (9, 10)] == [False, True]
    assert not gives_up(tenacity.stop_never, 10**6, 10**6, fail)
    either = tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(10)
    assert gives_up(either, 1, 11, fail)


def test__gives_up__strategy_that_fails__goes_on_and_tells_why():
    class OddStop(tenacity.stop.stop_base):
        def __call__(self, retry_state):
            raise OSError("x")

    errors = []
    assert not gives_up(OddStop(), 1, 0.0, errors.append)
    assert len(errors) == 1
