"""Observing is told as observing, and counts what would have been held back."""

import asyncio

import pytest
from pipecat.frames.frames import EndFrame
from pipecat.pipeline.parallel_pipeline import ParallelPipeline

from pipecat_circuit_breaker import Mode
from pipecat_circuit_breaker.show.story import tell
from pipecat_circuit_breaker.testing import Output, running
from tests.support.parts import Failing, app_message, dead, settle
from tests.told.told_parts import new_breaker, own_lines, through_an_outage, told_by


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
    assert incident.lost_messages == 0
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
        await through_an_outage(worker, output, clock)

    told = [m for m in output.sent if m.get("data", {}).get("type") == "circuit-closed"]
    assert len(told) == messages
