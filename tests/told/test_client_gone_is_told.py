"""A client that has gone: a fact where somebody watches, or else a guess that says so; and no outage."""

import asyncio

from pipecat.frames.frames import EndFrame, TextFrame
from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker import AdviceKind, Mode, Trigger
from pipecat_circuit_breaker.testing import Output, running
from tests.support.parts import app_message, dead, settle
from tests.told.told_parts import Room, new_breaker, own_lines

#
# Facts, and guesses
#


async def test__connection_error__client_is_connected__is_not_told_as_gone(clock):
    breaker, output = new_breaker(clock), Output(dead)

    class Transport(FrameProcessor):
        """As much of a transport as `watch` asks for."""

        def __init__(self, output):
            super().__init__()
            self._output = output
            self._register_event_handler("on_client_connected")
            self._register_event_handler("on_client_disconnected")

        def output(self):
            return self._output

    transport = Transport(output)
    breaker.watch(transport)
    async with running(breaker, output) as worker:
        await transport._call_event_handler("on_client_connected", object())
        await settle()
        await worker.queue_frame(app_message())
        await settle(300)
        (incident,) = breaker.incidents

    assert incident.advice.kind is AdviceKind.CHANNEL_FAILS
    assert "A client is connected." in incident.advice.text
    assert "nothing got through meanwhile" in incident.advice.text
    assert f"raised in {Output.__module__}:Output.send_message" in incident.advice.text
    assert not incident.advice.is_guess


async def test__connection_error__other_messages_get_through__is_not_told_as_gone(clock):
    breaker = new_breaker(clock)
    output = Output(lambda m: ConnectionError("gone") if m["type"] == "bad" else None)
    async with running(breaker, output, enable_rtvi=False) as worker:
        for n in range(6):
            await worker.queue_frame(app_message(n, "bad"))
            await worker.queue_frame(app_message(n, "good"))
            await settle(50)
        (incident,) = breaker.incidents

    assert incident.trigger is Trigger.ERRORS
    assert incident.advice.kind is AdviceKind.CHANNEL_FAILS
    assert "others got through meanwhile" in incident.advice.text


async def test__connection_error__nobody_watches__is_a_guess_and_says_so(clock):
    breaker = new_breaker(clock)
    async with running(breaker, Output(dead)) as worker:
        await worker.queue_frame(app_message())
        await settle(300)
        (incident,) = breaker.incidents

    assert incident.advice.kind is AdviceKind.CLIENT_GONE
    assert incident.advice.is_guess
    assert "a guess" in incident.advice.text


#
# Nobody connected
#


async def watched(clock, away_secs, **params):
    """A client hangs up; the bot goes on sending for so long, and the client is back."""
    breaker, output = new_breaker(clock, **params), Output()
    room, lines, client = Room(output), own_lines(), object()
    breaker.watch(room)
    async with running(breaker, output) as worker:
        await room.comes(client)
        output.fails = dead
        await room.goes(client)
        for n in range(20):
            await worker.queue_frame(app_message(n))
            await settle(30)
            clock.advance(away_secs / 20)
        output.fails = lambda message: None
        await room.comes(client)
        await worker.queue_frame(app_message(20))
        await settle(50)
        return breaker, output, lines


async def test__nobody_connected__is_counted_under_its_own_name_and_no_incident(clock):
    breaker, output, lines = await watched(clock, 30)

    assert breaker.incidents == ()
    totals = {t.origin: t for t in breaker.totals}
    assert totals["Output: nobody connected"].unsent_messages == 20
    assert all((t.openings, t.failures) == (0, 0) for t in totals.values())
    assert [m["n"] for m in output.sent] == [20]
    assert {level for level, _ in lines} == {"DEBUG"}
    assert "20 messages were not sent while nobody was connected" in lines[-1][1]


async def test__nobody_connected_for_long__bot_goes_on__is_told_once(clock):
    breaker, _, lines = await watched(clock, 300)

    warnings = [line for level, line in lines if level == "WARNING"]
    assert len(warnings) == 1
    assert "nobody has been connected for" in warnings[0]
    assert breaker.incidents == ()


async def test__nobody_connected_for_long__its_grace_time_can_be_set(clock):
    _, _, lines = await watched(clock, 300, absence_secs=1_000)

    assert [line for level, line in lines if level == "WARNING"] == []


async def test__observing__client_hangs_up__its_failed_sends_are_no_outage(clock):
    breaker, output, _ = await watched(clock, 10, mode=Mode.OBSERVE)

    assert len(output.failed) >= 20
    assert breaker.incidents == ()


async def test__client_goes_in_the_middle_of_its_sends__they_are_no_failures(clock):
    breaker, gone = new_breaker(clock), asyncio.Event()

    class Slow(Output):
        async def send_message(self, frame):
            await gone.wait()
            raise ConnectionError("closed")

    output = Slow()
    room, client = Room(output), object()
    breaker.watch(room)
    async with running(breaker, output) as worker:
        await room.comes(client)
        sends = [asyncio.create_task(output.send_message(app_message(n))) for n in range(8)]
        await settle()
        await room.goes(client)
        gone.set()
        raised = await asyncio.gather(*sends, return_exceptions=True)
        await worker.queue_frame(TextFrame("bye"))
        await worker.queue_frame(EndFrame())
        await settle()

        assert [type(e) for e in raised] == [ConnectionError] * 8
        assert breaker.incidents == ()
        assert sum(t.failures for t in breaker.totals) == 0
