"""What a failure starts is not a failure: a backup, a task, a reader that goes on for hours."""

import asyncio

from pipecat.frames.frames import ErrorFrame, TextFrame
from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker.testing import Output, running
from tests.healthy.healthy_parts import Breaks, message, numbers, queue
from tests.support.guard import MAX_ERRORS
from tests.support.parts import On, settle


class Captions(FrameProcessor):
    """A backup: a task of its own reads what it hears, and pushes captions."""

    def __init__(self):
        super().__init__()
        self.heard = asyncio.Queue()
        self._reading = None

    def begin(self):
        if self._reading is None:
            self._reading = self.create_task(self._read())

    async def cleanup(self):
        await super().cleanup()
        if self._reading is not None:
            await self.cancel_task(self._reading)

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)

    async def _read(self):
        while True:
            await self.push_frame(message("caption", await self.heard.get()))


class Report:
    """What a task tells that is started with the first error, fifty messages long."""

    def __init__(self):
        self.begin = asyncio.Event()
        self._task = None

    async def start(self, on, error, direction):
        if self._task is None:
            self._task = on.create_task(self._push(on))

    async def _push(self, on):
        await self.begin.wait()
        for n in range(50):
            await on.push_frame(message("report", n))
            await asyncio.sleep(0)


async def test__handler_of_errors_starts_a_backup__provider_fails_on__all_captions_arrive(guard):
    captions, output = Captions(), Output()
    async with running(*guard.line(Breaks(), captions, output)) as worker:
        worker.add_event_handler("on_pipeline_error", lambda *_: captions.begin())
        for n in range(100):
            await queue(worker, TextFrame("fail"))
            captions.heard.put_nowait(n)
            await settle(20)
            guard.clock.advance(0.1)

    assert numbers(output.sent, "caption") == [*range(100)]


async def test__task_that_a_processor_creates_on_an_error__all_its_messages_arrive(guard):
    report = Report()
    output = Output()
    # Before the one that fails, since errors go upstream.
    async with running(*guard.line(On(ErrorFrame, report.start), Breaks(), output)) as worker:
        for _ in range(2 * MAX_ERRORS):
            await queue(worker, TextFrame("fail"))
        report.begin.set()
        await settle(1000)

    assert numbers(output.sent, "report") == [*range(50)]


async def test__task_born_of_a_failed_send__later_messages_all_arrive(guard):
    """The output itself has failed; what a task sends that its error started gets through."""
    report = Report()
    output = Output(lambda m: ConnectionError("refused") if m["type"] == "bad" else None)
    async with running(*guard.line(On(ErrorFrame, report.start), output)) as worker:
        for n in range(2 * MAX_ERRORS):
            await queue(worker, message("bad", n), message("good", n))
        report.begin.set()
        await settle(1000)

    assert numbers(output.sent, "good") == [*range(2 * MAX_ERRORS)]
    assert numbers(output.sent, "report") == [*range(50)]
