"""What an operator is told is so: modes, outages, whose call, and what is refused."""

import asyncio
import os

import pytest
from loguru import logger
from pipecat.frames.frames import EndFrame, TextFrame, TTSSpeakFrame
from pipecat.pipeline.parallel_pipeline import ParallelPipeline
from pipecat.processors.frame_processor import FrameProcessor

from bot import Failing, Output, app_message, dead, ended, running, settle
from pipecat_circuit_breaker import (
    AdviceKind,
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    CircuitState,
    Ending,
    Incident,
    Mode,
    Trigger,
)
from pipecat_circuit_breaker.show.story import tell

EVENTS = ("opened", "reopened", "half_opened", "closed", "given_up")


def told_by(breaker):
    told = []
    for event in EVENTS:
        breaker.add_event_handler(
            f"on_circuit_{event}", lambda _, incident, e=event: told.append((e, incident))
        )
    return told


def new_breaker(clock, *, tags=None, **params):
    return CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock, **params), tags=tags)


def own_lines():
    lines = []
    logger.add(
        lambda line: lines.append((line.record["level"].name, line.record["message"])),
        level="DEBUG",
        filter="pipecat_circuit_breaker",
    )
    return lines


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
# Observing
#


async def test__observing__storm__is_told_as_observed_and_counted_once(clock):
    breaker, output = new_breaker(clock, mode=Mode.OBSERVE), Output(dead)
    told, lines, turns = told_by(breaker), own_lines(), 0
    async with running(breaker, output) as worker:
        await worker.queue_frame(app_message())
        while len(output.failed) < 200:
            await asyncio.sleep(0)
            turns += 1
            assert turns < 100_000
        output.fails = lambda message: None
        await settle(400)
        (incident,) = breaker.incidents

    first = told[0][1]
    assert (first.mode, incident.mode) == (Mode.OBSERVE, Mode.OBSERVE)
    assert incident.held_messages == incident.observed_messages > 150
    assert incident.held_errors == incident.observed_errors > 150
    # What the output was handed: what opened the circuit, the probes, and what "would have been".
    handed = len(output.failed) + len(output.sent)
    probes = len([p for p in incident.probes if "Message" in p.frame])
    opening = len([step for step in incident.chain if "Message" in step.frame])
    assert handed == opening + probes + incident.observed_messages
    # In each place where somebody reads it.
    assert "would have been held back" in incident.noticed
    assert lines[0][1].startswith("observing: circuit open")
    story = tell(incident)
    assert story.held_title == "What would have been held back"
    assert "only observed" in story.facts
    assert "would have been held back (observing: nothing was)" in story.noticed


async def test__observing__several_circuits_would_hold_a_message__it_counts_once(clock):
    """A processor in mid-pipeline and the output both fail at it."""
    breaker = new_breaker(clock, mode=Mode.OBSERVE)
    middle = Failing(type(app_message()), lambda n: {"error_msg": "cannot be redacted"})
    output = Output(dead)
    async with running(breaker, middle, output) as worker:
        await worker.queue_frame(app_message())
        while len(output.failed) < 300:
            await asyncio.sleep(0)
        output.fails, middle._kind = lambda message: None, EndFrame
        before = -1
        while before != (before := len(output.sent)):
            await settle(400)
        handed = len(output.failed) + len(output.sent)
        observed = sum(incident.observed_messages for incident in breaker.incidents)

    assert handed / 2 < observed <= handed


async def test__observing__two_outputs__each_would_have_held_it(clock):
    breaker, left, right = new_breaker(clock, mode=Mode.OBSERVE), Output(dead), Output(dead)
    async with running(breaker, ParallelPipeline([left], [right]), enable_rtvi=False) as worker:
        for n in range(20):
            await worker.queue_frame(app_message(n))
            await settle(50)
        observed = [incident.observed_messages for incident in breaker.incidents]

    assert observed == [15, 15]
    assert len(left.failed) == len(right.failed) == 20


async def test__mode_is_changed_under_way__both_are_told(clock):
    breaker, output = new_breaker(clock, mode=Mode.OBSERVE), Output(dead)
    async with running(breaker, output, enable_rtvi=False) as worker:
        for n in range(10):
            await worker.queue_frame(app_message(n))
            await settle(50)
        await breaker.set_mode(Mode.GUARD)
        for n in range(10, 20):
            await worker.queue_frame(app_message(n))
            await settle(50)
        (incident,) = breaker.incidents

    assert (incident.held_messages, incident.observed_messages) == (15, 5)
    assert incident.mode is Mode.GUARD
    assert (
        "10 messages were held back, 5 messages would have been held back while only observing"
        in incident.noticed
    )
    assert len(output.failed) == 10


