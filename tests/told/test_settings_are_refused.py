"""Settings that would be ignored are refused."""

import pytest

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor, Mode
from pipecat_circuit_breaker.testing import running
from tests.told.told_parts import own_lines


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"mode": Mode.OBSERVE, "max_errors": 1},
            "mode is a setting: expected params=CircuitBreakerParams(mode=",
        ),
        (
            {"max_errors": 1},
            "max_errors is a setting: expected params=CircuitBreakerParams(max_errors=1)",
        ),
        ({"max_error": 1}, "expected params, tags, fleet, metrics, name; got max_error=1"),
        ({"enable_direct_mode": False}, "got enable_direct_mode=False"),
        (
            {"params": {"max_errors": 1}},
            "expected params=CircuitBreakerParams(...), got {'max_errors': 1}",
        ),
        (
            {"tags": "acme"},
            "expected tags to be a mapping, or a function of the worker, got 'acme'",
        ),
        (
            {"fleet": "redis://:secret@host"},
            "expected fleet=Fleet(url), got an object of <class 'str'>",
        ),
    ],
)
def test__argument_that_would_be_ignored__is_refused(given, says):
    with pytest.raises(TypeError) as refused:
        CircuitBreakerProcessor(**given)

    assert says in str(refused.value)


def test__name__is_taken():
    assert CircuitBreakerProcessor(name="guard").name == "guard"


def test__watch__what_is_no_transport__is_refused():
    with pytest.raises(TypeError, match="expected a transport, got None"):
        CircuitBreakerProcessor().watch(None)


@pytest.mark.parametrize("step", ["open_circuits", "close_circuits", "reset_circuits"])
async def test__by_hand__what_is_no_origin__is_refused(step):
    with pytest.raises(TypeError, match="expected an Origin, as circuits have, or None, got 'TTS'"):
        await getattr(CircuitBreakerProcessor(), step)("TTS")


async def test__set_mode__what_is_no_mode__is_refused_before_the_pipeline_is_asked_for():
    with pytest.raises(ValueError, match="'banana' is not a valid Mode"):
        await CircuitBreakerProcessor().set_mode("banana")


def test__event_handler__no_such_event__is_refused_and_names_the_one_that_is_meant():
    with pytest.raises(
        ValueError, match="got 'on_circuit_open'; did you mean 'on_circuit_opened'?"
    ):

        @CircuitBreakerProcessor().event_handler("on_circuit_open")
        async def on_circuit_open(breaker, incident): ...


def test__event_handler__event_of_any_processor__is_taken():
    CircuitBreakerProcessor().add_event_handler("on_after_push_frame", print)


async def test__two_breakers_with_different_params__the_log_names_what_differs():
    lines = own_lines()
    first = CircuitBreakerProcessor(params=CircuitBreakerParams(max_errors=5, window_secs=7))
    second = CircuitBreakerProcessor(params=CircuitBreakerParams(max_errors=3, window_secs=7))
    async with running(first, second):
        [(level, line)] = lines
    assert level == "WARNING"
    assert line.endswith("those of the first hold: max_errors=5 (not 3)")
