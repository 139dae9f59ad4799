#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The sound since the last final transcription, bounded: no pipecat, no asyncio, no I/O."""

from collections import deque
from enum import Enum, auto
from typing import Generic, TypeVar

T = TypeVar("T")


class Mark(Enum):
    """What a voice activity detector has said.

    Parameters:
        STARTED: The user has begun to speak.
        STOPPED: The user has stopped.
    """

    STARTED = auto()
    STOPPED = auto()


class AudioRing(Generic[T]):
    """Pieces of sound with the marks between them, in order; the oldest make room.

    The mark that began what is still in the ring is kept even where its place
    is gone: a service that hears whole segments needs it.

    Args:
        limit_secs: How much sound is kept.
    """

    def __init__(self, limit_secs: float) -> None:
        """Start empty."""
        self._limit_secs = limit_secs
        self._entries: deque[tuple[T, float, Mark | None]] = deque()
        self._secs = 0.0
        self._dropped = 0
        self._opening: T | None = None
        self._stops = 0
        self._is_speaking = False

    @property
    def is_speaking(self) -> bool:
        """Whether the user is speaking, as far as marks have come."""
        return self._is_speaking

    @property
    def stops(self) -> int:
        """Utterances in it that are over."""
        return self._stops

    @property
    def has_speech(self) -> bool:
        """Whether anything in it was marked as spoken."""
        return self._is_speaking or self._stops > 0

    def add(self, item: T, secs: float) -> None:
        """Add a piece of sound.

        Args:
            item: The piece.
            secs: How long it is.
        """
        self._entries.append((item, secs, None))
        self._secs += secs
        while self._secs > self._limit_secs:
            self._drop()

    def mark(self, item: T, mark: Mark) -> None:
        """Add a mark."""
        self._entries.append((item, 0.0, mark))
        self._is_speaking = mark is Mark.STARTED
        if mark is Mark.STOPPED:
            self._stops += 1

    def after(self, position: int) -> tuple[list[T], int]:
        """What came after a position.

        Args:
            position: What the last call has returned, 0 for all.

        Returns:
            The pieces and marks in order, and the position behind them.
        """
        end = self._dropped + len(self._entries)
        skip = max(0, position - self._dropped)
        items = [item for n, (item, _, _) in enumerate(self._entries) if n >= skip]
        if position == 0 and self._opening is not None:
            items.insert(0, self._opening)
        return items, end

    def cut(self) -> None:
        """Forget what a final transcription has answered.

        Where another utterance has begun since one was over, that one was
        answered; otherwise all there is.
        """
        keep = self._stops > 0 and self._is_speaking
        while self._entries and not (keep and self._stops == 0):
            self._drop()

    def cut_utterance(self) -> None:
        """Forget the first utterance that is over, and what came before it."""
        stops = self._stops
        while stops and self._stops == stops:
            self._drop()

    def clear(self) -> None:
        """Forget everything but that the user is speaking."""
        while self._entries:
            self._drop()

    def _drop(self) -> None:
        item, secs, mark = self._entries.popleft()
        self._dropped += 1
        self._secs = self._secs - secs if self._entries else 0.0
        if mark is Mark.STARTED:
            self._opening = item
        elif mark is Mark.STOPPED:
            self._opening = None
            self._stops -= 1
