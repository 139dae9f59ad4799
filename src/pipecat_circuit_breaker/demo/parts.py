#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The parts that fail in the chains: outputs, services and handlers, each a real Pipecat class."""

import asyncio
from typing import Literal

from loguru import logger
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    TTSSpeakFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.serializers.base_serializer import FrameSerializer
from pipecat.transports.base_transport import TransportParams

from pipecat_circuit_breaker import testing
from pipecat_circuit_breaker.demo.tally import Tally

Failure = Literal["raises", "pushes-error", "logs"]

SAMPLE_RATE = 24000
CHUNK_SECS = 0.04
SILENT_CLIENT = "the client is gone"


class Output(testing.Output):
    """An output transport whose messages fail in one of the ways that transports fail.

    Its sound always works: it takes as long to write as it takes to play.
    """

    def __init__(self, tally: Tally, *, channel: str = "output", failure: Failure | None = None):
        """Initialize the output.

        Args:
            tally: Counts the messages and the sound.
            channel: The name to count them under.
            failure: How messages fail. None means that they do not.
        """
        super().__init__(
            # No silence at the end: it would be two seconds of every EndFrame.
            params=TransportParams(
                audio_out_enabled=True,
                audio_out_sample_rate=SAMPLE_RATE,
                audio_out_end_silence_secs=0,
            )
        )
        self._tally = tally
        self._channel = channel
        self._failure = failure
        count_offers(self, tally)

    async def send_message(
        self, frame: OutputTransportMessageFrame | OutputTransportMessageUrgentFrame
    ) -> None:
        """Fail to send a message.

        Args:
            frame: The message.

        Raises:
            ConnectionError: If this output is one that raises.
        """
        if not self._tally.count_send(self._channel, broken=self._failure is not None):
            return
        # The text varies from error to error, as it does where ids are in it.
        reason = f"message {self._tally.failed_sends[self._channel]}: {SILENT_CLIENT}"
        if self._failure == "raises":
            raise ConnectionError(reason)
        if self._failure == "pushes-error":
            await self.push_error(reason)
        else:
            logger.warning(f"{self}: {reason}")

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        """Play a chunk of sound.

        Args:
            frame: The sound.

        Returns:
            True: it was played.
        """
        self._tally.audio_chunks += 1
        if frame.audio == sound(after_message=True).audio:
            self._tally.audio_chunks_after += 1
        await asyncio.sleep(CHUNK_SECS)
        return True


class BrokenSerializer(FrameSerializer):
    """A serializer that raises for messages, as one does for what it cannot encode."""

    def __init__(self, tally: Tally, *, channel: str = "websocket"):
        """Initialize the serializer.

        Args:
            tally: Counts the messages.
            channel: The name to count them under.
        """
        super().__init__()
        self._tally = tally
        self._channel = channel

    async def serialize(self, frame: Frame) -> str | bytes | None:
        """Fail to serialize a message.

        Args:
            frame: What to serialize.

        Returns:
            None for anything but a message: there is nothing to send.

        Raises:
            TypeError: If the frame is a message.
        """
        if not isinstance(frame, (OutputTransportMessageFrame, OutputTransportMessageUrgentFrame)):
            return None
        if not self._tally.count_send(self._channel, broken=True):
            return None
        raise TypeError("Object of type bytes is not JSON serializable")

    async def deserialize(self, data: str | bytes) -> Frame | None:
        """Ignore what the server says.

        Args:
            data: What it says.

        Returns:
            None.
        """
        return None


class BrokenTTS(FrameProcessor):
    """Speech synthesis whose provider refuses every text."""

    def __init__(self, tally: Tally):
        """Initialize the synthesis.

        Args:
            tally: Counts the texts.
        """
        super().__init__()
        self._tally = tally

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Fail to speak a text, and let all other frames pass.

        Args:
            frame: The frame.
            direction: Where it goes.
        """
        await super().process_frame(frame, direction)
        if not isinstance(frame, TTSSpeakFrame):
            await self.push_frame(frame, direction)
        elif not self._tally.calm:
            self._tally.synthesis += 1
            await self.push_error(f"Speech request {self._tally.synthesis} was refused")


class BrokenSTT(FrameProcessor):
    """Speech recognition that reports an error for each chunk of sound it gets."""

    def __init__(self, tally: Tally):
        """Initialize the recognition.

        Args:
            tally: Counts the chunks.
        """
        super().__init__()
        self._tally = tally

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Fail to recognise a chunk of sound, and let all frames pass.

        Args:
            frame: The frame.
            direction: Where it goes.
        """
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame) and not self._tally.calm:
            self._tally.recognition += 1
            chunk = self._tally.recognition
            await self.push_error(f"Recognition of chunk {chunk} failed: quota exceeded")
        await self.push_frame(frame, direction)


class ErrorNotifier(FrameProcessor):
    """Tells the client about each error that passes, as an application may do beside RTVI."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Answer an error with a message to the client, and let all frames pass.

        Args:
            frame: The frame.
            direction: Where it goes.
        """
        await super().process_frame(frame, direction)
        if isinstance(frame, ErrorFrame):
            await self.push_frame(
                OutputTransportMessageUrgentFrame(message={"type": "sorry", "error": frame.error})
            )
        await self.push_frame(frame, direction)


def count_offers(output: FrameProcessor, tally: Tally) -> None:
    """Count the messages that come to an output, before anybody can hold them back there.

    Args:
        output: The output transport.
        tally: Counts them.
    """

    def count(_: FrameProcessor, frame: Frame) -> None:
        if isinstance(frame, (OutputTransportMessageFrame, OutputTransportMessageUrgentFrame)):
            tally.count_offer()

    output.add_event_handler("on_before_process_frame", count)


def message(text: str = "hello") -> OutputTransportMessageUrgentFrame:
    """Make a message of the application to its client.

    Args:
        text: What it says.

    Returns:
        The frame.
    """
    return OutputTransportMessageUrgentFrame(message={"type": "app", "text": text})


def sound(*, after_message: bool) -> OutputAudioRawFrame:
    """Make one chunk of sound, as long as the chunks that an output writes.

    Args:
        after_message: Whether it comes after the queued message. The two kinds have other
            samples, so that an output can count them apart.

    Returns:
        The frame.
    """
    sample = b"\x02\x00" if after_message else b"\x01\x00"
    return OutputAudioRawFrame(
        audio=sample * int(SAMPLE_RATE * CHUNK_SECS), sample_rate=SAMPLE_RATE, num_channels=1
    )
