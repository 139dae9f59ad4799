"""Loops inside of a switcher, whose strategy has to hear every error: told, and not cut."""

import pytest
from pipecat.frames.frames import TTSSpeakFrame
from pipecat.pipeline.service_switcher import ServiceSwitcher, ServiceSwitcherStrategyManual
from pipecat.processors.frame_processor import FrameDirection

from pipecat_circuit_breaker import Trigger
from pipecat_circuit_breaker.testing import Output, running
from tests.cut.cut_parts import TTS
from tests.support.guard import Guard


class AtAnyError(ServiceSwitcherStrategyManual):
    """Switches to the other service at each error, and so answers it: it never leaves."""

    async def handle_error(self, error):
        other = next(s for s in self.services if s is not self.active_service)
        return await self._set_active_if_available(other)


@pytest.mark.skipif(
    not hasattr(ServiceSwitcherStrategyManual, "_set_active_if_available"), reason="before 1.8.0"
)
@pytest.mark.parametrize("position", ["first", "last"])
async def test__both_services_down__replayed_at_each_switch__is_told(position, clock, storm):
    guard = Guard(position, clock)
    first, second = TTS(storm), TTS(storm)
    switcher = ServiceSwitcher([first, second], AtAnyError)
    async with running(*guard.line(switcher, Output())) as worker:

        @switcher.strategy.event_handler("on_service_switched")
        async def replay(strategy, service):
            await worker.queue_frame(TTSSpeakFrame("again"), FrameDirection.DOWNSTREAM)

        await worker.queue_frame(TTSSpeakFrame("Hello!"))
        await storm.over()
        incidents = guard.breaker.incidents

    assert {incident.trigger for incident in incidents} == {Trigger.RECURSION}
    assert len(incidents) == 1
