"""Real services whose provider fails, on loopback: what the client and the application are told.

The Gemini Live tests need `google-genai` and `trustme`, and are skipped without them. genai speaks
only TLS with an API key, so the local server has a certificate of its own, and the client is told to
trust it by genai's own options (`HttpOptions(base_url=..., async_client_args={"ssl": ...})`).
"""

import asyncio
import json
import ssl
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from loguru import logger
from pipecat.frames.frames import (
    InputAudioRawFrame,
    LLMContextFrame,
    LLMMessagesAppendFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.worker import ProcessorUnusablePolicy
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.services.elevenlabs.tts import ElevenLabsHttpTTSService
from pipecat.services.openai.llm import OpenAILLMService
from websockets.asyncio.server import serve

from pipecat_circuit_breaker import (
    CircuitBreakerParams,
    CircuitBreakerProcessor,
    CircuitState,
    Origin,
)
from pipecat_circuit_breaker.testing import Output, running
from tests.support.parts import Tap, of_type, settle

MAX_ERRORS = CircuitBreakerParams().max_errors
CHUNKS = 50
TEXTS = MAX_ERRORS + 3
STORM = 20  # where a loop that nothing ends is cut off

AUDIO = bytes(640)  # 20 ms at 16 kHz


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Connect to loopback directly, whatever proxy the environment names."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def breaker(clock):
    return CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock))


