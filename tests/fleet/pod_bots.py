"""Processes of real bots: pipelines with a breaker and a fleet, driven by a test through a pipe.

Forked from a server that has imported all this, so it imports no tests.
"""

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from contextlib import AsyncExitStack

from loguru import logger
from pipecat.frames.frames import (
    InputAudioRawFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.llm_service import LLMService
from pipecat.services.settings import LLMSettings

from pipecat_circuit_breaker import CircuitBreakerProcessor
from pipecat_circuit_breaker.fleet import Fleet, FleetParams
from pipecat_circuit_breaker.testing import running

TICK_SECS = 0.02

#: Seconds between two requests of a bot.
TURN_SECS = 0.2

#: Seconds within which a process has to answer a test.
PATIENCE_SECS = 30.0


class Model(LLMService):
    """Asks a provider that all bots share; fails while that is out."""

    is_out = False

    def __init__(self):
        super().__init__(settings=LLMSettings(model="shared"))

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
        elif self.is_out:
            await self.push_error("no provider", exception=ConnectionError("no provider"))
        else:
            for part in (
                LLMFullResponseStartFrame(),
                LLMTextFrame("Yes."),
                LLMFullResponseEndFrame(),
            ):
                await self.push_frame(part)


class Ear(FrameProcessor):
    """Notes how late each frame of sound is."""

    def __init__(self, late):
        super().__init__()
        self.late = late
        self.heard = 0

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            self.heard += 1
            self.late.note(frame.metadata["due"])
        await self.push_frame(frame, direction)


class Lateness:
    """The most that something was late since somebody asked."""

    def __init__(self):
        self._most = 0.0

    def note(self, due):
        self._most = max(self._most, time.monotonic() - due)

    def take(self):
        most, self._most = self._most, 0.0
        return most


class Pod:
    """What runs in a process: a fleet, its bots, and what it is asked by a test."""

    def __init__(self):
        self.bots = AsyncExitStack()
        self.fleet = None
        self.tasks = []
        self.frames, self.thread = Lateness(), Lateness()
        self.is_over = False
        # How late anybody is whom nothing but the machine holds up.
        threading.Thread(target=self._beat, daemon=True).start()

    async def start(self, url, bots, ticks=True, **params):
        """Run so many bots."""
        Model.is_out = False
        self.lines, self.told, self.sent = [], [], 0
        logger.remove()
        logger.add(lambda line: self.lines.append(str(line)), level="INFO", format="{message}")
        params = {"name": "test", "label": lambda service: "", **params}
        self.fleet = Fleet(url, params=FleetParams(**params))
        for event in ("alone", "connected", "outage_opened", "outage_closed"):
            self.fleet.add_event_handler(f"on_fleet_{event}", self._teller(event))
        self.ears, self.models, self.breakers, self.workers = [], [], [], []
        for _ in range(bots):
            breaker, model, ear = (
                CircuitBreakerProcessor(fleet=self.fleet),
                Model(),
                Ear(self.frames),
            )
            self.workers.append(await self.bots.enter_async_context(running(breaker, model, ear)))
            for some, one in (
                (self.breakers, breaker),
                (self.models, model),
                (self.ears, ear),
            ):
                some.append(one)
        if ticks:
            self.tasks.append(asyncio.create_task(self._tick()))

    async def ask(self, times=None):
        """Let each bot make so many requests, or from now on one after the other."""
        if times is None:
            self.tasks.append(asyncio.create_task(self._ask()))
            return
        for _ in range(times):
            await self._ask_once()
            await asyncio.sleep(0.05)

    async def provider(self, is_out):
        Model.is_out = is_out

    async def late(self):
        """How late frames were at most since the last time, and a thread, in seconds."""
        return self.frames.take(), self.thread.take()

    async def look(self):
        """How everything is."""
        return {
            "connected": self.fleet.is_connected,
            "reason": self.fleet.status()["alone_reason"],
            "told": [*self.told],
            "alone": sum("go on alone" in line for line in self.lines),
            "back": sum("connected to fleet" in line for line in self.lines),
            "errors": [line for line in self.lines if "Traceback" in line],
            "outages": len(self.fleet.outages),
            "instances": max((o.instance_count for o in self.fleet.outages), default=0),
            "triggers": [sorted(str(i.trigger) for i in b.incidents) for b in self.breakers],
            "open": sum(any(i.ending is None for i in b.incidents) for b in self.breakers),
        }

    async def hold(self):
        """Take the lease, and never say what has come of it."""
        view = self.fleet.join("prober", lambda: (), lambda origins: None)
        while await view.probe(self.models[0]) is None:
            await asyncio.sleep(0.02)

    async def stop(self):
        """End all bots; how many frames of each did not arrive."""
        for task in self.tasks:
            task.cancel()
        self.tasks.clear()
        async with asyncio.timeout(5):
            while any(ear.heard < self.sent for ear in self.ears):
                await asyncio.sleep(0.01)
        await self.bots.aclose()
        await self.fleet.close()
        return self.sent, [self.sent - ear.heard for ear in self.ears]

    def _teller(self, event):
        async def tell(fleet, *args):
            self.told.append((event, *(arg for arg in args if isinstance(arg, bool))))

        return tell

    async def _ask_once(self):
        for worker in self.workers:
            await worker.queue_frame(LLMContextFrame(LLMContext()))

    async def _ask(self):
        while True:
            await self._ask_once()
            await asyncio.sleep(TURN_SECS)

    async def _tick(self):
        while True:
            due = time.monotonic() + TICK_SECS
            await asyncio.sleep(TICK_SECS)
            self.sent += 1
            for worker in self.workers:
                frame = InputAudioRawFrame(bytes(640), 16_000, 1)
                frame.metadata["due"] = due
                await worker.queue_frame(frame)

    def _beat(self):
        while True:
            due = time.monotonic() + TICK_SECS
            time.sleep(TICK_SECS)
            self.thread.note(due)


def run(pipe):
    """Do what is said, until nobody is there any more."""
    # Ctrl-C is for the test.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_run(pipe))


async def _run(pipe):
    pod = Pod()
    loop, said = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pipe.fileno(), said.set)
    while True:
        # It may be set once too often, and to wait for what does not come would hold up all bots.
        while not pipe.poll():
            said.clear()
            await said.wait()
        try:
            what, args, more = pipe.recv()
        except EOFError:
            os._exit(0)
        try:
            pipe.send((None, await getattr(pod, what)(*args, **more)))
        except Exception as e:
            logger.exception("a test asked")
            pipe.send((repr(e), None))


