"""A handler that hears of an error, puts it into words of its own, and reports it as another."""

import pytest
from pipecat.frames.frames import ErrorFrame, TextFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from pipecat_circuit_breaker.testing import Output, running
from tests.cut.cut_parts import heard, own_lines, word
from tests.support.parts import On, settle

#: Failures of one lineage that are a loop, and what one that says so sets off.
AT_MOST = 10
MOST_LINES = 5

WORDINGS = {
    "nested": lambda n, text: f"a user was told: {text}",
    "other words": lambda n, text: f"{word(5 * n)} {word(5 * n + 1)}",
    "numbered": lambda n, text: f"incident {n}: something went wrong",
    "always the same": lambda n, text: "something went wrong",
}


async def fails(processor, frame, direction):
    await processor.push_error("the model does not answer")


@pytest.mark.parametrize("wording", WORDINGS)
async def test__handler_queues_the_error_again__reworded__ends(guard, storm, wording):
    async def report(worker, error):
        if storm.turn():
            await worker.queue_frame(
                ErrorFrame(WORDINGS[wording](storm.turns, error.error)), FrameDirection.UPSTREAM
            )

    with own_lines() as lines:
        async with running(*guard.line(On(TextFrame, fails), Output())) as worker:
            worker.add_event_handler("on_pipeline_error", report)
            await worker.queue_frame(TextFrame("hello"))
            await storm.over()
            told = len(lines)

    storm.assert_cut(guard, AT_MOST)
    assert told <= MOST_LINES


class Translator(FrameProcessor):
    """Answers each error that it hears of with one of its own, and hands on only that."""

    def __init__(self, storm, say):
        super().__init__()
        self._storm = storm
        self._say = say

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, ErrorFrame) and direction is FrameDirection.UPSTREAM:
            await self.push_error(self._say(self._storm.turns, frame.error))
        else:
            await self.push_frame(frame, direction)


@pytest.mark.parametrize("wording", WORDINGS)
async def test__handler_asks_again__a_translator_rewords_each_failure__ends(guard, storm, wording):
    async def fails_once_a_turn(processor, frame, direction):
        if storm.turn():
            await fails(processor, frame, direction)

    async def ask_again(worker, error):
        await worker.queue_frame(TextFrame("again"))

    translator = Translator(storm, WORDINGS[wording])
    with own_lines() as lines:
        async with running(
            *guard.line(translator, On(TextFrame, fails_once_a_turn), Output())
        ) as worker:
            worker.add_event_handler("on_pipeline_error", ask_again)
            await worker.queue_frame(TextFrame("hello"))
            await storm.over()
            told = len(lines)

    storm.assert_cut(guard, AT_MOST)
    assert told <= MOST_LINES


async def test__handler_rewords_each_error__no_loop__every_one_is_heard(guarded):
    # Two errors a failure: the failure and its translation. Few of them, so nothing is held.
    async def report(worker, error):
        if not error.error.startswith("told:"):
            await worker.queue_frame(ErrorFrame(f"told: {error.error}"), FrameDirection.UPSTREAM)

    async with running(*guarded.line(On(TextFrame, fails), Output())) as worker:
        with heard(worker) as errors:
            worker.add_event_handler("on_pipeline_error", report)
            for n in range(3):
                guarded.clock.advance(5)
                await worker.queue_frame(TextFrame(f"hello {n}"))
                await settle(60)

    texts = [error.error for error in errors]
    assert len([t for t in texts if t.startswith("the model does not answer")]) == 3
    assert len([t for t in texts if t.startswith("told:")]) == 3