async def until(condition):
    """Turn the loop until the sockets have done what they have to do."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


class Heard:
    """What `on_pipeline_error` hears, and what an application answers it with."""

    def __init__(self, worker, answer=None):
        self.errors = []
        self.unusable = []

        async def on_pipeline_error(worker, frame):
            self.errors.append(frame.error)
            if not frame.processor.is_usable:
                self.unusable.append(frame.error)
            if answer is not None and len(self.errors) < STORM:
                await answer(worker, frame)

        worker.add_event_handler("on_pipeline_error", on_pipeline_error)

    def __len__(self):
        return len(self.errors)


def told(output):
    """The errors that the client was told."""
    return [message["data"]["error"] for message in of_type(output.sent, "error")]


#
# Gemini Live
#


class GeminiServer:
    """Speaks as much of the Live API as it takes to set up a session, and then fails."""

    def __init__(self, failure):
        self.failure = failure
        self.fails = asyncio.Event()  # set: from now on
        self.connections = 0
        self.refused = 0

    @asynccontextmanager
    async def listening(self):
        trustme = pytest.importorskip("trustme")
        authority = trustme.CA()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        self.trust = ssl.create_default_context()
        authority.configure_trust(self.trust)
        async with serve(
            self._serve, "127.0.0.1", 0, ssl=tls, process_request=self._refuse
        ) as server:
            self.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self

    async def _refuse(self, connection, request):
        if self.failure == "refuses":
            self.refused += 1
            return connection.respond(403, "no")
        return None

    async def _serve(self, connection):
        self.connections += 1
        await connection.recv()
        if self.failure == "has no setup":
            await connection.send("no JSON")
            await connection.wait_closed()
            return
        await connection.send(json.dumps({"setupComplete": {}}))
        await self.fails.wait()
        if self.failure == "drops":
            connection.transport.abort()
        else:
            await connection.send("no JSON")
        await connection.wait_closed()


@asynccontextmanager
async def gemini_live(failure, breaker=None, answer=None):
    """A pipeline with the service, whose provider has failed until the service gave up."""
    pytest.importorskip("google.genai")
    from google.genai.types import HttpOptions
    from pipecat.services.google.gemini_live.llm import (
        MAX_CONSECUTIVE_FAILURES,
        GeminiLiveLLMService,
    )

    async with GeminiServer(failure).listening() as server:
        llm = GeminiLiveLLMService(
            api_key="key",
            http_options=HttpOptions(base_url=server.url, async_client_args={"ssl": server.trust}),
        )
        tap, output = Tap(), Output()
        guard = [] if breaker is None else [breaker]
        async with running(*guard, llm, tap, output) as worker:
            heard = Heard(worker, answer)
            context = LLMContext([{"role": "user", "content": "Hello."}])
            await worker.queue_frame(LLMContextFrame(context))
            if failure in ("refuses", "has no setup"):
                await until(lambda: server.refused or server.connections)
            else:
                await until(lambda: server.connections)
                server.fails.set()
                await until(lambda: heard)
                assert server.connections == MAX_CONSECUTIVE_FAILURES
            yield worker, tap, output, heard


async def speak(worker, tap):
    """Say something: each chunk comes when all that the last has caused is over, as in a call."""
    for _ in range(CHUNKS):
        said = len(tap.frames(InputAudioRawFrame))
        await worker.queue_frame(InputAudioRawFrame(AUDIO, 16000, 1))
        await until(lambda said=said: len(tap.frames(InputAudioRawFrame)) > said)
        await settle(50)


async def ask_for_an_apology(worker, _):
    message = {"role": "user", "content": "Apologise."}
    await worker.queue_frame(LLMMessagesAppendFrame([message], run_llm=True))


gemini_failures = pytest.mark.parametrize("failure", ["drops", "answers garbage"])


@gemini_failures
async def test__no_breaker__gemini_live_lost__client_hears_of_each_chunk_of_audio(failure):
    async with gemini_live(failure) as (worker, tap, output, heard):
        assert len(heard) == 1, "that it gave up"

        await speak(worker, tap)

        assert len(heard) == 1 + CHUNKS
        assert told(output) == heard.errors


@gemini_failures
async def test__no_breaker__gemini_live_lost_and_app_answers__storms(failure):
    async with gemini_live(failure, answer=ask_for_an_apology) as (worker, tap, output, heard):
        await until(lambda: len(heard) == STORM)

        assert len(told(output)) >= STORM - 1


@gemini_failures
async def test__breaker__gemini_live_lost__client_hears_max_errors_times(failure, breaker):
    async with gemini_live(failure, breaker) as (worker, tap, output, heard):
        await speak(worker, tap)
        await speak(worker, tap)

        assert len(heard) == 1 + MAX_ERRORS
        assert told(output) == heard.errors
        assert "circuit open" in heard.errors[-1]
        (send,) = [c for c in breaker.circuits if c.state is CircuitState.OPEN]
        assert send.held_errors == 2 * CHUNKS - MAX_ERRORS


@gemini_failures
async def test__breaker__gemini_live_lost_and_app_answers__ends(failure, breaker):
    async with gemini_live(failure, breaker, ask_for_an_apology) as (worker, tap, output, heard):
        await until(lambda: len(heard) >= MAX_ERRORS)
        await settle()
        await speak(worker, tap)

        assert len(heard) == 1 + MAX_ERRORS
        assert told(output) == heard.errors


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("failure", ["refuses", "has no setup"])
async def test__gemini_live_never_connected__nobody_is_told(failure, guarded, breaker):
    lines = []
    logger.add(lambda line: lines.append(str(line)), level="ERROR")
    async with gemini_live(failure, breaker if guarded else None) as running_pipeline:
        worker, tap, output, heard = running_pipeline
        await until(lambda: lines)
        await speak(worker, tap)

        assert len(lines) == 1, "pipecat logs that a task died, and does no more"
        assert not heard.errors
        assert not told(output)
        assert not breaker.circuits


#
# Services over HTTP
#


class HttpProvider:
    """Refuses every request with one status."""

    def __init__(self, status):
        self.status = status
        self.requests = 0

    @asynccontextmanager
    async def listening(self):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._refuse)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            await runner.cleanup()

    async def _refuse(self, request):
        self.requests += 1
        detail = {"status": "refused", "message": f"request {self.requests}"}
        return web.json_response({"detail": detail}, status=self.status)


@asynccontextmanager
async def http_tts(status, *, breaker=None, answer=None, policy=None, **kwargs):
    """A pipeline with the service.

    A failed synthesis takes its `stop_frame_timeout_s`: 3 s by default, here 0.2 s.
    """
    guard = [] if breaker is None else [breaker]
    policies = {} if policy is None else {"processor_unusable_policy": policy}
    output = Output()
    async with HttpProvider(status).listening() as provider, aiohttp.ClientSession() as session:
        tts = ElevenLabsHttpTTSService(
            api_key="key",
            aiohttp_session=session,
            base_url=provider.url,
            settings=ElevenLabsHttpTTSService.Settings(voice="voice"),
            stop_frame_timeout_s=0.2,
            **kwargs,
        )
        async with running(*guard, tts, output, **policies) as worker:
            yield worker, errors_of(tts), provider, output, Heard(worker, answer)


def errors_of(service):
    """All that a service reports, whether or not anybody hears of it."""
    errors = []
    service.add_event_handler("on_error", lambda _, error: errors.append(error.error))
    return errors


async def say(worker, errors, texts):
    """Have texts spoken, each when the last has failed: the answer, and that there was no sound."""
    for _ in range(texts):
        before = len(errors)
        await worker.queue_frame(TTSSpeakFrame("Hello!"))
        await until(lambda before=before: len(errors) == before + 2)
        await settle()


async def apologise(worker, _):
    await worker.queue_frame(TTSSpeakFrame("Sorry, something went wrong."))


statuses = pytest.mark.parametrize("status", [401, 429, 500])


@statuses
@pytest.mark.parametrize("guarded", [False, True])
async def test__http_tts_refused__pipecat_gives_it_up_at_the_third(status, guarded, breaker):
    guard = breaker if guarded else None
    async with http_tts(status, breaker=guard) as (worker, errors, provider, output, heard):
        await say(worker, errors, 3)
        await worker.queue_frame(TTSSpeakFrame("Hello!"))
        await settle()

        assert provider.requests == 3
        assert told(output) == heard.errors == errors
        assert heard.unusable == ["3 consecutive TTS contexts completed with no audio"]


@statuses
async def test__no_breaker__http_tts_never_given_up__client_hears_twice_of_each_text(status):
    async with http_tts(status, max_consecutive_zero_audio_contexts=0) as running_pipeline:
        worker, errors, provider, output, heard = running_pipeline
        await say(worker, errors, TEXTS)

        assert provider.requests == TEXTS
        assert told(output) == heard.errors == errors
        assert len(errors) == 2 * TEXTS


@statuses
async def test__breaker__http_tts_never_given_up__client_hears_max_errors_times_of_each_kind(
    status, breaker
):
    async with http_tts(
        status, breaker=breaker, max_consecutive_zero_audio_contexts=0
    ) as running_pipeline:
        worker, errors, provider, output, heard = running_pipeline
        await say(worker, errors, TEXTS)

        assert provider.requests == TEXTS, "the breaker stops no work"
        assert len(heard) == 2 * MAX_ERRORS
        assert told(output) == heard.errors
        assert [c.held_errors for c in breaker.circuits] == [TEXTS - MAX_ERRORS] * 2


@statuses
async def test__no_breaker__http_tts_never_given_up_and_app_apologises__storms(status):
    async with http_tts(
        status, answer=apologise, max_consecutive_zero_audio_contexts=0
    ) as running_pipeline:
        worker, errors, provider, output, heard = running_pipeline
        await worker.queue_frame(TTSSpeakFrame("Hello!"))
        await until(lambda: provider.requests == STORM)


@statuses
async def test__breaker__http_tts_never_given_up_and_app_apologises__ends(status, breaker):
    async with http_tts(
        status, breaker=breaker, answer=apologise, max_consecutive_zero_audio_contexts=0
    ) as running_pipeline:
        worker, errors, provider, output, heard = running_pipeline
        await worker.queue_frame(TTSSpeakFrame("Hello!"))
        # One apology for each error that is heard, and two errors for each apology.
        await until(lambda: len(errors) == 2 * (1 + 2 * MAX_ERRORS))
        await settle()

        assert provider.requests == 1 + 2 * MAX_ERRORS
        assert len(heard) == 2 * MAX_ERRORS
        assert told(output) == heard.errors


@pytest.mark.parametrize("window_secs, opens", [(10.0, 0), (30.0, 2)])
async def test__breaker__http_tts_fails_every_three_seconds__opens_within_a_longer_window(
    window_secs, opens, clock
):
    breaker = CircuitBreakerProcessor(
        params=CircuitBreakerParams(clock=clock, window_secs=window_secs)
    )
    async with http_tts(
        500, breaker=breaker, max_consecutive_zero_audio_contexts=0
    ) as running_pipeline:
        worker, errors, provider, output, heard = running_pipeline
        for _ in range(TEXTS):
            await say(worker, errors, 1)
            clock.advance(3.0)

        assert sum(c.openings > 0 for c in breaker.circuits) == opens


async def test__breaker__http_tts_unusable_while_its_circuits_are_open__pipeline_ends(clock):
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(clock=clock, max_errors=1))
    async with http_tts(401, breaker=breaker, policy=ProcessorUnusablePolicy.END) as pipeline:
        worker, errors, provider, output, heard = pipeline
        finished = asyncio.Event()
        worker.add_event_handler("on_pipeline_finished", lambda *_: finished.set())
        await say(worker, errors, 3)
        await until(finished.is_set)

        assert len(heard) == 3, "the first of each kind, and that it is unusable"
        assert len(heard.unusable) == 1


#
# An error that makes a processor unusable by its category
#


@asynccontextmanager
async def http_llm(*, breaker=None, answer=None, policy=None):
    guard = [] if breaker is None else [breaker]
    policies = {} if policy is None else {"processor_unusable_policy": policy}
    output = Output()
    async with HttpProvider(401).listening() as provider:
        llm = OpenAILLMService(
            api_key="key",
            base_url=provider.url,
            settings=OpenAILLMService.Settings(model="model"),
        )
        async with running(*guard, llm, output, **policies) as worker:
            yield worker, llm, provider, output, Heard(worker, answer)


def turn():
    return LLMContextFrame(LLMContext([{"role": "user", "content": "Hello."}]))


async def try_again(worker, _):
    await worker.queue_frame(turn())


async def test__no_breaker__llm_key_refused_and_app_tries_again__storms():
    async with http_llm(answer=try_again) as (worker, llm, provider, output, heard):
        await worker.queue_frame(turn())
        await until(lambda: len(heard) == STORM)

        assert provider.requests == STORM
        assert len(heard.unusable) == STORM, "pipecat goes on using an unusable LLM"


async def test__breaker__llm_key_refused_and_app_tries_again__ends(breaker):
    async with http_llm(breaker=breaker, answer=try_again) as running_pipeline:
        worker, llm, provider, output, heard = running_pipeline
        errors = errors_of(llm)
        await worker.queue_frame(turn())
        await until(lambda: len(errors) == MAX_ERRORS + 1)
        await settle()

        assert provider.requests == MAX_ERRORS + 1
        assert len(heard) == MAX_ERRORS
        assert told(output) == heard.errors
        (circuit,) = breaker.circuits
        assert circuit.origin.kind == "openai.AuthenticationError"


async def test__breaker__llm_key_refused_turn_after_turn__client_hears_max_errors_times(breaker):
    async with http_llm(breaker=breaker) as (worker, llm, provider, output, heard):
        errors = errors_of(llm)
        for n in range(TEXTS):
            await worker.queue_frame(turn())
            await until(lambda n=n: len(errors) == n + 1)
            await settle()

        assert provider.requests == TEXTS
        assert len(heard) == MAX_ERRORS
        assert told(output) == heard.errors


@pytest.mark.parametrize("policy", [ProcessorUnusablePolicy.END, ProcessorUnusablePolicy.CANCEL])
@pytest.mark.parametrize("state", ["no breaker", "closed", "opens", "open"])
async def test__llm_key_refused__policy_applies_whatever_the_circuit(policy, state, clock):
    breaker = CircuitBreakerProcessor(
        params=CircuitBreakerParams(clock=clock, max_errors=1 if state == "opens" else MAX_ERRORS)
    )
    guard = None if state == "no breaker" else breaker
    async with http_llm(breaker=guard, policy=policy) as (worker, llm, provider, output, heard):
        finished = asyncio.Event()
        worker.add_event_handler("on_pipeline_finished", lambda *_: finished.set())
        if state == "open":
            await breaker.open_circuits(Origin.of(llm, "openai.AuthenticationError"))
        await worker.queue_frame(turn())
        await until(finished.is_set)

        assert len(heard.unusable) == len(heard) == 1
