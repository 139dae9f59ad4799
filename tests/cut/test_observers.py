"""An observer answers the errors that it sees: pipecat hands them to it in a queue of its own."""

import asyncio

from pipecat.frames.frames import ErrorFrame
from pipecat.observers.base_observer import BaseObserver, FramePushed

from pipecat_circuit_breaker.testing import running
from tests.cut.cut_parts import DeadOutput, message, raises

AT_MOST = 10


class Notifier(BaseObserver):
    """Tells the client of each error, once for each, from the task of its own queue."""

    def __init__(self):
        super().__init__()
        self.worker = None
        self.answered = 0
        self._seen = []

    async def on_push_frame(self, data: FramePushed) -> None:
        if isinstance(data.frame, ErrorFrame) and not any(data.frame is f for f in self._seen):
            self._seen.append(data.frame)
            self.answered += 1
            await self.worker.queue_frame(message("notice", text=data.frame.error))


async def test__observer_answers_each_error__output_is_dead__ends(guard, storm):
    notifier = Notifier()

    async with running(*guard.line(DeadOutput(storm, raises)), observers=[notifier]) as worker:
        notifier.worker = worker
        await worker.queue_frame(message("hello"))
        await storm.over()

    storm.assert_cut(guard, AT_MOST)


async def test__observer__errors_that_are_held_back__are_not_its_to_answer(guarded):
    notifier = Notifier()

    class Fails(DeadOutput):
        async def send_message(self, frame):
            if frame.message["type"] != "notice":
                raise ConnectionError("the client is gone")

    # Notices get through; only the application's own messages fail, each an error.
    async with running(*guarded.line(Fails(None, raises)), observers=[notifier]) as worker:
        notifier.worker = worker
        for _ in range(60):
            await worker.queue_frame(message("hello"))
            for _ in range(60):
                await asyncio.sleep(0)

    # Those before the opening, the one that opens, and a probe.
    assert 1 <= notifier.answered <= 7
