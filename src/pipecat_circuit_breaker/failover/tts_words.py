#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What a service that marks words writes down of a text, whoever speaks it."""

from __future__ import annotations

from dataclasses import dataclass

from pipecat.frames.frames import Frame, TTSAudioRawFrame
from pipecat.services.tts_service import TTSService


@dataclass(frozen=True, slots=True)
class Word:
    """A word that a provider has marked.

    Parameters:
        text: The word.
        secs: Seconds from the beginning of its sentence's sound.
        has_own_spaces: Whether no space goes between it and the next, as in Japanese.
    """

    text: str
    secs: float
    has_own_spaces: bool = False


class Words:
    """The words of one service's sentences.

    A service that pushes whole texts by itself needs none of it.

    Args:
        service: The service that is active.
    """

    def __init__(self, service: TTSService) -> None:
        """Begin with no words."""
        self._service = service
        self._is_wanted = not getattr(service, "_push_text_frames", True)
        self._context_id = ""
        self._text = ""
        self._count = 0
        # Pipecat times words from the beginning of a context, a provider from that of
        # its sentence.
        self._began_at = self._secs = 0.0

    def begin(self, text: str, context_id: str) -> None:
        """Begin a sentence."""
        if context_id != self._context_id or not self._service.audio_context_available(context_id):
            self._context_id, self._secs = context_id, 0.0
        self._text, self._count, self._began_at = text, 0, self._secs

    def hear(self, frame: Frame | None) -> None:
        """Note a piece of its sound."""
        if isinstance(frame, TTSAudioRawFrame):
            samples = len(frame.audio) / (2 * max(frame.num_channels, 1))
            self._secs += samples / frame.sample_rate

    async def mark(self, word: Word) -> None:
        """Write down a word that the provider has marked."""
        self._count += 1
        await self._add(word.text, word.secs, has_own_spaces=word.has_own_spaces)

    async def end(self) -> None:
        """Write down what nobody has marked: all words of a provider that marks none."""
        words = self._text.split()
        took = self._secs - self._began_at
        for n in range(self._count, len(words)):
            await self._add(words[n], took * n / len(words))

    async def _add(self, word: str, secs: float, *, has_own_spaces: bool = False) -> None:
        if self._is_wanted:
            more = {"includes_inter_frame_spaces": True} if has_own_spaces else {}
            await self._service.add_word_timestamps(
                [(word, self._began_at + secs)], self._context_id, **more
            )
