"""What the breaker tells at once: a frame, a log line, and a message to a client that missed some."""

import asyncio
import os
import socket

import pytest
from loguru import logger
from pipecat.observers.base_observer import BaseObserver
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection
from pipecat.processors.frameworks.rtvi import RTVIObserverParams
from pipecat.workers.runner import WorkerRunner
from tenacity import wait_fixed

from pipecat_circuit_breaker import (
    CircuitBreakerFrame,
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    CircuitState,
    Incident,
    Origin,
)
from pipecat_circuit_breaker.testing import Output, running
from tests.support.parts import Tap, app_message, dead, of_type, settle

COOLDOWN = 5.0
OPEN, HALF_OPEN, CLOSED = CircuitState.OPEN, CircuitState.HALF_OPEN, CircuitState.CLOSED


def new_breaker(clock, **params):
    return CircuitBreakerProcessor(
        params=CircuitBreakerParams(clock=clock, cooldown=wait_fixed(COOLDOWN), **params)
    )


async def storm_and_recovery(worker, output, clock, held=5):
    """Five sends fail, so many are held back, and the next one arrives."""
    await worker.queue_frame(app_message())
    await settle()
    for n in range(held):
        await worker.queue_frame(app_message(n))
        await settle()
    clock.advance(COOLDOWN)
    output.fails = lambda message: None
    await worker.queue_frame(app_message(100))
    await settle()


class Watcher(BaseObserver):
    def __init__(self):
        super().__init__()
        self.pushed = []

    async def on_push_frame(self, data):
        if isinstance(data.frame, CircuitBreakerFrame):
            self.pushed.append(data)


async def test__transitions__observers_and_processors__see_a_frame_both_ways(clock):
    breaker, output, observer = new_breaker(clock), Output(fails=dead), Watcher()
    first, last = Tap(), Tap()
    async with running(first, breaker, last, output, observers=[observer]) as worker:
        await storm_and_recovery(worker, output, clock)
        for tap, direction in (
            (first, FrameDirection.UPSTREAM),
            (last, FrameDirection.DOWNSTREAM),
        ):
            told = [(f, d) for f, d in tap.seen if isinstance(f, CircuitBreakerFrame)]
            assert [f.incident["state"] for f, _ in told] == [OPEN, HALF_OPEN, CLOSED]
            assert {d for _, d in told} == {direction}
        own = [data for data in observer.pushed if data.source is breaker]
        assert [(data.frame.incident["state"], data.direction) for data in own] == [
            (state, direction)
            for state in (OPEN, HALF_OPEN, CLOSED)
            for direction in (FrameDirection.DOWNSTREAM, FrameDirection.UPSTREAM)
        ]
        [incident] = breaker.incidents
        assert Incident.model_validate(own[-1].frame.incident) == incident


async def test__frame__client__gets_no_message_because_of_it(clock):
    breaker, output, observer = new_breaker(clock), Output(), Watcher()
    everything = RTVIObserverParams(metrics_enabled=True, system_logs_enabled=False)
    async with running(
        breaker, output, observers=[observer], rtvi_observer_params=everything
    ) as worker:
        await worker.queue_frame(app_message())
        await settle()
        before = [*output.sent]
        # Somebody else's circuit: it holds nothing of the client's back.
        await breaker.open_circuits(Origin.of(Tap(), "by hand"))
        await breaker.close_circuits()
        await settle()
        assert len(observer.pushed) > 4
        assert output.sent == before


async def test__notify_client_off__channel_recovers__client_hears_nothing_of_it(clock):
    breaker, output = new_breaker(clock), Output(fails=dead)
    async with running(breaker, output) as worker:
        await storm_and_recovery(worker, output, clock)
        await settle()
        assert of_type(output.sent, "app")
        assert of_type(output.sent, "server-message") == []


async def test__notify_client_on__channel_recovers__client_is_told_once(clock):
    breaker, output = new_breaker(clock, notify_client=True), Output(fails=dead)
    async with running(breaker, output) as worker:
        await storm_and_recovery(worker, output, clock, held=7)
        await settle()
        [message] = of_type(output.sent, "server-message")
        [incident] = breaker.incidents
        assert incident.held_messages >= 7
        assert message["label"] == "rtvi-ai"
        assert message["data"] == {
            "type": "circuit-closed",
            "secs": COOLDOWN,
            "held_messages": incident.held_messages,
        }
        # Healthy again: it is not told of twice.
        await worker.queue_frame(app_message())
        await settle()
        assert len(of_type(output.sent, "server-message")) == 1


