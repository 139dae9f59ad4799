"""Whose call an incident belongs to: asked once, when it is told."""

import pytest

from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.news import log_fields
from pipecat_circuit_breaker.incident import Call
from tests.core.core_parts import COOLDOWN, OUT, Pages

CALL = Call(
    pipeline="worker#0",
    session="s1",
    process=7,
    host="here",
    pipecat="1.9.0",
    version="0.1.0",
    tags={"tenant": "acme"},
)


class Asked:
    """Whose call it is, and how often somebody has asked."""

    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1
        return CALL.model_copy(update={"process": self.times})


@pytest.fixture
def asked():
    return Asked()


@pytest.fixture
def called(clock, asked):
    """Pages of a journal that asks whose call it is."""
    return Pages(clock, call=asked)


def test__call__nobody_knows_it__is_none(pages):
    pages.open(pages.circuit())
    assert pages.news()[0].call is None


def test__call__is_asked_when_the_opening_is_told_and_kept(called, asked):
    guarded = called.circuit()
    called.open(guarded)
    assert asked.times == 0, "a storm does not wait for it"
    (opened,) = called.news()
    assert opened.call == CALL.model_copy(update={"process": 1})
    called.clock.advance(COOLDOWN)
    called.probe(guarded)
    called.settle(guarded, success=False)
    called.close(guarded)
    assert {i.call.process for i in called.news()} == {1}
    assert asked.times == 1


def test__call__several_circuits_of_one_outage__is_asked_once(called, asked):
    called.open(called.channel())
    called.news()
    called.open(called.circuit("SendError", OUT))
    assert called.journal.open_incidents(Mode.GUARD)[0].call.process == 1
    assert asked.times == 1


def test__call__of_the_next_incident__is_asked_anew(called, asked):
    guarded = called.circuit()
    for _ in range(2):
        called.open(guarded)
        called.close(guarded)
    assert [i.call.process for i in called.news()] == [1, 1, 2, 2]


def test__log_fields__say_whose_call_it_was(called):
    called.open(called.circuit())
    fields = log_fields(called.news()[0])
    assert fields["circuit_origin"] == "TTS: E"
    assert {name: fields[f"circuit_{name}"] for name in CALL.model_dump()} == {
        "pipeline": "worker#0",
        "session": "s1",
        "process": 1,
        "host": "here",
        "pipecat": "1.9.0",
        "version": "0.1.0",
        "tags": {"tenant": "acme"},
    }
