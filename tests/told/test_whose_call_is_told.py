"""Whose call an incident belongs to: its session and its tags."""

import os

from loguru import logger

from pipecat_circuit_breaker import Incident
from pipecat_circuit_breaker.show.story import tell
from pipecat_circuit_breaker.testing import Output, running
from tests.support.parts import app_message, dead, settle
from tests.told.told_parts import new_breaker


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
