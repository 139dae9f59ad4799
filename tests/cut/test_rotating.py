"""Failures that never say the same twice, in chains whose cause is lost on the way."""

import asyncio
import itertools
from contextlib import asynccontextmanager

import pytest
from pipecat.frames.frames import ErrorFrame, TextFrame, TTSSpeakFrame
from pipecat.processors.consumer_processor import ConsumerProcessor
from pipecat.processors.producer_processor import ProducerProcessor

from pipecat_circuit_breaker.testing import Output, running
from tests.cut.cut_parts import TTS, word
from tests.support.parts import On, settle

#: Four times `max_errors` errors of one processor are too many, whatever they say, and an answer
#: to each may be under way.
AT_MOST = 40


def in_other_words(n, text):
    """The provider words each refusal in another way."""
    return {"error_msg": f"{word(3 * n)} {word(3 * n + 1)} {word(3 * n + 2)}"}


def in_the_words_of_the_text(n, text):
    """The provider quotes the text that it rejects."""
    return {"error_msg": f"cannot speak: {text}"}


def of_another_type(n, text):
    return {"error_msg": "refused", "exception": type(f"{word(n)}Error", (Exception,), {})()}


REFUSALS = {
    "other words": in_other_words,
    "quotes the text": in_the_words_of_the_text,
    "exception types": of_another_type,
}


_SAID = itertools.count()


def apology(error):
    # A real one would come of a model that words each apology in another way.
    n = 7 * next(_SAID)
    return TTSSpeakFrame(f"Sorry, {word(n)}, {word(n + 3)}.")


@asynccontextmanager
async def by_queue(guard, bot, storm):
    """The handler gives the error to a task of the application, which calls `worker.queue_frame`.

    The task was there before anything failed, so it knows of no cause.
    """
    errors = asyncio.Queue()
    storm.pending = lambda: not errors.empty()

    async with running(*guard.line(*bot, Output())) as worker:

        async def answer():
            while True:
                await worker.queue_frame(apology(await errors.get()))

        answering = asyncio.create_task(answer())
        worker.add_event_handler("on_pipeline_error", lambda _, error: errors.put_nowait(error))
        yield worker
        answering.cancel()


@asynccontextmanager
async def by_handler(guard, bot, storm):
    """The handler calls `worker.queue_frame` itself."""
    async with running(*guard.line(*bot, Output())) as worker:

        async def answer(worker, error):
            await worker.queue_frame(apology(error))

        worker.add_event_handler("on_pipeline_error", answer)
        yield worker


@asynccontextmanager
async def by_producer(guard, bot, storm):
    """pipecat's own producer and consumer, which have a queue between them."""

    async def is_error(frame):
        return isinstance(frame, ErrorFrame)

    async def answer(frame):
        return apology(frame)

    producer = ProducerProcessor(filter=is_error, transformer=answer)
    consumer = ConsumerProcessor(producer=producer)
    async with running(*guard.line(producer, consumer, *bot, Output())) as worker:
        yield worker


@asynccontextmanager
async def by_executor(guard, bot, storm):
    """The apology is made in a thread, which hands it to the event loop when it is done."""
    waiting = 0
    loop = asyncio.get_running_loop()

    async with running(*guard.line(*bot, Output())) as worker:

        async def speak(frame):
            nonlocal waiting
            await worker.queue_frame(frame)
            waiting -= 1

        def make(error):
            asyncio.run_coroutine_threadsafe(speak(apology(error)), loop)

        def answer(_, error):
            nonlocal waiting
            waiting += 1
            loop.run_in_executor(None, make, error)

        storm.pending = lambda: waiting
        worker.add_event_handler("on_pipeline_error", answer)
        yield worker


WAYS = {
    "task with a queue": by_queue,
    "handler": by_handler,
    "producer and consumer": by_producer,
    "executor": by_executor,
}


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("way", WAYS)
async def test__failures_rotate__cause_is_lost__ends(guard, storm, way, refusal):
    tts = TTS(storm, REFUSALS[refusal])
    async with WAYS[way](guard, [tts], storm) as worker:
        await worker.queue_frame(TTSSpeakFrame("Hello!"))
        await storm.over()

    storm.assert_cut(guard, AT_MOST)


async def test__failures_rotate__loop_was_cut__other_processors_errors_are_heard(guarded, storm):
    # "Any kind" is any kind of one processor's failures, not of everybody's.
    async def fail(processor, frame, direction):
        await processor.push_error("the store is locked")

    tts, store, errors = TTS(storm, of_another_type), On(TextFrame, fail), []
    async with by_queue(guarded, [store, tts], storm) as worker:
        await worker.queue_frame(TTSSpeakFrame("Hello!"))
        await storm.over()
        worker.add_event_handler("on_pipeline_error", lambda _, error: errors.append(error.error))
        await worker.queue_frame(TextFrame("keep this"))
        await settle(60)

    assert storm.turns <= AT_MOST
    assert [text for text in errors if "the store is locked" in text]
