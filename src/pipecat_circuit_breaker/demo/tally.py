#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What a chain does, counted.

A storm makes thousands of frames and log lines in a second, so a tally keeps counts and nothing
else: it holds no frame, no text and no log line, and does not grow with what it counts.
"""

import time
from collections import Counter
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Figures:
    """The counts of one moment, as plain numbers.

    Parameters:
        offered: Messages that came to outputs, held back there or not.
        sends: Those of them that outputs tried to send.
        failed_sends: Those of these that failed.
        delivered: Those that did not.
        sends_by_channel: The same as ``sends``, per channel.
        failed_by_channel: The same as ``failed_sends``, per channel.
        synthesis: Texts that the speech synthesis was asked to speak, and refused.
        recognition: Chunks of sound that the speech recognition failed on.
        failures: Failed sends, refused texts and failed chunks together.
        errors: ``ErrorFrame``s that reached the worker, where the application hears of them.
        audio_chunks: Chunks of sound that an output wrote.
        audio_chunks_after: Those of them that were queued after the chain's queued message.
        log_lines: Lines logged at ``DEBUG`` and above since the trigger.
        log_bytes: Their size in Loguru's default format.
        elapsed: Seconds since the trigger.
        cpu_secs: CPU seconds of the whole process since the trigger.
    """

    offered: int = 0
    sends: int = 0
    failed_sends: int = 0
    delivered: int = 0
    sends_by_channel: dict[str, int] = field(default_factory=dict)
    failed_by_channel: dict[str, int] = field(default_factory=dict)
    synthesis: int = 0
    recognition: int = 0
    failures: int = 0
    errors: int = 0
    audio_chunks: int = 0
    audio_chunks_after: int = 0
    log_lines: int = 0
    log_bytes: int = 0
    elapsed: float = 0.0
    cpu_secs: float = 0.0

    def as_json(self) -> dict[str, object]:
        """Return the figures as a JSON object.

        Returns:
            A dictionary of numbers, and of numbers per channel.
        """
        return asdict(self)


@dataclass
class Tally:
    """Counts what happens while a chain runs.

    Parameters:
        offered: Messages that came to outputs.
        sends: Messages that each channel tried to send.
        failed_sends: Those of them that failed, per channel.
        synthesis: Texts that the speech synthesis was asked to speak, and refused.
        recognition: Chunks of sound that the speech recognition failed on.
        errors: ``ErrorFrame``s that reached the worker.
        audio_chunks: Chunks of sound that an output wrote.
        audio_chunks_after: Those of them that were queued after the chain's queued message.
        log_lines: Lines logged at ``DEBUG`` and above since the trigger.
        log_bytes: Their size in Loguru's default format.
        limit: Failures after which nothing fails any more, so that the storm dies. None is never.
        triggered_at: When the chain was triggered, on the monotonic clock.
        triggered_at_cpu: CPU seconds that the process had used by then.
    """

    offered: int = 0
    sends: Counter[str] = field(default_factory=Counter)
    failed_sends: Counter[str] = field(default_factory=Counter)
    synthesis: int = 0
    recognition: int = 0
    errors: int = 0
    audio_chunks: int = 0
    audio_chunks_after: int = 0
    log_lines: int = 0
    log_bytes: int = 0
    limit: int | None = None
    triggered_at: float | None = None
    triggered_at_cpu: float = 0.0

    def trigger(self) -> None:
        """Note that the chain is triggered now, and count anew: until now it was the start."""
        self.sends.clear()
        self.log_lines = self.log_bytes = 0
        self.triggered_at, self.triggered_at_cpu = time.monotonic(), time.process_time()

    @property
    def calm(self) -> bool:
        """Whether nothing is to fail now: before the trigger, and once the limit is reached."""
        if self.triggered_at is None:
            return True
        return self.limit is not None and self.failures >= self.limit

    @property
    def failures(self) -> int:
        """Failed sends, refused texts and failed chunks of sound together."""
        return self.failed_sends.total() + self.synthesis + self.recognition

    @property
    def activity(self) -> tuple[int, ...]:
        """All counts in a row: two that are equal mean that nothing happened in between."""
        return (
            self.sends.total(),
            self.synthesis,
            self.errors,
            self.audio_chunks,
            self.log_lines,
        )

    def count_offer(self) -> None:
        """Count a message that came to an output, whatever becomes of it there."""
        if self.triggered_at is not None:
            self.offered += 1

    def count_send(self, channel: str, *, broken: bool) -> bool:
        """Count a message that a channel was asked to send.

        None fails before the trigger: where log lines are sent to the client, the start of the
        pipeline makes messages too.

        Args:
            channel: The channel.
            broken: Whether the channel is one that fails.

        Returns:
            Whether this message is to fail.
        """
        self.sends[channel] += 1
        fails = broken and not self.calm
        if fails:
            self.failed_sends[channel] += 1
        return fails

    def count_log(self, line: str) -> None:
        """Count one log line. This is a Loguru sink.

        Args:
            line: The formatted line.
        """
        self.log_lines += 1
        self.log_bytes += len(line.encode())

    def figures(self) -> Figures:
        """Return the counts of this moment.

        Returns:
            A copy that no longer changes.
        """
        elapsed = cpu_secs = 0.0
        if self.triggered_at is not None:
            elapsed = time.monotonic() - self.triggered_at
            cpu_secs = time.process_time() - self.triggered_at_cpu
        sends, failed_sends = self.sends.total(), self.failed_sends.total()
        return Figures(
            offered=self.offered,
            sends=sends,
            failed_sends=failed_sends,
            delivered=sends - failed_sends,
            sends_by_channel=dict(self.sends),
            failed_by_channel=dict(self.failed_sends),
            synthesis=self.synthesis,
            recognition=self.recognition,
            failures=self.failures,
            errors=self.errors,
            audio_chunks=self.audio_chunks,
            audio_chunks_after=self.audio_chunks_after,
            log_lines=self.log_lines,
            log_bytes=self.log_bytes,
            elapsed=elapsed,
            cpu_secs=cpu_secs,
        )
