"""A transport hears of a hang-up later than its sends fail: a call that ends so is no outage."""

import asyncio

import pytest
from loguru import logger
from pipecat.frames.frames import EndFrame

from pipecat_circuit_breaker import (
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    Ending,
    Mode,
)
from pipecat_circuit_breaker.testing import Transport, pushes_error, running, settle
from tests.support.parts import app_message, of_type

GRACE = CircuitBreakerParams().grace_secs

#: Every way in which a message fails that has nobody to go to.
FAILURES = [ConnectionError("the client is gone"), pushes_error("the client is gone")]


@pytest.fixture(params=FAILURES, ids=["raises", "pushes-error"])
def failure(request):
    return request.param


@pytest.fixture
def transport():
    return Transport()


@pytest.fixture
def told():
    return []


@pytest.fixture
def lines():
    """Our lines at WARNING and above."""
    lines = []
    logger.add(lines.append, level="WARNING", filter="pipecat_circuit_breaker")
    return lines


def watching(clock, transport, told, **params):
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock, **params))
    breaker.watch(transport)
    for event in ("opened", "reopened", "half_opened", "closed", "changed"):
        breaker.add_event_handler(f"on_circuit_{event}", lambda _, i, e=event: told.append(e))
    return breaker


async def send(worker, messages=20):
    for n in range(messages):
        await worker.queue_frame(app_message(n))
    assert await settle(), "it storms"


@pytest.mark.parametrize("mode", [Mode.GUARD, Mode.OBSERVE])
async def test__sends_fail_before_the_hang_up_is_heard__no_outage_and_nobody_is_told(
    clock, transport, failure, told, lines, mode
):
    breaker, output = watching(clock, transport, told, mode=mode), transport.output()
    async with running(breaker, output) as worker:
        await transport.connect()
        output.fail(failure, when=lambda message: len(output.failed) < 100)
        await send(worker)
        if mode is Mode.GUARD:
            # Five of one kind, and one of another, which is tried.
            assert len(output.failed) <= 6, "the loop is cut all the same"
        await transport.disconnect()
        await settle()
        clock.advance(10 * GRACE)
        await send(worker)
        await worker.queue_frame(EndFrame())
        await settle()

    assert breaker.incidents == ()
    assert (told, lines) == ([], [])
    assert all(totals.openings == 0 for totals in breaker.totals)
    if mode is Mode.GUARD:
        assert sum(t.unsent_messages for t in breaker.totals) >= 20 + 20 - 5
        assert sum(t.held_messages for t in breaker.totals) == 0


async def test__client_is_back_at_once__all_arrive(clock, transport, failure, told):
    breaker, output = watching(clock, transport, told), transport.output()
    async with running(breaker, output) as worker:
        for _ in range(3):
            await transport.connect()
            await send(worker, 5)
            output.fail(failure)
            await send(worker)
            await transport.disconnect()
            await settle()
            output.recover()
        await transport.connect()
        await settle()
        output.sent.clear()
        await send(worker)

        assert [m["n"] for m in of_type(output.sent, "app")] == [*range(20)]
    assert (breaker.incidents, told) == ((), [])


async def test__one_of_two_clients_hangs_up__sends_go_on_failing__is_an_outage(
    clock, transport, told
):
    breaker, output = watching(clock, transport, told), transport.output()
    async with running(breaker, output) as worker:
        await transport.connect("Ada")
        await transport.connect("Bob")
        output.fail()
        await send(worker)
        await transport.disconnect("Ada")
        await settle()
        clock.advance(GRACE)
        await send(worker, 1)

    assert [told.count(event) for event in ("opened", "closed")] == [1, 1]
    assert breaker.incidents[0].ending is Ending.PIPELINE_OVER


async def test__no_hang_up_is_heard_of__is_told_after_the_grace_and_once(
    clock, transport, failure, told, lines
):
    breaker, output = watching(clock, transport, told), transport.output()
    async with running(breaker, output) as worker:
        await transport.connect()
        output.fail(failure)
        await send(worker)
        assert told == []
        assert len(breaker.incidents) == 1
        clock.advance(GRACE)
        await send(worker)
        assert told[:2] == ["changed", "opened"]
        output.recover()
        clock.advance(100)
        await send(worker)

    assert [told.count(event) for event in ("opened", "closed")] == [1, 1]
    (incident,) = breaker.incidents
    assert incident.ending is Ending.RECOVERED
    # One for the beginning, and one for the probe that failed when the grace was over.
    levels = [line.record["extra"]["circuit_state"] for line in lines]
    assert levels and set(levels) == {"open"}, "what is over is no warning"


async def test__bot_ends_before_the_grace_is_over__is_told_as_it_ends(
    clock, transport, failure, told
):
    breaker, output = watching(clock, transport, told), transport.output()
    async with running(breaker, output) as worker:
        await transport.connect()
        output.fail(failure)
        await send(worker)
        assert told == []

    assert [event for event in told if event != "changed"] == ["opened", "closed"]
    assert breaker.incidents[0].ending is Ending.PIPELINE_OVER


async def test__nobody_watches__is_told_at_once(clock, transport, told):
    breaker, output = watching(clock, Transport(), told), transport.output()
    async with running(breaker, output) as worker:
        output.fail()
        await send(worker)
        assert "opened" in told


async def test__sends_that_hang__fail_when_the_client_has_gone__no_outage(clock, transport, told):
    breaker, output = watching(clock, transport, told), transport.output()
    gone = asyncio.Event()

    async def hangs(output, frame):
        await gone.wait()
        raise ConnectionError("the client is gone")

    async with running(breaker, output) as worker:
        await transport.connect()
        output.fail(hangs)
        sends = [asyncio.create_task(output.send_message(app_message(n))) for n in range(8)]
        await settle()
        gone.set()
        await asyncio.gather(*sends, return_exceptions=True)
        await transport.disconnect()
        await settle()
        clock.advance(GRACE)
        await send(worker)
    assert (breaker.incidents, told) == ((), [])
