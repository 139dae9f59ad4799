#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A file that many processes write to, and that together with its past stays under a bound."""

import os
import re
from contextlib import suppress
from pathlib import Path

from portalocker import Lock

#: A lock is held for well under a millisecond. Who holds it for so long has been stopped, or the
#: disk hangs: the line is given up, and loguru says so at stderr.
_WAIT_SECS = 10.0
_POLL_SECS = 0.001


class SharedFile:
    """Written to, moved aside and deleted only by the process that holds the lock.

    The operating system takes the lock from a process that is killed. Nothing
    stays open between two lines: another process may have moved the file, and
    Windows moves none that is open.
    """

    def __init__(self, path: Path, *, max_bytes: int, files: int) -> None:
        """Create the file where there is none.

        Args:
            path: The file.
            max_bytes: What it and those that were moved aside take at most.
            files: In how many parts the lines before those of the file are kept.

        Raises:
            OSError: It cannot be written.
        """
        self._path = path.absolute()
        self._lock_path = self._path.with_name(f"{path.name}.lock")
        self._max_bytes = max_bytes
        self._file_bytes = max_bytes // (files + 1)
        self._moved = re.compile(rf"{re.escape(path.stem)}\.(\d+){re.escape(path.suffix)}")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._append(b"")

    def write(self, text: str) -> None:
        """Write a line.

        Args:
            text: The line, with its end.

        Raises:
            OSError: The line is not in the file.
            portalocker.LockException: The same.
        """
        line = text.encode("utf-8", "backslashreplace")
        with Lock(self._lock_path, "ab", timeout=_WAIT_SECS, check_interval=_POLL_SECS):
            size = _size(self._path)
            if size and size + len(line) > self._file_bytes:
                self._move_aside(room=max(self._file_bytes, len(line)))
                size = 0
            try:
                self._append(line)
            except OSError:
                # A disk that is full has taken half of it, to which the next would be joined.
                with suppress(OSError):
                    os.truncate(self._path, size)
                raise

    def _append(self, line: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(line)

    def _move_aside(self, room: int) -> None:
        """Make room for a new file, and move the full one if there is room for both."""
        names = map(self._moved.fullmatch, os.listdir(self._path.parent))
        numbers = sorted(int(name[1]) for name in names if name)
        sizes = {part: _size(part) for part in [*map(self._numbered, numbers), self._path]}
        total = sum(sizes.values())
        # Delete first: who is killed in between leaves too little, and not too much.
        for part, size in sizes.items():
            if total + room <= self._max_bytes:
                self._path.rename(self._numbered(numbers[-1] + 1 if numbers else 1))
                return
            part.unlink(missing_ok=True)
            total -= size

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.stem}.{number:06}{self._path.suffix}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
