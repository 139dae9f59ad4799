"""Parts that the tests of healthy traffic share."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from pipecat.frames.frames import Frame, OutputTransportMessageUrgentFrame, TextFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from tests.releases.livekit_room import livekit_bot
from tests.releases.room import Outage
from tests.support.parts import settle


class LiveKit:
    """pipecat's LiveKit transport; only livekit's room is a stand-in."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.transport, self.room = livekit_bot(patch, Outage())

    def client_says(self, message: dict[str, Any]) -> None:
        client = SimpleNamespace(identity="client")
        self.room.tell(
            "data_received", SimpleNamespace(data=json.dumps(message).encode(), participant=client)
        )

    @property
    def arrived(self) -> list[Any]:
        return [json.loads(data) for data in self.room.local_participant.arrived]


class Breaks(FrameProcessor):
    """Fails with each `TextFrame` that says "fail"; the error says nothing of which."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TextFrame) and frame.text == "fail":
            await self.push_error("the provider does not answer", exception=ConnectionError())
        else:
            await self.push_frame(frame, direction)


class Service(FrameProcessor):
    """Answers each text; where it fails, the text is an error."""

    def __init__(self, name, fails=lambda n: False, **error):
        super().__init__(name=name)
        self.fails = fails
        self.asked = 0
        self._error = error or {"exception": ConnectionError("no answer")}

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if type(frame) is not TextFrame:
            await self.push_frame(frame, direction)
            return
        self.asked += 1
        if self.fails(self.asked - 1):
            await self.push_error("no answer", **self._error)
        else:
            await self.push_frame(TextFrame(f"{self.name}: {frame.text}"))


class TransferOnAcknowledgement(FrameProcessor):
    """Sends the next chunk when it hears that the last was sent."""

    def __init__(self, chunks):
        super().__init__()
        self._chunks = chunks

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if direction is FrameDirection.UPSTREAM and isinstance(
            frame, OutputTransportMessageUrgentFrame
        ):
            n = frame.message["n"] + 1
            if n < self._chunks:
                await self.push_frame(message("chunk", n))
        else:
            await self.push_frame(frame, direction)


def message(kind: str, n: int, **more: Any) -> OutputTransportMessageUrgentFrame:
    return OutputTransportMessageUrgentFrame(message={"type": kind, "n": n, **more})


def numbers(messages: list[Any], kind: str) -> list[int]:
    """Which messages of a kind arrived, in order."""
    return [m["n"] for m in messages if isinstance(m, dict) and m.get("type") == kind]


async def queue(worker: Any, *frames: Frame) -> None:
    """Queue frames, and let all that they set off happen; no time passes."""
    await worker.queue_frames([*frames])
    await settle(60)
