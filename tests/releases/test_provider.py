"""The provider on this machine, asked by pipecat's own services and by OpenAI's client."""

import pytest
from openai import AsyncOpenAI, InternalServerError

from pipecat_circuit_breaker.testing import Provider

pytestmark = pytest.mark.releases


@pytest.fixture
async def provider():
    async with Provider("first") as provider:
        yield provider


@pytest.fixture
async def client(provider):
    async with AsyncOpenAI(api_key="-", base_url=provider.base_url) as client:
        yield client


async def ask(client, question):
    messages = [{"role": "user", "content": question}]
    answer = await client.chat.completions.create(model="any", messages=messages, stream=True)
    return "".join([piece.choices[0].delta.content or "" async for piece in answer])


async def speak(client, text):
    speech = client.audio.speech.with_streaming_response.create(
        model="any", voice="any", input=text, response_format="pcm"
    )
    async with speech as sound:
        return await sound.read()


async def transcribe(client):
    text = await client.audio.transcriptions.create(model="any", file=("sound.wav", b"RIFF"))
    return text.text


async def test__provider__works__answers_speaks_and_transcribes(client, provider):
    assert await ask(client, "hello") == "The first model heard: hello. What else? "
    assert len(await speak(client, "four")) == 4 * 480
    assert await transcribe(client) == "hello"
    assert provider.requests == {"llm": 1, "tts": 1, "stt": 1}


@pytest.mark.parametrize(
    "what, use",
    [("llm", lambda client: ask(client, "hello")), ("tts", lambda c: speak(c, "hello"))]
    + [("stt", transcribe)],
)
async def test__provider__one_fails__is_asked_once_and_the_others_work(client, provider, what, use):
    provider.fails[what] = True

    with pytest.raises(InternalServerError):
        await use(client)

    assert provider.requests[what] == 1
    provider.fails[what] = False
    await use(client)


async def test__provider__is_told_in_a_conversation_to_fail_and_to_work(client, provider):
    assert await ask(client, "/fail tts") == "The first tts fails now. "
    assert provider.fails == {"llm": False, "tts": True, "stt": False}

    with pytest.raises(InternalServerError):
        await ask(client, "/fail llm")
    assert await ask(client, "/heal llm") == "The first llm works now. "
    assert await ask(client, "/fail everything") != ""
    assert provider.fails == {"llm": False, "tts": True, "stt": False}


async def test__provider__is_not_started__has_no_address():
    provider = Provider()
    with pytest.raises(RuntimeError, match="was started"):
        provider.base_url  # noqa: B018

    async with provider:
        assert provider.base_url.startswith("http://127.0.0.1:")
    await provider.stop()
    with pytest.raises(RuntimeError, match="was started"):
        provider.base_url  # noqa: B018


async def test__provider__client_hangs_up_in_mid_answer__is_no_error(provider, client, caplog):
    messages = [{"role": "user", "content": "word " * 50_000}]
    answer = await client.chat.completions.create(model="any", messages=messages, stream=True)
    await anext(aiter(answer))
    await answer.close()
    await client.close()
    await provider.stop()

    assert caplog.text == ""
