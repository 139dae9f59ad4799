"""What is an answer of a service, heard where the service pushes it."""

import asyncio
import json
from contextlib import asynccontextmanager

import httpx
import pytest
from openai import AsyncOpenAI
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    FunctionCallsStartedFrame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    OutputTransportMessageUrgentFrame,
    TextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    URLImageRawFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.image_service import ImageGenService
from pipecat.services.llm_service import LLMService
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.settings import LLMSettings, TTSSettings
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService

from pipecat_circuit_breaker.fleet import answers
from pipecat_circuit_breaker.testing import running
from tests.support.jumping import Jumping
from tests.support.parts import Tap

pytestmark = pytest.mark.releases

DOWN, UP = FrameDirection.DOWNSTREAM, FrameDirection.UPSTREAM

#: What a provider may do beside saying a word.
HANG, BREAK, CALL = object(), object(), object()


@pytest.fixture
def event_loop_policy():
    return Jumping()


class Provider:
    """Answers each request of pipecat's OpenAI service as a script says, without a network."""

    def __init__(self, *script, status=200):
        self.script = script
        self.status = status
        self.goes_on = asyncio.Event()

    def model(self):
        model = OpenAILLMService(api_key="none", settings=OpenAILLMService.Settings(model="any"))
        http = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))
        model._client = AsyncOpenAI(api_key="none", http_client=http, max_retries=0)
        model.register_function("look", _look)
        return model

    async def _answer(self, request):
        headers = {"content-type": "text/event-stream"}
        return httpx.Response(self.status, headers=headers, content=self._stream())

    async def _stream(self):
        for step in self.script:
            if step is HANG:
                await self.goes_on.wait()
            elif step is BREAK:
                raise httpx.ReadError("broken off")
            elif step is CALL:
                call = {"name": "look", "arguments": "{}"}
                yield _chunk(tool_calls=[{"index": 0, "id": "1", "function": call}])
            else:
                yield _chunk(content=step)
        yield b"data: [DONE]\n\n"


async def _look(params):
    await params.result_callback("nothing")


def _chunk(**delta):
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "any"}
    return f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n".encode()


@asynccontextmanager
async def listening(service, *line):
    """A pipeline of services, the first of them listened to."""
    tap, heard = Tap(), []
    async with running(*(line or [service]), tap) as worker:
        stop = answers.stand_at(service, heard.append)
        yield worker, tap, heard
        stop()
        assert not {"push_frame", "process_frame"} & {*vars(service)}


def asked():
    return LLMContextFrame(LLMContext([{"role": "user", "content": "Is it?"}]))


async def heard_of(provider):
    model = provider.model()
    async with listening(model) as (worker, tap, heard):
        await worker.queue_frame(asked())
        await asyncio.sleep(1)
        assert len(tap.frames(LLMFullResponseEndFrame)) == 1
        return len(heard)


# Models.


async def test_a_whole_answer_is_one():
    assert await heard_of(Provider("Yes", ", it", " is.")) == 1


async def test_so_is_a_call_of_a_tool():
    assert await heard_of(Provider(CALL)) == 1


@pytest.mark.parametrize("script", [(), (BREAK,), ("Yes", BREAK), ("Yes", CALL, BREAK)])
async def test_an_answer_that_is_empty_or_breaks_off_is_none(script):
    assert await heard_of(Provider(*script)) == 0


async def test_a_refusal_is_none():
    assert await heard_of(Provider("Yes.", status=500)) == 0


@pytest.mark.parametrize("said", [(), ("Yes",)])
async def test_an_answer_that_is_interrupted_proves_nothing(said):
    provider = Provider(*said, HANG)
    model = provider.model()
    async with listening(model) as (worker, _, heard):
        await worker.queue_frame(asked())
        await asyncio.sleep(1)
        assert heard == []
        await worker.queue_frame(InterruptionFrame())
        await asyncio.sleep(1)
        assert heard == []


async def test_an_answer_that_had_begun_before_is_none_but_the_next_one_is():
    provider = Provider("Yes", HANG, ", it is.")
    model, tap, heard = provider.model(), Tap(), []
    async with running(model, tap) as worker:
        await worker.queue_frame(asked())
        await asyncio.sleep(1)
        assert len(tap.frames(LLMTextFrame)) == 1
        answers.stand_at(model, heard.append)
        provider.goes_on.set()
        await asyncio.sleep(1)
        assert len(tap.frames(LLMFullResponseEndFrame)) == 1
        assert heard == []
        await worker.queue_frame(asked())
        await asyncio.sleep(1)
        assert heard == [model]


