"""A pipeline without a breaker, or with one first or last."""

from typing import Any

from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor

MAX_ERRORS = CircuitBreakerParams().max_errors


class Guard:
    """A breaker that stands first or last before the output; or none."""

    def __init__(self, position: str, clock: Any) -> None:
        self.position = position
        self.clock = clock
        self.breaker = self.new()

    def new(self) -> CircuitBreakerProcessor | None:
        if self.position == "without":
            return None
        return CircuitBreakerProcessor(params=CircuitBreakerParams(clock=self.clock))

    def line(self, *processors: FrameProcessor, breaker: Any = ...) -> list[FrameProcessor]:
        """The processors of a pipeline, with the breaker where it belongs."""
        breaker = self.breaker if breaker is ... else breaker
        if breaker is None:
            return [*processors]
        if self.position == "first":
            return [breaker, *processors]
        return [*processors[:-1], breaker, processors[-1]]
