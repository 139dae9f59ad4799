"""Two active agents on one bus: each hands the other's error on, for ever.

An error that goes up through an agent is published on the bus, whence the other agent takes it in.
A bus that serialises drops who failed and how, and makes a new frame of each.
"""

import pytest
from pipecat.frames.frames import ErrorFrame, TextFrame
from pipecat.processors.frame_processor import FrameDirection

from pipecat_circuit_breaker.testing import Output
from tests.cut.bus_parts import BUSES, bots
from tests.cut.cut_parts import DeadOutput, Storm, message, raises
from tests.support.parts import On, settle

#: What all applications together hear of.
AT_MOST = 40
MOST_CIRCUITS = 8

#: Errors without a breaker after which it is a storm.
CAP = 1000


async def fails(processor, frame, direction):
    if frame.text == "fail":
        await processor.push_error("the model does not answer", exception=ConnectionError())


def agent():
    return [On(TextFrame, fails), On((), fails)]


@pytest.fixture
def storm():
    return Storm(CAP)


@pytest.fixture(params=BUSES)
def bus(request):
    return BUSES[request.param]()


def assert_cut(guard, storm, seen, at_most=AT_MOST, circuits=MOST_CIRCUITS):
    if guard.breaker is None:
        assert storm.calm
        assert len(seen.errors) >= CAP // 2
        return
    assert 1 <= len(seen.errors) <= at_most
    assert not storm.calm
    origins = [c.origin for breaker in seen.breakers for c in breaker.circuits]
    # What a breaker says of itself is no failure that another one could count.
    assert [o for o in origins if "circuit" in o.kind or "held back" in o.kind] == []
    assert len(origins) <= circuits


async def test__two_active_agents__one_fails_once__ends(guard, storm, bus):
    async with bots(guard, storm, bus, Output(), agent(), agent()) as seen:
        await seen.agents[0].queue_frame(TextFrame("fail"))
        await storm.over()

    assert_cut(guard, storm, seen)


async def test__two_active_agents__client_is_gone_as_well__ends(guard, storm, bus):
    # The client's notices fail too, and each failure is an error in the main worker.
    sends = Storm(CAP)
    output = DeadOutput(sends, raises)
    async with bots(guard, storm, bus, output, agent(), agent()) as seen:
        await seen.agents[0].queue_frame(TextFrame("fail"))
        await storm.over()

    # Two failures, each handed on.
    assert_cut(guard, storm, seen, at_most=2 * AT_MOST, circuits=2 * MOST_CIRCUITS)
    if guard.breaker is not None:
        assert sends.turns <= AT_MOST


async def test__two_active_agents__application_reports_an_error_over_the_bus__ends(
    guard, storm, bus
):
    # Here nobody is known to have failed: the application queues an error of its own.
    async with bots(guard, storm, bus, Output(), agent(), agent()) as seen:
        await seen.agents[0].queue_frame(ErrorFrame("the store is locked"), FrameDirection.UPSTREAM)
        await storm.over()

    assert_cut(guard, storm, seen)


async def test__loop_over_the_bus_is_cut__messages_to_the_client__arrive_all(guarded, storm, bus):
    output = Output()
    async with bots(guarded, storm, bus, output, agent(), agent()) as seen:
        await seen.agents[0].queue_frame(TextFrame("fail"))
        await storm.over()
        for n in range(20):
            await seen.main.queue_frame(message("app", n=n))
            await settle(40)

    assert len(seen.errors) <= AT_MOST
    assert [m["n"] for m in output.sent if m.get("type") == "app"] == [*range(20)]