async def test__notify_client_on__several_circuits_of_one_output__one_message_at_the_end(clock):
    breaker, output = new_breaker(clock, notify_client=True), Output(fails=dead)
    async with running(breaker, output) as worker:
        await worker.queue_frame(app_message())
        await settle()
        clock.advance(1)
        second = Origin.of(output, "client gone")
        await breaker.open_circuits(second)
        for n in range(3):
            await worker.queue_frame(app_message(n))
            await settle()
        clock.advance(1)
        output.fails = lambda message: None
        first = breaker.incidents[0].origin
        await breaker.close_circuits(first)
        await settle()
        assert of_type(output.sent, "server-message") == []
        await breaker.close_circuits(second)
        await settle()
        [message] = of_type(output.sent, "server-message")
        one, other = breaker.incidents
        outage = other.ended_at - one.opened_at
        assert message["data"]["secs"] == pytest.approx(outage.total_seconds(), abs=1e-3)
        assert message["data"]["held_messages"] == one.held_messages + other.held_messages > 3


async def test__notify_client_on__circuit_that_is_no_channel__client_hears_nothing(clock):
    breaker, output = new_breaker(clock, notify_client=True), Output()
    async with running(breaker, output):
        await breaker.open_circuits(Origin.of(Tap(), "by hand"))
        await breaker.close_circuits()
        await settle()
        assert of_type(output.sent, "server-message") == []


async def test__whisker__its_client__gets_the_frame(clock):
    whisker = pytest.importorskip("pipecat_whisker", reason="pipecat-ai-whisker is not installed")
    import msgpack
    from websockets.asyncio.client import connect

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = whisker.WhiskerServer(host="127.0.0.1", port=port, batch_size=1)
    breaker, output = new_breaker(clock), Output(fails=dead)
    worker = PipelineWorker(Pipeline([breaker, output]), idle_timeout_secs=None)
    started = asyncio.Event()
    worker.add_event_handler("on_pipeline_started", lambda *_: started.set())
    worker.add_observer(server.create_observer(worker))
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(server)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    states = []
    try:
        async with asyncio.timeout(10):
            await started.wait()
            url, client = f"ws://127.0.0.1:{port}", None
            while client is None:  # its server may still be starting
                try:
                    client = await connect(url, proxy=None, max_queue=None)
                except OSError:
                    await asyncio.sleep(0)
            unpacker = msgpack.Unpacker()
            await storm_and_recovery(worker, output, clock)
            while CLOSED not in states:
                unpacker.feed(await client.recv())
                for event in unpacker:
                    if event.get("name", "").startswith("CircuitBreakerFrame"):
                        assert event["type"] == "frame"
                        states.append(event["payload"]["incident"]["state"])
            await client.close()
    finally:
        await runner.cancel()
        await asyncio.wait_for(running, 20)
    assert [*dict.fromkeys(states)] == [OPEN, HALF_OPEN, CLOSED]


async def test__transitions__loguru_lines__carry_fields(clock):
    records = []
    logger.add(lambda message: records.append(message.record), level="INFO")
    told = []
    breaker, output = new_breaker(clock), Output(fails=dead)
    for event in ("on_circuit_opened", "on_circuit_half_opened", "on_circuit_closed"):
        breaker.add_event_handler(event, lambda _, incident: told.append(incident))
    async with running(breaker, output) as worker:
        await storm_and_recovery(worker, output, clock)
    records = [r for r in records if "circuit_incident" in r["extra"]]
    assert [r["level"].name for r in records] == ["WARNING", "INFO", "INFO"]
    lines = [r["extra"] for r in records]
    assert [line["circuit_state"] for line in lines] == ["open", "half_open", "closed"]
    call = told[0].call
    assert call.process == os.getpid()
    assert lines == [
        {
            "circuit_origin": str(incident.origin),
            "circuit_state": incident.state.value,
            "circuit_mode": "guard",
            "circuit_trigger": "errors",
            "circuit_incident": incident.id,
            "circuit_advice": incident.advice.kind.value,
            "circuit_held_errors": incident.held_errors,
            "circuit_held_messages": incident.held_messages,
            "circuit_observed_errors": 0,
            "circuit_observed_messages": 0,
            "circuit_pipeline": call.pipeline,
            "circuit_session": None,
            "circuit_process": call.process,
            "circuit_host": call.host,
            "circuit_pipecat": call.pipecat,
            "circuit_version": call.version,
            "circuit_tags": {},
        }
        for incident in told
    ]
    assert lines[-1]["circuit_held_messages"] > 0
