"""The guard of tool loops: it fails open, tells each listener, and leaves a service as it was."""

import pytest
from pipecat.frames.frames import FunctionCallInProgressFrame

from tests.tool_loops.tool_loop_parts import (
    FAILED_LIMIT,
    Relay,
    calling,
    calls,
    fails,
    good,
    raises,
)

pytestmark = pytest.mark.releases


async def test__pipeline_is_over__service_is_as_it_was():
    async with calling(calls(1), good) as call:
        assert "run_function_calls" in vars(call.llm)
        await call.hears(requests=2)

    assert "run_function_calls" not in vars(call.llm)


async def test__breaker_fails__tools_run_and_it_is_reported_once(monkeypatch):
    from pipecat_circuit_breaker._core.tool_rounds import ToolRounds

    def broken(*args, **kwargs):
        raise ValueError("a bug")

    async with calling(calls(6), good) as call:
        monkeypatch.setattr(ToolRounds, "asked", broken)
        monkeypatch.setattr(ToolRounds, "called", broken)
        await call.hears(requests=7)

        assert call.tool.runs == 6
        assert len([line for line in call.log if "circuit breaker failed" in line]) == 2


async def test__listener_raises__the_other_is_told():
    async with calling(calls(obeys=False), fails) as call:
        call.breaker.guard._loop_listeners.insert(0, raises)

        await call.hears(requests=FAILED_LIMIT + 1)

        assert call.tool.runs == FAILED_LIMIT
        assert len(call.loops) == 1


async def test__tools_off__frames_of_the_last_calls__do_not_reach_anybody():
    seen = []

    class Tap(Relay):
        async def process_frame(self, frame, direction):
            if isinstance(frame, FunctionCallInProgressFrame):
                seen.append(frame)
            await super().process_frame(frame, direction)

    def around(user, llm, assistant):
        return [user, llm, Tap(), assistant]

    async with calling(calls(obeys=False), fails, around=around) as call:
        await call.hears(requests=FAILED_LIMIT + 1)

        assert len(seen) == FAILED_LIMIT
