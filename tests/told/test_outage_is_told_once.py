"""One outage is told once, from its opening to the end of its pipeline; later copies say what is known since."""

import pytest
from pipecat.frames.frames import TextFrame, TTSSpeakFrame
from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker import AdviceKind, CircuitBreakerParams, CircuitState, Ending, Incident
from pipecat_circuit_breaker.testing import Output, ended, running
from tests.support.parts import Failing, app_message, dead, settle
from tests.told.told_parts import Room, new_breaker, own_lines, through_an_outage, told_by

#
# One outage, one call
#


async def test__outage_with_probes_that_fail__one_opening_and_one_closing(clock):
    breaker, output = new_breaker(clock), Output(dead)
    told = told_by(breaker)
    async with running(breaker, output) as worker:
        await worker.queue_frame(app_message())
        await settle(400)
        for _ in range(3):
            clock.advance(100)
            await worker.queue_frame(app_message())
            await settle(100)
        output.fails = lambda message: None
        clock.advance(100)
        await worker.queue_frame(app_message())
        await settle(100)

    events = [event for event, _ in told]
    assert (events.count("opened"), events.count("closed")) == (1, 1)
    assert (events[0], events[-1]) == ("opened", "closed")
    assert events.count("reopened") == 3
    assert len({incident.id for _, incident in told}) == 1
    assert breaker.incidents == (told[-1][1],)


async def test__apology_on_circuit_opened__tts_stays_broken__comes_once_an_outage(clock):
    breaker = new_breaker(clock)
    tts = Failing(TTSSpeakFrame, lambda n: {"error_msg": "the voice is gone"})
    apologies = []
    async with running(breaker, tts, Output()) as worker:

        @breaker.event_handler("on_circuit_opened")
        async def apologise(breaker, incident):
            apologies.append(incident.id)
            await worker.queue_frame(TTSSpeakFrame("Sorry!"))

        for _ in range(30):
            await worker.queue_frame(TTSSpeakFrame("Hello!"))
            await settle(30)
            clock.advance(20 if len(apologies) else 0.1)

    assert len(apologies) == 1


async def test__given_up__incidents_show_what_the_events_showed(clock):
    import tenacity

    breaker = new_breaker(clock, give_up=tenacity.stop_after_attempt(2), max_errors=1)
    told = told_by(breaker)
    async with running(breaker, Output(dead)) as worker:
        for _ in range(4):
            await worker.queue_frame(app_message())
            await settle(100)
            clock.advance(100)

        given_up = [incident for event, incident in told if event == "given_up"]
        assert len(given_up) == 1 and given_up[0].gave_up
        assert [incident.gave_up for incident in breaker.incidents] == [True]


#
# An incident ends with its pipeline
#


@pytest.mark.parametrize("how", ["ended", "cancelled"])
async def test__pipeline_is_over__so_is_the_incident__with_its_last_counts(clock, how):
    breaker, output = new_breaker(clock), Output(dead)
    told, lines, kept = told_by(breaker), own_lines(), []
    breaker.add_event_handler(
        "on_circuit_changed", lambda _, incident: kept.append(incident.model_dump_json())
    )
    async with running(breaker, output) as worker:
        for n in range(40):
            await worker.queue_frame(app_message(n))
            await settle(10)
        if how == "ended":
            await ended(worker)
    await settle()

    last = Incident.model_validate_json(kept[-1])
    assert (last.state, last.ending) == (CircuitState.CLOSED, Ending.PIPELINE_OVER)
    assert last.held_messages == told[-1][1].held_messages >= 34
    # One was sent by which the channel was found down, or is lost: nothing else is missing.
    tried = len([m for m in output.failed if m["type"] == "app"])
    assert tried + last.held_kinds["app"] == 40
    assert [event for event, _ in told].count("closed") == 1
    assert any("circuit closed (pipeline_over)" in line for _, line in lines)
    assert breaker.incidents == (last,)


#
# What has come to be known since
#


async def test__client_goes_after_its_sends_have_failed__the_last_copy_says_so(clock):
    breaker, output = new_breaker(clock), Output(dead)
    room, client = Room(output), object()
    told = told_by(breaker)
    breaker.watch(room)
    async with running(breaker, output) as worker:
        await room.comes(client)
        await worker.queue_frame(app_message())
        await settle(300)
        clock.advance(CircuitBreakerParams().grace_secs)
        await worker.queue_frame(app_message())
        await settle(300)
        await room.goes(client)
        await ended(worker)
    await settle()

    first, last = told[0][1], told[-1][1]
    assert first.advice.kind is AdviceKind.CHANNEL_FAILS
    assert (last.ending, last.advice.kind) == (Ending.PIPELINE_OVER, AdviceKind.CLIENT_GONE)
    assert "Its client has gone." in last.advice.text
    assert not last.advice.is_guess


async def test__others_get_through_while_it_is_open__the_next_copy_says_so(clock):
    breaker = new_breaker(clock)
    told = told_by(breaker)
    output = Output(lambda m: ConnectionError("gone") if m["type"] == "bad" else None)
    async with running(breaker, output, enable_rtvi=False) as worker:
        for _ in range(5):
            await worker.queue_frame(app_message(kind="bad"))
            await settle(50)
        for n in range(30):
            await worker.queue_frame(app_message(n, "good"))
            await worker.queue_frame(app_message(n, "bad"))
            await settle(50)
            clock.advance(2)
        await ended(worker)
    await settle()

    first, last = told[0][1], told[-1][1]
    assert "nothing got through meanwhile" in first.advice.text
    assert "others got through meanwhile" in last.advice.text
    assert last.advice.kind is AdviceKind.CHANNEL_FAILS


async def test__errors_that_make_a_processor_unusable__are_heard_and_not_counted_as_held(clock):
    breaker, heard = new_breaker(clock), []

    class Model(FrameProcessor):
        tried = 0

        async def process_frame(self, frame, direction):
            await super().process_frame(frame, direction)
            if isinstance(frame, TextFrame):
                self.tried += 1
                await self.push_error("it is over", force_treat_as_permanent=self.tried == 8)
            await self.push_frame(frame, direction)

    async with running(breaker, Model(), Output()) as worker:
        worker.add_event_handler("on_pipeline_error", lambda _, error: heard.append(error))
        for n in range(12):
            await worker.queue_frame(TextFrame(str(n)))
            await settle(50)
        (incident,) = breaker.incidents

    assert len(heard) == 6
    assert (incident.held_errors, incident.observed_errors) == (6, 0)


async def test__two_breakers_in_a_pipeline__client_is_told_once(clock):
    first, second = new_breaker(clock, notify_client=True), new_breaker(clock, notify_client=True)
    output = Output(dead)
    async with running(first, second, output) as worker:
        await through_an_outage(worker, output, clock)

    told = [m for m in output.sent if m.get("data", {}).get("type") == "circuit-closed"]
    assert len(told) == 1


async def test__health__channel_and_its_errors__count_what_was_held_once(clock):
    breaker, output = new_breaker(clock), Output(dead)
    async with running(breaker, output) as worker:
        for n in range(20):
            await worker.queue_frame(app_message(n))
            await settle(30)
        (incident,) = breaker.incidents
        health = breaker.health()

    assert health["channels"][output.name]["held_messages"] == incident.held_messages > 10
    assert health["status"] == "degraded"
