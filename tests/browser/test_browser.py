"""A real Chromium talks RTVI to a real bot, hangs up in mid-sentence, and comes back."""

import asyncio
import json
import math
import os
import struct
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("aiortc", reason="needs pipecat-ai[webrtc]")
playwright = pytest.importorskip("playwright.async_api", reason="needs playwright")

import aioice
import pytest_asyncio
import uvicorn
from fastapi import FastAPI, WebSocket
from fastapi.responses import FileResponse
from loguru import logger
from pipecat.frames.frames import (
    InputTransportMessageFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
)
from pipecat.processors.frameworks.rtvi import RTVIObserverParams, RTVIProcessor
from pipecat.processors.frameworks.rtvi.models import ServerMessage
from pipecat.serializers.base_serializer import FrameSerializer
from pipecat.transports.base_transport import TransportParams
from pipecat.transports.smallwebrtc.request_handler import (
    SmallWebRTCRequest,
    SmallWebRTCRequestHandler,
)
from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport
from pipecat.transports.websocket.fastapi import (
    FastAPIWebsocketParams,
    FastAPIWebsocketTransport,
)

from pipecat_circuit_breaker import (
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    CircuitState,
    Trigger,
)
from pipecat_circuit_breaker.testing import ended, running
from tests.browser.tabs import (
    CHROMIUM,
    PAGE,
    close_tab,
    crash,
    hears,
    launch,
    leave_page,
    new_context,
)
from tests.support.parts import settle

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on PATH"),
    pytest.mark.asyncio(loop_scope="module"),
]

#: Where the picture for the docs goes; it is not taken unless this is set.
PICTURES = os.environ.get("PICTURES")

MAX_ERRORS = CircuitBreakerParams().max_errors
STORM = 300
#: Nothing reports an error, so a loop takes a few turns to be known for one; and
#: pipecat has a few lines of its own to say when a client leaves.
ENDED = 8 * MAX_ERRORS
AFTERWARDS = 200
CHUNK_SECS = 0.1
RATE = 16000
TONE = b"".join(
    struct.pack("<h", round(8000 * math.sin(2 * math.pi * 440 * n / RATE)))
    for n in range(int(RATE * CHUNK_SECS))
)
STORY = (
    "Once upon a time a frame set off a frame that set off the frame that had set it off".split()
)

AUDIO = {
    "audio_out_enabled": True,
    "audio_out_sample_rate": RATE,
    "audio_out_end_silence_secs": 0,
    # A write that is under way when a WebRTC client leaves never returns.
    "audio_out_write_timeout_secs": 1.0,
}


class Json(FrameSerializer):
    """Messages as text and sound as it is, which is what a page reads without a library."""

    async def serialize(self, frame):
        return frame.audio if isinstance(frame, OutputAudioRawFrame) else json.dumps(frame.message)

    async def deserialize(self, data):
        return InputTransportMessageFrame(message=json.loads(data))


class Call:
    """One connection and the pipeline that serves it, and what became of them."""

    def __init__(self, transport, *, guarded, watched):
        self.transport = transport
        self.rtvi = RTVIProcessor()
        self.breaker = CircuitBreakerProcessor() if guarded else None
        self.worker = None
        self.sent = Counter()
        self.failed = 0
        self.capacity = math.inf
        self.errors = []
        self.incidents = []
        self.client = None
        self.gone = asyncio.Event()
        self.over = asyncio.Event()
        transport.add_event_handler("on_client_connected", self._on_client_connected)
        transport.add_event_handler("on_client_disconnected", lambda *_: self.gone.set())
        self._count_sends()
        if guarded:
            for event in ("on_circuit_opened", "on_circuit_closed"):
                self.breaker.add_event_handler(event, lambda _, i: self.incidents.append(i))
        if watched:
            self.breaker.watch(self.transport)

    async def _on_client_connected(self, transport, client):
        self.client = client

    def _count_sends(self):
        output = self.transport.output()
        send = output.send_message

        async def counted(frame):
            self.sent[frame.message["type"]] += 1
            if self.sent.total() > self.capacity:
                return
            try:
                await send(frame)
            except Exception:
                self.failed += 1
                raise

        output.send_message = counted

    @property
    def open(self):
        return [c for c in self.breaker.circuits if c.state is not CircuitState.CLOSED]

    @property
    def unsent(self):
        return sum(totals.unsent_messages for totals in self.breaker.totals)

    @asynccontextmanager
    async def running(self, **kwargs):
        guards = [self.breaker] if self.breaker else []
        processors = [*guards, self.transport.input(), self.transport.output()]
        async with running(*processors, rtvi_processor=self.rtvi, **kwargs) as self.worker:
            self.worker.add_event_handler("on_pipeline_error", lambda _, e: self.errors.append(e))
            yield

    async def speak(self):
        """Say a minute's worth of words, each with a caption that waits behind its sound."""
        for n in range(600):
            caption = ServerMessage(data={"caption": STORY[n % len(STORY)]})
            await self.rtvi.push_frame(
                OutputAudioRawFrame(audio=TONE, sample_rate=RATE, num_channels=1)
            )
            await self.rtvi.push_frame(OutputTransportMessageFrame(message=caption.model_dump()))

    async def send(self, messages):
        """Send so many messages that do not wait for the sound, and see them through."""
        for n in range(messages):
            await self.rtvi.send_server_message({"n": n})
        await settle()