class Process:
    """A process of the operating system with bots in it, as a test has it at hand."""

    def __init__(self, context):
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=run, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def is_alive(self):
        return self._process.is_alive()

    def kill(self):
        self._process.kill()
        self._process.join()
        self.pipe.close()

    def say(self, what, *args, **more):
        self.pipe.send((what, args, more))

    def hear(self):
        assert self.pipe.poll(PATIENCE_SECS), "a process does not answer"
        wrong, answer = self.pipe.recv()
        assert wrong is None, wrong
        return answer


class Processes:
    """Some of them, all asked at the same time."""

    def __init__(self, number):
        context = multiprocessing.get_context("forkserver")
        # Imported once for all.
        context.set_forkserver_preload(["pod_bots"])
        self.all = [Process(context) for _ in range(number)]

    def __getitem__(self, which):
        some = object.__new__(Processes)
        some.all = self.all[which]
        return some

    def __len__(self):
        return len(self.all)

    def tell(self, what, *args, **more):
        """Have all do something; what each answers."""
        for one in self.all:
            one.say(what, *args, **more)
        return [one.hear() for one in self.all]

    def start(self, url, bots, instances, **more):
        """Start bots, on the account of these machines or pods."""
        for one, instance in zip(self.all, instances, strict=True):
            one.say("start", url, bots, instance=instance, **more)
        for one in self.all:
            one.hear()

    def until(self, is_so, secs, how=all):
        """Wait until it is so for all; seconds that it took, and how all are."""
        begin = time.monotonic()
        while True:
            looks = self.tell("look")
            took = time.monotonic() - begin
            if how(is_so(look) for look in looks):
                return took, looks
            assert took < secs, looks
            time.sleep(0.05)

    def kill(self):
        for one in self.all:
            if one.is_alive:
                one.kill()
