"""What the tests of the contract on real pipelines share."""

from pipecat.processors.frame_processor import FrameDirection
from tenacity import wait_fixed

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor

DOWN, UP = FrameDirection.DOWNSTREAM, FrameDirection.UPSTREAM
MAX_ERRORS = CircuitBreakerParams().max_errors


def breaker_with(clock, **params):
    return CircuitBreakerProcessor(
        params=CircuitBreakerParams(clock=clock, cooldown=wait_fixed(5), **params)
    )
