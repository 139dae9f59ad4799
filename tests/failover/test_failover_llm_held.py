"""Frames are held no longer than speech would wait, and keep their order."""

import pytest
from loguru import logger
from pipecat.frames.frames import EndFrame, LLMTextFrame, TextFrame
from pipecat.utils.text.simple_text_aggregator import SimpleTextAggregator

from tests.failover.failover_parts import (
    FAIL,
    GOOD,
    HANG,
    HEARD,
    SECOND,
    Bot,
    Pause,
    Scripted,
    first_fails,
    passed,
    words,
)
from tests.support.parts import settle

pytestmark = pytest.mark.releases


@pytest.mark.parametrize(
    "text",
    [HEARD, "No. 5 costs $29.9 today. Shall I book it?", "Yes", "Dr. Smith is in. He can see you"],
)
async def test__text_leaves_with_the_token_at_which_pipecat_would_speak(text):
    pieces = words(text)
    aggregator, speaks_at = SimpleTextAggregator(), len(pieces)
    for n, piece in enumerate(pieces):
        if [sentence async for sentence in aggregator.aggregate(piece)]:
            speaks_at = n
            break
    script = [step for piece in pieces for step in (piece, Pause(1.0))]
    async with Bot(Scripted("first", script), Scripted("second", GOOD)).talking() as bot:
        await bot.ask(secs=0.5)
        for n in range(len(pieces)):
            said = len(bot.ear.frames(LLMTextFrame))
            assert said == (0 if n < speaks_at else n + 1)
            await passed(1.0)

        assert bot.answers == [text]


async def test__tokens_are_spoken_as_they_come__nothing_is_held():
    def tokens():
        kind = SimpleTextAggregator().text.type.__class__("token")
        return SimpleTextAggregator(aggregation_type=kind)

    first, second = first_fails([*words("I am"), Pause(3.0), *words("here.")])
    async with Bot(first, second, text_aggregator=tokens).talking() as bot:
        await bot.ask(secs=1)
        assert bot.answers == ["I am..."]


async def test__aggregator_raises__nothing_is_held_and_it_is_reported_once():
    class Broken(SimpleTextAggregator):
        async def aggregate(self, text):
            raise LookupError("no data")
            yield

    lines = []
    logger.add(lines.append, level="ERROR", format="{message}")
    first, second = first_fails(["I ", Pause(3.0), "am."])
    async with Bot(first, second, text_aggregator=Broken).talking() as bot:
        await bot.ask(secs=1)
        assert bot.answers == ["I..."]
        await bot.ask(secs=6)
        assert bot.answers == ["I am.", "I am."]

    assert len([line for line in lines if "sentence ends" in line]) == 1


async def test__frames_behind_a_hung_request__keep_their_order():
    first, second = first_fails([HANG])
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=0)
        for n in range(3):
            await bot.worker.queue_frame(TextFrame(f"behind {n}"))
        await bot.ask(secs=6)
        await bot.worker.queue_frame(TextFrame("last"))
        await settle()

        texts = [frame.text.strip() for frame, _ in bot.ear.seen if isinstance(frame, TextFrame)]
        answer = HEARD.split()
        assert texts == [*answer, "behind 0", "behind 1", "behind 2", *answer, "last"]


async def test__five_requests_at_once__answered_in_order():
    first, second = Scripted("first", [FAIL], GOOD), Scripted("second", words(SECOND))
    async with Bot(first, second).talking() as bot:
        for _ in range(5):
            await bot.ask(secs=None)
        await passed(5)
        assert len(bot.answers) == 5


async def test__end_behind_a_hung_request__ends():
    first, second = Scripted("first", [HANG]), Scripted("second", GOOD)
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=None)
        await bot.worker.queue_frame(EndFrame())
        await passed(10)
        assert bot.answers == [HEARD]
        assert bot.worker.has_finished()


async def test__chinese_text__leaves_with_its_first_sentence():
    first = Scripted("first", ["你好", "，我在。", "你", HANG])
    async with Bot(first, Scripted("second", GOOD)).talking() as bot:
        await bot.ask(secs=20)
        assert bot.answers[0].startswith("你好，我在。")
