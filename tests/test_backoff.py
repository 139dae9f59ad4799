"""Cooldowns are tenacity's waits."""

import pytest
import tenacity

from pipecat_circuit_breaker.backoff import DEFAULT_COOLDOWN, FALLBACK_SECS, draw_cooldown


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