@pytest.mark.parametrize(("mode", "messages"), [(Mode.GUARD, 1), (Mode.OBSERVE, 0)])
async def test__client_is_told_what_it_missed__where_it_missed_anything(clock, mode, messages):
    breaker = new_breaker(clock, mode=mode, notify_client=True)
    output = Output(dead)
    async with running(breaker, output) as worker:
        for n in range(20):
            await worker.queue_frame(app_message(n))
            await settle(30)
        output.fails = lambda message: None
        clock.advance(100)
        await worker.queue_frame(app_message())
        await settle(200)

    told = [m for m in output.sent if m.get("data", {}).get("type") == "circuit-closed"]
    assert len(told) == messages


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
# Settings that would be ignored
#


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"mode": Mode.OBSERVE, "max_errors": 1},
            "mode is a setting: expected params=CircuitBreakerParams(mode=",
        ),
        (
            {"max_errors": 1},
            "max_errors is a setting: expected params=CircuitBreakerParams(max_errors=1)",
        ),
        ({"max_error": 1}, "expected params, tags, fleet, metrics, name; got max_error=1"),
        ({"enable_direct_mode": False}, "got enable_direct_mode=False"),
        (
            {"params": {"max_errors": 1}},
            "expected params=CircuitBreakerParams(...), got {'max_errors': 1}",
        ),
        (
            {"tags": "acme"},
            "expected tags to be a mapping, or a function of the worker, got 'acme'",
        ),
    ],
)
def test__argument_that_would_be_ignored__is_refused(given, says):
    with pytest.raises(TypeError) as refused:
        CircuitBreakerProcessor(**given)

    assert says in str(refused.value)


def test__name__is_taken():
    assert CircuitBreakerProcessor(name="guard").name == "guard"


#
# Whose call it was
#


async def opened(clock, tags, **kwargs):
    breaker = new_breaker(clock, tags=tags)
    records = []
    logger.add(
        lambda line: records.append(line.record["extra"]),
        level="WARNING",
        filter="pipecat_circuit_breaker",
    )
    async with running(breaker, Output(dead), **kwargs) as worker:
        await worker.queue_frame(app_message())
        await settle(300)
        (incident,) = breaker.incidents
        name = worker.name
    return incident, records[0], name


async def test__incident__says_whose_call_it_was(clock):
    incident, fields, name = await opened(clock, {"tenant": "acme", "shard": 7})

    call = incident.call
    assert (call.pipeline, call.process, call.session) == (name, os.getpid(), None)
    assert call.host and call.pipecat and call.version
    assert call.tags == {"tenant": "acme", "shard": "7"}
    assert fields["circuit_tags"] == {"tenant": "acme", "shard": "7"}
    assert fields["circuit_pipeline"] == name
    whose = dict(tell(incident).whose)
    assert (whose["tenant"], whose["shard"], whose["pipeline"]) == ("acme", "7", name)
    assert Incident.model_validate_json(incident.model_dump_json()) == incident


async def test__conversation_with_an_id__is_its_session(clock):
    incident, fields, _ = await opened(clock, None, conversation_id="call-42")

    assert incident.call.session == "call-42"
    assert fields["circuit_session"] == "call-42"


async def test__tags_that_a_function_knows__are_asked_when_it_begins(clock):
    asked = []

    def tags(worker):
        asked.append(worker)
        return {"caller": "+49", "worker": worker.name}

    incident, _, name = await opened(clock, tags)

    assert len(asked) == 1
    assert incident.call.tags == {"caller": "+49", "worker": name}


async def test__tags__function_that_raises__incident_has_none(clock):
    def tags(worker):
        raise LookupError("no caller yet")

    incident, _, _ = await opened(clock, tags)

    assert incident.call.tags == {}


async def test__tags__without_end__are_bounded(clock):
    incident, _, _ = await opened(
        clock, lambda worker: {f"{n}{'k' * 1000}": "v" * 1_000_000 for n in range(1000)}
    )

    assert len(incident.call.tags) == 32
    assert {len(value) for value in incident.call.tags.values()} == {200}
    assert {len(name) for name in incident.call.tags} == {64}


#
# Nobody connected
#


class Room(FrameProcessor):
    """A transport's events, and its output."""

    def __init__(self, output):
        super().__init__()
        self._output = output
        self._register_event_handler("on_client_connected", sync=True)
        self._register_event_handler("on_client_disconnected", sync=True)

    def output(self):
        return self._output

    async def comes(self, client):
        await self._call_event_handler("on_client_connected", client)

    async def goes(self, client):
        await self._call_event_handler("on_client_disconnected", client)


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
        for n in range(20):
            await worker.queue_frame(app_message(n))
            await settle(30)
        output.fails = lambda message: None
        clock.advance(100)
        await worker.queue_frame(app_message())
        await settle(200)

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


def test__watch__what_is_no_transport__is_refused():
    with pytest.raises(TypeError, match="expected a transport, got None"):
        CircuitBreakerProcessor().watch(None)
