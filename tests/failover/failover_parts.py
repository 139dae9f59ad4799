"""LLM services that do what a script says, and the ear of a caller."""

import asyncio
from contextlib import asynccontextmanager

from pipecat.frames.frames import (
    ErrorFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
)
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.service_switcher import ServiceSwitcherStrategyManual
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.llm_service import FunctionCallFromLLM, LLMService
from pipecat.services.settings import LLMSettings

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import running
from tests.support.parts import Tap, settle

#: What a script may say beside a text.
HANG, FAIL = object(), object()

EVENTS = {
    "on_service_failed": "failed",
    "on_service_recovered": "recovered",
    "on_request_lost": "lost",
    "on_outage": "outage",
    "on_outage_over": "outage over",
}


#: A piece that comes without a frame: part of a tool's arguments.
PIECE = object()


class Pause(float):
    """Seconds in which nothing comes."""


class Call(str):
    """A tool that the model calls."""


class Scripted(LLMService):
    """Answers each request with the next script, the last one from there on.

    The structure of `process_frame` is that of pipecat's own services.
    """

    def __init__(self, name, *scripts):
        super().__init__(name=name, settings=LLMSettings(model="scripted"))
        self.scripts = list(scripts)
        self.asked = []
        self.running = self.most_running = 0

    def can_generate_metrics(self):
        return True

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        script = self.scripts[min(len(self.asked), len(self.scripts) - 1)]
        self.asked.append(frame.context.get_messages()[-1])
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await self.push_frame(LLMFullResponseStartFrame())
            await self.start_ttfb_metrics()
            await self.answer(script, frame.context)
        except Exception as e:
            await self.push_error(f"{self} failed: {e}", exception=e)
        finally:
            await self.push_frame(LLMFullResponseEndFrame())
            self.running -= 1

    async def answer(self, script, context):
        for step in script:
            if step is HANG:
                await asyncio.Event().wait()
            elif step is FAIL:
                raise ConnectionError("no answer")
            elif step is PIECE:
                await self.stop_ttfb_metrics()
            elif isinstance(step, Pause):
                await asyncio.sleep(step)
            elif isinstance(step, Call):
                await self.stop_ttfb_metrics()
                call = FunctionCallFromLLM(step, f"{self}-{len(self.asked)}", {}, context)
                await self.run_function_calls([call])
            else:
                await self.stop_ttfb_metrics()
                await self.push_frame(LLMTextFrame(step))
                await asyncio.sleep(0)


class Push:
    """A frame that the service pushes while it answers."""

    def __init__(self, make):
        self.make = make


class Rich(Scripted):
    """As `Scripted`; text goes the way that pipecat's own services send it."""

    async def answer(self, script, context):
        for step in script:
            if isinstance(step, Push):
                await self.stop_ttfb_metrics()
                await self.push_frame(step.make())
            elif isinstance(step, str) and not isinstance(step, Call):
                await self.stop_ttfb_metrics()
                await self._push_llm_text(step)
                await asyncio.sleep(0)
            else:
                await super().answer([step], context)


def words(text):
    """A text as a model streams it."""
    return [word + " " for word in text.split()]


HEARD = "I am here. What can I do for you today?"
GOOD = words(HEARD)
SECOND = "This is the second one. It works."


class Ear(Tap):
    """What leaves the switcher."""

    @property
    def answers(self):
        """The texts between starts and ends; one that has no end is marked."""
        answers, text = [], None
        for frame, _ in self.seen:
            if isinstance(frame, LLMFullResponseStartFrame):
                assert text is None, "two starts in a row"
                text = ""
            elif isinstance(frame, LLMFullResponseEndFrame):
                assert text is not None, "an end without a start"
                answers.append(text.strip())
                text = None
            elif isinstance(frame, LLMTextFrame):
                assert text is not None, f"{frame.text!r} outside of an answer"
                text += frame.text
        return answers if text is None else [*answers, f"{text.strip()}..."]


class Bot:
    """A bot with a failover: what was heard, told, and switched."""

    def __init__(self, *llms, strategy=ServiceSwitcherStrategyManual, fleet=None, **settings):
        self.llms = llms
        self.front, self.ear = Tap(), Ear()
        self.switcher = LLMSwitcher(list(llms), strategy)
        self.breaker = CircuitBreakerProcessor(
            params=CircuitBreakerParams(clock=lambda: asyncio.get_event_loop().time()), fleet=fleet
        )
        self.failover = self.breaker.failover(self.switcher, **settings)
        self.told = []
        for event, word in EVENTS.items():
            self.failover.add_event_handler(event, self._teller(word))
        self.switches = 0
        self.switcher.strategy.add_event_handler("on_service_switched", self._count)
        self.context = LLMContext()
        self.turns = 0

    def _teller(self, word):
        async def tell(failover, *args):
            shown = [str(a.error if isinstance(a, ErrorFrame) else a) for a in args]
            self.told.append(" ".join([word, *shown]).strip())

        return tell

    async def _count(self, *_):
        self.switches += 1

    @asynccontextmanager
    async def talking(self):
        async with running(self.breaker, self.front, self.switcher, self.ear) as worker:
            self.worker = worker
            yield self

    @property
    def errors(self):
        return self.front.frames(ErrorFrame)

    @property
    def answers(self):
        return self.ear.answers

    async def ask(self, secs=4.0):
        """One more turn of the user."""
        self.turns += 1
        self.context.add_message({"role": "user", "content": f"question {self.turns}"})
        await self.worker.queue_frame(LLMContextFrame(self.context))
        if secs is not None:
            await passed(secs)

    async def interrupt(self):
        await self.worker.queue_frame(InterruptionFrame())
        await settle()


async def passed(secs):
    await settle()
    await asyncio.sleep(secs)
    await settle()


DOWNSTREAM = FrameDirection.DOWNSTREAM


def first_fails(*scripts):
    """A first service that follows these scripts, and a second one that answers well."""
    return Scripted("first", *scripts), Scripted("second", GOOD)