async def test_of_two_models_in_a_row_each_answers_for_itself():
    first, second = Provider("Yes.").model(), Provider("No.").model()
    by_first, by_second = [], []
    async with running(first, second) as worker:
        answers.stand_at(first, by_first.append)
        answers.stand_at(second, by_second.append)
        # One answers, and the other hands that on.
        await worker.queue_frame(asked())
        await asyncio.sleep(1)
        assert (by_first, by_second) == ([first], [])


async def test_an_error_that_it_hands_on_breaks_no_answer_off():
    provider = Provider("Yes", HANG, ".")
    model = provider.model()
    last = Tap()
    async with listening(model, model, last) as (worker, _, heard):
        await worker.queue_frame(asked())
        await asyncio.sleep(1)
        await last.push_error("the voice is gone")
        await asyncio.sleep(1)
        provider.goes_on.set()
        await asyncio.sleep(1)
        assert heard == [model]


async def test_after_an_error_the_next_answer_is_one():
    provider = Provider("Yes", BREAK)
    model = provider.model()
    async with listening(model) as (worker, _, heard):
        await worker.queue_frame(asked())
        await asyncio.sleep(1)
        provider.script = ("Yes.",)
        await worker.queue_frame(asked())
        await asyncio.sleep(1)
        assert heard == [model]


# Voices.


class Speaks(TTSService):
    """A voice over HTTP: its sound is the text that it speaks, up to where it breaks."""

    def __init__(self):
        super().__init__(
            push_start_frame=True,
            push_stop_frames=True,
            stop_frame_timeout_s=1.0,
            sample_rate=16000,
            settings=TTSSettings(model=None, voice=None, language=None),
        )
        self.fails_after = None

    async def run_tts(self, text, context_id):
        for number in range(3):
            if number == self.fails_after:
                yield ErrorFrame("no voice")
                return
            yield TTSAudioRawFrame(b"\0\0" * 160, 16000, 1, context_id=context_id)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("fails_after", "number"), [(None, 1), (0, 0), (1, 0), (2, 0)])
async def test_a_sentence_that_is_spoken_to_its_end_is_an_answer(fails_after, number):
    voice = Speaks()
    voice.fails_after = fails_after
    async with listening(voice) as (worker, tap, heard):
        await worker.queue_frame(TTSSpeakFrame("Yes, it is."))
        await asyncio.sleep(5)
        assert len(tap.frames(TTSAudioRawFrame)) == (3 if number else fails_after)
        assert heard == [voice] * number


async def test_a_voice_that_is_given_the_models_end_before_its_own_has_not_answered_yet():
    voice = Speaks()
    async with listening(voice) as (worker, tap, heard):
        voice.fails_after = 1
        for frame in (LLMFullResponseStartFrame(), LLMTextFrame("Yes."), LLMFullResponseEndFrame()):
            await worker.queue_frame(frame)
        await asyncio.sleep(5)
        assert len(tap.frames(TTSAudioRawFrame)) == 1
        assert len(tap.frames(LLMFullResponseEndFrame)) == 1
        assert heard == []


# Ears and painters.


class Hears(STTService):
    def __init__(self):
        super().__init__(sample_rate=16000)
        self.says = None

    async def run_stt(self, audio):
        yield self.says


@pytest.mark.parametrize(
    ("frame", "number"),
    [
        (TranscriptionFrame("Yes.", "", ""), 1),
        (InterimTranscriptionFrame("Yes", "", ""), 0),
        (ErrorFrame("deaf"), 0),
        (None, 0),
    ],
)
async def test_a_transcription_is_an_answer(frame, number):
    ear = Hears()
    ear.says = frame
    async with listening(ear) as (worker, _, heard):
        await worker.queue_frame(InputAudioRawFrame(b"\0\0" * 160, 16000, 1))
        await asyncio.sleep(1)
        assert heard == [ear] * number


