"""A watched transport: nothing is sent to a client that has gone, so nothing fails."""

import asyncio
from contextlib import asynccontextmanager

import pytest
import uvicorn
from fastapi import FastAPI, WebSocket
from loguru import logger
from pipecat.frames.frames import CancelFrame, OutputAudioRawFrame, TTSSpeakFrame
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.transports.base_transport import BaseTransport
from pipecat.transports.websocket.fastapi import (
    FastAPIWebsocketParams,
    FastAPIWebsocketTransport,
)
from pipecat.transports.websocket.server import WebsocketServerParams, WebsocketServerTransport
from websockets.asyncio.client import connect

from pipecat_circuit_breaker import (
    CircuitBreakerFrame,
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    Mode,
)
from pipecat_circuit_breaker.testing import Output, ended, running
from tests.support.parts import Failing, Tap, app_message, settle

SOUND = OutputAudioRawFrame(audio=b"\1\2" * 1600, sample_rate=16000, num_channels=1)


@asynccontextmanager
async def served(bot):
    """Serve a bot per connection with uvicorn, on loopback."""
    app = FastAPI()

    @app.websocket("/")
    async def endpoint(websocket: WebSocket):
        await websocket.accept()
        await bot(websocket)

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", ws="websockets"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def test__fastapi__client_hangs_up_in_mid_sentence__no_failed_send_and_no_error():
    breaker = CircuitBreakerProcessor()
    told, lines, errors, sends, failed = [], [], [], [], []
    breaker.add_event_handler("on_circuit_opened", lambda _, incident: told.append(incident))
    done = asyncio.Event()

    async def bot(websocket):
        transport = FastAPIWebsocketTransport(
            websocket,
            FastAPIWebsocketParams(
                audio_out_enabled=True,
                audio_out_sample_rate=16000,
                serializer=ProtobufFrameSerializer(),
            ),
        )
        breaker.watch(transport)
        gone = asyncio.Event()
        transport.add_event_handler("on_client_disconnected", lambda *_: gone.set())
        send = transport.output()._client.send

        async def spy(data):
            before = len(lines)
            await send(data)
            if b"app" in data:
                sends.append(gone.is_set())
                failed.extend(lines[before:])

        transport.output()._client.send = spy
        async with running(breaker, transport.input(), transport.output()) as worker:
            worker.add_event_handler("on_pipeline_error", lambda _, frame: errors.append(frame))
            talking = asyncio.create_task(talk(worker))
            async with asyncio.timeout(10):
                await gone.wait()
            await settle()
            unsent = unsent_by(breaker)
            await worker.queue_frames([app_message(n) for n in range(50)])
            await settle()
            talking.cancel()
            done.unsent = unsent_by(breaker) - unsent
        done.set()

    async def talk(worker):
        while True:
            await worker.queue_frames([app_message(), SOUND])
            await asyncio.sleep(0)

    async with served(bot) as port:
        client = await connect(f"ws://127.0.0.1:{port}", proxy=None)
        for _ in range(5):
            await client.recv()
        logger.add(lines.append, level="WARNING", filter="pipecat")
        client.transport.abort()
        async with asyncio.timeout(20):
            await done.wait()

    assert errors == []
    # Of the sound that was being written a chunk may fail: audio is never touched.
    # And a message that is sent in the very turn of the loop in which the
    # connection breaks, before the transport itself has heard of it.
    assert len(failed) <= 1
    assert False in sends
    assert True not in sends
    assert done.unsent >= 50
    assert told == [], "that nobody is connected is no failure"


async def test__websocket_server__client_comes_back__messages_flow_again():
    transport = WebsocketServerTransport(
        WebsocketServerParams(serializer=ProtobufFrameSerializer()), host="127.0.0.1", port=0
    )
    breaker = CircuitBreakerProcessor()
    breaker.watch(transport)
    came, went = asyncio.Event(), asyncio.Event()
    transport.add_event_handler("on_client_connected", lambda *_: came.set())
    transport.add_event_handler("on_client_disconnected", lambda *_: went.set())
    port = await _free_port()
    transport._port = port
    async with running(breaker, transport.input(), transport.output()) as worker:
        for _ in range(3):
            came.clear(), went.clear()
            async with asyncio.timeout(10), connect(f"ws://127.0.0.1:{port}", proxy=None) as client:
                await came.wait()
                await settle()
                await worker.queue_frame(app_message())
                await client.recv()
                client.transport.abort()
                await went.wait()
            await settle()
            before = unsent_by(breaker)
            await worker.queue_frame(app_message())
            await settle()
            assert unsent_by(breaker) == before + 1
            assert breaker.circuits == breaker.incidents == ()


