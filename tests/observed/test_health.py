"""What `breaker.health()` says at each moment, and over HTTP."""

import asyncio
import json
from contextlib import asynccontextmanager
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import pytest
from pipecat.frames.frames import TextFrame

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor, Mode
from pipecat_circuit_breaker.testing import Output, Transport, ended, running
from tests.support.parts import Failing, app_message, dead, settle


def new_breaker(clock, **params):
    return CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock, **params))


async def storm(worker, messages=20):
    for n in range(messages):
        await worker.queue_frame(app_message(n))
        await settle(30)


def test__before_the_pipeline_is_set_up__idle(clock):
    assert new_breaker(clock).health() == {
        "status": "idle",
        "mode": None,
        "pipeline": None,
        "processors": {},
        "channels": {},
        "failovers": {},
    }


async def test__nothing_has_failed__ok(clock):
    breaker, output = new_breaker(clock), Output()
    async with running(breaker, output) as worker:
        await worker.queue_frame(app_message())
        await settle()
        health = breaker.health()

    assert (health["status"], health["mode"], health["pipeline"]) == ("ok", "guard", worker.name)
    assert health["processors"] == {}
    assert health["channels"] == {
        output.name: {
            "state": "closed",
            "connected": None,
            "down": [],
            "held_messages": 0,
            "unsent_messages": 0,
            "probe_in_secs": None,
        }
    }


async def test__channel_is_down__degraded_and_says_what_is_held_back_and_when_it_tries(clock):
    breaker, output = new_breaker(clock), Output(dead)
    async with running(breaker, output) as worker:
        await storm(worker)
        health = breaker.health()
        held = sum(incident.held_messages for incident in breaker.incidents)
        json.dumps(health)

    channel = health["channels"][output.name]
    assert (health["status"], channel["state"]) == ("degraded", "open")
    assert channel["held_messages"] == held > 0
    assert channel["probe_in_secs"] == pytest.approx(0.1)
    assert "ConnectionError" in health["processors"][output.name]["failing"][0]


async def test__processor_fails__degraded_and_how(clock):
    breaker = new_breaker(clock)
    stt = Failing(TextFrame, lambda n: {"error_msg": "no such model"})
    async with running(breaker, stt, Output()) as worker:
        for _ in range(8):
            await worker.queue_frame(TextFrame("chunk"))
            await settle(30)
        health = breaker.health()

    assert health["processors"][stt.name]["state"] == "open"
    assert health["processors"][stt.name]["failing"] == ["no such model"]
    assert health["processors"][stt.name]["held_errors"] == 3


async def test__recovered__ok_again(clock):
    breaker, output = new_breaker(clock), Output(dead)
    async with running(breaker, output) as worker:
        await storm(worker)
        output.fails = lambda message: None
        clock.advance(100)
        await storm(worker, 2)
        health = breaker.health()

    assert health["status"] == "ok"
    assert health["channels"][output.name]["held_messages"] == 0


async def test__pipeline_is_over__says_so(clock):
    breaker, output = new_breaker(clock), Output(dead)
    async with running(breaker, output) as worker:
        await storm(worker)
        await ended(worker)
    await settle()

    assert breaker.health()["status"] == "over"


async def test__watched__says_who_is_connected_and_what_is_not_sent(clock):
    breaker, transport = new_breaker(clock), Transport()
    breaker.watch(transport)
    output = transport.output()
    async with running(breaker, transport.input(), output) as worker:
        before = breaker.health()["channels"][output.name]["connected"]
        await worker.queue_frame(app_message())
        await settle()
        await transport.connect()
        await settle()
        connected = breaker.health()["channels"][output.name]["connected"]
        await transport.disconnect()
        await storm(worker, 7)
        health = breaker.health()

    assert before is None, "it has not said so yet"
    assert len(output.sent) == 1, "somebody may be there"
    assert connected is True
    assert health["status"] == "ok"
    assert health["channels"][output.name]["connected"] is False
    assert health["channels"][output.name]["unsent_messages"] == 7


async def test__observing__says_so(clock):
    breaker = new_breaker(clock, mode=Mode.OBSERVE)
    async with running(breaker, Output()):
        assert breaker.health()["mode"] == "observe"


async def test__destinations_without_end__are_named_up_to_eight(clock):
    breaker = new_breaker(clock, destination=lambda frame: frame.message.get("to"))
    output = Output(lambda message: ConnectionError("gone") if message.get("to") else None)
    async with running(breaker, output, enable_rtvi=False) as worker:
        for who in range(20):
            for _ in range(5):
                message = app_message()
                message.message["to"] = f"participant {who}"
                await worker.queue_frame(message)
            await settle(60)
        health = breaker.health()

    # After twenty of their messages the output as a whole is down, and the others have no circuit.
    assert health["channels"][output.name]["down"][-1] == "everyone"
    assert len(health["channels"][output.name]["down"]) <= 8
    assert len(json.dumps(health)) < 4_000


@asynccontextmanager
async def served(app):
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/health"
    finally:
        server.should_exit = True
        await serving


def ask(url):
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=10) as answer:
            return answer.status, json.load(answer)
    except HTTPError as refused:
        return refused.code, json.load(refused)


async def test__endpoint_of_the_page__answers_over_http(clock):
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    from fastapi import FastAPI, Response

    breaker, output, app = new_breaker(clock), Output(), FastAPI()

    @app.get("/health")
    async def health(response: Response):
        now = breaker.health()
        if now["status"] == "degraded":
            response.status_code = 503
        return now

    async with running(breaker, output) as worker, served(app) as url:
        assert await asyncio.to_thread(ask, url) == (200, breaker.health())
        output.fails = dead
        await storm(worker)
        status, told = await asyncio.to_thread(ask, url)

    assert status == 503
    assert told["channels"][output.name]["state"] == "open"
