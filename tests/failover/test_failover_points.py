"""An interruption, an EndFrame, a CancelFrame at every point of an attempt, a replay and a shadow.

A point is a step of the event loop after the request has come to the switcher, or a moment of a
time in which nothing happens. At each of them: nothing wedged, nothing said twice, nothing left
running.
"""

import asyncio
import os

import pytest
from pipecat.frames.frames import EndFrame, InterruptionFrame
from pipecat.processors.frame_processor import FrameDirection

from pipecat_circuit_breaker.testing import ended
from tests.failover.failover_parts import FAIL, HANG, Bot, Call, Pause, Scripted, passed, words
from tests.support.parts import settle

pytestmark = pytest.mark.releases

HEARD = "I am here. What can I do?"
GOOD = words(HEARD)

#: What the two services do, and after how many turns the points begin.
SCENES = {
    "attempt": ([GOOD], [GOOD], 0),
    "tool": ([["I look. ", Call("book")], GOOD], [GOOD], 0),
    "replay after an error": ([[FAIL]], [GOOD], 0),
    "replay after a broken stream": ([["I ", "am ", FAIL]], [GOOD], 0),
    "broken after the first sentence": ([[*GOOD[:6], FAIL]], [GOOD], 0),
    "all fail": ([[FAIL]], [[FAIL], GOOD], 0),
    "shadow that succeeds": ([[FAIL], GOOD], [GOOD], 2),
    "shadow that fails": ([[FAIL], ["I ", FAIL]], [GOOD], 2),
    "shadow that calls a tool": ([[FAIL], [Call("book")]], [GOOD], 2),
}

#: The same with times at which nothing moves: while it hangs, and around the limit of 5 s.
HANGING = {
    "attempt that hangs": ([[HANG]], [GOOD], 0),
    "replay that hangs": ([[FAIL]], [[HANG], GOOD], 0),
    "shadow that hangs": ([[FAIL], [HANG]], [GOOD], 2),
    "shadow that hangs beside a slow answer": ([[FAIL], [HANG]], [GOOD, [Pause(3.0), *GOOD]], 2),
}
MOMENTS = (0.0, 0.1, 2.9, 3.0, 4.9, 5.0, 5.1, 9.9, 10.0)

#: FAILOVER_STRIDE=1 in the environment takes every step; it takes three minutes.
STEPS, STRIDE = 60, int(os.environ.get("FAILOVER_STRIDE", "7"))
POINTS = [
    *((scene, steps, 0.0) for scene in SCENES for steps in range(0, STEPS, STRIDE)),
    *((scene, steps, secs) for scene in HANGING for secs in MOMENTS for steps in (0, 1, 2, 5, 9)),
]


class Scene:
    """A bot at one point."""

    def __init__(self, name):
        first, second, self._turns = {**SCENES, **HANGING}[name]
        self.bot = Bot(Scripted("first", *first), Scripted("second", *second))

    async def book(self, params):
        await params.result_callback("booked")

    async def reach(self, steps, secs):
        bot = self.bot
        bot.switcher.register_function("book", self.book)
        for _ in range(self._turns):
            await bot.ask()
        await bot.ask(secs=None)
        if secs:
            await asyncio.sleep(secs)
        for _ in range(steps):
            await asyncio.sleep(0)

    def check(self):
        said = self.bot.answers  # which checks the starts and ends
        for answer in said:
            assert HEARD.startswith(answer) or answer == "I look."
        assert [llm.running for llm in self.bot.llms] == [0, 0]
        assert self.bot.failover._shadows == {}
        return said


def tasks():
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


@pytest.mark.parametrize(("scene", "steps", "secs"), POINTS)
async def test__interruption__heard_and_the_next_turn_is_answered(scene, steps, secs):
    at = Scene(scene)
    async with at.bot.talking() as bot:
        await at.reach(steps, secs)
        begun = len(bot.answers)
        await bot.switcher.queue_frame(InterruptionFrame(), FrameDirection.DOWNSTREAM)
        await settle()
        assert not any(answer.endswith("...") for answer in bot.answers[:begun])
        for llm in bot.llms:
            llm.scripts = [GOOD]
        await passed(6)
        before = len(bot.answers)
        await bot.ask(secs=6)

        assert bot.answers[before:] == [HEARD]
        at.check()
        assert bot.told.count("outage") <= 1
    assert tasks() == set()


@pytest.mark.parametrize(("scene", "steps", "secs"), POINTS)
async def test__end_frame__everything_before_it_is_answered_and_the_call_ends(scene, steps, secs):
    at = Scene(scene)
    async with at.bot.talking() as bot:
        await at.reach(steps, secs)
        begins = asyncio.get_running_loop().time()
        await asyncio.wait_for(ended(bot.worker), 30)
        assert asyncio.get_running_loop().time() - begins < 15
        at.check()
        assert len(bot.ear.frames(EndFrame)) == 1
    assert tasks() == set()


@pytest.mark.parametrize(("scene", "steps", "secs"), POINTS)
async def test__cancelled__at_once_and_nothing_goes_on(scene, steps, secs):
    at = Scene(scene)
    async with at.bot.talking() as bot:
        await at.reach(steps, secs)
        begins = asyncio.get_running_loop().time()
        await bot.worker.cancel()
        await settle()
        assert asyncio.get_running_loop().time() - begins < 1
        assert [llm.running for llm in bot.llms] == [0, 0]
        assert bot.failover._shadows == {}
    assert tasks() == set()