class Bots:
    """A web server that serves the page, and each connection with a pipeline of its own."""

    def __init__(self, *, guarded=True, watched=False, system_logs=False):
        self._kind = {"guarded": guarded, "watched": watched}
        self._observed = RTVIObserverParams(system_logs_enabled=system_logs)
        self._connections = SmallWebRTCRequestHandler()
        self._running = []
        self.calls = []

    @asynccontextmanager
    async def served(self):
        app = FastAPI()
        app.get("/")(self._page)
        app.post("/api/offer")(self._offer)
        app.websocket("/ws")(self._websocket)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
        finally:
            for call in self.calls:
                call.over.set()
            await asyncio.gather(*self._running)
            await self._connections.close()
            server.should_exit = True
            await serving

    async def _page(self):
        return FileResponse(PAGE)

    async def _offer(self, request: SmallWebRTCRequest):
        async def serve(connection):
            transport = SmallWebRTCTransport(connection, TransportParams(**AUDIO))
            self._running.append(asyncio.create_task(self._serve(transport)))

        return await self._connections.handle_web_request(request, serve)

    async def _websocket(self, websocket: WebSocket):
        await websocket.accept()
        params = FastAPIWebsocketParams(serializer=Json(), **AUDIO)
        await self._serve(FastAPIWebsocketTransport(websocket, params))

    async def _serve(self, transport):
        call = Call(transport, **self._kind)
        earlier = [*self.calls]
        self.calls.append(call)

        @call.rtvi.event_handler("on_client_message")
        async def on_client_message(rtvi, message):
            await rtvi.send_server_response(message, "I do.")
            for last in earlier:
                for incident in last.incidents:
                    await rtvi.send_server_message(_told(last, incident))
            await call.speak()

        async with call.running(rtvi_observer_params=self._observed):
            await call.over.wait()


def _told(call, incident):
    circuit = f"circuit {incident.state.value}, {incident.trigger.value}"
    return {
        "last call": f"{circuit}, {incident.held_messages} messages held back, {call.failed} sends failed"
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium():
    async with playwright.async_playwright() as driver:
        chromium = await launch(driver)
        yield chromium
        await chromium.close()


@pytest_asyncio.fixture(loop_scope="module")
async def browser(chromium):
    context = await new_context(chromium)
    yield context
    await context.close()


@pytest.fixture
def impatient_ice(monkeypatch):
    """Let a silent peer be taken for gone after seconds, not after half a minute."""
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.1)


@pytest.fixture
def lines():
    """What SmallWebRTC logs about messages that it cannot send."""
    lines = []
    texts = ("Data channel not ready", "Message queue is full")
    logger.add(lines.append, level="DEBUG", filter=lambda r: r["message"].startswith(texts))
    return lines


async def talk(browser, url, connect="connect()"):
    """Open a tab, shake hands, ask, be answered, and be in mid-sentence."""
    page = await browser.new_page()
    await page.goto(url)
    await page.evaluate(connect)
    await page.wait_for_function("count('←', 'bot-ready') === 1")
    await page.evaluate("send('client-message', {t: 'question', d: 'Do you hear me?'})")
    await page.wait_for_function("count('←', 'server-response') === 1")
    await page.wait_for_function("count('←', 'server-message') > 5")
    return page


async def all_arrive(call, page):
    """Send messages, and see each of them in the page, once and in order."""
    await call.send(AFTERWARDS)
    await page.wait_for_function(f"numbers.length >= {AFTERWARDS}")
    assert await page.evaluate("numbers") == [*range(AFTERWARDS)]


def connect_again(call):
    """The request of a client that has lost its connection and wants to keep its call."""
    request = {"pc_id": call.client.pc_id, "restart_pc": True}
    return f"connect({json.dumps(request)})"