async def test_a_transcription_that_it_hands_on_is_none():
    ear = Hears()
    async with listening(ear) as (worker, tap, heard):
        await worker.queue_frame(TranscriptionFrame("Yes.", "", ""))
        await asyncio.sleep(1)
        assert len(tap.frames(TranscriptionFrame)) == 1
        assert heard == []


class Paints(ImageGenService):
    async def run_image_gen(self, prompt):
        if prompt == "Yes.":
            yield URLImageRawFrame(b"", (1, 1), "RGB", url="none")


@pytest.mark.parametrize(("prompt", "number"), [("Yes.", 1), ("No.", 0)])
async def test_a_picture_is_an_answer(prompt, number):
    painter = Paints()
    async with listening(painter) as (worker, _, heard):
        await worker.queue_frame(TextFrame(prompt))
        await asyncio.sleep(1)
        assert heard == [painter] * number


# Frame by frame.


class Model(LLMService):
    """Hands on what it is given, and keeps it: at once, or later as voices do."""

    def __init__(self):
        super().__init__(settings=LLMSettings(model="any"))
        self.pushed = []
        self.later = None

    async def process_frame(self, frame, direction):
        if self.later is None:
            await self.push_frame(frame, direction)
        else:
            self.later.append(frame)

    async def push_frame(self, frame, direction=DOWN):
        self.pushed.append((frame, direction))


class Voice(TTSService):
    push_frame = Model.push_frame
    process_frame = Model.process_frame
    later = None

    async def run_tts(self, text, context_id):
        yield None

    def __init__(self):
        super().__init__(settings=TTSSettings(model=None, voice=None, language=None))
        self.pushed = []


def sound():
    return TTSAudioRawFrame(b"\0\0", 16000, 1)


def words():
    return LLMTextFrame("Yes.")


def calls():
    return FunctionCallsStartedFrame(function_calls=[])


def error():
    return ErrorFrame("gone")


FIRST, LAST = LLMFullResponseStartFrame, LLMFullResponseEndFrame
START, STOP = TTSStartedFrame, TTSStoppedFrame


@pytest.mark.parametrize(
    ("kind", "makes", "number"),
    [
        (Model, [FIRST, words, LAST], 1),
        (Model, [FIRST, calls, LAST], 1),
        # A model that speaks.
        (Model, [FIRST, START, sound, STOP, LAST], 1),
        (Model, [START, FIRST, words, STOP, LAST], 1),
        (Model, [FIRST, words, START, sound, STOP], 0),
        (Model, [FIRST, LAST], 0),
        (Model, [words, LAST], 0),
        (Model, [FIRST, words], 0),
        (Model, [words, FIRST, LAST], 0),
        (Model, [FIRST, words, error, LAST], 0),
        (Model, [FIRST, error, words, LAST], 0),
        (Model, [error, FIRST, words, LAST], 1),
        (Model, [FIRST, words, FIRST, LAST], 0),
        (Model, [FIRST, words, LAST, LAST], 1),
        (Model, [FIRST, words, LAST, words, LAST], 1),
        (Model, [FIRST, words, LAST, FIRST, LAST], 1),
        (Model, [FIRST, words, LAST, FIRST, words, LAST], 2),
        (Model, [FIRST, lambda: TextFrame("x"), LAST], 0),
        (Model, [lambda: TranscriptionFrame("x", "", "")], 0),
        (Voice, [START, sound, STOP], 1),
        (Voice, [START, STOP], 0),
        (Voice, [START, lambda: TTSTextFrame("x", "word"), STOP], 0),
        (Voice, [START, sound, LAST, error, STOP], 0),
        (Voice, [START, sound, FIRST, STOP], 1),
        (Voice, [FIRST, sound, STOP], 0),
        (Voice, [FIRST, words, LAST], 0),
    ],
)
async def test_an_answer_is_from_its_beginning_to_its_end(kind, makes, number):
    service, heard = kind(), []
    answers.stand_at(service, heard.append)
    for make in makes:
        await service.push_frame(make())
    assert heard == [service] * number


async def test_it_is_one_when_it_ends_and_before_anybody_is_given_its_end():
    model, order = Model(), []
    answers.stand_at(model, lambda service: order.append(len(model.pushed)))
    for make in (FIRST, words, LAST):
        await model.push_frame(make())
    assert order == [2]


