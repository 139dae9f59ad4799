#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The processor that users insert into their pipeline."""

from typing import Any

from pipecat.frames.frames import Frame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor, FrameProcessorSetup

from pipecat_circuit_breaker.circuit import CircuitState
from pipecat_circuit_breaker.guard import Guard
from pipecat_circuit_breaker.incident import CircuitSnapshot, Incident
from pipecat_circuit_breaker.params import CircuitBreakerParams
from pipecat_circuit_breaker.releases import worker_of

_EVENTS = {
    CircuitState.OPEN: "on_circuit_opened",
    CircuitState.HALF_OPEN: "on_circuit_half_opened",
    CircuitState.CLOSED: "on_circuit_closed",
}


class CircuitBreakerProcessor(FrameProcessor):
    """Ends recursive error chains, and lets everything else through untouched.

    Insert one, anywhere: it guards the whole pipeline of its worker. The best
    place is the first, before ``transport.input()``, where no audio passes
    through it. More than one share the work.

    Event handlers available:

    - on_circuit_opened: Called when a circuit opens: related errors, and
      messages that they set off, are held back from here on.
    - on_circuit_half_opened: Called when a probe is let through.
    - on_circuit_closed: Called when a circuit has recovered.

    Example::

        breaker = CircuitBreakerProcessor()

        @breaker.event_handler("on_circuit_opened")
        async def on_circuit_opened(breaker, incident):
            print(incident.origin, incident.trigger, incident.chain)

        pipeline = Pipeline([breaker, transport.input(), ..., transport.output()])
    """

    def __init__(self, *, params: CircuitBreakerParams | None = None, **kwargs: Any) -> None:
        """Initialize the circuit breaker.

        Args:
            params: Settings; the defaults suit a bot with one client.
            **kwargs: Additional arguments passed to the parent class.
        """
        # Direct mode: a frame that passes here waits in no queue of ours.
        super().__init__(enable_direct_mode=True, **kwargs)
        self._params = params or CircuitBreakerParams()
        self._guard: Guard | None = None
        for event in _EVENTS.values():
            self._register_event_handler(event)

    @property
    def circuits(self) -> tuple[CircuitSnapshot, ...]:
        """Every circuit as it is now, the one with the latest news last.

        Empty before the pipeline is set up, and as long as nothing has failed.
        """
        return self._guard.circuits if self._guard else ()

    async def setup(self, setup: FrameProcessorSetup) -> None:  # type: ignore[override]
        """Take up guard over the pipeline that is being set up.

        Args:
            setup: Configuration for frame processor setup.
        """
        await super().setup(setup)
        if self._guard is not None:
            # A pipeline that was stopped may run again, in another worker.
            self._guard.leave()
        self._guard = Guard.join(worker_of(setup), self._params, self._tell)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Hand on whatever comes; the work is done where frames are pushed and sent.

        Args:
            frame: The frame.
            direction: Where it is going.
        """
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)

    async def _tell(self, incident: Incident) -> None:
        await self._call_event_handler(_EVENTS[incident.state], incident)
