"""Parts of pipelines: they fail, answer or record; and what they are fed with."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pipecat.frames.frames import Frame, OutputTransportMessageUrgentFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor


async def settle(turns: int = 200) -> None:
    """Let the event loop do what is there to do in so many turns, and no more."""
    for _ in range(turns):
        await asyncio.sleep(0)


class On(FrameProcessor):
    """Does something on its own account for each frame of a kind, and hands every frame on."""

    def __init__(
        self,
        kind: type[Frame] | tuple[type[Frame], ...],
        act: Callable[["On", Any, FrameDirection], Awaitable[None]],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._kind = kind
        self._act = act

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, self._kind):
            await self._act(self, frame, direction)
        await self.push_frame(frame, direction)


def dead(message: Any) -> Exception | None:
    return ConnectionError("the client is gone")


class Tap(FrameProcessor):
    """Records every frame that reaches it, with its direction."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seen: list[tuple[Frame, FrameDirection]] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        self.seen.append((frame, direction))
        await self.push_frame(frame, direction)

    def frames(self, kind: type[Frame]) -> list[Any]:
        return [frame for frame, _ in self.seen if isinstance(frame, kind)]


class Failing(FrameProcessor):
    """Pushes an error for each frame of a kind."""

    def __init__(self, kind: type[Frame], say: Callable[[int], dict[str, Any]], **kw: Any) -> None:
        super().__init__(**kw)
        self._kind = kind
        self._say = say
        self.errors = 0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, self._kind):
            self.errors += 1
            await self.push_error(**self._say(self.errors))
        await self.push_frame(frame, direction)


def app_message(n: int = 0, kind: str = "app") -> OutputTransportMessageUrgentFrame:
    return OutputTransportMessageUrgentFrame(message={"type": kind, "n": n})


def of_type(messages: list[Any], kind: str) -> list[Any]:
    return [m for m in messages if m.get("type") == kind]
