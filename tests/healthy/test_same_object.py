"""One notice object that is pushed again and again: each push is an occurrence of its own."""

import asyncio

import pytest
from pipecat.frames.frames import ErrorFrame, TextFrame

from pipecat_circuit_breaker.testing import Output, running
from tests.healthy.healthy_parts import Breaks, message, numbers, queue
from tests.support.guard import MAX_ERRORS
from tests.support.parts import On, settle

PUSHES = 20


@pytest.mark.parametrize("way", ["queued", "pushed"])
async def test__notice_that_was_pushed_in_an_outage__pushed_again_after_recovery__arrives(
    guard, way
):
    """A task of an error's pushes it while the circuit is open; later it is only news."""
    notice, output = message("notice", 0), Output()
    in_outage, again, tasks, heard = asyncio.Event(), asyncio.Event(), [], []

    async def tell(on, error, direction):
        async def push():
            await in_outage.wait()
            await on.push_frame(notice)
            await again.wait()
            for _ in range(PUSHES):
                await on.push_frame(notice)
                await settle(40)

        if not tasks:
            tasks.append(on.create_task(push()))

    async with running(*guard.line(On(ErrorFrame, tell), Breaks(), output)) as worker:
        worker.add_event_handler("on_pipeline_error", lambda _, error: heard.append(error))
        for _ in range(2 * MAX_ERRORS):
            await queue(worker, TextFrame("fail"))
        in_outage.set()
        await settle()
        # The provider is well again, and is used. A failure an hour is none of an outage: the
        # circuit probes with the first of them, and is closed by then.
        for _ in range(3):
            for _ in range(20):
                guard.clock.advance(180)
                await queue(worker, TextFrame("hello"))
            heard.clear()
            await queue(worker, TextFrame("fail"))
        assert len(heard) == 1

        before = len(numbers(output.sent, "notice"))
        if way == "queued":
            for _ in range(PUSHES):
                await queue(worker, notice)
        else:
            again.set()
            await settle(40 * PUSHES + 100)

    assert len(numbers(output.sent, "notice")) - before == PUSHES
