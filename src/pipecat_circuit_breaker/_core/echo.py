#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Loops through the log: sending writes a line, and the line is sent.

Nobody tells what a log forwarder does between the line and the message (a
queue, a thread, a copy). But the message quotes the line, so it is known whose
echo it is.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from pipecat_circuit_breaker._core.causality import Link

_MAX_LINES = 64
# Forwarders shorten lines. So much of the beginning is enough to know one.
_LINE_CHARS = 120

# Anything shorter stands in ordinary words as well.
_MIN_LETTERS = 8

# Of a message at most so much is searched, in so many pieces.
_MAX_PIECES = 256
_MAX_CHARS = 65_536

# Forwarders add a time, quote, escape and mask numbers: the letters stay.
_NO_LETTERS = re.compile(r"[\W\d_]+")


@dataclass(frozen=True, slots=True)
class _Line:
    letters: str
    link: Link
    at: float


class Echoes:
    """The lines that were logged inside of deliveries, for a window.

    Args:
        window_secs: How long a line is remembered.
    """

    def __init__(self, window_secs: float) -> None:
        """Start with no lines."""
        self._window_secs = window_secs
        # Lines come from any thread; appending and copying a deque are one step each.
        self._lines: deque[_Line] = deque(maxlen=_MAX_LINES)

    def note(self, line: str, link: Link, message: object, *, now: float) -> None:
        """Remember a line that was logged while a message was being delivered.

        Args:
            line: The line.
            link: The message's link.
            message: What the message says.
            now: The time.
        """
        letters = letters_of([line[:_LINE_CHARS]])
        if len(letters) < _MIN_LETTERS:
            return
        known = any(other.letters == letters for other in [*self._lines])
        # A transport that prints what it sends quotes the message, and not the
        # other way round.
        if known or letters not in letters_of(texts_in(message)):
            self._lines.append(_Line(letters, link, now))

    def source_of(self, message: object, *, now: float) -> Link | None:
        """Whose echo a message is.

        Args:
            message: What the message says.
            now: The time.

        Returns:
            The link of the delivery that wrote what the message quotes; None
            where it quotes nothing.
        """
        lines = self._lines
        while lines and now - lines[0].at >= self._window_secs:
            lines.popleft()
        if not lines:
            return None
        letters = letters_of(texts_in(message))
        for line in reversed([*lines]):
            if line.letters in letters:
                return line.link
        return None


def letters_of(texts: Iterable[str]) -> str:
    """The letters of some texts, and nothing else."""
    return _NO_LETTERS.sub("", " ".join(texts)[:_MAX_CHARS]).casefold()


def texts_in(message: object) -> Iterator[str]:
    """The texts in a message, whatever its shape, as many as are searched."""
    return islice(_texts_in(message), _MAX_PIECES)


def _texts_in(message: object) -> Iterator[str]:
    todo = [message]
    for _ in range(4 * _MAX_PIECES):
        if not todo:
            return
        part = todo.pop()
        if isinstance(part, str):
            yield part[:_MAX_CHARS]
        elif isinstance(part, bytes):
            yield part[:_MAX_CHARS].decode("utf-8", "replace")
        elif isinstance(part, dict):
            todo.extend(islice(part.values(), _MAX_PIECES))
        elif isinstance(part, list | tuple | set | frozenset):
            todo.extend(islice(part, _MAX_PIECES))
