"""Two real STT services above local servers that write down each piece of sound they hear.

Each 20 ms of an utterance carry its number and their own, so a transcription says exactly
which sound it was made of: "2.0 2.1 2.2" is the beginning of the second utterance.
"""

import asyncio
import io
import json
import struct
import wave
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus

from aiohttp import web
from openai import AsyncOpenAI
from pipecat.frames.frames import (
    ErrorFrame,
    InputAudioRawFrame,
    ManuallySwitchServiceFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.service_switcher import ServiceSwitcher, ServiceSwitcherStrategyManual
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.openai.stt import OpenAISTTService
from pipecat.services.soniox.stt import SonioxSTTService
from websockets.asyncio.server import serve

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import running
from tests.failover.failover_parts import EVENTS
from tests.support.parts import Tap

PIECE = 640  # bytes of 20 ms at 16 kHz


def piece(utterance=0, n=0):
    return struct.pack("<hh", utterance, n) + bytes(PIECE - 4)


def words_of(sound):
    """What there is to hear in it: silence has no words."""
    pieces = (sound[i : i + PIECE] for i in range(0, len(sound) - PIECE + 1, PIECE))
    heard = (struct.unpack("<hh", piece[:4]) for piece in pieces)
    return [f"{utterance}.{n}" for utterance, n in heard if utterance]


def whole(utterance, pieces=10):
    return " ".join(f"{utterance}.{n}" for n in range(pieces))


class Server:
    """What a server was asked, and how it is to fail."""

    def __init__(self):
        self.refuses = False
        self.kills_at = self.errs_at = None
        self.requests = 0
        self.delay_secs = 0.0
        self.heard = []

    def break_down(self):
        self.refuses = True


class Soniox(Server):
    """The protocol of Soniox: sound comes in pieces, and what was said since at `finalize`."""

    def __init__(self):
        super().__init__()
        #: Pieces at which it takes an utterance for over by itself.
        self.ends_at = set()
        self.lets_in = asyncio.Event()
        self.lets_in.set()
        self._connections = set()

    def kill_all(self):
        for connection in self._connections:
            connection.transport.abort()

    def break_down(self):
        super().break_down()
        self.kill_all()

    async def _talk(self, connection):
        self._connections.add(connection)
        try:
            await self._listen(connection)
        finally:
            self._connections.discard(connection)

    async def _listen(self, connection):
        words = []
        self.requests += 1
        async for message in connection:
            if isinstance(message, bytes):
                new = words_of(message)
                words += new
                self.heard += new
                if self.kills_at in new:
                    self.kills_at = None
                    connection.transport.abort()
                    return
                if self.errs_at in new:
                    self.errs_at = None
                    error = {"tokens": [], "error_code": 503, "error_message": "overloaded"}
                    await connection.send(json.dumps(error))
                ends = bool(self.ends_at & {*new})
            else:
                ends = bool(message) and json.loads(message).get("type") == "finalize"
            if ends:
                text = [{"text": " ".join(words), "is_final": True}] if words else []
                tokens = [*text, {"text": "<fin>", "is_final": True}]
                words = []
                await connection.send(json.dumps({"tokens": tokens}))

    async def _let_in(self, connection, request):
        await self.lets_in.wait()
        if self.refuses:
            self.requests += 1
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "")
        return None

    @asynccontextmanager
    async def listening(self, name):
        async with serve(self._talk, "127.0.0.1", 0, process_request=self._let_in) as server:
            port = server.sockets[0].getsockname()[1]
            yield SonioxSTTService(
                name=name, api_key="key", url=f"ws://127.0.0.1:{port}/", sample_rate=16000
            )