@pytest.mark.parametrize(
    ("kind", "makes"), [(Model, [FIRST, words, LAST]), (Voice, [START, sound, STOP])]
)
async def test_what_it_is_given_is_no_answer_when_it_is_handed_on_later_either(kind, makes):
    service, heard = kind(), []
    service.later = []
    answers.stand_at(service, heard.append)
    for make in makes:
        await service.process_frame(make(), DOWN)
    for frame in service.later:
        await service.push_frame(frame)
    assert heard == []


async def test_its_own_is_its_own_also_between_what_it_hands_on():
    model, heard = Model(), []
    answers.stand_at(model, heard.append)
    for make in (FIRST, words, LAST):
        await model.push_frame(make())
        await model.process_frame(make(), DOWN)
    assert heard == [model]


async def test_of_what_it_is_given_the_sound_of_a_caller_takes_no_room():
    model, heard = Model(), []
    model.later = []
    answers.stand_at(model, heard.append)
    for frame in (FIRST(), *(words() for _ in range(200)), LAST()):
        await model.process_frame(frame, DOWN)
    theirs, model.later = model.later, []
    for _ in range(1000):
        await model.process_frame(InputAudioRawFrame(b"\0\0", 16000, 1), DOWN)
    for frame in theirs:
        await model.push_frame(frame)
    assert heard == []


async def test_frames_go_through_untouched_and_in_order():
    model = Model()
    stop = answers.stand_at(model, lambda service: None)
    kinds = (
        FIRST,
        words,
        calls,
        error,
        LAST,
        lambda: OutputTransportMessageUrgentFrame(message={}),
    )
    sent = []
    for make in kinds * 3:
        for direction in (DOWN, UP):
            frame: Frame = make()
            await model.push_frame(frame, direction)
            sent.append((frame, direction))
            frame = make()
            await model.process_frame(frame, direction)
            sent.append((frame, direction))
        frame = make()
        await model.push_frame(frame)
        sent.append((frame, DOWN))
    stop()
    assert [id(frame) for frame, _ in model.pushed] == [id(frame) for frame, _ in sent]
    assert [direction for _, direction in model.pushed] == [direction for _, direction in sent]


async def test_what_the_service_raises_reaches_its_caller():
    class Raises(Model):
        async def push_frame(self, frame, direction=DOWN):
            raise ConnectionError("closed")

    model = Raises()
    answers.stand_at(model, lambda service: None)
    with pytest.raises(ConnectionError):
        await model.push_frame(words())
    with pytest.raises(ConnectionError):
        await model.process_frame(words(), DOWN)


async def test_who_stops_listening_leaves_nothing_behind():
    model, heard = Model(), []
    before = {*vars(model)}
    stop = answers.stand_at(model, heard.append)
    assert {*vars(model)} - before == {"push_frame", "process_frame"}
    await model.push_frame(FIRST())
    await model.push_frame(words())
    stop()
    assert {*vars(model)} == before
    await model.push_frame(LAST())
    assert heard == []


async def test_where_somebody_else_stands_as_well_that_stays_and_nothing_is_heard():
    model, heard, theirs = Model(), [], []
    stop = answers.stand_at(model, heard.append)
    push = model.push_frame

    async def push_frame(frame, direction=DOWN):
        theirs.append(frame)
        await push(frame, direction)

    model.push_frame = push_frame
    stop()
    for make in (FIRST, words, LAST):
        await model.push_frame(make())
    assert len(theirs) == len(model.pushed) == 3
    assert heard == []


@pytest.mark.parametrize(
    ("service", "are_heard"),
    [(Model, True), (Voice, True), (Hears, True), (Paints, True), (FrameProcessor, False)],
)
async def test_models_voices_ears_and_painters_can_be_heard(service, are_heard):
    assert answers.are_heard(service()) is are_heard


def test_where_somebody_else_stands_in_front_no_other_is_put_there():
    model, heard = Provider().model(), []
    leave = answers.stand_at(model, heard.append)
    ours = model.push_frame
    model.push_frame = lambda *args: ours(*args)
    for _ in range(3):
        leave()
        leave = answers.stand_at(model, heard.append)
    theirs, model.push_frame = model.push_frame, ours
    assert theirs is not ours
    leave()
    leave = answers.stand_at(model, heard.append)
    leave()
    assert "push_frame" not in vars(model) and "process_frame" not in vars(model)
