"""Parts that the tests of storms share."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from typing import Any

from loguru import logger
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    OutputTransportMessageUrgentFrame,
    TTSSpeakFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from pipecat_circuit_breaker.testing import Output
from tests.support.guard import Guard

#: Turns after which a storm is a storm. It then ends by itself.
CAP = 300

#: Turns of the event loop in which nothing fails: the storm is over.
QUIET_TURNS = 400


class Storm:
    """Counts the turns of a chain, and calms it down at the cap."""

    def __init__(self, cap: int = CAP) -> None:
        self.turns = 0
        self.tried: list[Any] = []
        self.pending: Callable[[], Any] = lambda: False
        self._cap = cap

    @property
    def calm(self) -> bool:
        return self.turns >= self._cap

    def turn(self) -> bool:
        """Count a turn; False when it is time to fail no more."""
        if self.calm:
            return False
        self.turns += 1
        return True

    async def over(self) -> int:
        """Wait until nothing happens any more, and say how many turns there were."""
        quiet, seen = 0, -1
        while quiet < QUIET_TURNS and not self.calm:
            await asyncio.sleep(0)
            quiet = 0 if self.turns > seen or self.pending() else quiet + 1
            seen = self.turns
        return self.turns

    def assert_cut(self, guard: Guard, at_most: int) -> None:
        """A storm without a breaker; with one, so many turns."""
        if guard.breaker is None:
            assert self.calm
        else:
            assert 1 <= self.turns <= at_most


class TTS(FrameProcessor):
    """Speech whose provider refuses every text, in the words that `refuse` finds."""

    def __init__(
        self,
        storm: Storm,
        refuse: Callable[[int, str], dict[str, Any]] = lambda n, _: {"error_msg": "refused"},
        meanwhile: Callable[[], Any] = lambda: None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._storm = storm
        self._refuse = refuse
        self._meanwhile = meanwhile

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if not isinstance(frame, TTSSpeakFrame):
            await self.push_frame(frame, direction)
        elif self._storm.turn():
            self._meanwhile()
            await self.push_error(**self._refuse(self._storm.turns, frame.text))


class DeadOutput(Output):
    """An output transport whose sends fail, each a turn of the storm."""

    def __init__(
        self, storm: Storm, fail: Callable[["DeadOutput", Any], Awaitable[None]], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._storm = storm
        self._fail = fail

    async def send_message(self, frame: Any) -> None:
        if self._storm.turn():
            await self._fail(self, frame)


async def raises(output: Output, frame: Any) -> None:
    raise ConnectionError("the client is gone")


async def logs(output: Output, frame: Any) -> None:
    logger.warning(f"{output}: sending failed, the client is gone")


def word(n: int) -> str:
    """Another word for each number, of letters alone: no digits to take out of it."""
    letters = ""
    n += 1000
    while n:
        n, letter = divmod(n, 26)
        letters += "ghijklmnopqrstuvwxyzbcdfkt"[letter]
    return letters


def message(kind: str = "app", **more: Any) -> OutputTransportMessageUrgentFrame:
    return OutputTransportMessageUrgentFrame(message={"type": kind, **more})


@contextmanager
def heard(worker: Any):
    """The errors that the application hears of."""
    errors: list[ErrorFrame] = []
    worker.add_event_handler("on_pipeline_error", lambda _, error: errors.append(error))
    yield errors


@contextmanager
def own_lines():
    """What the breaker itself logs."""
    lines: list[str] = []
    sink = logger.add(
        lambda line: lines.append(line.record["message"]),
        level="WARNING",
        filter="pipecat_circuit_breaker",
    )
    try:
        yield lines
    finally:
        logger.remove(sink)