class Whisper(Server):
    """OpenAI's transcriptions: one request for each utterance."""

    async def _answer(self, request):
        self.requests += 1
        # Not by `request.post()`, which writes files in a thread: time would pass meanwhile.
        body = await request.read()
        with wave.open(io.BytesIO(body[body.index(b"RIFF") :])) as sound:
            words = words_of(sound.readframes(sound.getnframes()))
        self.heard += words
        await asyncio.sleep(self.delay_secs)
        if self.refuses or self.errs_at in words:
            self.errs_at = None
            return web.json_response({"error": {"message": "broken"}}, status=500)
        return web.json_response({"text": " ".join(words)})

    @asynccontextmanager
    async def listening(self, name):
        app = web.Application()
        app.router.add_post("/audio/transcriptions", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        service = OpenAISTTService(
            name=name, api_key="key", base_url=f"http://127.0.0.1:{port}", sample_rate=16000
        )
        service._client = AsyncOpenAI(
            api_key="key", base_url=f"http://127.0.0.1:{port}", max_retries=0
        )
        # Else it asks in a thread at its first request, and time would pass meanwhile.
        service._client._platform = "Linux"
        try:
            yield service
        finally:
            await service._client.close()
            await runner.cleanup()


class Call:
    """A caller who speaks, a bot that listens, and all that left the switcher."""

    def __init__(
        self,
        services,
        *,
        servers=(),
        strategy=ServiceSwitcherStrategyManual,
        fleet=None,
        **settings,
    ):
        self.services, self.servers = services, servers
        self.front, self.ear = Tap(), Tap()
        self.switcher = ServiceSwitcher([*services], strategy)
        self.breaker = CircuitBreakerProcessor(
            params=CircuitBreakerParams(clock=lambda: asyncio.get_event_loop().time()), fleet=fleet
        )
        self.failover = self.breaker.failover(self.switcher, **settings)
        self.line = [self.breaker, self.front, self.switcher, self.ear]
        self.told = []
        for event, word in EVENTS.items():
            self.failover.add_event_handler(event, self._teller(word))
        self.sent = []
        #: Marks that come upstream, from an aggregator that has the VAD.
        self.marks_from_behind = set()
        self.has_vad = True
        self.worker = None

    def _teller(self, word):
        async def tell(failover, *args):
            shown = [str(a) for a in args if not isinstance(a, ErrorFrame)]
            self.told.append(" ".join([word, *shown]).strip())

        return tell

    @property
    def said(self):
        return [frame.text for frame in self.ear.frames(TranscriptionFrame)]

    @property
    def active(self):
        return self.switcher.strategy.active_service.name

    @property
    def errors(self):
        return self.front.frames(ErrorFrame)

    async def send(self, *frames):
        for frame in frames:
            self.sent.append(frame)
            if type(frame) in self.marks_from_behind:
                await self.switcher.queue_frame(frame, FrameDirection.UPSTREAM)
            else:
                await self.worker.queue_frame(frame)
            await asyncio.sleep(0.02)

    async def silence(self, pieces=5):
        await self.send(*(InputAudioRawFrame(piece(), 16000, 1) for _ in range(pieces)))

    async def choose(self, service):
        await self.send(ManuallySwitchServiceFrame(service=self.services[service]))
        await asyncio.sleep(0.5)

    async def go_on(self, utterance, *pieces):
        """Say more of an utterance that has begun."""
        await self.send(*(InputAudioRawFrame(piece(utterance, n), 16000, 1) for n in pieces))

    async def begin(self, utterance, pieces=10):
        """Speak, and stop in the middle of it; a VAD notices only the third piece."""
        await self.silence()
        sound = [InputAudioRawFrame(piece(utterance, n), 16000, 1) for n in range(pieces)]
        marks = [VADUserStartedSpeakingFrame(start_secs=0.2)] if self.has_vad else []
        await self.send(*sound[:2], *marks, *sound[2:])

    async def cough(self):
        await self.send(VADUserStartedSpeakingFrame(start_secs=0.2))
        await self.stop()
        await asyncio.sleep(1)

    async def stop(self):
        await self.silence(3)
        await self.send(VADUserStoppedSpeakingFrame(stop_secs=0.2))

    async def speak(self, utterance, pieces=10):
        await self.begin(utterance, pieces)
        await self.stop()
        await self.until(lambda: whole(utterance, pieces) in self.said)

    async def until(self, is_so, secs=60):
        """Wait until something is so, or until there is no use in waiting any more."""
        for _ in range(int(secs / 0.02)):
            if is_so():
                return
            await asyncio.sleep(0.02)

    def check_sound(self):
        """Sound and marks left once and in order."""
        kinds = InputAudioRawFrame | VADUserStartedSpeakingFrame | VADUserStoppedSpeakingFrame
        left = [frame.id for frame, _ in self.ear.seen if isinstance(frame, kinds)]
        assert left == [frame.id for frame in self.sent if isinstance(frame, kinds)]


@asynccontextmanager
async def calling(*servers, **settings):
    """A caller, and a bot that listens by these servers, each of which has a service."""
    async with AsyncExitStack() as stack:
        names = ["first", "second", "third"]
        services = [
            await stack.enter_async_context(server.listening(names[n]))
            for n, server in enumerate(servers)
        ]
        call = Call(services, servers=servers, **settings)
        call.worker = await stack.enter_async_context(running(*call.line))
        yield call


#: The services of a bot, first and second, by how they speak with their servers.
SORTS = {
    "sockets": (Soniox, Soniox),
    "http": (Whisper, Whisper),
    "socket, http": (Soniox, Whisper),
    "http, socket": (Whisper, Soniox),
}


def pair(sort):
    return [kind() for kind in SORTS[sort]]


def kill(server):
    server.kills_at = "2.5"


def err(server, at="2.5"):
    server.errs_at = at


def refuse(server):
    server.kills_at = "2.5"
    server.refuses = True
