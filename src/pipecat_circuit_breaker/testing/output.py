#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""An output transport that fails on command."""

import asyncio
from collections.abc import Callable
from typing import Any

from pipecat.frames.frames import (
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    StartFrame,
)
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams

from pipecat_circuit_breaker.testing.failures import Failure


def _never(message: Any) -> None:
    return None


class Output(BaseOutputTransport):
    """An output transport without a client: it records what it sends, and fails on command.

    Its sound always works, and takes no time.

    Parameters:
        sent: The messages that were sent, in order.
        failed: Those that failed, or hang.
        audio: The sound that was played, as bytes.
        fails: Asked for each message: how it fails, or None where it is sent. An
            exception is raised. For what :meth:`fail` cannot say.

    Example::

        output = Output()
        output.fail(ConnectionError("the client is gone"))
        output.fail(TypeError("not serializable"), kind="bot-transcription")
        output.fail(pushes_error("the room is closed"))
        output.recover()
    """

    def __init__(
        self,
        fails: Callable[[Any], Exception | Failure | None] = _never,
        *,
        params: TransportParams | None = None,
        **kwargs: Any,
    ) -> None:
        """Initialize the output.

        Args:
            fails: How messages fail from the start; by default they do not.
            params: The transport's settings; by default sound of 16 kHz.
            **kwargs: Additional arguments passed to the parent class.
        """
        if params is None:
            # No silence at the end: it would be two seconds of every EndFrame.
            params = TransportParams(
                audio_out_enabled=True, audio_out_sample_rate=16_000, audio_out_end_silence_secs=0
            )
        super().__init__(params, **kwargs)
        self.fails = fails
        self.sent: list[Any] = []
        self.failed: list[Any] = []
        self.audio = bytearray()
        self._recovered = asyncio.Event()

    def fail(
        self,
        failure: Exception | Failure | None = None,
        *,
        kind: str | None = None,
        when: Callable[[Any], bool] | None = None,
    ) -> None:
        """Let messages fail from now on, in this way alone.

        Args:
            failure: An exception to raise, ``pushes_error()``, ``logs()``, ``hangs``, or a
                function of your own; by default a ``ConnectionError``.
            kind: Only messages of this ``type``.
            when: Only messages for which this returns True.
        """
        how = failure or ConnectionError("the client is gone")

        def fails(message: Any) -> Exception | Failure | None:
            is_kind = kind is None or (isinstance(message, dict) and message.get("type") == kind)
            return how if is_kind and (when is None or when(message)) else None

        self.fails = fails

    def recover(self) -> None:
        """Send every message from now on, those that hang first."""
        self.fails = _never
        self._recovered.set()
        self._recovered = asyncio.Event()

    async def recovered(self) -> None:
        """Wait until :meth:`recover` is called."""
        await self._recovered.wait()

    async def start(self, frame: StartFrame) -> None:
        """Be ready at once.

        Args:
            frame: The frame that starts the pipeline.
        """
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def send_message(
        self, frame: OutputTransportMessageFrame | OutputTransportMessageUrgentFrame
    ) -> None:
        """Record a message, or fail to send it.

        Args:
            frame: The frame with the message.

        Raises:
            Exception: What :meth:`fail` was told to raise.
        """
        failure = self.fails(frame.message)
        if failure is None:
            self.sent.append(frame.message)
            return
        self.failed.append(frame.message)
        if isinstance(failure, Exception):
            # Each time anew: one object that is raised again grows its traceback.
            raise failure.with_traceback(None)
        await failure(self, frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        """Play sound, in no time.

        Args:
            frame: The sound.

        Returns:
            Always True, for it was played.
        """
        self.audio += frame.audio
        await asyncio.sleep(0)
        return True