async def _free_port():
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


def unsent_by(breaker):
    return sum(totals.unsent_messages for totals in breaker.totals)


class Transport(BaseTransport):
    """A transport with the events of Daily's and LiveKit's, and an output of ours."""

    def __init__(self, *events):
        super().__init__()
        for event in events:
            self._register_event_handler(event)
        self._output = Output()

    def input(self):
        return self._output

    def output(self):
        return self._output


SEVERAL = [
    ("on_joined", None, True),
    ("on_client_connected", {"id": "Ada"}, True),
    ("on_client_connected", {"id": "Bob"}, True),
    ("on_client_disconnected", {"id": "Ada"}, True),
    ("on_client_disconnected", {"id": "Bob"}, False),
    ("on_client_disconnected", {"id": "Bob"}, False),
    ("on_client_connected", {"id": "Ada"}, True),
    ("on_client_connected", {"id": "Ada"}, True),  # back before its old connection has gone
    ("on_client_disconnected", {"id": "Ada"}, True),
    ("on_client_disconnected", {"id": "Ada"}, False),
    ("on_client_connected", object, True),
    ("on_client_connected", object, True),  # this connection was taken up again
    ("on_client_disconnected", object, False),
    ("on_client_connected", object, True),
    ("on_left", None, False),  # the bot itself has left
    ("on_client_connected", {"id": "Bob"}, True),
    ("on_client_disconnected", {"id": "Bob"}, False),
]


async def test__several_clients__are_gone_when_the_last_has_gone(clock):
    transport = Transport("on_client_connected", "on_client_disconnected", "on_joined", "on_left")
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    breaker.watch(transport)
    async with running(breaker, transport.output(), enable_rtvi=False) as worker:
        for event, client, somebody in SEVERAL:
            await transport._call_event_handler(event, *([client] if client else []))
            await settle()
            before = len(transport.output().sent)
            await worker.queue_frame(app_message())
            await settle()
            assert len(transport.output().sent) - before == int(somebody), (event, client)


async def test__client_that_went_before_the_pipeline_ran__is_known(clock):
    transport = Transport("on_connected", "on_disconnected")
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    breaker.watch(transport)
    await transport._call_event_handler("on_disconnected")
    await settle()
    tap = Tap()
    async with running(breaker, tap, transport.output()) as worker:
        await worker.queue_frame(app_message())
        await settle()
        assert transport.output().sent == []
        assert tap.frames(CircuitBreakerFrame) == [], "it opened before the pipeline had started"


def test__transport_without_such_events__is_refused():
    with pytest.raises(ValueError, match="on_client_disconnected"):
        CircuitBreakerProcessor().watch(Transport("on_something"))


@pytest.mark.parametrize(("mode", "sent"), [(Mode.GUARD, 0), (Mode.OBSERVE, 1)])
async def test__after_end_frame__messages_that_cannot_arrive_are_not_sent(clock, mode, sent):
    output = Output()
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock, mode=mode))
    async with running(breaker, output, enable_rtvi=False) as worker:
        await worker.queue_frame(app_message(1))
        await ended(worker)
        await output.send_message(app_message(2))
        assert len(output.sent) == 1 + sent


async def test__after_cancel_frame__messages_that_cannot_arrive_are_not_sent(clock):
    class SendsAtTheEnd(FrameProcessor):
        async def process_frame(self, frame, direction):
            await super().process_frame(frame, direction)
            if isinstance(frame, CancelFrame):
                await output.send_message(app_message())
            await self.push_frame(frame, direction)

    output = Output()
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    async with running(breaker, output, SendsAtTheEnd(), enable_rtvi=False) as worker:
        await worker.queue_frame(CancelFrame())
        await settle()
        assert output.sent == []
        assert unsent_by(breaker) == 1
        # It is over: the transport is as it was, and may serve the next call.
        await output.send_message(app_message())
        assert len(output.sent) == 1


async def test__end_frame__what_was_queued_before_it_is_still_sent(clock):
    output, tts = Output(), Failing(TTSSpeakFrame, lambda n: {"error_msg": "no"})
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))
    async with running(breaker, tts, output) as worker:
        await worker.queue_frames([app_message(n) for n in range(20)])
        await ended(worker)
        assert len(output.sent) == 20