@pytest.mark.parametrize(
    ("connect", "hang_up"),
    [
        ("connect()", close_tab),
        ("connect()", leave_page),
        ("connectWebSocket()", close_tab),
    ],
    ids=["webrtc-close_tab", "webrtc-leave_page", "websocket-close_tab"],
)
@pytest.mark.parametrize("watched", [True, False], ids=["watched", "unwatched"])
@pytest.mark.usefixtures("impatient_ice")
async def test__client_hangs_up_in_mid_sentence__nothing_wedges_and_the_next_call_is_served(
    browser, lines, watched, connect, hang_up
):
    bots = Bots(watched=watched)
    async with bots.served() as url:
        page = await talk(browser, url, connect)
        await hears(page)
        (call,) = bots.calls
        assert call.breaker.circuits == ()
        await hang_up(page)
        await asyncio.wait_for(call.gone.wait(), 20)
        await settle()
        lines.clear()
        sent, unsent = call.sent.total(), call.unsent
        await call.send(AFTERWARDS)

        assert call.failed == 0
        if watched:
            assert call.sent.total() == sent
            assert call.unsent - unsent >= AFTERWARDS
            assert lines == []
            assert call.incidents == [], "that nobody is connected is no failure"
        else:
            assert call.sent.total() - sent >= AFTERWARDS
            assert len(lines) <= call.sent.total() - sent
            assert call.incidents == []
        await ended(call.worker)

        page = await talk(browser, url, connect)
        await hears(page)
        (_, call) = bots.calls
        await all_arrive(call, page)
        assert call.failed == 0
        assert call.breaker.circuits == ()
        if PICTURES and watched and hang_up is close_tab and connect == "connect()":
            await page.screenshot(path=Path(PICTURES) / "webrtc.png", full_page=True)


async def test__no_breaker__log_lines_go_to_a_client_that_left__storms(browser):
    bots = Bots(guarded=False, system_logs=True)
    async with bots.served() as url:
        page = await talk(browser, url)
        (call,) = bots.calls
        await leave_page(page)
        await asyncio.wait_for(call.gone.wait(), 20)
        call.capacity = call.sent.total() + STORM
        async with asyncio.timeout(20):
            while call.sent.total() < call.capacity:
                await asyncio.sleep(0)


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "unwatched"])
async def test__log_lines_go_to_a_client_that_left__ends_and_the_next_call_is_served(
    browser, watched
):
    bots = Bots(watched=watched, system_logs=True)
    async with bots.served() as url:
        page = await talk(browser, url)
        (call,) = bots.calls
        sent = call.sent["system-log"]
        await leave_page(page)
        await asyncio.wait_for(call.gone.wait(), 20)
        await settle()
        gone = call.sent.total()
        await call.send(AFTERWARDS)

        assert call.sent["system-log"] - sent <= ENDED
        assert call.sent.total() == gone if watched else call.sent.total() >= gone + AFTERWARDS
        assert call.failed == 0
        await ended(call.worker)

        await hears(await talk(browser, url))


async def test__message_is_too_long_for_the_browser__few_fail_and_others_arrive(browser):
    bots = Bots()
    async with bots.served() as url:
        page = await talk(browser, url)
        (call,) = bots.calls
        for _ in range(4 * MAX_ERRORS):
            await call.rtvi.send_server_message("x" * 300_000)
        await settle()

        assert call.incidents[0].trigger in (Trigger.ERRORS, Trigger.CHANNEL_DOWN)
        # A message of another kind arrives while this kind is held back.
        await page.evaluate("send('client-message', {t: 'question', d: 'And now?'})")
        await page.wait_for_function("count('←', 'server-response') === 2")
        # And so do those of this kind that are short enough.
        await page.evaluate("captions = count('←', 'server-message')")
        await page.wait_for_function("count('←', 'server-message') > captions + 5")
        assert call.failed <= 4 * MAX_ERRORS
        assert await page.evaluate("count('←', 'error')") <= MAX_ERRORS


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "unwatched"])
async def test__tab_crashes_and_a_new_one_takes_its_connection_up__no_circuit_opens(
    browser, watched
):
    bots = Bots(watched=watched)
    async with bots.served() as url:
        page = await talk(browser, url)
        (call,) = bots.calls
        await crash(page)
        await call.send(AFTERWARDS)
        assert not call.gone.is_set()

        page = await talk(browser, url, connect_again(call))
        assert bots.calls == [call]
        await all_arrive(call, page)
        # A write that was under way when the connection was taken up never
        # returns: one error, which the worker has to see.
        assert [e.processor.is_usable for e in call.errors] in ([], [False])
        assert call.failed == 0
        assert call.incidents == []
        assert call.open == []


async def test__client_that_took_its_connection_up_again_leaves__is_known_to_be_gone(browser):
    bots = Bots(watched=True)
    async with bots.served() as url:
        await talk(browser, url)
        (call,) = bots.calls
        page = await talk(browser, url, connect_again(call))
        await leave_page(page)
        await asyncio.wait_for(call.gone.wait(), 20)
        await settle()

        unsent = call.unsent
        await call.send(AFTERWARDS)
        assert call.unsent - unsent >= AFTERWARDS
        assert call.incidents == []
