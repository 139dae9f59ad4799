"""Settings are refused at once, with the value."""

import pytest
import tenacity
from pydantic import ValidationError

from pipecat_circuit_breaker import CircuitBreakerParams, GiveUpPolicy


def test__defaults__are_those_of_the_contract():
    params = CircuitBreakerParams()
    assert (params.max_errors, params.window_secs) == (5, 10.0)
    assert (params.max_tool_rounds, params.max_failed_tool_rounds) == (10, 3)
    assert isinstance(params.cooldown, tenacity.wait_exponential_jitter)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_errors", 0),
        ("max_errors", -3),
        ("max_errors", 10_001),
        ("max_errors", 2.5),
        ("max_errors", True),
        ("max_errors", "5"),
        ("window_secs", 0),
        ("window_secs", -1.0),
        ("window_secs", float("nan")),
        ("window_secs", float("inf")),
        ("window_secs", True),
        ("window_secs", None),
        ("max_tool_rounds", 0),
        ("max_tool_rounds", 10_001),
        ("max_tool_rounds", 2.5),
        ("max_tool_rounds", True),
        ("max_failed_tool_rounds", 0),
        ("max_failed_tool_rounds", 10_001),
        ("max_failed_tool_rounds", "3"),
        ("probe_timeout_secs", 0.0),
        ("probe_timeout_secs", float("nan")),
        ("cooldown", 5),
        ("cooldown", lambda state: 5),
        ("counts", "all"),
        ("max_circuits", 0),
        ("max_text", 15),
        ("clock", 12.0),
        ("max_error", 5),
    ],
)
def test__value_out_of_range__is_refused_by_name_and_value(field, value):
    with pytest.raises(ValidationError) as refused:
        CircuitBreakerParams(**{field: value})
    assert field in str(refused.value)
    assert str(value)[:10] in str(refused.value) or repr(value)[:10] in str(refused.value)


def test__params__are_immutable():
    with pytest.raises(ValidationError):
        CircuitBreakerParams().max_errors = 7


@pytest.mark.parametrize(
    ("field", "value"),
    [("give_up", 3), ("give_up_policy", "explode"), ("mode", "on"), ("destination", "bob")],
)
def test__strategy_that_is_none__is_refused_by_name_and_value(field, value):
    with pytest.raises(ValidationError) as refused:
        CircuitBreakerParams(**{field: value})
    assert field in str(refused.value)
    assert str(value) in str(refused.value)


def test__policy_that_never_applies__is_refused_as_a_contradiction():
    with pytest.raises(ValidationError, match="give_up_policy=.*END.* never applies"):
        CircuitBreakerParams(give_up_policy=GiveUpPolicy.END)


def test__policy_with_a_stop__is_taken():
    CircuitBreakerParams(give_up_policy=GiveUpPolicy.END, give_up=tenacity.stop_after_attempt(3))
